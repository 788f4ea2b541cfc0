"""The error tree: what callers may catch, and what a rejection says."""

from __future__ import annotations

import re

import pytest

from memory import errors
from memory.errors import Misconfigured, Reason, Rejected, Unavailable, VisualMemoryError

RAISED = [
    found
    for found in vars(errors).values()
    if isinstance(found, type)
    and issubclass(found, BaseException)
    and found.__module__ == errors.__name__
]


def test_the_tree_drawn_in_the_docstring_is_the_tree_there_is() -> None:
    drawn = re.findall(r"^(?:│   )?(?:[├└]── )?([A-Z]\w+)", str(errors.__doc__), re.MULTILINE)
    assert drawn[1:] == [found.__name__ for found in RAISED]


@pytest.mark.parametrize("kind", [Rejected, Unavailable, Misconfigured])
def test_a_kind_of_failure_is_caught_by_the_base_and_by_no_other_kind(
    kind: type[VisualMemoryError],
) -> None:
    assert kind.__bases__ == (VisualMemoryError,)


def test_the_base_is_no_error_of_the_standard_library_that_others_catch() -> None:
    assert VisualMemoryError.__bases__ == (Exception,)


def test_a_rejection_carries_its_reason_and_tells_it() -> None:
    rejected = Rejected(Reason.INVALID_K, "k must be 1 to 100, not 0")
    assert rejected.reason is Reason.INVALID_K
    assert rejected.detail == "k must be 1 to 100, not 0"
    assert str(rejected) == "invalid-k: k must be 1 to 100, not 0"
    assert str(rejected) == "invalid-k: k must be 1 to 100, not 0"


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_on_the_wire_is_its_name_in_lower_case(reason: Reason) -> None:
    """They are part of the event contract and values of a metric's label."""
    assert str(reason) == reason.name.lower().replace("_", "-")
