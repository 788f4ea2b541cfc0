"""The command ``visual-memory``: its group, and how a failure is told."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from memory.errors import Misconfigured, Rejected, Unavailable
from streams.cli import erasure, forgetting, memory_commands, operations, stack_commands
from streams.cli.asking import query
from streams.cli.options import say, visible
from streams.cli.rebuild import rebuild
from streams.cli.review import influence, prune, suspects
from streams.local.process import LocalServerError

UNEXPECTED = 70
"""The exit code for what nobody foresaw, of a worker too."""

COMMANDS = [
    memory_commands.ingest,
    memory_commands.correct,
    forgetting.forget,
    forgetting.cancel,
    erasure.receipt,
    erasure.audit,
    erasure.restore,
    query,
    suspects,
    influence,
    prune,
    memory_commands.status,
    stack_commands.up_command,
    stack_commands.down_command,
    stack_commands.demo_command,
    operations.worker_command,
    operations.topics_command,
    operations.fences_command,
    operations.settings_command,
    operations.schemas_command,
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
        named = (visible(str(part)) for part in (error.filename, error.strerror or error) if part)
        _refuse(": ".join(named))
    except Exception as error:  # noqa: BLE001 - a traceback tells a user nothing, and may tell others too much
        _refuse(_unexpected(error), UNEXPECTED)


def _unexpected(error: Exception) -> str:
    """What to report: its text may hold anything, a password too."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"something unexpected: {type(error).__name__} at {where}; report it with this line"


def _refuse(why: str, code: int = 2) -> NoReturn:
    # Unwrapped: a supervisor shows the last line.
    say(why, "red")
    sys.exit(code)
