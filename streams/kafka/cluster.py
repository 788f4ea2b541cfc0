"""The one place that builds kafka-python's clients and turns its errors into this package's.

`security` everywhere is a mapping of kafka-python's own SASL and TLS arguments
(``security_protocol``, ``sasl_mechanism``, ``ssl_cafile``, ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from kafka.net.compat import KafkaNetClient

from memory.errors import Misconfigured, Unavailable
from streams.kafka import fail_fast
from streams.kafka.fail_fast import LOGIN_REFUSED, NoTlsSpoken, TlsSpoken
from streams.kafka.log_filter import keep_wires_out_of_logs
from streams.kafka.tls_diagnosis import PLAIN, fault_of

T = TypeVar("T")

Security = Mapping[str, Any]
NO_SECURITY: Security = MappingProxyType({})

REFUSED = (
    errors.AuthorizationError,
    *LOGIN_REFUSED,
    errors.SecurityDisabledError,
    errors.KafkaConfigurationError,
    errors.IncompatibleBrokerVersion,
    errors.UnsupportedVersionError,
    errors.UnrecognizedBrokerVersion,
    errors.UnsupportedCodecError,
    errors.UnsupportedCompressionTypeError,
    errors.InvalidTopicError,
    errors.InvalidPartitionsError,
    errors.InvalidReplicationFactorError,
    errors.InvalidConfigurationError,
    errors.InvalidRequiredAcksError,
    errors.PolicyViolationError,
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
)
"""What stays so until an operator changes something; all else may pass."""

BLOCK_SECONDS = 30.0

_SEE: Mapping[str, str] = {
    "untrusted": "see VISUAL_MEMORY_KAFKA_CA_FILE (ssl_context of a client)",
    "name": "see VISUAL_MEMORY_KAFKA (bootstrap of a client)",
    "unwanted": "see VISUAL_MEMORY_KAFKA_CERTIFICATE_FILE (ssl_context of a client)",
    "plain": "see VISUAL_MEMORY_KAFKA_SECURITY_PROTOCOL (security_protocol of a client)",
    "login": "see VISUAL_MEMORY_KAFKA_USERNAME, VISUAL_MEMORY_KAFKA_PASSWORD and "
    "VISUAL_MEMORY_KAFKA_SASL_MECHANISM (sasl_… of a client)",
    "rights": "this user has no right to it; `visual-memory permissions` tells what each needs",
}
"""What to look at after each kind of refusal."""


_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def _security_fault(error: Exception) -> str | None:
    """What is wrong with TLS, the login or the user's rights, and what to look at."""
    name = type(error).__name__
    if isinstance(error, TlsSpoken):
        return f"TLS is spoken there: {_SEE['plain']}"
    if isinstance(error, NoTlsSpoken):
        return f"{PLAIN.text}: {_SEE['plain']}"
    if fault := fault_of(error):
        return f"{fault.text}: {_SEE[fault.kind]}"
    if isinstance(error, LOGIN_REFUSED):
        return f"the login is refused ({name}): {_SEE['login']}"
    if isinstance(error, errors.AuthorizationError):
        return f"{name}{_denied(error)}: {_SEE['rights']}"
    return None


def _denied(error: Exception) -> str:
    """The topics or the group that the user may not use, where the error names them."""
    named: list[str] = []
    for part in error.args:
        found = part if isinstance(part, set | frozenset | list | tuple) else [part]
        named += [name for name in found if isinstance(name, str) and _NAME.fullmatch(name)]
    return f" on {', '.join(sorted(named))}" if named else ""


def mapped(error: Exception) -> Unavailable | Misconfigured:
    """The error of this package for one of kafka-python's.

    The text names the kind of trouble only, since a message may quote a record.
    """
    name = type(error).__name__
    if why := _security_fault(error):
        return Misconfigured(f"Kafka: {why}")
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return Misconfigured(
            f"Kafka: {name}: the topic takes smaller records than this memory sends; "
            "raise its max.message.bytes"
        )
    if isinstance(error, REFUSED):
        return Misconfigured(f"Kafka refuses: {name}")
    return Unavailable(f"Kafka: {name}")


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Map every error of kafka-python and of the network (see `mapped`)."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise mapped(error) from error


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
