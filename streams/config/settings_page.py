"""The page docs/settings.md, made from the settings themselves."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from streams.config.settings import ENVIRONMENT_PREFIX, Settings

HEAD = f"""\
# Settings

Each is read from the environment variable named here, or from a file of the same name in small
letters in the folder that `{ENVIRONMENT_PREFIX}SECRETS_DIR` names; the variable wins. Times are
in seconds. `visual-memory settings` prints this page.

| variable | type | default | meaning |
|---|---|---|---|
"""
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret"}


def page() -> str:
    """The settings as Markdown. The defaults of secrets are left out."""
    rows = [
        f"| `{ENVIRONMENT_PREFIX}{name.upper()}` | {kind} | {_default(field, kind)} | {meaning} |\n"
        for name, field in Settings.model_fields.items()
        for kind in [_kind(field.annotation)]
        for meaning in [(field.description or "").replace("|", "\\|")]
    ]
    return HEAD + "".join(rows)


def _kind(annotation: Any) -> str:
    """What a value looks like, in a word: `text`, `number`, `FLAT` or `HNSW`, …"""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in arguments if part is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return "list"
    return NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation)).lower()


def _default(field: FieldInfo, kind: str) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if "secret" in kind:
        return "not shown" if value else "none"
    if value is None or value in ("", ()):
        return "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
