"""The guide for operators is executed: its commands run, what it names exists."""

from __future__ import annotations

import configparser
import contextlib
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory.model.forgetting import Fence
from memory.model.keys import SelectorKey
from memory.redis.connection import connect
from memory.redis.schema import LIBRARY
from streams import stack
from streams.config.permissions import GENERATIONS, REDIS
from streams.config.roles import ROLES
from streams.config.settings import ENVIRONMENT_PREFIX, Settings
from streams.contract import topics
from streams.contract.facts import encode_fact
from streams.contract.records import OutgoingRecord
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster
from streams.local.server import free_port
from streams.workers import worker_process
from tests.integration.events import EMBEDDER
from tests.integration.guide import GUIDE, SECTIONS, blocks, run_blocks
from tests.integration.running import KEY, ROOT

IN_A_MEMORY = ("Before the first start", "Starting and stopping", "Rebuild", "Deleting a memory")
RUN_BY_TEST_BACKUP = ("Copying Redis", "Restoring Redis")
ALONE = "On one machine"
GARBAGE = "A record in `fences` that cannot be understood"


def test_a_memory_is_made_served_and_deleted_as_the_guide_says(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    name = unique("operations")
    environment = {
        "VISUAL_MEMORY_KAFKA": kafka_bootstrap,
        "VISUAL_MEMORY_REDIS": redis_url,
        "VISUAL_MEMORY_TOPIC_PREFIX": name,
        "VISUAL_MEMORY_NAMESPACE": name,
        "VISUAL_MEMORY_HMAC_KEY": KEY,
        "VISUAL_MEMORY_EMBEDDER": EMBEDDER,
        "VISUAL_MEMORY_WEB_PORT": str(free_port()),
    }
    store: Any = connect(redis_url)  # redis-py's types assume replies decoded to text
    try:
        made, served, rebuilt, deleted = IN_A_MEMORY
        said = run_blocks(made, environment, tmp_path)
        assert said.count(f"{len(Topic)} topics, 0 problems") == 2
        said = run_blocks(served, environment, tmp_path)
        assert '{"ready": true, "reasons": []}' in said
        assert "items: 0" in said
        assert list(store.scan_iter(f"{name}:*"))
        assert f"{name}:1:index".encode() in store.execute_command("FT._LIST")
        said = run_blocks(rebuilt, environment, tmp_path)
        assert "generation 2 answers now" in said
        assert store.execute_command("FT._LIST").count(f"{name}:2:index".encode()) == 1
        run_blocks(deleted, environment, tmp_path)
        assert not list(store.scan_iter(f"{name}:*"))
        assert f"{name}:1:index".encode() not in store.execute_command("FT._LIST")
    finally:
        store.close()


@pytest.mark.servers
def test_a_stack_on_one_machine_is_started_ended_and_copied_as_the_guide_says(
    tmp_path: Path,
) -> None:
    try:
        said = run_blocks(ALONE, {"VISUAL_MEMORY_EMBEDDER": EMBEDDER}, tmp_path)
    finally:
        stack.down(tmp_path / "stack")
    assert "items: 0" in said
    for part in ("secrets/visual_memory_hmac_key", "redis/data/appendonlydir", "kafka/data"):
        assert (tmp_path / "stack-backup" / part).exists()
    assert not (tmp_path / "stack" / "stack.json").exists()


def test_garbage_in_fences_is_found_and_given_up_as_the_guide_says(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    name = unique("garbage")
    cluster = KafkaCluster(kafka_bootstrap, name)
    admin.create(cluster, topics.declare(name))
    with contextlib.closing(cluster.producer()) as producer:
        records = [encode_fact(Fence(SelectorKey("subject:ab"), n)) for n in range(7)]
        stray = OutgoingRecord(Topic.FENCES, b"k", b"{}", (("ce_source", b"stray-program"),))
        for record in [*records, stray]:
            told = (record.value, record.key, list(record.headers), 0)
            producer.send(cluster.full_name(Topic.FENCES), *told).get(10)
    environment = {
        "VISUAL_MEMORY_KAFKA": kafka_bootstrap,
        "VISUAL_MEMORY_REDIS": redis_url,
        "VISUAL_MEMORY_TOPIC_PREFIX": name,
    }
    said = run_blocks(GARBAGE, environment, tmp_path)
    assert "0:7 of 20" in said
    assert "by stray-program: its type is not visual-memory.fences.v1" in said
    assert "7 facts, 1 records that cannot be understood" in said
    assert "7 facts, 0 records that cannot be understood" in said


def test_no_command_of_the_guide_is_left_out_of_the_tests() -> None:
    with_commands = {heading for heading in SECTIONS if blocks(heading)}
    assert with_commands == {*IN_A_MEMORY, *RUN_BY_TEST_BACKUP, ALONE, GARBAGE}


def test_roles_topics_settings_and_codes_of_the_guide_exist() -> None:
    roles = re.findall(r"^\| `worker (\w+)`", GUIDE, flags=re.MULTILINE)
    assert roles == [*ROLES, "erase", "monitor"]
    assert set(map(str, Topic)) <= set(re.findall(r"`([a-z-]+)`", SECTIONS["What runs"]))
    named = set(re.findall(rf"{ENVIRONMENT_PREFIX}([A-Z_]+)", GUIDE)) - {"SECRETS_DIR"}
    (same,) = re.findall(r"the same for all workers of a memory: (.*?)\.\n", GUIDE, flags=re.DOTALL)
    named |= set(re.findall(r"`([A-Z_]+)`", same))
    assert named <= {field.upper() for field in Settings.model_fields}
    codes = set(re.findall(r"^\| (\d+) \| ", GUIDE, flags=re.MULTILINE))
    assert str(worker_process.EXIT_UNEXPECTED) in codes
    assert f"within {worker_process.SHUTDOWN_SECONDS:.0f} seconds" in GUIDE
    assert LIBRARY in GUIDE


def test_the_guide_names_every_key_in_redis_that_a_right_is_for() -> None:
    rights = {key for each in REDIS.values() for key in (*each.reads, *each.writes)}
    keys = {key.removeprefix(f"{GENERATIONS}:").partition(":")[0] for key in rights} - {"*"}
    assert {"meta", "item", "starts"} <= keys
    assert set(re.findall(r"`vm:(?:1:)?(\w+)(?::…)?`", SECTIONS["What runs"])) == keys


def test_what_the_guide_links_to_is_there() -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", GUIDE))
    assert links
    missing = [link for link in links if not (ROOT / "docs" / link).exists()]
    assert missing == []


def test_the_systemd_unit_of_the_guide_runs_a_worker_of_the_instances_role() -> None:
    (text,) = re.findall(r"```ini\n(.*?)```", GUIDE, flags=re.DOTALL)
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their capitals
    unit.read_string(text)
    shell, option, script = shlex.split(unit["Service"]["ExecStart"].replace("$$", "$"))
    assert (shell, option) == ("/bin/sh", "-c")
    script = script.replace("%%", "%")
    script = script.replace("exec /opt/visual-memory/bin/visual-memory", "echo")
    for instance, role in (("ingest-1", "ingest"), ("query-2", "query"), ("monitor", "monitor")):
        done = subprocess.run(
            [shell, option, script.replace("%i", instance)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"worker {role}\n"
    stops = int(unit["Service"]["TimeoutStopSec"])
    assert stops > worker_process.SHUTDOWN_SECONDS
