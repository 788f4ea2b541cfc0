"""The command on real images: what was accepted, what was rejected, what is visible."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from streams.settings import worker_environment
from tests.integration.running import KEY, ROOT, running


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 64)).save(path)


def test_a_folder_is_taught_asked_corrected_and_forgotten(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    name = unique("command")
    photos = tmp_path / "photos"
    for n, label in enumerate(("cat", "cat", "dog")):
        draw(photos / label / f"{n}.png", n)
    (photos / "dog" / "bad.png").write_bytes(b"no image")
    environment = worker_environment(
        kafka=kafka_bootstrap, redis=redis_url, topic_prefix=name, namespace=name, hmac_key=KEY
    )

    def command(*words: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "streams.cli", *words, "--json"],
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        (line,) = done.stdout.splitlines()
        return done.returncode, json.loads(line)

    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=name,
        workers={"ingest": 1, "correct": 1, "forget": 1, "query": 1},
        embedder="lite0",
    ) as memory:
        code, taught = command("ingest", str(photos), "--subject", "ada", "--source", "album")
        assert (code, taught["accepted"], taught["rejected"], taught["visible"]) == (1, 3, 1, 3)
        assert taught["reasons"][0]["reason"] == "not-an-image"

        code, answer = command("query", str(photos / "dog" / "2.png"), "-k", "1")
        assert (code, answer["label"]) == (0, "dog")
        assert answer["neighbors"][0]["id"] == "dog/2.png"

        code, _ = command("correct", "dog/2.png", "wolf")
        assert code == 0
        memory.wait_until_merged()
        code, answer = command("query", "--item", "cat/0.png", "--rule", "plurality")
        assert code == 0
        assert {n["id"]: n["label"] for n in answer["neighbors"]} == {
            "cat/1.png": "cat",
            "dog/2.png": "wolf",
        }

        code, receipt = command("forget", "--label", "wolf")
        assert (code, receipt["images"]) == (0, 1)
        code, receipt = command("forget", "--subject", "ada")
        assert (code, receipt["images"]) == (0, 2)
        code, answer = command("query", str(photos / "dog" / "2.png"))
        assert (code, answer["status"]) == (0, "empty")

        code, found = command("status")
        assert (code, found["items"], found["labels"]) == (0, 0, 0)
        assert {lag["lag"] for lag in found["lag"]} == {0}
        code, found = command("topics", "--check")
        assert (code, found["problems"]) == (0, [])
