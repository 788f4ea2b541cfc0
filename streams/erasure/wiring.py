"""The erasing worker from the settings."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory.errors import Misconfigured, Unavailable
from memory.redis.connection import RedisFiles
from memory.redis.lease import EraserLease
from memory.redis.reports import Leftovers
from streams import bootstrap
from streams.config import connections, memory_topics
from streams.config.permissions import receipts_writer
from streams.config.settings import Settings
from streams.contract.signing import SigningKey
from streams.erasure.audit import read_configuration
from streams.erasure.bound import Bound, step_seconds, worst_case
from streams.erasure.chain import ReceiptChain
from streams.erasure.eraser import Eraser
from streams.erasure.log import ErasureLog
from streams.erasure.metrics import begin_stages_at_zero, export_bound
from streams.kafka import admin
from streams.workers import probes

_log = logging.getLogger(__name__)

AWAY_PAUSE_SECONDS = 1.0
BEATS = 4
"""Heartbeats in the time for which the log may keep what is dead."""
MAX_BEAT_SECONDS = 3600.0
AUDIT_SECONDS = 30.0
NICENESS = 10
"""Beside those who ingest and ask: a tenth of their share of a core where there are too few."""
DENIED_SECONDS = 3600.0


@contextmanager
def open_eraser(settings: Settings) -> Iterator[Eraser]:
    """Raises `Misconfigured` when a topic breaks a promise or there is no key to sign with, `Unavailable`."""
    cluster = connections.kafka_cluster(settings)
    key, before = settings.signing_keys()
    admin.check_or_refuse(cluster, memory_topics.topic_specs(settings))
    ids = memory_topics.known_topic_ids(settings)
    store = bootstrap.redis_client(settings)
    index = bootstrap.open_index(settings, store)
    log = ErasureLog(cluster, ids, settings.namespace)
    chain = ReceiptChain(
        cluster,
        receipts_writer(settings.topic_prefix, settings.namespace),
        settings.namespace,
        SigningKey(key),
        None if before is None else SigningKey(before),
    )
    try:
        eraser = Eraser(
            index,
            Leftovers(store, lambda: index.names),
            RedisFiles(store),
            log,
            chain,
            ids,
            name=settings.namespace,
            pause=settings.erasure_pause,
            beat=_beat_of(settings),
            limit=settings.erasure_limit,
            claims=bool(settings.claim_prefixes),
        )
        eraser.open()
        yield eraser
    finally:
        chain.close()
        log.close()
        store.close()


def bound_of(settings: Settings) -> Bound:
    """How long erasing takes at worst as the live servers are configured."""
    store = bootstrap.redis_client(settings)
    try:
        return worst_case(
            read_configuration(
                connections.kafka_cluster(settings),
                store,
                settings.namespace,
                pause=settings.erasure_pause,
                beat=_beat_of(settings),
                claims=bool(settings.claim_prefixes),
            )
        )
    finally:
        store.close()


def _beat_of(settings: Settings) -> float:
    return min(MAX_BEAT_SECONDS, settings.compaction_lag / BEATS)


class EraserProcess:
    """Takes steps for ever; servers that are away make it unready, not dead."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reasons = ["it has not begun yet"]
        self._next_audit = 0.0
        self._bound: Bound | None = None

    async def ready(self) -> list[str]:
        return self._reasons

    def run(self) -> None:
        """Raises `Misconfigured`."""
        begin_stages_at_zero()
        store = bootstrap.redis_client(self._settings)
        self._reasons = []  # one that waits for another to end is as ready
        with EraserLease(store, self._settings.namespace).hold() as check_held:
            while True:
                self._erase(check_held)

    def _audit(self, eraser: Eraser) -> None:
        """Now and then see that the topics are those that they were, and export the worst case.

        A user may not have the right to read what that takes. Raises `Misconfigured`, `Unavailable`.
        """
        eraser.bound = self._bound  # it may be another eraser than before
        if time.monotonic() < self._next_audit:
            return
        self._next_audit = time.monotonic() + AUDIT_SECONDS
        memory_topics.check_topics(self._settings, eraser.topic_ids)
        try:
            bound = bound_of(self._settings)
        except (Misconfigured, Unavailable) as why:
            bound = None
            if isinstance(why, Misconfigured):
                self._next_audit += DENIED_SECONDS
                _log.info("how long erasing takes at worst is not exported: %s", why)
        self._bound = eraser.bound = bound
        export_bound(bound, self._settings.erasure_limit)

    def _erase(self, check_held: Callable[[], None]) -> None:
        """Until a server is away."""
        try:
            with open_eraser(self._settings) as eraser:
                self._reasons = []
                while True:
                    check_held()
                    self._audit(eraser)
                    if written := eraser.step():
                        _log.info("%d receipts are written", len(written))
                    time.sleep(step_seconds(_beat_of(self._settings)))
        except Unavailable as error:
            self._reasons = [str(error)]
            time.sleep(AWAY_PAUSE_SECONDS)


def run_eraser(settings: Settings) -> None:
    """Erase until a signal ends it."""
    logging.basicConfig(level=settings.log_level)
    logging.getLogger("kafka").setLevel(logging.WARNING)  # it tells of each connection
    settings.signing_keys()
    os.nice(NICENESS)

    async def serve() -> None:
        process = EraserProcess(settings)
        await probes.serve(settings.web_host, settings.web_port, process.ready)
        await asyncio.to_thread(process.run)

    asyncio.run(serve())
