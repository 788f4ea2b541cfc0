"""The local stack as a user meets it: up, killed, interrupted, down, and up again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from memory.errors import Misconfigured
from memory.redis.connection import connect
from streams import bootstrap, stack
from streams.client import MemoryClient
from streams.config import stack_secrets
from streams.config.connections import kafka_cluster
from streams.config.settings import ENVIRONMENT_PREFIX, load
from streams.kafka import admin
from streams.local.state import read_state
from tests.integration.events import EMBEDDER, unit
from tests.integration.running import ROOT
from tests.waiting import until

pytestmark = pytest.mark.servers

ENVIRONMENT = {"VISUAL_MEMORY_EMBEDDER": EMBEDDER, "PYTHONPATH": str(ROOT)}


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *words],
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def children(folder: Path) -> Mapping[str, Any]:
    state = read_state(folder)
    assert state is not None
    found: Mapping[str, Any] = state["children"]
    return found


def until_ready(folder: Path) -> None:
    def unready() -> list[str]:
        return [name for name, child in children(folder).items() if not child["ready"]]

    until(lambda: not unready(), what=lambda: f"{unready()} are not ready")


def runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def client_of(folder: Path) -> MemoryClient:
    settings = stack.settings_for(folder, default=folder, kafka=None, redis=None)
    return bootstrap.client(settings, "test")


def servers_of(folder: Path) -> dict[str, str]:
    """The environment of a worker that somebody starts beside the stack's own."""
    found = stack.addresses(folder)
    settings = {"kafka": found.kafka, "redis": found.redis}
    settings |= stack_secrets.kafka_login_settings(folder)
    return {ENVIRONMENT_PREFIX + name.upper(): value for name, value in settings.items()}


