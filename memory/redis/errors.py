"""The one place where redis-py's errors become this package's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from memory.errors import Misconfigured, Moved, Unavailable

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
