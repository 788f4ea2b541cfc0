"""A client of Redis, its errors as this package's, whether it keeps what it confirmed, and its files."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from memory.errors import Misconfigured, Moved, Unavailable
from memory.model.times import now_us

OLD_FILE_SECONDS = 1.0
"""Redis deletes the files that it has rewritten a moment after the new ones are in place."""

CALLS_AT_ONCE = 20
"""Redis syncs its file after each command: 8 calls of a vector each are what it reads at a time, so more
of them in one command are fewer syncs too. For as long as they take nobody else is served.
"""

PASSING = (
    "OOM",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "BUSY",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
    "NOREPLICAS",
    "UNBLOCKED",
    "SEALED",
    "Timeout limit was reached",
)
"""How the replies begin that tell of a server's passing state."""


def _denied(error: redis.exceptions.NoPermissionError) -> str:
    """What the user may not do: a command by its name, or access to a key, which is not named."""
    command = re.search(r"the '([\w.|-]+)' command", str(error).rpartition("caused error: ")[2])
    return f"it may not run {command[1].upper()}" if command else "NoPermissionError"


@contextmanager
def map_redis_errors() -> Iterator[None]:
    """Map every redis-py error: to `Unavailable` if the same may succeed later, else to
    `Misconfigured` (a missing module or right, a command this Redis does not know).

    The text names the kind of trouble only, since a reply may quote a command's arguments.
    """
    try:
        yield
    except redis.AuthenticationError as error:
        raise Misconfigured(f"Redis refuses this user: {type(error).__name__}") from error
    except redis.exceptions.NoPermissionError as error:
        raise Misconfigured(f"Redis refuses this user: {_denied(error)}") from error
    except redis.ResponseError as error:
        # redis-py puts the command, arguments and all, before a pipelined command's error.
        text = str(error).rpartition("caused error: ")[2]
        if text.startswith("CLOSED"):
            raise Moved("the memory was rebuilt meanwhile; do it again") from error
        if text.startswith("LEASE"):
            raise Misconfigured("another rebuild has taken over") from error
        if isinstance(error, redis.ReadOnlyError | redis.exceptions.OutOfMemoryError) or (
            any(text.startswith(kind) for kind in PASSING)
        ):
            raise Unavailable(f"Redis: {type(error).__name__}") from error
        raise Misconfigured(f"Redis refused a command: {text.partition(' ')[0]}") from error
    except (redis.RedisError, OSError) as error:
        raise Unavailable(f"Redis: {type(error).__name__}") from error


def connect(url: str, **options: Any) -> redis.Redis:
    """A client for RedisIndex. `options` are redis-py's (TLS, ACL user, ...)."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=30,
        socket_connect_timeout=5,
        # Callers repeat with back-off and say so; a hidden retry would only delay that.
        retry=Retry(NoBackoff(), 0),
        **options,
    )


Call = tuple[Sequence[str], Sequence[str | bytes | int]]
"""The keys and the arguments of a call of a Redis function."""


def several(calls: Iterable[Call]) -> Iterator[Call]:
    """Fewer calls of a function that law.lua has as ``several``, each of some of these."""
    rest = iter(calls)
    while some := list(islice(rest, CALLS_AT_ONCE)):
        yield (
            [key for its, _ in some for key in its],
            [part for k, a in some for part in (len(k), len(a), *a)],
        )


def call_several(client: Any, function: str, calls: Iterable[Call]) -> list[Any]:
    """The replies to many calls of a function that law.lua has as ``several``, in one round trip."""
    pipeline = client.pipeline(transaction=False)
    for keys, arguments in several(calls):
        pipeline.fcall(function, len(keys), *keys, *arguments)
    with map_redis_errors():
        return [reply for replies in pipeline.execute() for reply in replies]


def key_id(hmac_key: bytes) -> str:
    """Names an HMAC key without telling it."""
    return hashlib.sha256(b"visual-memory key id\0" + hmac_key).hexdigest()[:16]


def check_durability(client: redis.Redis) -> None:
    """Refuse a Redis that could lose what it confirmed, or evict items. `Misconfigured`.

    WAITAOF confirms writes that are not on the disk under `appendfsync everysec` of 7.4
    (redis PR 13793), so only `always` will do, and that also while the file is rewritten.
    """
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory-policy": "noeviction",
    }
    raw: Any = client
    with map_redis_errors():
        # Without decoding, redis-py still gives names and values as text.
        found = raw.config_get(*wanted, "replicaof")
    if found.get("replicaof"):
        raise Misconfigured(
            "this Redis is a replica, which can lose what it confirmed; name its master, or make it "
            "one: REPLICAOF NO ONE"
        )
    for name, value in wanted.items():
        got = found[name]
        if got != value:
            raise Misconfigured(
                f"Redis has {name} {got}, which can lose what it confirmed; "
                f"set it: CONFIG SET {name} {value}"
            )


class RedisFiles:
    """Writes the append-only file anew, and the snapshot where there is one, a step at a time.

    `as_of`, µs: what was erased before is in no file, nor in the slow log. None before the first time.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.as_of: int | None = None
        self._began: int | None = None
        self._process = ""
        self._rewrites = self._saves = 0
        self._ended: float | None = None

    def rewrite(self) -> bool:
        """Begin to, or go on; True once all is written that was begun. Raises `Unavailable`."""
        with map_redis_errors():
            found = self._client.info("persistence")
            process = str(self._client.info("server")["run_id"])
            busy = any(
                found[name]
                for name in (
                    "aof_rewrite_in_progress",
                    "aof_rewrite_scheduled",
                    "rdb_bgsave_in_progress",
                    "loading",
                )
            )
            if busy:
                return False
            if self._began is None or self._process != process:
                self._begin(found, process)
                return False
            if (
                found["aof_last_bgrewrite_status"] != "ok"
                or found["rdb_last_bgsave_status"] != "ok"
            ):
                self._began = None
                raise Unavailable(
                    "Redis could not write its files anew; see its log (disk, memory)"
                )
            if found["aof_rewrites"] == self._rewrites:
                return False
            if found["rdb_saves"] == self._saves and self._keeps_snapshots():
                self._client.bgsave()
                return False
            if self._ended is None:
                self._ended = time.monotonic()
            if time.monotonic() < self._ended + OLD_FILE_SECONDS:
                return False
            self._client.slowlog_reset()
        self.as_of, self._began = self._began, None
        return True

    def replicas(self) -> int:
        """How many other servers copy this one."""
        with map_redis_errors():
            return int(self._client.info("replication")["connected_slaves"])

    def _begin(self, found: Any, process: str) -> None:
        self._began, self._process, self._ended = now_us(), process, None
        self._rewrites, self._saves = found["aof_rewrites"], found["rdb_saves"]
        self._client.bgrewriteaof()

    def _keeps_snapshots(self) -> bool:
        return bool(self._client.config_get("save")["save"])
