"""Which facts of forgetting a memory in Redis has not taken, found by reading alone.

So a user that may only read can tell that its memory forgets what it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.redis.errors import map_redis_errors
from memory.redis.hashes import encode_time
from memory.redis.names import KeyNames


def missing_facts(
    client: redis.Redis, names: KeyNames, facts: Sequence[FenceFact]
) -> list[FenceFact]:
    """Those that `VisualMemory.apply` would still change something for."""
    pipeline: Any = client.pipeline(transaction=False)
    for fact in facts:
        keys = names.telling(fact)
        match fact:
            case Fence():
                for key in keys:
                    pipeline.get(key)
            case Barrier():
                for key in keys:
                    pipeline.hget(key, "b")
            case Posting():
                item, wait, posting = keys
                pipeline.hget(item, "sel")
                pipeline.hget(wait, "sel")
                pipeline.sismember(posting, fact.image)
            case ClosedRequest():
                pipeline.hget(keys[0], "closed")
    with map_redis_errors():
        replies = iter(pipeline.execute())
    return [
        fact for fact in facts if not _is_taken(fact, [next(replies) for _ in names.telling(fact)])
    ]


def _is_taken(fact: FenceFact, replies: Sequence[Any]) -> bool:
    match fact:
        case Fence(_, until):
            return all((held or b"") >= encode_time(until).encode() for held in replies)
        case Barrier(_, until):
            return max(held or b"" for held in replies) >= encode_time(until).encode()
        case Posting(selector, _):
            *held_by, listed = replies
            selectors = b" ".join(held or b"" for held in held_by).split()
            return bool(listed) and selector.encode() in selectors
        case ClosedRequest():
            return list(replies) == [b"1"]
