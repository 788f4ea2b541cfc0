"""The one place that builds kafka-python's clients.

`security` everywhere is a mapping of kafka-python's own SASL and TLS arguments
(``security_protocol``, ``sasl_mechanism``, ``ssl_cafile``, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.net.compat import KafkaNetClient

from streams.kafka import fail_fast
from streams.kafka.errors import mapped_errors
from streams.kafka.log_filter import keep_wires_out_of_logs

T = TypeVar("T")

Security = Mapping[str, Any]
NO_SECURITY: Security = MappingProxyType({})
BLOCK_SECONDS = 30.0


def _built(kind: Callable[..., T], **settings: Any) -> T:
    """A client of kafka-python, which does not end its thread when it cannot connect."""
    keep_wires_out_of_logs()
    made: list[KafkaNetClient] = []

    def connections(**configs: Any) -> KafkaNetClient:
        made.append(fail_fast.connections(**configs))
        return made[-1]

    try:
        return kind(kafka_client=connections, **settings)
    except BaseException:
        for client in made:
            client.close()
        raise


def producer(bootstrap: str, security: Security, **settings: Any) -> KafkaProducer:
    """A producer that waits for all replicas, writes nothing twice and creates no topic."""
    with mapped_errors():
        return _built(
            KafkaProducer,
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            max_block_ms=int(BLOCK_SECONDS * 1000),
            request_timeout_ms=15_000,
            delivery_timeout_ms=60_000,
            metrics_enabled=False,
            **settings,
            **security,
        )


def consumer(bootstrap: str, security: Security, **settings: Any) -> KafkaConsumer:
    """A consumer without a group, for partitions assigned by hand; it commits nothing."""
    with mapped_errors():
        return _built(
            KafkaConsumer,
            bootstrap_servers=bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **settings,
            **security,
        )


@contextmanager
def administration(bootstrap: str, security: Security) -> Iterator[KafkaAdminClient]:
    """A connection for topics and their configuration, closed at the end."""
    with mapped_errors():
        admin = _built(KafkaAdminClient, bootstrap_servers=bootstrap, **security)
        try:
            yield admin
        finally:
            admin.close()
