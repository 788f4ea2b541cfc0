"""What a dead process counted is kept, what it said of itself is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from streams.local.shared_metrics import settle_dead_process

COUNTING = """
import os, signal
from prometheus_client import Counter, Gauge, Histogram
Counter("events", "Events.", ["role"]).labels("ingest").inc(3)
Histogram("seconds", "Seconds.", buckets=(1, 2)).observe(1.5)
Gauge("held", "Held.", multiprocess_mode="livesum").set(8)
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def shown(folder: Path) -> str:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]  # untyped there
    return generate_latest(registry).decode()


def test_however_many_have_died_their_counts_stand_in_one_file_a_kind(tmp_path: Path) -> None:
    for deaths in range(1, 4):
        done = subprocess.run(
            [sys.executable, "-c", COUNTING],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        assert "held 8.0" in shown(tmp_path)
        settle_dead_process(tmp_path, int(done.stdout))
        text = shown(tmp_path)
        assert f'events_total{{role="ingest"}} {3.0 * deaths}' in text
        assert f'seconds_bucket{{le="2.0"}} {1.0 * deaths}' in text
        assert f"seconds_sum {1.5 * deaths}" in text
        assert "held 8.0" not in text
        assert {path.name for path in tmp_path.iterdir()} == {
            "counter_ended.db",
            "histogram_ended.db",
        }
    settle_dead_process(tmp_path, int(done.stdout))
    assert shown(tmp_path) == text
