"""Asking a Kafka broker who it is, on one connection, without waiting for anything else."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kafka import errors
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

MECHANISM = "PLAIN"


@dataclass(frozen=True, slots=True)
class KafkaLogin:
    """The only user of a broker."""

    user: str
    password: str = field(repr=False)


def converse(connection: socket.socket, login: KafkaLogin | None) -> Callable[[Any], Any]:
    """What sends one of kafka-python's requests and returns its response, once logged in.

    It, and what it returns, raise `KafkaError` when the broker refuses or answers what is not
    Kafka's, OSError.
    """
    protocol = KafkaProtocol(client_id="probe", receive_message_max_bytes=1 << 20)

    def ask(request: Any) -> Any:
        protocol.send_request(request)
        connection.sendall(protocol.send_bytes())
        while data := connection.recv(1 << 16):
            for _, response in protocol.receive_bytes(data):
                return response
        raise ConnectionResetError("the broker hung up")

    if login is not None:
        proof = f"\0{login.user}\0{login.password}".encode()
        for step in (
            SaslHandshakeRequest[1](mechanism=MECHANISM),
            SaslAuthenticateRequest[0](auth_bytes=proof),
        ):
            if code := ask(step).error_code:
                raise errors.for_code(code)
    return ask


def identify(connection: socket.socket, login: KafkaLogin | None) -> tuple[str, set[int]]:
    """The cluster's id and the ports its brokers advertise. Raises as `converse`."""
    ask = converse(connection, login)
    found = ask(MetadataRequest[4](topics=[], allow_auto_topic_creation=False))
    return found.cluster_id, {broker.port for broker in found.brokers}
