"""The same memory whatever order events arrive in, on real servers with real workers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from kafka import KafkaProducer

from memory.model.events import Selector, SelectorKind, VectorPayload
from streams.config.connections import kafka_cluster
from streams.contract import encoding
from streams.contract.records import OutgoingRecord
from tests.integration.events import EMBEDDER, rebuilt_digests, rejected, unit
from tests.integration.running import running

EVENTS = 20_000
REPEATED = 0.2
IMAGES = 4_000
SKEW_SECONDS = 2.0


def event(seed: int, rng: random.Random) -> OutgoingRecord:
    """One of the three kinds, about a small pool of images, subjects and sources."""
    # Around the log's clock, so that forgets part what came before from what comes after.
    now = time.time_ns() // 1000 + rng.randrange(-5_000_000, 1_500_000)
    image_id = f"image-{rng.randrange(IMAGES)}"
    label = f"label-{rng.randrange(40)}"
    source, event_id = f"source-{rng.randrange(30)}", f"event-{seed}"
    kind = rng.random()
    if kind < 0.6:
        return encoding.encode_ingest(
            source=source,
            event_id=event_id,
            time=now,
            image_id=image_id,
            label=label,
            payload=VectorPayload(unit(seed), "test"),
            subjects=[f"subject-{rng.randrange(300)}" for _ in range(rng.randrange(3))],
        )
    if kind < 0.985:
        return encoding.encode_correction(
            source=source,
            event_id=event_id,
            time=now,
            image_id=image_id,
            label=rng.choice([label, label, None]),
        )
    (selector,) = rng.choices(
        [
            Selector(SelectorKind.IMAGE, image_id),
            Selector(SelectorKind.SUBJECT, f"subject-{rng.randrange(300)}"),
            Selector(SelectorKind.SOURCE, source),
            Selector(SelectorKind.LABEL, label),
        ],
        # A source or a label takes hundreds of images with it.
        weights=[45, 45, 4, 6],
    )
    permanent = rng.random() < 0.1 and selector.kind is SelectorKind.IMAGE
    return encoding.encode_forget(
        source=source, event_id=event_id, time=now, selector=selector, permanent=permanent
    )


def test_twenty_thousand_events_in_any_order_end_in_the_digest_of_the_batch_rebuild(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    rng = random.Random(20_000)
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("order"),
        workers={"ingest": 2, "correct": 2, "forget": 2},
        embedder=EMBEDDER,
        clock_skew=SKEW_SECONDS,
    ) as memory:
        producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, linger_ms=5)
        sent: list[OutgoingRecord] = []
        for seed in range(EVENTS):
            if sent and rng.random() < REPEATED:
                record = rng.choice(sent)
            else:
                record = event(seed, rng)
                sent.append(record)
            producer.send(
                kafka_cluster(memory.settings).full_name(record.topic),
                record.value,
                record.key,
                headers=list(record.headers),
            )
        producer.flush()
        producer.close()
        memory.wait_until_merged(240)
        assert len(sent) < EVENTS * (1 - REPEATED / 2)
        found = memory.index().digests()
        assert found == rebuilt_digests(memory)
        stats = memory.index().stats()
        # The history must have something of everything, else it proves little.
        assert stats.items > 100
        assert stats.barriers > 100
        assert {str(r["reason"]) for r in rejected(memory)} <= {"forgotten", "time-ahead"}
