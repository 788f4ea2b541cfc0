"""The command that asks a memory: what it is, why, and what would be if."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import click
from rich.table import Table

from memory.errors import Rejected
from memory.model.answers import Why
from memory.model.events import Selector
from memory.model.questions import Factors, Rule, WhatIf
from memory.model.reliability import Pruning
from streams.cli.options import as_json, cell, console, emit, say, servers
from streams.client.asking import Asked
from streams.config.settings import Settings
from streams.contract.messages import Answer

T = TypeVar("T")
OPTION_FORMS = {
    "--without": "write image=, subject=, source= or label= and a name",
    "--weight": "write image= or label=, a name, = and a number",
}


@click.command()
@click.argument(
    "image", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--item", help="Ask with an image the memory holds, by id.")
@click.option("-k", default=10, show_default=True, help="Neighbours that vote, 1 to 100.")
@click.option(
    "--rule",
    type=click.Choice([str(rule) for rule in Rule]),
    default="rank",
    show_default=True,
    help="How neighbours vote.",
)
@click.option(
    "--why", is_flag=True, help="Show what the answer rests on, and what would change it."
)
@click.option(
    "--pruning",
    type=click.Choice([str(pruning) for pruning in Pruning]),
    show_default="the memory's",
    help="What is done with unreliable items: they weigh less (soft) or are left out (hard).",
)
@click.option(
    "--min-share",
    type=click.FloatRange(0, 1),
    show_default="the memory's",
    help="Abstain where the leading label has less than this share.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="KIND=NAME",
    help="As if it were forgotten: image=, subject=, source= or label=; repeatable.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="KIND=NAME=FACTOR",
    help="As if neighbours counted so many times: image= or label=; repeatable.",
)
@click.option("--plus", multiple=True, metavar="ID", help="Add this item's vector; repeatable.")
@click.option(
    "--minus", multiple=True, metavar="ID", help="Subtract this item's vector; repeatable."
)
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait.")
@servers
@as_json
def query(
    settings: Settings,
    image: Path | None,
    item: str | None,
    k: int,
    rule: str,
    why: bool,
    pruning: str | None,
    min_share: float | None,
    without: tuple[str, ...],
    weights: tuple[str, ...],
    plus: tuple[str, ...],
    minus: tuple[str, ...],
    timeout: float,
    json_: bool,
) -> None:
    """Ask what an image is, on which images the answer rests, and what would change it."""
    from streams import bootstrap

    if (image is None) == (item is None):
        raise click.UsageError("give either an image file or --item")
    supposed = WhatIf(tuple(map(_selector, without)), _factors(weights), plus, minus)
    asked: Asked = {"item": item, "k": k, "rule": rule, "pruning": pruning, "why": why}
    asked |= {"min_share": min_share, "what_if": supposed}
    with bootstrap.client(settings, "visual-memory-cli") as client:
        answer = client.query(image, **asked, timeout=timeout)
    emit(answer.to_json()) if json_ else _print_answer(answer)
    sys.exit(0 if answer.status in ("answered", "abstained", "empty") else 1)


def _said(option: str, text: str, read: Callable[[], T]) -> T:
    """What an option says. Raises `click.UsageError`, naming it."""
    try:
        return read()
    except (Rejected, TypeError, ValueError) as why:
        detail = why.detail if isinstance(why, Rejected) else OPTION_FORMS[option]
        raise click.BadParameter(f"{text!r}: {detail}", param_hint=option) from None


def _selector(text: str) -> Selector:
    kind, _, name = text.partition("=")
    return _said("--without", text, lambda: Selector.of(**{kind: name}))


def _factors(texts: tuple[str, ...]) -> Factors:
    by: dict[str, dict[str, float]] = {"image": {}, "label": {}}
    for text in texts:
        named, _, factor = text.rpartition("=")
        kind, _, name = named.partition("=")
        if kind not in by or not name:
            raise click.BadParameter(f"{text!r}: {OPTION_FORMS['--weight']}", param_hint="--weight")
        by[kind][name] = _said("--weight", text, partial(float, factor))
    return _said("--weight", " ".join(texts), lambda: Factors(by["image"], by["label"]))


def _print_answer(answer: Answer) -> None:
    if answer.status not in ("answered", "abstained"):
        say(f"{answer.status} {answer.reason or ''} {answer.detail or ''}")
        return
    if answer.reliability_age is not None:
        say(f"{answer.pruning} pruning, by counts of {answer.reliability_age:.0f} s ago")
    if answer.supposed:
        say("as the question supposes; the memory itself is as it was")
    if answer.label is None:
        leading, share = max(answer.shares.items(), key=itemgetter(1))
        say(f"abstained: {leading} leads with {share:.0%}")
    else:
        say(f"{answer.label} ({answer.shares[answer.label]:.0%})")
    why = answer.why
    table = Table("rank", "id", "label", "distance", "weight", *(("share", "value") if why else ()))
    for n in answer.neighbors:
        numbers = [f"{n.distance:.4f}", f"{n.weight:.4f}"]
        if why is not None:
            contribution = why.contributions[n.rank]
            numbers += [f"{contribution.share:.1%}", f"{contribution.value:+.1%}"]
        table.add_row(str(n.rank), cell(n.image_id), cell(n.label), *numbers)
    console.print(table)
    if why is not None:
        _print_why(why)


def _print_why(why: Why) -> None:
    if why.flip is None:
        say(f"it stands without any {why.more_than} of its neighbours")
    else:
        images = why.flip.images
        fewest = "this one" if len(images) == 1 else f"these {len(images)}"
        say(f"without {fewest}, and no fewer, it would be {why.flip.label}:")
        for image in images:
            say(f"  {image}")
    if why.survives == 0:
        say("a single wrong label could change it")
    else:
        labels = "1 wrong label" if why.survives == 1 else f"{why.survives} wrong labels"
        say(f"it survives {labels}, whichever of the memory's they are")
