"""The commands that list items for review, and leave unreliable ones out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click
from rich.table import Table

from memory.errors import Reason, Rejected, Unavailable
from memory.model.answers import Effect, Findings
from memory.model.reliability import HARD_FROM
from memory.replica.index import ReplicatedIndex
from streams.cli.options import as_json, cell, console, emit, say, servers
from streams.config.settings import Settings
from streams.contract.messages import MAX_TIMEOUT

COUNTED_LOOK_SECONDS = 0.05
COUNTED_ASK_SECONDS = 1.0


@click.command()
@click.option("--count", default=20, show_default=True, help="The clearest so many.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the counts.")
@servers
@as_json
def suspects(settings: Settings, count: int, timeout: float, json_: bool) -> None:
    """List items whose neighbours say another label, for review.

    A query worker tells them. `correct` takes a suspicion away, also one that says the label is right.
    """
    found = _review(settings, timeout, "suspects", count=count)
    if json_:
        emit(found.to_json())
        return
    table = Table("id", "label", "neighbours say", "share", "share of its own", "wrong")
    for one in found.suspects:
        shares = f"{one.share:.0%}", f"{one.own_share:.0%}"
        table.add_row(
            cell(one.image_id), cell(one.label), cell(one.suggested), *shares, str(one.wrong)
        )
    say(f"{found.total} items may have a wrong label, by counts of {found.age:.0f} s ago")
    if found.suspects:
        console.print(table)


@click.command()
@click.argument("image", required=False)
@click.option("--count", default=20, show_default=True, help="The first so many.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait.")
@servers
@as_json
def influence(
    settings: Settings, image: str | None, count: int, timeout: float, json_: bool
) -> None:
    """Show how often items, or IMAGE, were neighbours that voted, and how often they decided.

    An item decided an answer that would have been another one without it. Counted since the memory was
    made or rebuilt; what is forgotten has no counts.
    """
    found = _review(settings, timeout, "influence", count=count, image=image)
    if json_:
        emit(found.to_json())
        return
    say(f"{found.total} items ever voted")
    table = Table("id", "voted", "decided")
    for one in found.influence:
        table.add_row(cell(one.image_id), str(one.neighbor), str(one.decided))
    console.print(table)


def _review(settings: Settings, timeout: float, about: str, **asked: Any) -> Findings:
    """What a query worker says; it is waited for one that still counts."""
    from streams import bootstrap

    deadline = time.monotonic() + timeout
    with bootstrap.client(settings, "visual-memory-cli") as client:
        while True:
            try:
                return client.review(about, **asked, timeout=min(timeout, MAX_TIMEOUT))
            except Rejected as why:
                if why.reason is not Reason.NOT_COUNTED or time.monotonic() > deadline:
                    raise
            time.sleep(COUNTED_ASK_SECONDS)


@contextmanager
def _counting(settings: Settings) -> Iterator[ReplicatedIndex]:
    from streams import bootstrap

    with closing(bootstrap.redis_client(settings)) as client:
        index = bootstrap.open_counting_index(settings, client)
        try:
            yield index
        finally:
            index.stop()


def _wait_for_counts(index: ReplicatedIndex, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while index.wrong_counts() is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the items were not read and compared within {timeout:g} s")
        time.sleep(COUNTED_LOOK_SECONDS)


@click.command()
@click.argument("images", nargs=-1)
@click.option(
    "--from",
    "least",
    default=HARD_FROM,
    show_default=True,
    help="Without IMAGES: those that are so often a neighbour of another label, among a hundred.",
)
@click.option(
    "--dry-run", "how", flag_value="dry-run", default="dry-run", help="Show; the default."
)
@click.option("--apply", "how", flag_value="apply", help="Leave them out of all answers.")
@click.option("--undo", "how", flag_value="undo", help="Let them, or all, take part again.")
@click.option("--source", default="visual-memory-cli", show_default=True, help="Who says so.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for the counts.")
@servers
@as_json
def prune(
    settings: Settings,
    images: tuple[str, ...],
    least: int,
    how: str,
    source: str,
    timeout: float,
    json_: bool,
) -> None:
    """Leave unreliable items, or IMAGES, out of all answers.

    Each is an event like any other: kept in the log, in any order, and taken back by --undo. Nothing
    is forgotten.
    """
    from streams import bootstrap

    named = images
    effect: Effect | None = None
    if not images:
        with _counting(settings) as index:
            if how == "undo":
                named = tuple(index.pruned_ids())
            else:
                _wait_for_counts(index, timeout)
                effect = index.effect_of_pruning(least)
                named = () if effect is None else effect.images
    if how != "dry-run":
        with bootstrap.client(settings, source) as client:
            sent = [client.prune(image, undo=how == "undo") for image in named]
            for one in sent:
                one.position(timeout)
    done = {"dry-run": "would go", "apply": "go", "undo": "take part again"}[how]
    if json_:
        labels = {} if effect is None else {n: one.to_json() for n, one in effect.labels.items()}
        emit({"how": how, "images": list(named), "labels": labels})
        return
    if effect is not None:
        table = Table("label", "go", "stay", "called right before", "after")
        for name, of in effect.labels.items():
            numbers = of.gone, of.stays, of.right_before, of.right_after
            table.add_row(cell(name), *map(str, numbers))
        console.print(table)
    say(f"{len(named)} images {done}")
