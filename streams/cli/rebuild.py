"""The command that makes a memory anew from the log."""

from __future__ import annotations

import json
import sys

import click

from streams.config.settings import load


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

    from streams.rebuild.wiring import describe_rebuild, open_rebuild

    settings = load()
    if dry_run:
        found = describe_rebuild(settings)
        click.echo(json.dumps(found) if json_ else "\n".join(f"{k}: {v}" for k, v in found.items()))
        return
    with open_rebuild(settings, say) as work:
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
