"""Keeps what goes over the wires out of logs: passwords, ids, images.

At the level DEBUG the Kafka libraries print every request, the login of the mechanism PLAIN and
the records with their keys and headers among them.
"""

from __future__ import annotations

import logging

LOGGERS_WITH_PAYLOADS = (
    "kafka.admin.client",
    "kafka.net.connection",
    "kafka.producer.kafka",
    "kafka.protocol.parser",
    "aiokafka.conn",
    "aiokafka.producer.producer",
)


def keep_payloads_out_of_logs() -> None:
    """Drop what these loggers say at DEBUG, whatever their level; the rest of them stays."""
    for name in LOGGERS_WITH_PAYLOADS:
        # The same filter is added once however often this is called.
        logging.getLogger(name).addFilter(_above_debug)


def _above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
