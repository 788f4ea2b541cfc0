"""The dashboards and rules of this repository, as what a test wants to know of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards" / "grafana"
PROMETHEUS = ROOT / "dashboards" / "prometheus"
RUNBOOK = ROOT / "docs" / "alerts.md"

METRIC = re.compile(r"\bvisual_memory_\w+")


@dataclass(frozen=True)
class Panel:
    """A panel that shows something; rows are none."""

    dashboard: str
    title: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.title}"

    @property
    def expressions(self) -> list[str]:
        return [target["expr"] for target in self.body["targets"]]


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels() -> Iterator[Panel]:
    for name, dashboard in dashboards().items():
        for body in dashboard["panels"]:
            if body["type"] != "row":
                yield Panel(name, body["title"], body)


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> dict[str, dict[str, Any]]:
    """Alerting rules by name."""
    groups = read_yaml(PROMETHEUS / "alerts.yml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}
