"""The command that makes a memory anew from the log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from streams.config.settings import Settings, load

if TYPE_CHECKING:
    from streams.rebuild.rebuild import Log, Rebuild


@click.command()
@click.option(
    "--drop-unembeddable",
    is_flag=True,
    help="Switch even where images cannot be made anew; the memory holds them no more then.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and what is; change nothing.")
@click.option(
    "--abandon", is_flag=True, help="Give an unfinished rebuild up and drop what it made."
)
@click.option("--json", "json_", is_flag=True, help="Print JSON for a program.")
def rebuild(*, drop_unembeddable: bool, dry_run: bool, abandon: bool, json_: bool) -> None:
    """Make the memory anew from the topics, and switch to it when it is complete.

    The new one is made with the settings of this process: embedder, index algorithm, element
    type. Questions are answered from the old one meanwhile, events flow, and what is forgotten is
    forgotten in both. Killed at any point, it goes on when it is run again.

    Ends with 1 and a list of topic, partition, offset and reason where images cannot be made anew:
    only a vector of another model is there, a claim leads nowhere, an image cannot be decoded.
    """

    def say(text: str) -> None:
        click.echo(text, err=True)

    settings = load()
    if dry_run:
        found = plan(settings)
        click.echo(json.dumps(found) if json_ else "\n".join(f"{k}: {v}" for k, v in found.items()))
        return
    with wired(settings, say) as work:
        if abandon:
            click.echo("given up" if work.abandon() else "no rebuild is unfinished")
            return
        result = work.run(drop_unembeddable=drop_unembeddable)
    if json_:
        shown = {
            "switched": result.switched,
            "losses": [loss.to_json() for loss in result.losses],
            "gone": result.gone,
        }
        click.echo(json.dumps(shown))
    else:
        for loss in result.losses:
            click.echo(f"{loss.topic}[{loss.partition}]@{loss.offset}: {loss.reason}")
        if result.gone:
            click.echo(f"{result.gone} images: no record of the log tells of them any more")
    if not result.switched:
        say(
            f"{len(result.losses)} events cannot be embedded anew and {result.gone} images are in "
            "no record: the memory stays as it was; make them readable and run this again, or use "
            "--drop-unembeddable, or --abandon"
        )
    sys.exit(0 if result.switched else 1)


@contextmanager
def wired(settings: Settings, say: Callable[[str], None]) -> Iterator[Rebuild]:
    """The rebuild of a memory into a generation that these settings say."""
    from memory.redis.index import RedisIndex
    from memory.service import VisualMemory
    from streams import bootstrap
    from streams.config import connections
    from streams.contract.topics import Topic
    from streams.kafka import admin, cluster
    from streams.rebuild.rebuild import Rebuild

    security = connections.kafka_security(settings)
    admin.check_or_refuse(settings.kafka, bootstrap.topic_specs(settings), security)
    ids = bootstrap.known_topic_ids(settings)
    store = bootstrap.redis_client(settings)
    held = bootstrap.open_index(settings, store)
    held.check_durability()
    generations = bootstrap.generations(settings, store, held)

    def open_next() -> tuple[RedisIndex, VisualMemory]:
        made_for = bootstrap.embedder(settings)
        following = generations.begin(made_for, settings.index_algorithm, settings.index_dtype)
        # What its events tell of forgetting was logged when they were first read.
        return following, bootstrap.memory_of(settings, following, made_for)

    fences = bootstrap.full_name(settings, Topic.FENCES)
    batch = settings.batch_of("ingest")
    consume = partial(cluster.consumer, settings.kafka, security, max_poll_records=batch)
    logs = read_anew(settings, ids)
    with closing(store), closing(consume()) as consumer:
        yield Rebuild(
            held, generations, open_next, logs, (fences, ids[fences]), consumer, consume, say
        )


def read_anew(settings: Settings, topic_ids: Mapping[str, str]) -> list[Log]:
    """The topics that a rebuild reads."""
    from memory.service import VisualMemory
    from streams import bootstrap
    from streams.contract import decoding
    from streams.contract.topics import Topic
    from streams.rebuild.rebuild import Log

    images, corrections = (
        bootstrap.full_name(settings, topic)
        for topic in (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION)
    )
    skew = round(settings.clock_skew * 1_000_000)

    def decode_by(decode: Callable[..., Any], topic: str) -> Callable[..., Any]:
        return partial(decode, topic_id=topic_ids[topic], clock_skew=skew)

    return [
        Log(
            images,
            topic_ids[images],
            decode_by(decoding.decode_ingest, images),
            VisualMemory.remember,
        ),
        Log(
            corrections,
            topic_ids[corrections],
            decode_by(decoding.decode_correction, corrections),
            VisualMemory.correct,
        ),
    ]


def plan(settings: Settings) -> dict[str, Any]:
    """What a rebuild would read, and how far an unfinished one is; changes nothing."""
    from streams import bootstrap

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
    for log in read_anew(settings, bootstrap.known_topic_ids(settings)):
        places = [place for place in ends if place[0] == log.topic_id]
        done = sum(min(reached.get(place, 0), ends[place]) for place in places)
        shown[f"{log.topic} records"] = f"{done} of {sum(ends[place] for place in places)}"
    shown["unembeddable"] = len(generations.lost(held.at(following))) if following else 0
    store.close()
    return shown
