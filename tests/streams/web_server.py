"""The HTTP side of a worker in a process of its own: what keeps it from serving is in a file.

Arguments: port, file. The file holds a JSON list of reasons; without it, finding them out hangs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from streams.workers import probes
from streams.workers.metrics import ASSIGNED, RETRIES


def read(file: Path) -> list[str] | None:
    try:
        found: list[str] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    return found


async def main(port: int, file: Path) -> None:
    async def ready() -> list[str]:
        found = await asyncio.to_thread(read, file)
        if found is None:
            await asyncio.Event().wait()
        return found or []

    ASSIGNED.labels("ingest").set(3)
    RETRIES.labels("ingest").inc(2)
    await probes.serve("127.0.0.1", port, ready)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
