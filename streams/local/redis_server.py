"""A real Redis with search as a child process."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from streams.local.downloads import install_redis
from streams.local.process import write_atomically
from streams.local.server import HOST, Server


class RedisServer(Server):
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


def _redis(connection: socket.socket, *arguments: str) -> bytes:
    """The answer to one command: a status, an error's text or a bulk string."""
    words = [word.encode() for word in arguments]
    connection.sendall(
        b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
    )
    with connection.makefile("rb") as reply:
        line = reply.readline().rstrip()
        return reply.read(int(line[1:])) if line.startswith(b"$") else line[1:]


def _quote(value: str) -> str:
    """One argument of redis.conf."""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"{}"'.format(
        "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value.encode())
    )
