"""Images named by claims, through real workers: a file's and a web server's."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memory.claims import claim_of
from memory.errors import Reason
from memory.model.events import ClaimPayload
from tests.integration.events import rejected
from tests.integration.running import Running, running
from tests.memory.serving import Served, Site, site

ROOT = Path(__file__).parents[2]
TOKEN = "customer-4"


def png(seed: int) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def web() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def memory(
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    web: Site,
    folder: Path,
) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("claims"),
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=f"claims-{time.time_ns()}-",
        workers={"ingest": 1, "query": 1},
        embedder="lite0",
        claim_prefixes=f"{folder.as_uri()}/,{web.url('/images/')}",
        claim_private_addresses=True,
        claim_timeout=5,
    ) as found:
        yield found


def test_images_of_claims_are_learned_and_found_and_bad_claims_hold_nobody_up(
    memory: Running, web: Site, folder: Path
) -> None:
    file, page, inline = png(1), png(2), png(3)
    (folder / "a.png").write_bytes(file)
    web.pages[f"/images/b.png?token={TOKEN}"] = Served(page)
    address = web.url(f"/images/b.png?token={TOKEN}")
    wrong = ClaimPayload(address, hashlib.sha256(b"others").hexdigest())
    with memory.client() as client:
        by_file = claim_of((folder / "a.png").as_uri(), file)
        client.ingest(by_file, id="file", label="of a file")
        bad = {
            Reason.CLAIM_MISMATCH: wrong,
            Reason.CLAIM_NOT_ALLOWED: claim_of(web.url("/other/b.png"), page),
            Reason.CLAIM_MISSING: claim_of((folder / "no.png").as_uri(), file),
        }
        written = {
            reason: client.ingest(claim, id=f"bad-{reason}", label="bad").position()
            for reason, claim in bad.items()
        }
        by_address = claim_of(address, page)
        client.ingest(by_address, id="page", label="of a page")
        last = client.ingest(inline, id="inline", label="of an event").position()
        client.flush()
        memory.wait_until_merged()
        assert memory.index().label_counts() == {"of a file": 1, "of a page": 1, "of an event": 1}
        for claim, label in ((by_file, "of a file"), (by_address, "of a page")):
            answer = client.query(claim, k=1, after=[last])
            assert answer.label == label
            assert answer.neighbors[0].distance == pytest.approx(0, abs=1e-3)
        told = client.query(wrong)
        assert (told.status, told.reason) == ("rejected", Reason.CLAIM_MISMATCH)
    told_of = {
        (said["topic"], said["partition"], said["offset"]): said for said in rejected(memory)
    }
    for reason, at in written.items():
        assert told_of.pop((at.topic, at.partition, at.offset))["reason"] == reason
    assert [said["reason"] for said in told_of.values()] == [Reason.CLAIM_MISMATCH]
    assert "/other/b.png" not in web.hits
    assert TOKEN not in f"{rejected(memory)}{memory.logs()}"


def test_the_example_of_the_page_runs(memory: Running, folder: Path) -> None:
    page = (ROOT / "docs" / "claim-checks.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    (folder / "cat.png").write_bytes(png(4))
    with memory.client() as client:
        names: dict[str, Any] = {
            "memory": client,
            "address": (folder / "cat.png").as_uri(),
            "data": png(4),
        }
        exec(example, names)
        assert names["answer"].neighbors[0].image_id == "photo-17"
