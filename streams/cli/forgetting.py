"""The commands of forgetting: requests, receipts, and how long it takes at worst."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, TextIO

import click
from rich.table import Table

from memory.model.events import Selector, SelectorKind
from memory.model.keys import ImageKey
from streams.cli.options import as_json, cell, console, emit, say, servers
from streams.config.connections import kafka_cluster
from streams.config.settings import Settings
from streams.contract.messages import Receipt
from streams.contract.signing import Chain, SigningKey
from streams.contract.strict_json import load_json
from streams.erasure.chain import read_chain
from streams.erasure.ledger import PROVEN


@click.command()
@click.option("--image", help="Forget this image.")
@click.option("--subject", help="Forget every image that shows this person or thing.")
@click.option("--source", "of_source", help="Forget everything this source ever sent.")
@click.option("--label", help="Forget the images that have this label now.")
@click.option(
    "--request",
    "file",
    type=click.File("r", encoding="utf-8"),
    help="Forget as a data subject's request in this file says (OpenDSR, JSON; - reads standard input).",
)
@click.option("--permanent", is_flag=True, help="Never admit it again.")
@click.option("--dry-run", is_flag=True, help="Count what would go now, by label; forget nothing.")
@click.option(
    "--wait",
    type=click.Choice(["sent", "erased", *PROVEN, "completed"]),
    default="erased",
    show_default=True,
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
    file: TextIO | None,
    permanent: bool,
    dry_run: bool,
    wait: str,
    timeout: float,
    json_: bool,
) -> None:
    """Forget an image, a subject, a source or a label, or as a data subject's request says."""
    from streams import bootstrap

    named = {"image": image, "subject": subject, "source": of_source, "label": label}
    given = {kind: value for kind, value in named.items() if value is not None}
    if len(given) + (file is not None) != 1:
        raise click.UsageError(
            "name exactly one of --image, --subject, --source, --label, --request"
        )
    asked: dict[str, Any] | None = None if file is None else _read_request(file)
    if dry_run:
        if asked is not None:
            raise click.UsageError("--dry-run takes --image, --subject, --source or --label")
        _print_would_go(settings, Selector.of(**given), json_=json_)
        return
    with bootstrap.client(settings, "visual-memory-cli") as client:
        if asked is None:
            request = client.forget(**given, permanent=permanent)
        else:
            request = client.forget_for(asked)
        done = None if wait == "sent" else client.receipt(request, wait, timeout)
    if json_:
        emit({"request": request.request_id, "stage": "sent"} if done is None else done.to_json())
    elif done is None:
        say(f"sent as {request.request_id}")
    else:
        _print_receipt(done)
    sys.exit(0 if done is None or done.status != "unmatched" else 1)


def _print_receipt(done: Receipt) -> None:
    if done.status == "unmatched":
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


def _read_request(file: TextIO) -> dict[str, Any]:
    try:
        found = load_json(file.read())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter("it is no JSON object", param_hint="--request")
    return found


def _print_would_go(settings: Settings, selector: Selector, *, json_: bool) -> None:
    """What the memory holds of it now; what comes until it is forgotten is not counted."""
    from streams import bootstrap

    counts: Counter[str] = Counter()
    listed = 0
    with closing(bootstrap.redis_client(settings)) as store:
        index = bootstrap.open_index(settings, store)
        pages: Iterable[Sequence[ImageKey]]
        if selector.kind is SelectorKind.IMAGE:
            pages = [[index.image_key(selector.value)]]
        elif selector.kind is SelectorKind.LABEL:
            pages = index.images_with_label(selector.value)
        else:
            pages = index.images_with_selector(index.selector_key(selector))
        for page in pages:
            listed += len(page)
            counts.update(label for label in index.labels_of(page) if label is not None)
    if json_:
        emit({"images": counts.total(), "listed": listed, "labels": dict(sorted(counts.items()))})
        return
    table = Table("label", "images")
    for label, count in sorted(counts.items()):
        table.add_row(cell(label), str(count))
    say(f"{counts.total()} images would go now")
    if counts:
        console.print(table)


@click.group()
def receipt() -> None:
    """Signed receipts: list them, verify them, show the public key."""


@receipt.command("key")
@servers
def key_command(settings: Settings) -> None:
    """Print the public key of receipts, and its id."""
    key = SigningKey(settings.signing_keys()[0])
    click.echo(f"{key.public} {key.id}")


