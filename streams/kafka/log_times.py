"""When records were written, asked of the log's index of times: reading none of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

PRECISION_MS = 500


def written_at(
    consumer: KafkaConsumer, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The log's time, in ms, of the record at each offset, to half a second.

    Kafka tells the first record since a time, not the time of a record, so the span is halved
    until it tells the one asked for. Needs the right to describe the topics, not to read them.
    Where compaction has dropped that record the time may be an earlier one; a partition without
    records is left out. The log's times must rise (LogAppendTime).
    """
    found: dict[TopicPartition, int] = {}
    spans: dict[TopicPartition, tuple[int, int]] = {}
    now = round(time.time() * 1000)
    for place, first in first_since(consumer, dict.fromkeys(offsets, 0)).items():
        if first.offset >= offsets[place]:
            found[place] = first.timestamp
        else:
            spans[place] = (first.timestamp, max(now, first.timestamp) + 1)
    while spans:
        middles = {place: (low + high) // 2 for place, (low, high) in spans.items()}
        told = first_since(consumer, middles)
        for place, middle in middles.items():
            low, high = spans.pop(place)
            first = told.get(place)
            if first is not None and first.offset == offsets[place]:
                found[place] = first.timestamp
                continue
            is_past = first is None or first.offset > offsets[place]
            low, high = (low, middle) if is_past else (middle, high)
            if high - low > PRECISION_MS:
                spans[place] = (low, high)
            else:
                found[place] = high
    return found


def first_since(consumer: KafkaConsumer, times: Mapping[TopicPartition, int]) -> dict[Any, Any]:
    """The first record (offset, timestamp) since each time, ms, of partitions that have one."""
    told = consumer.offsets_for_times(dict(times)) if times else {}
    return {place: first for place, first in told.items() if first is not None}
