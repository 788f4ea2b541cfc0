"""What can be seen of dashboards and alerts without a Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from streams.erasure import metrics as erasure_metrics
from streams.workers import metrics
from tests.prometheus.files import (
    DASHBOARDS,
    METRIC,
    PROMETHEUS,
    RUNBOOK,
    Panel,
    alerts,
    dashboards,
    panels,
    read_yaml,
)

PANELS = list(panels())
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}


def ours() -> Iterator[Metric]:
    """Every metric of workers and of erasing, as the registry that /metrics serves has it."""
    registered = set(REGISTRY._names_to_collectors.values())
    assert {metrics.ITEMS, erasure_metrics.ERASURES} <= registered
    for family in REGISTRY.collect():
        if METRIC.match(family.name):
            yield family


EXPORTED = {f"{family.name}{suffix}" for family in ours() for suffix in SUFFIXES[family.type]}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_a_panel_asks_only_for_what_is_exported(panel: Panel) -> None:
    assert panel.expressions
    for expression in panel.expressions:
        names = set(METRIC.findall(expression))
        assert names or "up{" in expression
        assert names <= EXPORTED


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_a_panel_says_its_unit_its_meaning_and_its_source(panel: Panel) -> None:
    unit = panel.body["fieldConfig"]["defaults"]["unit"]
    assert unit in {"s", "bytes", "short", "cps", "reqps", "percentunit"}
    in_seconds = any(re.search(r"_seconds(_bucket)?\b", e) for e in panel.expressions)
    assert (unit == "s") == in_seconds
    assert panel.body["description"]
    (source,) = read_yaml(DASHBOARDS / "provisioning/datasources/prometheus.yaml")["datasources"]
    for asking in (panel.body, *panel.body["targets"]):
        assert asking["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_every_exported_metric_is_on_a_dashboard() -> None:
    shown = {name for panel in PANELS for e in panel.expressions for name in METRIC.findall(e)}
    missing = [
        family.name
        for family in ours()
        if not shown & {f"{family.name}{suffix}" for suffix in SUFFIXES[family.type]}
    ]
    assert missing == []


def test_dashboards_and_their_panels_are_told_apart() -> None:
    found = dashboards()
    assert len({board["uid"] for board in found.values()}) == len(found)
    for board in found.values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)


def test_panels_do_not_lie_upon_each_other() -> None:
    for board in dashboards().values():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert max(x for x, _ in cells) < 24
            assert not cells & taken
            taken |= cells


@pytest.mark.parametrize("name", alerts())
def test_an_alert_asks_only_for_what_is_exported(name: str) -> None:
    expression = alerts()[name]["expr"]
    assert set(METRIC.findall(expression)) <= EXPORTED
    assert METRIC.search(expression) or "up{" in expression


@pytest.mark.parametrize("name", alerts())
def test_an_alert_links_to_its_section_of_the_runbook(name: str) -> None:
    rule = alerts()[name]
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["for"]


def test_the_runbook_has_a_section_an_alert_and_no_other() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(alerts())


def test_what_the_runbook_quotes_of_the_dashboards_is_on_them() -> None:
    titles = {panel.title.split(",")[0] for panel in PANELS}
    quoted = set(re.findall(r'"([^"]+)"', RUNBOOK.read_text()))
    assert quoted
    assert quoted <= titles


def test_the_worked_examples_test_every_alert_for_firing_and_for_silence() -> None:
    checks = [
        (check["alertname"], bool(check["exp_alerts"]))
        for test in read_yaml(PROMETHEUS / "alerts_test.yml")["tests"]
        for check in test["alert_rule_test"]
    ]
    assert set(checks) == {(name, fires) for name in alerts() for fires in (True, False)}
