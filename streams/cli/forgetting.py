"""The commands that ask to forget, and that take it back."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, TextIO

import click
from rich.table import Table

from memory.model.events import Selector, SelectorKind, Surroundings
from memory.model.keys import ImageKey
from streams.cli.options import as_json, cell, console, emit, say, servers
from streams.client.forgetting import selector_of
from streams.config.settings import Settings
from streams.contract.cloudevents import format_time, parse_time
from streams.contract.messages import Receipt
from streams.contract.strict_json import load_json
from streams.erasure.ledger import PROVEN


@click.command()
@click.option("--image", help="Forget this image.")
@click.option("--subject", help="Forget every image that shows this person or thing.")
@click.option("--source", "of_source", help="Forget everything this source ever sent.")
@click.option("--label", help="Forget the images that have this label now.")
@click.option("--near", multiple=True, metavar="IMAGE", help="Forget what is alike, with --within.")
@click.option(
    "--within",
    type=float,
    metavar="DISTANCE",
    help="How far from an image of --near at most: a cosine distance from 0 to below 1.",
)
@click.option(
    "--request",
    "file",
    type=click.File("r", encoding="utf-8"),
    help="Forget as a data subject's request in this file says (OpenDSR, JSON; - reads standard input).",
)
@click.option("--permanent", is_flag=True, help="Never admit it again.")
@click.option(
    "--not-before",
    metavar="TIME",
    help="Carry it out then, not at once: an RFC 3339 time with its offset, such as "
    "2026-12-24T08:00:00Z. Until then visual-memory cancel stops it.",
)
@click.option("--dry-run", is_flag=True, help="Count what would go now, by label; forget nothing.")
@click.option(
    "--wait",
    type=click.Choice(["sent", "scheduled", "erased", *PROVEN, "completed"]),
    show_default="erased, or scheduled if it is for later",
    help="Return when the request is in the log, out of every answer, or at a later stage: completed "
    "is when no copy that can be reached holds it any more.",
)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait.")
@servers
@as_json
def forget(
    settings: Settings,
    image: str | None,
    subject: str | None,
    of_source: str | None,
    label: str | None,
    near: tuple[str, ...],
    within: float | None,
    file: TextIO | None,
    permanent: bool,
    not_before: str | None,
    dry_run: bool,
    wait: str | None,
    timeout: float,
    json_: bool,
) -> None:
    """Forget an image, a subject, a source, a label, what is alike, or as a data subject's request says."""
    from streams import bootstrap

    named = {"image": image, "subject": subject, "source": of_source, "label": label}
    given = {kind: value for kind, value in named.items() if value is not None}
    if len(given) + bool(near) + (file is not None) != 1:
        raise click.UsageError(
            "name exactly one of --image, --subject, --source, --label, --near, --request"
        )
    if bool(near) != (within is not None):
        raise click.UsageError("--near and --within go together")
    if file is not None and not_before is not None:
        raise click.UsageError("a request says itself when; see docs/forgetting.md")
    at = None if not_before is None else parse_time(not_before, "--not-before")
    asked: dict[str, Any] | None = None if file is None else _read_request(file)
    if dry_run:
        if asked is not None:
            raise click.UsageError("--dry-run takes no --request")
        _print_would_go(settings, selector_of(near, within, **given), json_=json_)
        return
    with bootstrap.client(settings, "visual-memory-cli") as client:
        if asked is None:
            request = client.forget(
                image=image,
                subject=subject,
                source=of_source,
                label=label,
                near=near,
                within=within,
                permanent=permanent,
                not_before=at,
            )
        else:
            request = client.forget_for(asked)
        # The first receipt says that it is erased, or scheduled.
        done = None if wait == "sent" else client.receipt(request, wait or "received", timeout)
    if json_:
        emit({"request": request.request_id, "stage": "sent"} if done is None else done.to_json())
    elif done is None:
        say(f"sent as {request.request_id}")
    else:
        _print_receipt(done)
    sys.exit(0 if done is None or done.status != "unmatched" else 1)


def _print_receipt(done: Receipt) -> None:
    if done.status == "scheduled":
        say(f"scheduled: carried out not before {format_time(done.not_before or 0)}; until then")
        say(f"  visual-memory cancel {done.request}")
    elif done.status == "unmatched":
        say(
            "nothing matched: the memory never heard of it; is it spelt so? Events about it from "
            "before this request are refused all the same",
            "red",
        )
    else:
        say(f"erased: {done.images} images are in no answer any more")
    if "completed" in done.stages:
        say(f"completed: no file within reach holds anything of it; signed, number {done.sequence}")
        for one in done.outside or ():
            say(f"  outside: {one.what} ({one.owner}): {one.must}")


@click.command()
@click.argument("request_id", metavar="REQUEST")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait.")
@servers
@as_json
def cancel(settings: Settings, request_id: str, timeout: float, json_: bool) -> None:
    """Stop a request to forget that is to be carried out later, by the id that its receipts name.

    Ends with 1 where it was to be carried out by then, or is.
    """
    from streams import bootstrap

    with bootstrap.client(settings, "visual-memory-cli") as client:
        is_stopped = client.cancel(request_id, timeout)
    outcome = "cancelled" if is_stopped else "too_late"
    if json_:
        emit({"request": request_id, "outcome": outcome})
    else:
        say(
            "cancelled: nothing is forgotten"
            if is_stopped
            else "too late: it was to be forgotten by then"
        )
    sys.exit(0 if is_stopped else 1)


def _read_request(file: TextIO) -> dict[str, Any]:
    try:
        found = load_json(file.read())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter("it is no JSON object", param_hint="--request")
    return found


def _print_would_go(settings: Settings, selector: Selector | Surroundings, *, json_: bool) -> None:
    """What the memory holds of it now; what comes until it is forgotten is not counted."""
    from streams import bootstrap

    counts: Counter[str] = Counter()
    with closing(bootstrap.redis_client(settings)) as store:
        index = bootstrap.open_index(settings, store)
        pages: Iterable[Sequence[ImageKey]]
        if isinstance(selector, Surroundings):
            pages = index.images_near(
                list(map(index.image_key, selector.images)), selector.distance
            )
        elif selector.kind is SelectorKind.IMAGE:
            pages = [[index.image_key(selector.value)]]
        elif selector.kind is SelectorKind.LABEL:
            pages = index.images_with_label(selector.value)
        else:
            pages = index.images_with_selector(index.selector_key(selector))
        seen: set[ImageKey] = set()
        for page in pages:
            new = [image for image in dict.fromkeys(page) if image not in seen]
            seen.update(new)
            counts.update(label for label in index.labels_of(new) if label is not None)
        listed = len(seen)
    if json_:
        emit({"images": counts.total(), "listed": listed, "labels": dict(sorted(counts.items()))})
        return
    table = Table("label", "images")
    for label, count in sorted(counts.items()):
        table.add_row(cell(label), str(count))
    say(f"{counts.total()} images would go now")
    if counts:
        console.print(table)
