"""A rebuild from the settings: what it reads, what it fills, and how far an unfinished one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from memory.model.times import microseconds
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams import bootstrap
from streams.config import connections, memory_topics
from streams.config.settings import Settings
from streams.contract import decoding
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.rebuild.filling import EventLog, Sources
from streams.rebuild.rebuild import Rebuild


@contextmanager
def open_rebuild(settings: Settings, say: Callable[[str], None]) -> Iterator[Rebuild]:
    """The rebuild of a memory into a generation that these settings say."""
    cluster = connections.kafka_cluster(settings)
    admin.check_or_refuse(cluster, memory_topics.topic_specs(settings))
    ids = memory_topics.known_topic_ids(settings)
    store = bootstrap.redis_client(settings)
    held = bootstrap.open_index(settings, store)
    held.check_durability()
    generations = bootstrap.generations(settings, store, held)

    def open_next() -> tuple[RedisIndex, VisualMemory]:
        made_for = bootstrap.embedder(settings)
        following = generations.begin(made_for, settings.index_algorithm, settings.index_dtype)
        # What its events tell of forgetting was logged when they were first read.
        return following, bootstrap.memory_of(settings, following, made_for)

    fences_id = ids[cluster.full_name(Topic.FENCES)]
    batch, logs = settings.batch_of("ingest"), event_logs(settings, ids)
    with closing(store), closing(cluster.consumer()) as consumer:
        sources = Sources(logs, fences_id, cluster, consumer, batch)
        yield Rebuild(held, generations, open_next, sources, say)


def event_logs(settings: Settings, topic_ids: Mapping[str, str]) -> list[EventLog]:
    """The topics that a rebuild reads."""
    cluster = connections.kafka_cluster(settings)
    images, corrections = (
        cluster.full_name(topic) for topic in (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION)
    )
    skew = microseconds(settings.clock_skew)

    def decode_by(decode: Callable[..., Any], topic: str) -> Callable[..., Any]:
        return partial(decode, topic_id=topic_ids[topic], clock_skew=skew)

    return [
        EventLog(
            images,
            topic_ids[images],
            decode_by(decoding.decode_ingest, images),
            VisualMemory.remember,
        ),
        EventLog(
            corrections,
            topic_ids[corrections],
            decode_by(decoding.decode_correction, corrections),
            VisualMemory.correct,
        ),
    ]


def describe_rebuild(settings: Settings) -> dict[str, Any]:
    """What a rebuild would read, and how far an unfinished one is; changes nothing."""
    store = bootstrap.redis_client(settings)
    held = bootstrap.open_index(settings, store)
    generations = bootstrap.generations(settings, store, held)
    following = generations.following()
    ends = held.positions()
    reached = held.at(following).positions() if following else {}
    shown: dict[str, Any] = {
        "generation": held.schema.generation,
        "unfinished": following.generation if following else None,
        "dropping": generations.dropping() or None,
    }
    for log in event_logs(settings, memory_topics.known_topic_ids(settings)):
        places = [place for place in ends if place[0] == log.topic_id]
        done = sum(min(reached.get(place, 0), ends[place]) for place in places)
        shown[f"{log.topic} records"] = f"{done} of {sum(ends[place] for place in places)}"
    shown["unembeddable"] = len(generations.lost(held.at(following))) if following else 0
    store.close()
    return shown
