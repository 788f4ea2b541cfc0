"""A real Prometheus on loopback with this repository's configuration, made quick for tests."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streams.local.process import ChildSpec, Process
from streams.local.server import HOST, free_port
from tests.prometheus.files import PROMETHEUS, read_yaml

WINDOW = "15s"
"""Of every rate, here: minutes in the rules, $__rate_interval in the dashboards."""

FOR = "2s"
AGE = "> 10"
"""Of what was measured, before it counts as old: ten minutes in the rules."""


def quick(expression: str) -> str:
    """An expression over a short window instead of minutes or Grafana's interval."""
    return re.sub(r"\[(\d+[mh]|\$__rate_interval)\]", f"[{WINDOW}]", expression)


def quick_rules() -> dict[str, Any]:
    """The rules with short windows; their other thresholds and conditions are as they are."""
    rules: dict[str, Any] = read_yaml(PROMETHEUS / "alerts.yml")
    for group in rules["groups"]:
        for rule in group["rules"]:
            expression = re.sub(r"(?<=_timestamp_seconds\)\) )> 600$", AGE, rule["expr"])
            rule |= {"expr": quick(expression), "for": FOR}
    return rules


class PrometheusServer:
    """Scrapes `ports`, of workers by name, each second."""

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        config = read_yaml(PROMETHEUS / "prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        # No DNS names these workers; compose's own targets are seen in tests/docker.
        (scraped,) = config["scrape_configs"]
        targets = [
            {"targets": [f"{HOST}:{port}"], "labels": {"worker": worker}}
            for worker, port in ports.items()
        ]
        config["scrape_configs"] = [{"job_name": scraped["job_name"], "static_configs": targets}]
        # JSON is YAML.
        (folder / "alerts.yml").write_text(json.dumps(quick_rules()))
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._url = f"http://{HOST}:{(port := free_port())}"
        self.process = Process(
            ChildSpec(
                "prometheus",
                (
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={HOST}:{port}",
                    "--log.level=warn",
                ),
                folder / "prometheus.log",
                ready=self._ready,
            )
        )
        self.started = time.time()

    def _ready(self) -> bool:
        with urllib.request.urlopen(f"{self._url}/-/ready", timeout=3) as answer:
            return bool(answer.status == 200)

    def _get(self, path: str, **arguments: object) -> Any:
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> dict[tuple[str, ...], list[float]]:
        """All numbers of an expression since the start, by its series' labels."""
        found = self._get(
            "query_range", query=quick(expression), start=self.started, end=time.time(), step=1
        )["result"]
        numbers = {
            tuple(sorted(one["metric"].values())): [float(v) for _, v in one["values"]]
            for one in found
        }
        return {
            labels: kept
            for labels, values in numbers.items()
            if (kept := [value for value in values if not math.isnan(value)])
        }

    def up(self) -> int:
        """How many targets answer."""
        (found,) = self._get("query", query="sum(up)")["result"] or [{"value": (0, "0")}]
        return int(found["value"][1])

    def firing(self) -> set[tuple[str, ...]]:
        """Alerts that fire: each its name and the values of its other labels but the severity."""
        return {
            (
                labels["alertname"],
                *(v for n, v in labels.items() if n in {"worker", "role", "topic"}),
            )
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
            for labels in [alert["labels"]]
        }

    def unhealthy_rules(self) -> list[str]:
        """Rules whose evaluation failed, or was never done."""
        return [
            f"{rule['name']}: {rule.get('lastError', rule['health'])}"
            for group in self._get("rules")["groups"]
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]
