"""The command that lists items for review."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

import click
from rich.table import Table

from memory.errors import Unavailable
from memory.replica.index import ReplicatedIndex
from streams.cli.options import as_json, cell, console, emit, say, servers
from streams.config.settings import Settings

COUNTED_LOOK_SECONDS = 0.05


@click.command()
@click.option("--count", default=20, show_default=True, help="The clearest so many.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for the counts.")
@servers
@as_json
def suspects(settings: Settings, count: int, timeout: float, json_: bool) -> None:
    """List items whose neighbours say another label, for review.

    Reads the memory and asks for the neighbours of every item. `correct` takes a suspicion away, also
    one that says the label is right.
    """
    from streams import bootstrap

    index = bootstrap.open_counting_index(settings)
    try:
        _wait_for_counts(index, timeout)
        found = index.suspects()
    finally:
        index.stop()
    if json_:
        emit({"suspects": len(found), "clearest": [asdict(one) for one in found[:count]]})
        return
    table = Table("id", "label", "neighbours say", "share", "share of its own", "wrong")
    for one in found[:count]:
        shares = f"{one.share:.0%}", f"{one.own_share:.0%}"
        table.add_row(
            cell(one.image_id), cell(one.label), cell(one.suggested), *shares, str(one.wrong)
        )
    say(f"{len(found)} items may have a wrong label")
    if found:
        console.print(table)
    sys.exit(0)


def _wait_for_counts(index: ReplicatedIndex, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while index.wrong_counts() is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the items were not read and compared within {timeout:g} s")
        time.sleep(COUNTED_LOOK_SECONDS)
