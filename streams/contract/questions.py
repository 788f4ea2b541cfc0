"""What a question asks for, as its headers say it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, convert

from memory.errors import Reason, Rejected
from memory.model.events import Selector, SelectorKind
from memory.model.questions import Factors, Rule, WhatIf
from memory.model.reliability import Pruning
from memory.model.text import canonical_json
from streams.contract.cloudevents import Header
from streams.contract.strict_json import load_json


class _Weights(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    images: Mapping[str, float] = {}
    labels: Mapping[str, float] = {}


class _Supposed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    without: tuple[dict[SelectorKind, str], ...] = ()
    weights: _Weights = _Weights()
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()


def write_what_if(what_if: WhatIf) -> str:
    """JSON. Selectors are written as in a forget-request: ``{"subject": "customer-4"}``."""
    supposed = _Supposed(
        tuple({selector.kind: selector.value} for selector in what_if.without),
        _Weights(what_if.weights.images, what_if.weights.labels),
        what_if.plus,
        what_if.minus,
    )
    return canonical_json(supposed).decode()


def read_what_if(text: str) -> WhatIf:
    """Raises `Rejected`; nothing in it is passed over."""
    try:
        found = convert(load_json(text), _Supposed)
        if not all(len(named) == 1 for named in found.without):
            raise ValueError("a selector names one thing")
    except ValueError:
        raise Rejected(
            Reason.INVALID_HEADER,
            f"{Header.WHAT_IF} must be a JSON object with some of: without (an array of selectors, "
            'each as {"label": "cat"}), weights (of images and labels, numbers by name), plus and '
            "minus (arrays of image ids)",
        ) from None
    return WhatIf(
        tuple(Selector(kind, name) for named in found.without for kind, name in named.items()),
        Factors(found.weights.images, found.weights.labels),
        found.plus,
        found.minus,
    )


def as_rule(name: str) -> Rule:
    """The rule of this name. Raises `Rejected`."""
    if name not in set(Rule):
        raise Rejected(Reason.UNKNOWN_RULE, f"the rule must be one of {', '.join(Rule)}")
    return Rule(name)


def as_pruning(name: str | None) -> Pruning | None:
    """The way of this name. Raises `Rejected`."""
    if name is not None and name not in set(Pruning):
        raise Rejected(Reason.UNKNOWN_PRUNING, f"pruning must be one of {', '.join(Pruning)}")
    return None if name is None else Pruning(name)


def is_true(text: str | None, header: Header) -> bool:
    if text not in (None, "true", "false"):
        raise Rejected(Reason.INVALID_HEADER, f"{header} must be true or false")
    return text == "true"
