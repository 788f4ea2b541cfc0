"""What becomes of forget-requests, awaited."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from memory.errors import Reason, Rejected, Unavailable
from streams.client.sending import ForgetRequest
from streams.contract import decoding
from streams.contract.messages import Receipt
from streams.contract.records import Record
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.reading import Tail, decode_known

EARLY = ("received", "scheduled", "fenced", "erased")
CANCELLED = "cancelled"


def await_receipt(
    cluster: KafkaCluster, request: ForgetRequest | str, stage: str, timeout: float
) -> Receipt:
    """See `MemoryClient.receipt`."""
    request_id = request if isinstance(request, str) else request.request_id
    sent = None if isinstance(request, str) else request
    for records in _said(cluster, sent, timeout):
        for receipt in decode_known(records, decoding.decode_receipt):
            if receipt.request != request_id:
                continue
            if stage in receipt.stages:
                return receipt
            if CANCELLED in receipt.stages:
                raise Unavailable("the request was cancelled before it was to be carried out")
    raise Unavailable(
        f"no receipt of the stage {stage} within {timeout:g} s; the request stands in the "
        f"log, see that {'a forget' if stage in EARLY else 'an erase'} worker runs"
    )


def await_cancel(
    cluster: KafkaCluster, cancel: ForgetRequest, request_id: str, timeout: float
) -> bool:
    """See `MemoryClient.cancel`."""
    for records in _said(cluster, cancel, timeout):
        for receipt in decode_known(records, decoding.decode_receipt):
            if receipt.request == request_id and CANCELLED in receipt.stages:
                return True
        for said in decode_known(records, decoding.decode_cancellation):
            if said.cancel == cancel.request_id and said.outcome == "too_late":
                return False
    raise Unavailable(
        f"within {timeout:g} s nothing is said of the cancel, which stands in the log: no request of "
        "this id is known yet, or no forget or erase worker runs"
    )


def _said(
    cluster: KafkaCluster, sent: ForgetRequest | None, timeout: float
) -> Iterator[Sequence[Record]]:
    """Records of the receipts, as they come, until the time is over; of all so far where nothing was sent.

    Raises `Rejected` if what was sent is.
    """
    deadline = time.monotonic() + timeout
    receipts = cluster.full_name(Topic.FORGET_RECEIPT)
    if sent is None:
        place, names = None, [receipts]
        start: Mapping[tuple[str, int], int] = {}
    else:
        at = sent.position(timeout)
        place = (at.topic, at.partition, at.offset)
        names, start = [receipts, cluster.full_name(Topic.REJECTED)], sent.start
    tail = Tail(cluster, names, start)
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            records = tail.poll(min(remaining, 1.0))
            faults = [record for record in records if record.topic != receipts]
            for why in decode_known(faults, decoding.decode_rejection):
                if (why.topic, why.partition, why.offset) == place:
                    reason = why.reason if why.reason in set(Reason) else Reason.INTERNAL
                    raise Rejected(Reason(reason), why.detail)
            yield [record for record in records if record.topic == receipts]
    finally:
        tail.close()
