"""A memory's Kafka as one value, and the one place that builds kafka-python's clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.net.compat import KafkaNetClient

from streams.contract.topics import Topic
from streams.kafka import fail_fast
from streams.kafka.errors import map_kafka_errors
from streams.kafka.lenient_batches import read_leniently
from streams.kafka.log_filter import keep_payloads_out_of_logs

_T = TypeVar("_T")

Security = Mapping[str, Any]
NO_SECURITY: Security = MappingProxyType({})
BLOCK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class KafkaCluster:
    """Where a memory's log is: the servers, the prefix of its topics' names, the login.

    `security` holds kafka-python's own SASL and TLS arguments (``security_protocol``,
    ``sasl_mechanism``, ``ssl_context``, ...).
    """

    bootstrap: str
    prefix: str = ""
    security: Security = field(default_factory=lambda: NO_SECURITY, repr=False)

    def full_name(self, topic: Topic) -> str:
        """What a topic of this memory is called in Kafka."""
        return self.prefix + topic

    def producer(self, **settings: Any) -> KafkaProducer:
        """A producer that waits for all replicas, writes nothing twice and creates no topic."""
        return self._built(
            KafkaProducer,
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            max_block_ms=int(BLOCK_SECONDS * 1000),
            request_timeout_ms=15_000,
            delivery_timeout_ms=60_000,
            metrics_enabled=False,
            **settings,
        )

    def consumer(self, *, uncommitted: bool = False, **settings: Any) -> KafkaConsumer:
        """A consumer without a group, for partitions assigned by hand; it commits nothing.

        Aborted records are passed over, and partitions end before a transaction that is open, unless
        what is `uncommitted` is to be read too.
        """
        consumer = self._built(
            KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_uncommitted" if uncommitted else "read_committed",
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **settings,
        )
        read_leniently(consumer)
        return consumer

    @contextmanager
    def administration(self) -> Iterator[KafkaAdminClient]:
        """A connection for topics and their configuration, closed at the end."""
        with map_kafka_errors():
            admin = self._built(KafkaAdminClient)
            try:
                yield admin
            finally:
                admin.close()

    def _built(self, kind: Callable[..., _T], **settings: Any) -> _T:
        """A client of kafka-python, which does not end its thread when it cannot connect."""
        keep_payloads_out_of_logs()
        made: list[KafkaNetClient] = []

        def connections(**configs: Any) -> KafkaNetClient:
            made.append(fail_fast.connections(**configs))
            return made[-1]

        try:
            with map_kafka_errors():
                return kind(
                    bootstrap_servers=self.bootstrap,
                    kafka_client=connections,
                    **settings,
                    **self.security,
                )
        except BaseException:
            for client in made:
                client.close()
            raise
