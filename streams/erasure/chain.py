"""The chain of signed receipts in the log: one writer, who goes on where the last one ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from memory.errors import Misconfigured
from memory.model.text import canonical_json
from streams.contract import decoding, encoding
from streams.contract.messages import Cancellation, KeyChange, Receipt
from streams.contract.records import OutgoingRecord, Record
from streams.contract.signing import FIRST, SigningKey, link_digest
from streams.contract.strict_json import load_json
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.reading import Tail, decode_known

SECONDS = 30.0
Told = Receipt | Cancellation


def read_chain(cluster: KafkaCluster, memory: str) -> Iterator[bytes]:
    """The values of a memory's signed ones in the log, up to its present end."""
    with closing(Tail(cluster, [cluster.full_name(Topic.FORGET_RECEIPT)], {})) as tail:
        ends = tail.ends()
        while any(tail.positions()[place] < end for place, end in ends.items()):
            for record in tail.poll(0.5):
                if _link_of(record, memory):
                    yield record.value or b""


def _link_of(record: Record, memory: str) -> dict[str, Any] | None:
    """What a link of the memory's chain says; None of what is none."""
    try:
        said = load_json((record.value or b"").decode())
    except ValueError:
        return None
    is_ours = isinstance(said, dict) and said.get("signature") and said.get("memory") == memory
    return said if is_ours else None


class ReceiptChain:
    """Reads receipts of all and appends signed ones. For one thread.

    Who makes one takes over: Kafka refuses what a former writer still sends (its transactional id has
    another epoch, by its `name`), so that the chain has no fork. `memory` is whose it is, `before` the key that `key` takes over from.
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        name: str,
        memory: str,
        key: SigningKey,
        before: SigningKey | None = None,
    ) -> None:
        self._memory = memory
        self._topic = cluster.full_name(Topic.FORGET_RECEIPT)
        self._key, self._before = key, before
        self._sequence, self._last, self._last_key = 0, FIRST, ""
        self._producer = cluster.producer(transactional_id=name)
        with map_kafka_errors():
            self._producer.init_transactions()
        # Afterwards: what the former writer had under way is written by now, or never.
        self._tail = Tail(cluster, [self._topic], {})
        self._ends = self._tail.ends()

    def close(self) -> None:
        self._tail.close()
        self._producer.close(timeout=SECONDS)

    def open(self) -> list[Told]:
        """What was told so far; then it can be appended to. Raises `Misconfigured`, `Unavailable`."""
        found = self._read_to(self._ends)
        if self._last_key in ("", self._key.id):
            return found
        if self._before is None or self._before.id != self._last_key:
            raise Misconfigured(
                f"the receipts so far are signed by the key {self._last_key}, and VISUAL_MEMORY_SIGNING_KEY "
                f"is {self._key.id}; to change the key, name the former one in "
                "VISUAL_MEMORY_SIGNING_KEY_BEFORE"
            )
        change = self._before.link(
            KeyChange(self._key.public, self._memory), self._sequence + 1, self._last
        )
        self._send([encoding.encode_key_change(change)])
        self._sequence, self._last = self._sequence + 1, link_digest(canonical_json(change))
        return found

    def read_on(self) -> list[Told]:
        """What came since, all that the log has by now."""
        return self._read_to(self._tail.ends())

    def _read_to(self, ends: Mapping[tuple[str, int], int]) -> list[Told]:
        found: list[Told] = []
        while any(self._tail.positions()[place] < end for place, end in ends.items()):
            found += self.poll(0.5)
        return found

    def poll(self, timeout: float = 0.0) -> list[Told]:
        """What came since, of forget workers and of this writer."""
        records = self._tail.poll(timeout)
        for record in records:
            self._follow(record)
        return [
            *decode_known(records, decoding.decode_receipt),
            *decode_known(records, decoding.decode_cancellation),
        ]

    def append(self, told: Sequence[Told]) -> list[Told]:
        """Sign them as the next of the chain; returns them once the log has all of them."""
        signed: list[Told] = []
        sequence, last = self._sequence, self._last
        for one in told:
            sequence += 1
            signed.append(self._key.link(one, sequence, last))
            last = link_digest(canonical_json(signed[-1]))
        if signed:
            self._send(
                [
                    encoding.encode_receipt(one)
                    if isinstance(one, Receipt)
                    else encoding.encode_cancellation(one)
                    for one in signed
                ]
            )
            self._sequence, self._last = sequence, last
        return signed

    def _send(self, records: Sequence[OutgoingRecord]) -> None:
        with map_kafka_errors():
            self._producer.begin_transaction()
            for record in records:
                self._producer.send(
                    self._topic, record.value, record.key, headers=list(record.headers)
                )
            self._producer.commit_transaction()

    def _follow(self, record: Record) -> None:
        """Where the chain ends by now."""
        said = _link_of(record, self._memory)
        if said is not None and said["sequence"] > self._sequence:
            self._sequence, self._last_key = said["sequence"], said["key"]
            self._last = link_digest(canonical_json(said))
