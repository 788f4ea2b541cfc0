"""The commands that show how it was forgotten: receipts, how long it takes at worst, restored backups."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from streams.cli.options import as_json, console, emit, say, servers
from streams.config.connections import kafka_cluster
from streams.config.settings import Settings
from streams.contract.signing import Chain, SigningKey
from streams.erasure.chain import read_chain


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
