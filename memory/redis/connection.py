"""A client of Redis, and whether that Redis keeps what it confirmed."""

from __future__ import annotations

import hashlib
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from memory.errors import Misconfigured
from memory.redis.errors import map_redis_errors


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
