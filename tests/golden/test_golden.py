"""Topics, records, Redis keys, metric names and commands stay what others have stored and typed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis

from tests.golden import copies


@pytest.mark.parametrize("name", copies.COPIES)
def test_what_others_rely_on_is_as_it_was(name: str) -> None:
    now = json.loads(json.dumps(copies.COPIES[name]()))
    assert now == copies.read(name)


def test_a_memory_is_stored_as_it_was(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    now = json.loads(json.dumps(copies.stored(redis_client, unique("golden"))))
    assert now == copies.read("redis")
