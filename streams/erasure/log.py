"""The log as erasing needs it: what in it is dead, tombstones for that, and whether it is gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from memory.errors import Rejected
from memory.model.events import LogAddress, Selector, SelectorKind
from memory.model.keys import ImageKey, KeyedDigests, SelectorKey
from streams.contract import encoding
from streams.contract.cloudevents import Header, parse_time
from streams.contract.messages import ForgottenClaim
from streams.contract.payloads import media_type, read_claim
from streams.contract.records import CLAIM, HEARTBEAT, SWOLLEN, Record
from streams.contract.strict_json import load_json
from streams.contract.topics import Topic
from streams.kafka.cluster import BLOCK_SECONDS, KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.reading import partitions_of, read_ranges

NAMING = (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST)
"""What names images and people; compacted, so that a tombstone takes an event out."""
ANSWERING = (Topic.QUERY, Topic.PREDICTION)
"""What holds images and ids, and expires."""
RECORDS_A_POLL = 2000
DIGESTS_KEPT = 1 << 16
Borne = tuple[ImageKey, Sequence[SelectorKey]]
Digest = Callable[[SelectorKind, str], SelectorKey | None]
Key = tuple[TopicPartition, bytes]


@dataclass(slots=True)
class Scan:
    """What reading the log from its start to `ends` found: how many records, the offsets of the dead,
    and how many could not be looked at.
    """

    ends: Mapping[TopicPartition, int]
    records: int = 0
    dead: dict[TopicPartition, list[int]] = field(default_factory=dict)
    unreadable: int = 0
    # By partition and key, the last offsets of each.
    dying: dict[Key, int] = field(default_factory=dict)
    claims: dict[Key, ForgottenClaim] = field(default_factory=dict)
    buried: dict[Key, int] = field(default_factory=dict)

    def without_tombstone(self) -> list[Key]:
        """Those that no tombstone follows."""
        return [key for key, offset in self.dying.items() if self.buried.get(key, -1) < offset]


class ErasureLog:
    """`topic_ids` by full name. All methods raise `Unavailable`, `Misconfigured`. For one thread."""

    def __init__(self, cluster: KafkaCluster, topic_ids: Mapping[str, str], memory: str) -> None:
        """`memory` is who forgets."""
        self._cluster, self._memory = cluster, memory
        self._names = {topic_id: name for name, topic_id in topic_ids.items()}
        self._producer: KafkaProducer = cluster.producer(linger_ms=5)
        # It sees the ends of transactions that are open yet: what they bring may be taken back, and stays.
        self._consumer: KafkaConsumer = cluster.consumer(uncommitted=True)

    def full_name(self, topic: Topic) -> str:
        return self._cluster.full_name(topic)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close(timeout=BLOCK_SECONDS)

    def partitions(self, topics: Iterable[Topic]) -> list[TopicPartition]:
        names = map(self._cluster.full_name, topics)
        return [
            place for name in names for place in partitions_of(self._cluster, self._consumer, name)
        ]

    def ends(self, topics: Iterable[Topic]) -> dict[TopicPartition, int]:
        places = self.partitions(topics)
        with map_kafka_errors():
            return dict(self._consumer.end_offsets(places))

    def starts(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        with map_kafka_errors():
            return dict(self._consumer.beginning_offsets(list(places)))

    def bury(self, addresses: Iterable[LogAddress]) -> None:
        """Tombstones of these events, acknowledged by all; of a log that is gone they are none."""
        self._bury(
            (TopicPartition(self._names[one.topic_id], one.partition), one.key.encode())
            for one in addresses
            if one.topic_id in self._names
        )

    def _bury(self, keys: Iterable[Key]) -> None:
        with map_kafka_errors():
            sent = [
                self._producer.send(place.topic, None, key, partition=place.partition)
                for place, key in dict.fromkeys(keys)
            ]
            for each in sent:
                each.get(BLOCK_SECONDS)

    def beat(self) -> None:
        """A record for every partition: one that nobody writes to is never compacted."""
        with map_kafka_errors():
            for topic in NAMING:
                for place in self.partitions([topic]):
                    self._send_beat(topic, place.partition)
            self._producer.flush(BLOCK_SECONDS)

    def mark(self, topic: Topic) -> dict[TopicPartition, tuple[int, int]]:
        """Append a heartbeat to every partition; returns each one's offset and the log's time of it, µs."""
        with map_kafka_errors():
            sent = {
                place: self._send_beat(topic, place.partition) for place in self.partitions([topic])
            }
            found = {place: future.get(BLOCK_SECONDS) for place, future in sent.items()}
        return {place: (said.offset, said.timestamp * 1000) for place, said in found.items()}

    def _send_beat(self, topic: Topic, partition: int) -> Any:
        beat = encoding.encode_heartbeat(topic, partition)
        name = self._cluster.full_name(topic)
        return self._producer.send(name, beat.value, beat.key, list(beat.headers), partition)

    def send_again(self, place: TopicPartition, offset: int, *, due: str) -> bool:
        """Append the event that stands there once more, and that it is due; False where it is gone."""
        for records in self._read({place: offset}, {place: offset + 1}):
            for record in records:
                if record.value is None:
                    return False
                headers = [(name, value) for name, value in record.headers if name != Header.DUE]
                headers.append((str(Header.DUE), due.encode()))
                with map_kafka_errors():
                    self._producer.send(
                        place.topic, record.value, record.key, headers, place.partition
                    ).get(BLOCK_SECONDS)
                return True
        return False

    def scan(
        self,
        digests: KeyedDigests,
        dead_until: Callable[[Sequence[Borne]], Sequence[int]],
        erased: Collection[str],
    ) -> Scan:
        """Read all of it, aborted transactions too, and bury what is dead and not buried yet.

        Owners of what claims among that point to are told before.

        `dead_until` tells up to when events about an image, with what they bear, are dead; `erased` are the
        ids of forget-requests that are carried out.
        """
        scan = Scan(self.ends(NAMING))
        requests = self._cluster.full_name(Topic.FORGET_REQUEST)
        # Most sources, and many subjects, are those of many records.
        digest = lru_cache(DIGESTS_KEPT)(partial(_digest, digests))
        for records in self._read(self.starts(scan.ends), scan.ends):
            scan.records += len(records)
            events: list[Record] = []
            for record in records:
                key = record.key or b""
                if (str(Header.TYPE), HEARTBEAT.encode()) in record.headers:
                    continue
                if any(name == SWOLLEN for name, _ in record.headers):
                    scan.unreadable += 1
                elif record.value is None:
                    scan.buried[TopicPartition(record.topic, record.partition), key] = record.offset
                elif record.topic != requests:
                    events.append(record)
                elif key.decode(errors="replace") in erased:
                    _note_dead(scan, record)
            ends = dead_until([self._borne_by(record, digest) for record in events])
            for record, until in zip(events, ends, strict=True):
                if time_of(record) <= until:
                    _note_dead(scan, record)
                    self._note_claim(scan, record)
        new = scan.without_tombstone()
        self._tell_owners({key: scan.claims[key] for key in new if key in scan.claims})
        self._bury(new)
        return scan

    def _note_claim(self, scan: Scan, record: Record) -> None:
        """Also of an event that was rejected, whose claim can be read."""
        texts = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        if media_type(texts.get(Header.CONTENT_TYPE, "")) != CLAIM:
            return
        with suppress(Rejected):
            claim = read_claim(record.value or b"")
            said = ForgottenClaim(
                claim.uri, claim.digest, texts.get(Header.SOURCE, ""), self._memory
            )
            place = TopicPartition(record.topic, record.partition)
            scan.claims[place, record.key or b""] = said

    def _tell_owners(self, claims: Mapping[Key, ForgottenClaim]) -> None:
        with map_kafka_errors():
            sent = []
            for (_, key), claim in claims.items():
                said = encoding.encode_forgotten_claim(key.decode(errors="replace"), claim)
                topic = self._cluster.full_name(said.topic)
                sent.append(self._producer.send(topic, said.value, said.key, list(said.headers)))
            for each in sent:
                each.get(BLOCK_SECONDS)

    def _borne_by(self, record: Record, digest: Digest) -> Borne:
        image, selectors = borne_by(record, digest)
        # Only an ingest tells what an image bears.
        is_ingest = record.topic == self._cluster.full_name(Topic.IMAGE_INGEST)
        return image, selectors if is_ingest else ()

    def still_there(self, dead: Mapping[TopicPartition, Sequence[int]]) -> bool:
        """Whether one of these records can still be read."""
        offsets = {place: set(found) for place, found in dead.items()}
        starts = {place: min(found) for place, found in offsets.items()}
        ends = {place: max(found) + 1 for place, found in offsets.items()}
        return any(
            record.value is not None
            and record.offset in offsets[TopicPartition(record.topic, record.partition)]
            for records in self._read(starts, ends)
            for record in records
        )

    def _read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> Iterable[Sequence[Record]]:
        consumer = self._cluster.consumer(uncommitted=True, max_poll_records=RECORDS_A_POLL)
        with closing(consumer):
            for records, _ in read_ranges(consumer, starts, ends):
                yield records

    def file_delay(self, topics: Iterable[Topic]) -> float:
        """Seconds for which files of the log are kept once nothing in them is part of it."""
        names = list(map(self._cluster.full_name, topics))
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        with self._cluster.administration() as admin:
            found = admin.describe_configs(resources, config_filter="all")["topic"]
        return max(int(found[name]["file.delete.delay.ms"]["value"]) for name in names) / 1000


def _note_dead(scan: Scan, record: Record) -> None:
    place = TopicPartition(record.topic, record.partition)
    scan.dead.setdefault(place, []).append(record.offset)
    scan.dying[place, record.key or b""] = record.offset


def borne_by(record: Record, digest: Digest) -> Borne:
    """The image that an event is about and the selectors that it bears, also where it was rejected."""
    texts: dict[str, list[str]] = {}
    for name, value in record.headers:
        texts.setdefault(name, []).append((value or b"").decode(errors="replace"))
    named = [(SelectorKind.SOURCE, source) for source in texts.get(Header.SOURCE, [])]
    for text in texts.get(Header.SUBJECTS, []):
        try:
            found = load_json(text)
        except ValueError:
            continue
        if isinstance(found, list):
            named += [(SelectorKind.SUBJECT, one) for one in found if isinstance(one, str)]
    selectors = [key for kind, text in named if (key := digest(kind, text))]
    image = digest(SelectorKind.IMAGE, texts.get(Header.SUBJECT, [""])[0])
    return ImageKey((image or "").rpartition(":")[2]), tuple(dict.fromkeys(selectors))


def _digest(digests: KeyedDigests, kind: SelectorKind, text: str) -> SelectorKey | None:
    """None for a text that no request can name."""
    try:
        return digests.selector_key(Selector(kind, text))
    except Rejected:
        return None


def time_of(record: Record) -> int:
    """Of an event, µs; the log's own where it tells none that can be read."""
    for name, value in record.headers:
        if name == Header.TIME:
            try:
                return parse_time((value or b"").decode(errors="replace"))
            except Rejected:
                break
    return record.timestamp
