"""What a supervisor tells of itself in its folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from streams.local.spawner import start_ticks

STATE_FILE = "stack.json"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file, readable by its owner only, so that no reader sees half of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", encoding="utf-8", delete=False
    ) as file:
        unfinished = Path(file.name)
        try:
            file.write(text)
            file.flush()
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink()
            raise


def announce(data_dir: Path, pid: int) -> None:
    """Let others find a supervisor that has been started just now and has said nothing yet."""
    if (started := start_ticks(pid)) is not None:
        state = {"pid": pid, "started": started, "status": "starting", "children": {}}
        write_atomically(data_dir / STATE_FILE, json.dumps(state))


def read_state(data_dir: Path) -> dict[str, Any] | None:
    """The state of the supervisor of this folder, or None when none is alive.

    Keys: pid, started (clock ticks since boot), status (starting, running, stopping) and
    children: name -> pid, ready, restarts, address, log.
    """
    try:
        state: dict[str, Any] = json.loads((data_dir / STATE_FILE).read_text())
    except FileNotFoundError:
        return None
    # A pid alone may have been given to somebody else since.
    return state if start_ticks(state["pid"]) == state["started"] else None