def status(folder: Path) -> dict[str, Any]:
    done = command("status", "--data-dir", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assigned_to(folder: Path, role: str) -> float:
    """Partitions that the workers of a role have, as the stack's metrics tell."""
    with urllib.request.urlopen(stack.addresses(folder).metrics, timeout=5) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(rf'assigned_partitions{{role="{role}"}} (\S+)', text)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack that is up and was taught twenty vectors; each test leaves it so."""
    folder = tmp_path_factory.mktemp("stack")
    folder.chmod(0o755)  # as somebody else may have made it
    done = command("up", "--data-dir", str(folder), "--detach", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"kafka", "redis", "metrics", "kafka_password_file"}
    login = folder / stack_secrets.SECRETS_FOLDER / stack_secrets.KAFKA_PASSWORD
    assert told["kafka_password_file"] == str(login)
    with client_of(folder) as client:
        written = [
            client.ingest(unit(n), id=f"i{n}", label="a", embedder="test") for n in range(20)
        ]
        positions = [pending.position() for pending in written]
        assert client.query(unit(1), embedder="test", after=positions).status == "answered"
    yield folder
    stack.down(folder)


def test_a_second_stack_on_the_same_folder_is_refused_naming_the_first(folder: Path) -> None:
    state = read_state(folder)
    assert state is not None
    done = command("up", "--data-dir", str(folder))
    assert done.returncode == 2
    assert str(state["pid"]) in done.stderr
    assert "Traceback" not in done.stderr
    assert assigned_to(folder, "correct") == 8


def test_a_stack_that_runs_is_not_started_again_and_keeps_its_log(folder: Path) -> None:
    state = read_state(folder)
    assert state is not None
    log = folder / "logs" / "supervisor.log"
    before = log.read_text()
    done = command("up", "--data-dir", str(folder), "--detach", "--redis", "redis://127.0.0.1:9")
    assert done.returncode == 2
    assert str(state["pid"]) in done.stderr
    assert log.read_text() == before != ""
    assert read_state(folder) == state


def test_a_folder_that_cannot_be_made_is_named_in_a_line() -> None:
    for more in ((), ("--detach",)):
        done = command("up", "--data-dir", "/proc/no/such/folder", *more)
        assert done.returncode == 2
        assert done.stderr.startswith("/proc/no")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("role", ["correct", "monitor"])
def test_a_port_that_is_taken_is_named_in_the_last_line(folder: Path, role: str) -> None:
    port = urlsplit(stack.addresses(folder).metrics).port
    done = command(
        "worker",
        role,
        **servers_of(folder),
        VISUAL_MEMORY_WEB_PORT=str(port),
        VISUAL_MEMORY_SECRETS_DIR=str(folder / stack_secrets.SECRETS_FOLDER),
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert f"nothing can listen on 127.0.0.1:{port}" in last
    assert "VISUAL_MEMORY_WEB_PORT" in last


@pytest.mark.parametrize("name", ["ingest", "query", "redis", "kafka"])
def test_what_is_killed_comes_back_and_the_memory_is_the_same(folder: Path, name: str) -> None:
    before = status(folder)["digest"]
    killed = children(folder)[name]
    os.kill(killed["pid"], signal.SIGKILL)
    until(lambda: children(folder)[name]["restarts"] > killed["restarts"])
    until_ready(folder)
    assert children(folder)[name]["address"] == killed["address"]
    with client_of(folder) as client:
        answer = client.query(unit(3), embedder="test", k=1)
    assert answer.neighbors[0].image_id == "i3"
    assert status(folder)["digest"] == before


def test_the_partitions_of_a_worker_that_was_killed_are_counted_once(folder: Path) -> None:
    until(lambda: assigned_to(folder, "correct") == 8)
    killed = children(folder)["correct"]
    os.kill(killed["pid"], signal.SIGKILL)
    until(lambda: children(folder)["correct"]["restarts"] > killed["restarts"])
    until_ready(folder)
    until(lambda: assigned_to(folder, "correct") == 8, 10)


def test_the_stack_ends_without_orphans_and_finds_its_memory_again(folder: Path) -> None:
    before = status(folder)
    pids = [child["pid"] for child in children(folder).values()]
    assert command("down", "--data-dir", str(folder)).returncode == 0
    assert not [pid for pid in pids if runs(pid)]
    done = command("status", "--data-dir", str(folder))
    assert done.returncode == 2
    assert "visual-memory up" in done.stderr.replace("\n", " ")
    done = command("up", "--data-dir", str(folder), "--detach")
    assert done.returncode == 0, done.stderr
    found = stack.addresses(folder)
    assert done.stderr.splitlines()[-3:] == [
        f"ready in {folder}",
        f"kafka   {found.kafka} (user visual-memory, password in {found.kafka_password_file})",
        f"metrics {found.metrics}",
    ]
    after = status(folder)
    assert after["items"] == 20
    assert after["digest"] == before["digest"]


def test_a_supervisor_that_is_killed_leaves_no_orphans(folder: Path) -> None:
    state = read_state(folder)
    assert state is not None
    pids = [child["pid"] for child in state["children"].values()]
    os.kill(state["pid"], signal.SIGKILL)
    until(lambda: not [pid for pid in pids if runs(pid)])
    assert read_state(folder) is None
    # Its topics were made for smaller images: `up` raises what they take, and says so.
    larger = {"VISUAL_MEMORY_MAX_IMAGE_BYTES": str(3 << 20)}
    done = command("up", "--data-dir", str(folder), "--detach", **larger)
    assert done.returncode == 0, done.stderr
    assert status(folder)["items"] == 20
    log = (folder / "logs" / "supervisor.log").read_text()
    assert "image-ingest: max.message.bytes was" in log


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stack_in_the_foreground_ends_at_a_signal(
    how: signal.Signals,
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    """On servers of somebody else, which it does not start and does not end."""
    words = ["up", "--data-dir", str(tmp_path), "--kafka", kafka_bootstrap, "--redis", redis_url]
    name = unique("foreground")
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", *words],
        env={
            **os.environ,
            **ENVIRONMENT,
            "VISUAL_MEMORY_TOPIC_PREFIX": name,
            "VISUAL_MEMORY_NAMESPACE": name,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (read_state(tmp_path) or {}).get("status") == "running", 120)
        running = children(tmp_path)
        assert set(running) == {"ingest", "correct", "forget", "query", "erase", "monitor"}
        process.send_signal(how)
        assert process.wait(60) == 0
        assert not [child for child in running.values() if runs(child["pid"])]
    finally:
        process.kill()
        process.wait()


def test_another_hmac_key_refuses_to_start(folder: Path) -> None:
    done = command(
        *("worker", "correct"),
        **servers_of(folder),
        VISUAL_MEMORY_HMAC_KEY="ab" * 32,
    )
    assert done.returncode == 2
    assert "hmac_key_id" in done.stderr
    assert "ab" * 32 not in done.stderr


def test_a_worker_refuses_to_start_without_its_topics_naming_them(folder: Path) -> None:
    done = command(
        *("worker", "ingest"),
        **servers_of(folder),
        VISUAL_MEMORY_HMAC_KEY="ab" * 32,
        VISUAL_MEMORY_TOPIC_PREFIX="nowhere-",
    )
    assert done.returncode == 2
    assert "nowhere-image-ingest" in done.stderr


def test_what_a_stack_keeps_is_readable_by_its_owner_alone(folder: Path) -> None:
    kept = list(folder.rglob("*"))
    assert {path.name for path in kept} >= {"visual_memory_hmac_key", "appendonlydir", "data"}
    assert [path for path in kept if path.stat().st_mode & 0o077 and not path.is_socket()] == []


def test_its_redis_takes_nobody_without_the_password_which_stands_nowhere_else(
    folder: Path,
) -> None:
    url = urlsplit(stack.addresses(folder).redis)
    assert url.password
    with (
        contextlib.closing(connect(f"redis://{url.hostname}:{url.port}/0")) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    holders = {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and url.password.encode() in path.read_bytes()
    }
    assert holders == {stack_secrets.REDIS_PASSWORD, stack.ADDRESSES_FILE, "redis.conf"}


def test_its_kafka_takes_nobody_without_the_password_which_stands_nowhere_else(
    folder: Path,
) -> None:
    kafka = stack.addresses(folder).kafka
    stranger = {**stack_secrets.kafka_login_settings(folder), "kafka_password": "wrong"}
    with pytest.raises(Misconfigured, match="the login is refused"):
        admin.topic_ids(kafka_cluster(load(kafka=kafka, **stranger)), [])
    password = stack_secrets.read_secret(folder, stack_secrets.KAFKA_PASSWORD)
    holders = {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and password.encode() in path.read_bytes()
    }
    assert holders == {stack_secrets.KAFKA_PASSWORD, "server.properties"}


def test_a_producer_of_any_kind_sends_to_its_kafka_as_the_guide_says(folder: Path) -> None:
    """With kafka-python's own arguments, as the readme's client takes them."""
    found = json.loads((folder / stack.ADDRESSES_FILE).read_text())
    client = MemoryClient(
        found["kafka"],
        source="test",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="visual-memory",
        sasl_plain_password=Path(found["kafka_password_file"]).read_text(),
    )
    with client:
        assert client.query(unit(3), embedder="test", k=1).neighbors[0].image_id == "i3"


def test_no_log_names_an_image(folder: Path) -> None:
    logs = list((folder / "logs").glob("*.log"))
    assert logs
    for log in logs:
        assert '"i3"' not in log.read_text()
        assert "'i3'" not in log.read_text()
