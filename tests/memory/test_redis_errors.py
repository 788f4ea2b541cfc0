"""Every error of redis-py is one of ours at the edge, and none tells what a command carried."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import redis

from memory.errors import Misconfigured, Unavailable
from memory.redis.connection import PASSING, connect, map_redis_errors
from memory.redis.schema import load_law


def kinds(of: type[redis.RedisError]) -> Iterator[type[redis.RedisError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def an(kind: type[redis.RedisError]) -> redis.RedisError:
    """One of its kind: some parse what a cluster says, some take a status as well."""
    for arguments in (("ERR no",), ("1 127.0.0.1:1",), ("no", "ASK 1 127.0.0.1:1")):
        try:
            return kind(*arguments)
        except (TypeError, ValueError, IndexError):
            continue
    raise AssertionError(f"{kind} cannot be made")


@pytest.mark.parametrize(
    "kind", sorted(set(kinds(redis.RedisError)), key=str), ids=lambda kind: kind.__name__
)
def test_no_error_of_the_library_gets_through(kind: type[redis.RedisError]) -> None:
    with pytest.raises((Unavailable, Misconfigured)), map_redis_errors():
        raise an(kind)


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError(),
        redis.TimeoutError(),
        redis.BusyLoadingError(),
        redis.ReadOnlyError(),
        redis.exceptions.OutOfMemoryError(),
        ConnectionResetError(),
        *(redis.ResponseError(f"{kind} and why") for kind in PASSING),
        redis.ResponseError("Command # 1 (FCALL x) of pipeline caused error: OOM command not"),
    ],
    ids=str,
)
def test_a_passing_state_is_unavailable(error: Exception) -> None:
    with pytest.raises(Unavailable), map_redis_errors():
        raise error


def test_a_mistake_of_our_own_is_not_dressed_up() -> None:
    with pytest.raises(KeyError), map_redis_errors():
        raise KeyError("x")


def test_nobody_there_is_unavailable() -> None:
    client = connect("redis://127.0.0.1:1/0")
    with pytest.raises(Unavailable), map_redis_errors():
        client.ping()


def test_what_a_command_carried_is_not_in_the_message(redis_client: redis.Redis) -> None:
    pipeline: Any = redis_client.pipeline(transaction=False)
    pipeline.execute_command("FCALL", "nothing", "0", "a secret")
    pipeline.execute_command("HSET", "a-key", "a secret")
    with pytest.raises(Misconfigured) as caught, map_redis_errors():
        pipeline.execute()
    assert "secret" not in str(caught.value)


def test_a_command_that_a_user_may_not_run_is_named(redis_client: redis.Redis) -> None:
    store: Any = redis_client
    store.acl_setuser("reader", enabled=True, nopass=True, commands=["+ping"], reset=True)
    options = {"username": "reader", "password": "any"}
    reader: Any = connect(_address(redis_client), **options)
    try:
        with pytest.raises(Misconfigured, match=r"it may not run HSET$"), map_redis_errors():
            reader.hset("a-key", "field", "a secret")
    finally:
        reader.close()
        store.acl_deluser("reader")


def test_functions_that_a_user_may_not_load_are_left_to_one_who_may(
    redis_client: redis.Redis,
) -> None:
    store: Any = redis_client
    load_law(redis_client)
    older = files("memory.redis").joinpath("law.lua").read_text("utf-8") + "-- older\n"
    may = ["+client|setinfo", "+function|list", "+fcall_ro"]
    store.acl_setuser("reader", enabled=True, nopass=True, commands=may, reset=True)
    try:
        options = {"username": "reader", "password": "any"}
        with connect(_address(redis_client), **options) as reader:
            load_law(reader)
            store.function_load(older, replace=True)
            with pytest.raises(Misconfigured, match="may not load them; let one that may"):
                load_law(reader)
    finally:
        store.acl_deluser("reader")
        load_law(redis_client)


def _address(client: redis.Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"redis://{where['host']}:{where['port']}/{where['db']}"
