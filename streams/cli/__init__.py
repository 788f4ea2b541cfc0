"""The command ``visual-memory``: its group, and how a failure is told."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from memory.errors import Misconfigured, Rejected, Unavailable
from streams.cli import memory_commands, operations, stack_commands
from streams.cli.options import console
from streams.cli.rebuild import rebuild
from streams.local.process import LocalServerError

COMMANDS = [
    memory_commands.ingest,
    memory_commands.correct,
    memory_commands.forget,
    memory_commands.query,
    memory_commands.status,
    stack_commands.up_command,
    stack_commands.down_command,
    stack_commands.demo_command,
    operations.worker_command,
    operations.topics_command,
    operations.fences_command,
    operations.settings_command,
    operations.permissions,
    operations.provision,
    rebuild,
]


@click.group(commands=COMMANDS)
@click.version_option(package_name="visual-memory")
def cli() -> None:
    """A visual memory that is alive: images, corrections and forget-requests as events."""


def main() -> None:
    """Run the command; a known failure is one line, not a traceback."""
    try:
        cli()
    except (Misconfigured, Unavailable, Rejected, LocalServerError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))


def _refuse(why: str) -> NoReturn:
    # Unwrapped: a supervisor shows the last line.
    console.print(why, style="red", markup=False, soft_wrap=True)
    sys.exit(2)
