"""A whole local stack under one folder: servers, workers, metrics; and how commands find it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from memory.errors import Misconfigured
from streams.config import connections, memory_topics
from streams.config.roles import ROLES
from streams.config.settings import (
    CACHE,
    ENVIRONMENT_PREFIX,
    Settings,
    child_environment,
    load,
    worker_environment,
)
from streams.config.stack_secrets import (
    HMAC_KEY,
    KAFKA_PASSWORD,
    KAFKA_USER,
    REDIS_PASSWORD,
    SECRETS_FOLDER,
    SIGNING_KEY,
    kafka_login_settings,
    make_secrets,
    read_secret,
)
from streams.local.detach import detach
from streams.local.kafka_probe import KafkaLogin
from streams.local.kafka_server import KafkaServer
from streams.local.process import ChildSpec, LocalServerError, Process
from streams.local.redis_server import RedisServer
from streams.local.server import free_port
from streams.local.shared_metrics import settle_dead_process
from streams.local.state import announce, read_state, write_atomically
from streams.local.supervisor import Supervisor

ADDRESSES_FILE = "addresses.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running stack is reached; its own Kafka wants the login in its folder."""

    kafka: str
    redis: str
    metrics: str
    kafka_password_file: str | None = None


class Broker(KafkaServer):
    """A Kafka whose topics are there before anybody waits for it."""

    def __init__(
        self,
        data_dir: Path,
        cache: Path,
        login: KafkaLogin,
        create_topics: Callable[[str], None],
    ) -> None:
        super().__init__(data_dir, cache, login=login)
        self._create_topics = create_topics

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        super().start(cancelled)
        self._create_topics(self.bootstrap)


def settings_for(
    data_dir: Path | None, *, default: Path, kafka: str | None, redis: str | None
) -> Settings:
    """Settings for the memory meant: by URL, by folder, by environment, or the default stack.

    Raises `Misconfigured` when none of them says where the servers are.
    """
    if data_dir is None and (kafka or redis):
        return load(kafka=kafka, redis=redis)
    if data_dir is None and os.environ.get(ENVIRONMENT_PREFIX + "KAFKA"):
        return load()
    folder = data_dir or default
    state = read_state(folder)
    if state is None or state["status"] != "running":
        raise Misconfigured(
            f"no stack runs in {folder}: start one with `visual-memory up`, or name servers "
            f"with --kafka and --redis or {ENVIRONMENT_PREFIX}KAFKA and {ENVIRONMENT_PREFIX}REDIS"
        )
    found = addresses(folder)
    ours = kafka is None and found.kafka_password_file is not None
    return load(
        kafka=kafka or found.kafka,
        redis=redis or found.redis,
        hmac_key=read_secret(folder, HMAC_KEY),
        signing_key=read_secret(folder, SIGNING_KEY),
        **(kafka_login_settings(folder) if ours else {}),
    )


def addresses(data_dir: Path) -> Addresses:
    return Addresses(**json.loads((data_dir / ADDRESSES_FILE).read_text()))


def up(
    data_dir: Path,
    *,
    kafka: str | None = None,
    redis: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
    ready: Callable[[Addresses], None] = lambda _addresses: None,
) -> None:
    """Run the stack in this process until SIGTERM or SIGINT; `ready` is told the addresses.

    `kafka` and `redis` name external servers to use instead of own ones. Raises `Misconfigured`
    when settings are for other servers than the ones it starts.
    """
    settings = load()
    for server, external in (("kafka", kafka), ("redis", redis)):
        if external is None:
            connections.refuse_wires_of(server, settings)
    # Ids and vectors stand in the servers' files, also where the folder was there and open to all.
    os.umask(0o077)
    data_dir.mkdir(parents=True, exist_ok=True)
    make_secrets(data_dir)
    stack = _Stack(data_dir.absolute(), kafka, redis, say)

    def tell() -> None:
        found = stack.addresses()
        write_atomically(data_dir / ADDRESSES_FILE, json.dumps(asdict(found)))
        ready(found)

    Supervisor(
        data_dir.absolute(),
        stack.processes(),
        log=say,
        on_running=tell,
        on_ended=partial(settle_dead_process, stack.metrics_dir),
    ).run()


