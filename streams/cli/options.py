"""What the commands share: which memory is meant, and how results are shown."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.text import Text

from streams import stack
from streams.config.settings import DATA_HOME

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT = DATA_HOME
DEFAULT_SHOWN = "the user's data folder"
console = Console(stderr=True, markup=False, emoji=False, highlight=False)


_UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""In emoji and in letters of some scripts."""


def visible(text: str) -> str:
    """A stranger's text with escapes in place of what a terminal would obey or cannot show."""
    return "".join(
        ascii(sign)[1:-1]
        if unicodedata.category(sign) in _UNSHOWN and sign not in _JOINERS
        else sign
        for sign in text
    )


def say(text: str, style: str = "") -> None:
    """Print lines for a person: nothing in them is markup, and nothing is cut off.

    A stranger's text in them goes through `visible` first, or may make lines of its own.
    """
    shown = "\n".join(map(visible, text.split("\n")))
    console.print(Text(shown, style=style), soft_wrap=True)


def cell(text: str) -> Text:
    """A text in a table, shown whole."""
    return Text(visible(text), overflow="fold")


def emit(value: object) -> None:
    """Print JSON for a program."""
    text = json.dumps(value, ensure_ascii=False)
    # A file's name may be no UTF-8; JSON can still spell it.
    click.echo(text if _is_unicode(text) else json.dumps(value))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    def wrapper(data_dir: Path | None, kafka: str | None, redis: str | None, **rest: Any) -> Any:
        settings = stack.settings_for(data_dir, default=DEFAULT, kafka=kafka, redis=redis)
        return command(settings=settings, **rest)

    return wrapper  # type: ignore[return-value]  # click replaces the signature


def as_json(command: F) -> F:
    return click.option("--json", "json_", is_flag=True, help="Print JSON for a program.")(command)


def without_password(url: str) -> str:
    """A URL with stars in place of its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()
