"""A real Redis with search as a child process."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.local.downloads import install_redis
from streams.local.server import HOST, PROBE_TIMEOUT, Server
from streams.local.state import write_atomically


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
            # The slow log keeps the first bytes of arguments: personal data.
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
        client = redis.Redis(
            HOST,
            self.port,
            password=self._password,
            socket_timeout=PROBE_TIMEOUT,
            socket_connect_timeout=PROBE_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        with client, contextlib.suppress(redis.RedisError):
            return bool(client.ping()) and client.info("server")["process_id"] == pid
        return False


def _quote(value: str) -> str:
    """One argument of redis.conf."""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"{}"'.format(
        "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value.encode())
    )