class _Stack:
    """What runs in a stack's folder, and where it is reached."""

    def __init__(
        self, data_dir: Path, kafka: str | None, redis: str | None, say: Callable[[str], None]
    ) -> None:
        self._data_dir = data_dir
        self._say = say
        self._kafka = kafka
        self._redis = redis
        login = KafkaLogin(KAFKA_USER, read_secret(data_dir, KAFKA_PASSWORD))
        self._kafka_settings = kafka_login_settings(data_dir) if kafka is None else {}
        self._broker = Broker(data_dir / "kafka", CACHE, login, self._create_topics)
        password = read_secret(data_dir, REDIS_PASSWORD)
        self._store = RedisServer(data_dir / "redis", CACHE, password=password)
        self.metrics_dir = data_dir / "metrics"
        self._monitor_port = free_port()

    def addresses(self) -> Addresses:
        return Addresses(
            kafka=self._kafka or self._broker.bootstrap,
            redis=self._redis or self._store.url,
            metrics=f"http://127.0.0.1:{self._monitor_port}/metrics",
            kafka_password_file=(
                str(self._data_dir / SECRETS_FOLDER / KAFKA_PASSWORD)
                if self._kafka is None
                else None
            ),
        )

    def processes(self) -> list[Process | ChildSpec | tuple[ChildSpec, ...]]:
        """In the order of their start: servers, the ingest worker, all others together."""
        if self._kafka is not None:
            self._create_topics(self._kafka)
        servers = [
            *([self._broker] if self._kafka is None else []),
            *([self._store] if self._redis is None else []),
        ]
        # The first worker makes the memory that the others want to find.
        first, *others = (self._worker(role, free_port()) for role in (*ROLES, "erase"))
        return [*servers, first, (*others, self._worker("monitor", self._monitor_port))]

    def _worker(self, role: str, port: int) -> ChildSpec:
        def environment() -> Mapping[str, str]:
            self._clear_metrics()
            where = self.addresses()
            return child_environment(
                kafka=where.kafka,
                redis=where.redis,
                instance=role,
                web_port=str(port),
                secrets_dir=str(self._data_dir / SECRETS_FOLDER),
                metrics_dir=str(self.metrics_dir),
                **self._kafka_settings,
            )

        return ChildSpec(
            role,
            (sys.executable, "-m", "streams.cli", "worker", role),
            self._data_dir / "logs" / f"{role}.log",
            env=environment,
            ready=lambda: answers(port),
            live=lambda: answers(port, "livez"),
            ready_timeout=120,
            stop_timeout=20,
            address=f"127.0.0.1:{port}",
        )

    def _create_topics(self, kafka: str) -> None:
        # Nobody else looks after the topics of its own Kafka.
        changed = self._say if self._kafka is None else None
        memory_topics.create_topics(load(kafka=kafka, **self._kafka_settings), changed)

    @functools.cache  # noqa: B019 - a stack lives as long as its process
    def _clear_metrics(self) -> None:
        # When the first worker starts: before, the folder may be another stack's, which runs.
        shutil.rmtree(self.metrics_dir, ignore_errors=True)
        self.metrics_dir.mkdir()


def answers(port: int, probe: str = "readyz") -> bool:
    """Whether the worker on this port says yes to a probe: that it is ready, or lives."""
    url = f"http://127.0.0.1:{port}/{probe}"
    with urllib.request.urlopen(url, timeout=3) as answer:
        return bool(answer.status == 200)


def start_in_background(
    data_dir: Path,
    *,
    kafka: str | None,
    redis: str | None,
    timeout: float,
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> Addresses:
    """Start a stack that outlives this process; returns when it is ready.

    `defaults` are settings for which the environment has none.

    Raises LocalServerError when one runs there already, and with the end of its log when it does
    not become ready.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (state := read_state(data_dir)) is not None:
        raise LocalServerError(
            f"{data_dir} is in use by the stack of process {state['pid']}, which keeps its settings; "
            "end it with `visual-memory down`, or choose another folder"
        )
    argv = [sys.executable, "-m", "streams.cli", "up", "--data-dir", str(data_dir.absolute())]
    argv += ["--kafka", kafka] if kafka else []
    argv += ["--redis", redis] if redis else []
    log = data_dir / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    log.touch(mode=0o600)
    pid = detach(argv, log, worker_environment(**defaults) | os.environ)
    announce(data_dir, pid)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        state = read_state(data_dir)
        if state and state["status"] == "running":
            return addresses(data_dir)
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    raise LocalServerError(f"the stack did not become ready:\n{log.read_text()[-4000:]}")


def down(data_dir: Path, timeout: float = 60.0) -> bool:
    """End a running stack; False when none runs there."""
    state = read_state(data_dir)
    if state is None:
        return False
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while read_state(data_dir) is not None:
        if time.monotonic() > deadline:
            # Children have the parent's death signal: they end with it.
            os.kill(state["pid"], signal.SIGKILL)
        time.sleep(0.1)
    return True