@receipt.command("list")
@click.option("--request", help="Of this request alone; the chain has gaps then.")
@servers
def list_command(settings: Settings, request: str | None) -> None:
    """Print the signed receipts of the log, a line of JSON each, in the order of their chain."""
    for value in read_chain(kafka_cluster(settings), settings.namespace):
        if request is None or f'"request":"{request}"' in value.decode():
            click.echo(value)


@receipt.command("verify")
@click.argument("file", required=False, type=click.File("rb"))
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="A public key that is trusted; repeatable. Else the settings'.",
)
@as_json
@servers
def verify_command(settings: Settings, file: Any, keys: tuple[str, ...], json_: bool) -> None:
    """Verify the receipts in FILE (lines of JSON; - reads standard input), or those of the log.

    Each has to be signed by a trusted key, or by one that a trusted one handed over to, and to follow the
    one before: none altered, none missing between. Ends with 1 where one is not so.
    """
    trusted = keys or (SigningKey(settings.signing_keys()[0]).public,)
    chain, faults, count = Chain(trusted), [], 0
    for count, value in enumerate(
        read_chain(kafka_cluster(settings), settings.namespace) if file is None else file, 1
    ):
        if fault := chain.check(value.strip()):
            faults.append({"line": count, "fault": fault})
    if json_:
        emit({"receipts": count, "last": chain.sequence, "faults": faults})
    else:
        for one in faults:
            say(f"line {one['line']}: {one['fault']}", "red")
        say(f"{count} receipts, {len(faults)} faults; the last is number {chain.sequence}")
    sys.exit(1 if faults or not count else 0)


@click.command()
@click.option("--verify", is_flag=True, help="Only look; change nothing.")
@servers
@as_json
def restore(settings: Settings, verify: bool, json_: bool) -> None:
    """After Redis came back from a backup: forget again what was forgotten since, and prove it.

    Reads the facts of forgetting from the start of their topic and compares each item that the memory
    shows with them. Ends with 1 where one is shown that is forgotten. Workers do the same when they
    start, from where Redis says that it had read to.
    """
    from streams import bootstrap
    from streams.erasure.restore import forget_again

    with closing(bootstrap.redis_client(settings)) as store:
        index = bootstrap.open_index(settings, store)
        done = forget_again(kafka_cluster(settings), store, index, apply=not verify)
    if json_:
        emit(asdict(done))
    else:
        lacked = "lacks" if verify else "lacked"
        say(f"of {done.facts} facts of forgetting the memory {lacked} {done.missing}")
        say(f"of {done.items} items {done.revived} are forgotten: revived {done.revived}")
    sys.exit(1 if done.revived else 0)


@click.command()
@servers
@as_json
def audit(settings: Settings, json_: bool) -> None:
    """Show how long erasing takes at worst, as the servers are configured now.

    Ends with 1 where that is more than is promised (VISUAL_MEMORY_ERASURE_LIMIT), or where something
    keeps what is forgotten for good; it says which setting, and what to do.
    """
    from streams.erasure.wiring import bound_of

    bound = bound_of(settings)
    faults = list(bound.faults)
    if bound.seconds > settings.erasure_limit:
        worst = max(bound.parts, key=lambda part: bound.parts[part])
        faults.append(
            f"at worst it takes {bound.seconds:.0f} s, of which most is {REMEDIES[worst]}; promised are "
            f"{settings.erasure_limit:.0f} s"
        )
    if json_:
        emit(
            {
                "seconds": bound.seconds,
                "limit": settings.erasure_limit,
                "parts": bound.parts,
                "faults": faults,
            }
        )
    else:
        table = Table("copy", "seconds at worst")
        for part, seconds in bound.parts.items():
            table.add_row(part, f"{seconds:.1f}")
        console.print(table)
        for fault in faults:
            say(fault, "red")
        say(
            f"completed after at most {bound.seconds:.0f} s; {settings.erasure_limit:.0f} s are promised"
        )
    sys.exit(1 if faults else 0)


REMEDIES = {
    "log": "the log's (VISUAL_MEMORY_COMPACTION_LAG, then `visual-memory topics --configure`)",
    "answers": "the answers' (VISUAL_MEMORY_ANSWERS_KEPT, then `visual-memory topics --configure`)",
    "redis": "that of Redis' files (VISUAL_MEMORY_ERASURE_PAUSE)",
    "copies": "that of the query workers' copies",
}
