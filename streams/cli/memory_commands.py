"""The commands that send events to a memory, ask it, and show its state."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress
from rich.table import Table

from memory.errors import Rejected
from memory.images import SUFFIXES
from streams.cli.image_files import Selection, find_images
from streams.cli.options import as_json, console, emit, say, servers, visible
from streams.client.bulk_ingest import BulkIngest, IngestReport
from streams.config.settings import Settings


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--label", help="Label of all; else the name of each file's folder.")
@click.option(
    "--id",
    "image_id",
    help="Id of a single image; else its path in the folder, or in the one that all named are in.",
)
@click.option("--subject", "subjects", multiple=True, help="A person or thing shown; repeatable.")
@click.option("--source", default="visual-memory-cli", show_default=True, help="Who sends them.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to become visible.")
@servers
@as_json
def ingest(
    settings: Settings,
    paths: tuple[Path, ...],
    label: str | None,
    image_id: str | None,
    subjects: tuple[str, ...],
    source: str,
    timeout: float,
    json_: bool,
) -> None:
    """Teach the memory images: files, or all images in folders.

    Hidden files and thumbnails are passed over, linked folders are followed. What cannot be read
    is named, and everything else taken.
    """
    from streams import bootstrap

    selection = find_images(paths)
    if image_id and len(selection.images) != 1:
        raise click.UsageError("--id is for a single image")
    refused = [
        {"file": str(file), "reason": "unreadable", "detail": why}
        for file, why in selection.unreadable.items()
    ]
    index = bootstrap.open_index(settings, bootstrap.redis_client(settings))
    follower = BulkIngest(bootstrap.client(settings, source), index)
    with follower, Progress(console=console, disable=json_) as progress:
        bar = progress.add_task("sending", total=len(selection.images))
        for file in selection.images:
            name = {"file": str(file.path)}
            try:
                follower.ingest(
                    file.path, image_id or file.image_id, label or file.folder, subjects
                )
            except Rejected as why:
                refused.append({**name, "reason": str(why.reason), "detail": why.detail})
            except OSError as error:
                refused.append(
                    {**name, "reason": "unreadable", "detail": error.strerror or str(error)}
                )
            progress.advance(bar)
        progress.update(bar, description="becoming visible", completed=0)
        report = follower.finish(timeout, lambda merged: progress.update(bar, completed=merged))
    _report(selection, refused, report, json_=json_)
    rejected = report.rejected + len(refused)
    sys.exit(0 if report.in_time and report.accepted and not rejected else 1)


def _report(
    selection: Selection, refused: list[dict[str, str]], report: IngestReport, *, json_: bool
) -> None:
    reasons = [*refused, *report.reasons]
    summary = {
        "accepted": report.accepted,
        "rejected": report.rejected + len(refused),
        "visible": report.visible,
        "in_time": report.in_time,
        "passed_over": dict(sorted(selection.passed_over.items())),
        "reasons": reasons,
    }
    if json_:
        emit(summary)
    else:
        for reason in reasons:
            named = visible(reason.get("file") or reason["id"])
            say(f"rejected: {named}: {reason['reason']}: {reason['detail']}", "red")
        for kind, count in sorted(selection.passed_over.items()):
            say(f"passed over: {count} {visible(kind)}")
        say(f"accepted {report.accepted}, rejected {summary['rejected']}, visible {report.visible}")
        if not selection.images and not refused:
            say(f"no image is there; images end with {', '.join(sorted(SUFFIXES))}", "red")


@click.command()
@click.argument("image_id")
@click.argument("label", required=False)
@click.option("--withdraw", is_flag=True, help="Take an earlier correction back.")
@click.option("--source", default="visual-memory-cli", show_default=True, help="Who corrects.")
@servers
@as_json
def correct(
    settings: Settings, image_id: str, label: str | None, withdraw: bool, source: str, json_: bool
) -> None:
    """Give an image the label a person says it has."""
    from streams import bootstrap

    if withdraw == (label is not None):
        raise click.UsageError("give either a label or --withdraw")
    with bootstrap.client(settings, source) as client:
        position = client.correct(image_id, label).position(30)
    emit(position.to_json()) if json_ else say(
        f"sent: {position.topic}[{position.partition}]@{position.offset}"
    )


@click.command()
@click.option("--watch", is_flag=True, help="Again every two seconds.")
@servers
@as_json
def status(settings: Settings, watch: bool, json_: bool) -> None:
    """Show items, labels, positions, lag and the digest of a memory."""
    from streams import bootstrap

    with closing(bootstrap.monitor(settings)) as monitor:
        while True:
            found = monitor.status()
            emit(found) if json_ else _print_status(found)
            if not watch:
                return
            time.sleep(2)


def _print_status(found: Mapping[str, Any]) -> None:
    table = Table("topic", "partition", "position", "lag")
    for lag in found["lag"]:
        table.add_row(*(str(lag[c]) for c in ("topic", "partition", "position", "lag")))
    console.print(table)
    for name in ("items", "labels", "waiting_corrections", "open_forgets", "bytes"):
        say(f"{name}: {found[name]}")
    say(f"ids that came from more than one source: {found['shared_ids']}")
    say(f"digest: {found['digest']['visible']}")
