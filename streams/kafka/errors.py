"""kafka-python's errors, and the network's, as this package's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kafka import errors

from memory.errors import Misconfigured, Unavailable
from streams.kafka.fail_fast import LOGIN_REFUSED, NoTlsSpoken, TlsSpoken
from streams.kafka.tls_diagnosis import PLAIN, fault_of

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


def as_memory_error(error: Exception) -> Unavailable | Misconfigured:
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
def map_kafka_errors() -> Iterator[None]:
    """Map every error of kafka-python and of the network (see `as_memory_error`)."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise as_memory_error(error) from error
