"""A real Kafka, broker and controller in one, as a child process."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from kafka.errors import KafkaError

from streams.local.class_archive import ClassArchive
from streams.local.downloads import find_java, install_kafka
from streams.local.kafka_probe import MECHANISM, KafkaLogin, identify
from streams.local.process import LocalServerError
from streams.local.server import HOST, Server, free_port
from streams.local.state import write_atomically

_ENDED_BY_SIGTERM = 143


class KafkaServer(Server):
    """One Kafka node, broker and controller in one, about 350 MB of memory.

    With a login nobody else may speak to it, neither to the broker nor to the controller.
    extra_config adds to or overrides server.properties. heap is the JVM's largest heap.
    """

    def __init__(
        self,
        data_dir: Path,
        cache: Path | None = None,
        *,
        port: int | None = None,
        extra_config: Mapping[str, str] | None = None,
        login: KafkaLogin | None = None,
        heap: str = "512m",
        name: str = "kafka",
    ) -> None:
        super().__init__(name, data_dir, cache, port, extra_config, 180.0, 20.0)
        self._login = login
        self._heap = heap
        self._archive: ClassArchive | None = None

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
        program = find_java(self._cache)
        self._archive = ClassArchive(program, jars, self._dir)
        java = [
            str(program),
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # starts in half the time
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'_T'HH:mm:ss.SSSZ",
            "-cp",
            f"{jars}/*",
        ]
        self._dir.mkdir(parents=True, exist_ok=True)
        config = self._dir / "server.properties"
        settings = self._settings() | self._extra
        if not self._meta().exists():
            self._format([*java, *self._archive.options(may_write=False)], config, settings)
        _write_properties(config, settings)
        return [*java, *self._archive.options(may_write=True), "kafka.Kafka", str(config)], None

    def stop(self, timeout: float | None = None) -> None:
        super().stop(timeout)
        if self._archive is not None:
            self._archive.keep(whole=self.returncode == _ENDED_BY_SIGTERM)

    def ready(self) -> bool:
        """True when the broker names itself, on this port and with this cluster id.

        A server of somebody else on the port, or the address of an earlier run, does not count.
        """
        if not self.alive:
            return False
        try:
            with self._probe() as connection:
                cluster, ports = identify(connection, self._login)
        except (OSError, ValueError, struct.error, KafkaError):
            return False
        ours = f"cluster.id={cluster}" in self._meta().read_text().splitlines()
        return ours and self.port in ports

    def _meta(self) -> Path:
        return self._dir / "data" / "meta.properties"

    def _settings(self) -> dict[str, str]:
        # The voters are named here rather than stored in the log (as --standalone does it),
        # so the controller's port may be another one at every start.
        controller = free_port()
        wire = "SASL_PLAINTEXT" if self._login else "PLAINTEXT"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"{wire}://{HOST}:{self.port},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"{wire}://{HOST}:{self.port}",
            "listener.security.protocol.map": f"{wire}:{wire},CONTROLLER:{wire}",
            "inter.broker.listener.name": wire,
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._dir / "data"),
            # After a kill the controller refuses the broker until its old session has expired.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "1000",
            # By itself it writes a record twice a second that says nothing has happened.
            "metadata.max.idle.interval.ms": "0",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # What is forgotten, or too old, goes as soon as it may.
            "log.cleaner.backoff.ms": "5000",
            "log.retention.check.interval.ms": "5000",
            "log.initial.task.delay.ms": "5000",
            "log.segment.delete.delay.ms": "1000",
            "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
            **(_login_settings(self._login, (wire, "CONTROLLER")) if self._login else {}),
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


def _login_settings(login: KafkaLogin, listeners: Sequence[str]) -> dict[str, str]:
    """One user on all listeners, whom the node itself is to the others."""
    # SCRAM, which shows nobody the password, is not to be had between controllers.
    password = login.password.replace("\\", "\\\\").replace('"', '\\"')
    module = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="{login.user}" password="{password}" user_{login.user}="{password}";'
    )
    return {
        "sasl.enabled.mechanisms": MECHANISM,
        "sasl.mechanism.inter.broker.protocol": MECHANISM,
        "sasl.mechanism.controller.protocol": MECHANISM,
        **{
            f"listener.name.{name.lower()}.{MECHANISM.lower()}.sasl.jaas.config": module
            for name in listeners
        },
    }


def _write_properties(path: Path, settings: Mapping[str, str]) -> None:
    write_atomically(path, "".join(f"{k}={_escape(v)}\n" for k, v in settings.items()))


def _escape(value: str) -> str:
    """A value of a Java properties file, which is read as Latin-1 with backslash escapes."""
    escaped = value.replace("\\", "\\\\")
    units = struct.unpack(f">{len(escaped.encode('utf-16-be')) // 2}H", escaped.encode("utf-16-be"))
    return "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in units)
