"""Receipts of forget-requests, awaited."""

from __future__ import annotations

import time
from collections.abc import Mapping

from memory.errors import Reason, Rejected, Unavailable
from streams.client.sending import ForgetRequest
from streams.contract import decoding
from streams.contract.messages import Receipt
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.reading import Tail, decode_known

EARLY = ("received", "fenced", "erased")


def await_receipt(
    cluster: KafkaCluster, request: ForgetRequest | str, stage: str, timeout: float
) -> Receipt:
    """See `MemoryClient.receipt`."""
    deadline = time.monotonic() + timeout
    receipts = cluster.full_name(Topic.FORGET_RECEIPT)
    if isinstance(request, str):
        request_id, place, names = request, None, [receipts]
        start: Mapping[tuple[str, int], int] = {}
    else:
        at = request.position(timeout)
        request_id, place = request.request_id, (at.topic, at.partition, at.offset)
        names, start = [receipts, cluster.full_name(Topic.REJECTED)], request.start
    tail = Tail(cluster, names, start)
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            records = tail.poll(min(remaining, 1.0))
            said = [record for record in records if record.topic == receipts]
            for receipt in decode_known(said, decoding.decode_receipt):
                if receipt.request == request_id and stage in receipt.stages:
                    return receipt
            faults = [record for record in records if record.topic != receipts]
            for why in decode_known(faults, decoding.decode_rejection):
                if (why.topic, why.partition, why.offset) == place:
                    reason = why.reason if why.reason in set(Reason) else Reason.INTERNAL
                    raise Rejected(Reason(reason), why.detail)
    finally:
        tail.close()
    raise Unavailable(
        f"no receipt of the stage {stage} within {timeout:g} s; the request stands in the "
        f"log, see that {'a forget' if stage in EARLY else 'an erase'} worker runs"
    )
