"""kafka-python's connections, ended at once where only another setting could help.

The library itself tries to reach a first broker for half a minute whatever the trouble is, and
then says that time is over.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from streams.kafka.tls_diagnosis import fault_of, is_cut_short, speaks_tls
from streams.kafka.unused_sockets import close_unused_sockets

LOGIN_REFUSED = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)

HANG_UPS = 3


class TlsSpoken(errors.KafkaError):  # type: ignore[misc]  # kafka-python is untyped
    """The broker's port speaks TLS and we do not."""


class NoTlsSpoken(errors.KafkaError):  # type: ignore[misc]  # kafka-python is untyped
    """We speak TLS, and the broker hangs up again and again."""


class FailFastConnections(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python is untyped
    """Gives up when every bootstrap server has refused us for good.

    Later, refusals are tried again: a certificate or a password may be on its way.
    """

    def __init__(self, net: NetworkSelector, **configs: Any) -> None:
        self._refusals: dict[Any, Exception] = {}
        self._hang_ups: Counter[Any] = Counter()
        super().__init__(net, **configs)

    def get_connection(self, node_id: Any, *rest: Any, **options: Any) -> Any:
        connection = super().get_connection(node_id, *rest, **options)
        if not self.bootstrapped:
            connection.init_future.add_errback(lambda error: self._note(node_id, error))
        return connection

    def maybe_raise_auth_failure(self, node_id: Any) -> None:
        super().maybe_raise_auth_failure(node_id)
        first = {broker.node_id for broker in self.cluster.bootstrap_brokers()}
        if not self.bootstrapped and first <= set(self._refusals):
            raise next(iter(self._refusals.values()))

    def _note(self, node_id: Any, error: Exception) -> None:
        if isinstance(error, LOGIN_REFUSED) or fault_of(error):
            self._refusals[node_id] = error
        elif not self.ssl_enabled and self._speaks_tls(node_id):
            self._refusals[node_id] = TlsSpoken()
        elif hung_up := self._hung_up(error):
            # A broker that ends does so too, but then takes no connection any more.
            self._hang_ups[node_id] += 1
            if self._hang_ups[node_id] == HANG_UPS:
                self._refusals[node_id] = hung_up

    def _speaks_tls(self, node_id: Any) -> bool:
        broker = self.cluster.broker_metadata(node_id)
        return broker is not None and speaks_tls(broker.host, broker.port)

    def _hung_up(self, error: Exception) -> Exception | None:
        """What it means if the broker goes on hanging up like this."""
        if is_cut_short(error):
            return NoTlsSpoken()
        # The broker says what is wrong and hangs up, and kafka-python 3.0 drops what it reads
        # together with the end.
        logs_in = self.config["security_protocol"].startswith("SASL_")
        if logs_in and "socket disconnected" in str(error):
            refused: Exception = errors.SaslAuthenticationFailedError()
            return refused
        return None


def connections(**configs: Any) -> KafkaNetClient:
    """What kafka-python's clients take as their ``kafka_client``."""
    close_unused_sockets()
    net = NetworkSelector(**configs)
    return KafkaNetClient(net, FailFastConnections(net, **configs), **configs)
