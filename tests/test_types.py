"""What must not be mixed up has a type of its own, so that a type check finds a mix-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RIGHT = """
from memory.model.events import LogPartition, Selector
from memory.model.forgetting import FenceFact
from memory.ports import MemoryIndex

def use(index: MemoryIndex, image_id: str, selector: Selector, topic: str) -> None:
    image, key = index.image_key(image_id), index.selector_key(selector)
    index.item(image)
    index.relist(key, image)
    index.fence(key, 5)
    index.advance({LogPartition("topic id", 0): 5})
"""


def errors_of(text: str, folder: Path) -> list[str]:
    source = folder / "mix_up.py"
    source.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(source)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    ).stdout.splitlines()


def test_keyed_digests_and_log_partitions_pass_where_they_belong(tmp_path: Path) -> None:
    assert errors_of(RIGHT, tmp_path) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("index.item(image)", "index.item(image_id)"),
        ("index.relist(key, image)", "index.relist(image, key)"),
        ("index.fence(key, 5)", "index.fence(image, 5)"),
        ('LogPartition("topic id", 0)', '("topic id", 0)'),
    ],
)
def test_a_plain_id_or_another_kind_of_digest_in_its_place_is_found(
    tmp_path: Path, right: str, wrong: str
) -> None:
    assert RIGHT.count(right) == 1
    errors = errors_of(RIGHT.replace(right, wrong), tmp_path)
    assert errors
    assert all("[arg-type]" in line or "[dict-item]" in line for line in errors)
