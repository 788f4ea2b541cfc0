"""A real Kafka and a real Redis with search as child processes of this one.

Imports nothing of the project but its neighbours `process` and `installation`. Both listen on
127.0.0.1 only, keep their data in a folder and find it again at the next start, on whatever
port.
"""

from __future__ import annotations

import base64
import random
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from streams.local.downloads import find_java, install_kafka, install_redis
from streams.local.process import ChildSpec, LocalServerError, Process, write_atomically

HOST = "127.0.0.1"

_PROBE_TIMEOUT = 1.0
_PORT_TRIES = 5


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
        # Kafka's tool takes an id that begins with a dash for an option.
        cluster = "-"
        while cluster.startswith("-"):
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
