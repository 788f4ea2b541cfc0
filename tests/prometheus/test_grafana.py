"""Dashboards as Grafana's own classes read them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.prometheus.files import dashboards
from tests.prometheus.grafana import faults

BROKEN: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("titel",), "Memory", "dashboard.titel is unknown"),
    (("graphTooltip",), 7, "graph_tooltip is 7"),
    (("time",), {"from": 1, "to": "now"}, "time.from_val is 1"),
    (("panels", 1, "units"), "s", "panels[1].units is unknown"),
    (("panels", 1, "type"), "graf", "no panel is of type graf"),
    (("panels", 1, "gridPos", "w"), "6", "w is '6', no int"),
    (("panels", 1, "gridPos", "width"), 6, "gridPos.width is unknown"),
    (("panels", 1, "options", "tooltip", "mode"), "many", "mode is 'many'"),
    (("panels", 1, "options", "legends"), {}, "options.legends is unknown"),
    (("panels", 1, "fieldConfig", "defaults", "unti"), "s", "defaults.unti is unknown"),
    (("panels", 1, "fieldConfig", "defaults", "custom"), {"fill": 1}, "custom.fill is unknown"),
    (("panels", 1, "targets", 0, "expression"), "up", "targets[0].expression is unknown"),
    (("panels", 1, "targets", 0, "expr"), 1, "expr is 1, no str"),
    (("panels", 1, "datasource", "type"), "promotheus", "no query is of type promotheus"),
]


@pytest.mark.parametrize("name", dashboards())
def test_grafanas_classes_know_all_of_a_dashboard(name: str) -> None:
    assert faults(dashboards()[name]) == []


@pytest.mark.parametrize("name", dashboards())
@pytest.mark.parametrize(("place", "value", "fault"), BROKEN, ids=[case[2] for case in BROKEN])
def test_a_fault_in_a_dashboard_is_found(
    name: str, place: tuple[str | int, ...], value: Any, fault: str
) -> None:
    broken: Any = copy.deepcopy(dashboards()[name])
    broken["panels"].sort(key=lambda panel: panel["type"] != "timeseries")
    part = broken
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    assert any(fault in found for found in faults(broken))
