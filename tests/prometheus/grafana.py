"""What Grafana's own classes (its foundation SDK) say of a dashboard's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.runtime import Runtime
from grafana_foundation_sdk.models.dashboard import Dashboard


def faults(dashboard: Mapping[str, Any]) -> list[str]:
    """Fields that the classes do not know, values not of their types, kinds that none knows."""
    plugins.register_default_plugins()
    found = list(_unknown_kinds(dashboard))
    parsed = Dashboard.from_json(dict(dashboard))
    found += _ill_typed(parsed, Dashboard, "dashboard")
    written = json.loads(JSONEncoder().encode(parsed))
    return found + list(_lost(dashboard, written, "dashboard"))


def _unknown_kinds(dashboard: Mapping[str, Any]) -> Iterator[str]:
    """Of panels and queries: the classes keep what is of no kind as it is, unseen."""
    known = Runtime()
    for panel in dashboard["panels"]:
        if panel["type"] != "row" and panel["type"] not in known.panelcfg_variants:
            yield f"no panel is of type {panel['type']}"
        for asking in (panel, *panel.get("targets", ())):
            source = asking.get("datasource", {"type": "prometheus"})["type"]
            if source not in known.dataquery_variants:
                yield f"no query is of type {source}"


def _lost(given: object, written: object, place: str) -> Iterator[str]:
    """What was given and is not written, or otherwise; defaults that come to it are no loss."""
    if isinstance(given, Mapping) and isinstance(written, Mapping):
        for name, value in given.items():
            if name in written:
                yield from _lost(value, written[name], f"{place}.{name}")
            else:
                yield f"{place}.{name} is unknown"
    elif isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        for n, (one, other) in enumerate(zip(given, written, strict=True)):
            yield from _lost(one, other, f"{place}[{n}]")
    elif given != written:
        yield f"{place} is {given!r}, read as {written!r}"


def _ill_typed(value: Any, hint: Any, place: str) -> list[str]:
    """Values that are not what the classes' annotations say; parsing does not look."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        found = _not_a(value, type(value), place)
    elif origin is None:
        found = _not_a(value, hint, place)
    elif origin in (Union, UnionType):
        found = min((_ill_typed(value, one, place) for one in parts), key=len)
    elif origin is Literal:
        found = [] if value in parts else [f"{place} is {value!r}, not {hint}"]
    elif not isinstance(value, origin):
        found = [f"{place} is {value!r}, no {origin.__name__}"]
    else:
        pairs = value.items() if origin is dict else enumerate(value)
        found = [f for n, v in pairs for f in _ill_typed(v, parts[-1], f"{place}[{n}]")]
    return found


def _not_a(value: Any, kind: type, place: str) -> list[str]:
    if issubclass(kind, Enum):
        fits = value in [one.value for one in kind]
    elif kind in (int, float):
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
    else:
        fits = isinstance(value, kind)
    if not fits:
        return [f"{place} is {value!r}, no {kind.__name__}"]
    if not hasattr(value, "to_json"):
        return []
    hints = get_type_hints(type(value))
    return [
        fault
        for name, of in hints.items()
        for fault in _ill_typed(getattr(value, name), of, f"{place}.{name}")
    ]
