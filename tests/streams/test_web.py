"""The probes and metrics of a worker, over HTTP."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import multiprocess
from prometheus_client.parser import text_string_to_metric_families

from streams.local.process import ChildSpec, Process
from streams.local.server import HOST, free_port

ROOT = Path(__file__).parents[2]


@dataclass
class Answer:
    status: int
    kind: str
    body: str

    @property
    def json(self) -> Any:
        assert self.kind.startswith("application/json")
        return json.loads(self.body)


@dataclass
class Server:
    """A process that serves; `reasons` is what keeps it from being ready."""

    port: int
    file: Path
    process: Process

    def reasons(self, *reasons: str) -> None:
        self.file.write_text(json.dumps(reasons))

    def ask(self, path: str, method: str = "GET") -> Answer:
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, answer.headers["Content-Type"], answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers["Content-Type"], error.read().decode())

    def sample(self, name: str) -> list[float]:
        return [
            sample.value
            for family in text_string_to_metric_families(self.ask("/metrics").body)
            for sample in family.samples
            if sample.name == name and sample.labels == {"role": "ingest"}
        ]


@contextmanager
def serving(folder: Path, name: str, environment: Mapping[str, str]) -> Iterator[Server]:
    port, file = free_port(), folder / f"{name}.json"

    def listens() -> bool:
        with urllib.request.urlopen(f"http://{HOST}:{port}/livez", timeout=3) as answer:
            return bool(answer.status == 200)

    process = Process(
        ChildSpec(
            name,
            (sys.executable, "-m", "tests.streams.web_server", str(port), str(file)),
            folder / f"{name}.log",
            env={**os.environ, **environment},
            ready=listens,
            cwd=ROOT,
        )
    )
    with process:
        yield Server(port, file, process)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("web"), "alone", {}) as server:
        yield server


def test_a_process_that_is_ready_says_so(server: Server) -> None:
    server.reasons()
    answer = server.ask("/readyz")
    assert (answer.status, answer.json) == (200, {"ready": True, "reasons": []})


def test_a_process_that_is_not_ready_names_what_it_waits_for(server: Server) -> None:
    server.reasons("Redis is away", "no partition")
    answer = server.ask("/readyz")
    assert answer.status == 503
    assert answer.json == {"ready": False, "reasons": ["Redis is away", "no partition"]}


def test_a_process_that_cannot_find_out_in_time_is_not_ready_but_alive(server: Server) -> None:
    server.file.unlink(missing_ok=True)
    answer = server.ask("/readyz")
    assert answer.status == 503
    assert answer.json == {"ready": False, "reasons": ["a server does not answer in time"]}
    assert server.ask("/livez").json == {"live": True}


def test_it_listens_where_it_is_told_and_nowhere_else(server: Server) -> None:
    socket.create_connection((HOST, server.port), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.3", server.port), 5)


def test_metrics_come_in_the_format_that_prometheus_reads(server: Server) -> None:
    answer = server.ask("/metrics")
    assert answer.status == 200
    assert answer.kind.startswith("text/plain; version=")
    assert server.sample("visual_memory_retries_total") == [2]


@pytest.mark.parametrize("query", ["?name[]=x&", "?a=1&a=%FF%00", "?" + "x" * 2000])
@pytest.mark.parametrize("path", ["/metrics", "/livez"])
def test_a_query_in_the_address_changes_nothing(server: Server, path: str, query: str) -> None:
    assert server.ask(path + query).status == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/metrics/", "GET", 404),
        ("/readyz%2f..%2fmetrics", "GET", 404),
        ("/metrics", "POST", 405),
        ("/livez", "DELETE", 405),
        ("/metrics", "HEAD", 200),
    ],
)
def test_nothing_else_is_served(server: Server, path: str, method: str, status: int) -> None:
    answer = server.ask(path, method)
    assert answer.status == status
    assert "Traceback" not in answer.body


def test_processes_that_share_a_folder_answer_for_all_and_for_the_living_only(
    tmp_path: Path,
) -> None:
    """Partitions are of who lives; what was counted stays when its counter has died."""
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(serving(tmp_path, name, environment)) for name in ("one", "other")
        )
        assert one.sample("visual_memory_assigned_partitions") == [6]
        assert one.sample("visual_memory_retries_total") == [4]
        pid = other.process.pid
        other.process.kill()
        assert one.sample("visual_memory_assigned_partitions") == [6]
        multiprocess.mark_process_dead(pid, str(shared))  # type: ignore[no-untyped-call]  # untyped there
        assert one.sample("visual_memory_assigned_partitions") == [3]
        assert one.sample("visual_memory_retries_total") == [4]
