"""Connections to Kafka and Redis: TLS and login arguments, and clients, from the settings.

Host names are always verified. What is inconsistent or cannot be read is `Misconfigured`, which
names the setting and never its value.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

import redis
from pydantic import SecretStr

from memory.errors import Misconfigured, Unavailable
from memory.redis.connection import connect, map_redis_errors
from streams.config.settings import ENVIRONMENT_PREFIX, Settings
from streams.kafka.cluster import NO_SECURITY, KafkaCluster, Security
from streams.kafka.tls_diagnosis import fault_of, ignores_tls, speaks_tls


class MaskedStr(str):
    """A secret as text that does not show where a mapping with it is printed.

    kafka-python's admin client logs all its arguments at level DEBUG.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


@lru_cache(maxsize=4)
def kafka_cluster(settings: Settings) -> KafkaCluster:
    """The Kafka of these settings; its files are read once. Raises `Misconfigured`."""
    return KafkaCluster(settings.kafka, settings.topic_prefix, _kafka_security(settings))


def _kafka_security(settings: Settings) -> Security:
    protocol = settings.kafka_security_protocol
    logs_in, encrypts = protocol.startswith("SASL_"), protocol.endswith("SSL")
    user, password = settings.kafka_username, _secret(settings.kafka_password)
    if logs_in:
        for name, value in (("kafka_username", user), ("kafka_password", password)):
            if not value:
                _refuse(name, f"is missing, {_named('kafka_security_protocol')} is {protocol}")
    else:
        _refuse_given(
            settings,
            ("kafka_username", "kafka_password"),
            f"is used with SASL only, {_named('kafka_security_protocol')} is {protocol}",
        )
    if not encrypts:
        _refuse_given(
            settings,
            _tls_names("kafka"),
            f"is used with TLS only, {_named('kafka_security_protocol')} is {protocol}",
        )
    security: dict[str, Any] = {"security_protocol": protocol} if logs_in or encrypts else {}
    if logs_in:
        security |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": user,
            "sasl_plain_password": MaskedStr(password),
        }
    if encrypts:
        security["ssl_context"] = _context(settings, "kafka")
    return security or NO_SECURITY


def redis_arguments(settings: Settings) -> Mapping[str, Any]:
    """redis-py's arguments beside the URL. Raises `Misconfigured`."""
    url = _redis_url(settings)
    if url.scheme != "rediss":
        _refuse_given(
            settings,
            _tls_names("redis"),
            f"is used with TLS only, {_named('redis')} begins with {url.scheme}://",
        )
    arguments: dict[str, Any] = {}
    user, password = settings.redis_username, _secret(settings.redis_password)
    for name, value, in_url in (
        ("redis_username", user, url.username),
        ("redis_password", password, url.password),
    ):
        if value and in_url:
            _refuse(name, f"is given and {_named('redis')} holds one too; keep one of them")
    if user and not (password or url.password):
        _refuse("redis_password", f"is missing, {_named('redis_username')} is given")
    if user:
        arguments["username"] = user
    if password:
        arguments["password"] = MaskedStr(password)
    if url.scheme == "rediss":
        _context(settings, "redis")  # redis-py reads the files at each connection, and says less
        files = {
            "ssl_ca_certs": settings.redis_ca_file,
            "ssl_certfile": settings.redis_certificate_file,
            "ssl_keyfile": settings.redis_key_file,
        }
        arguments |= {name: str(path) for name, path in files.items() if path}
        if key_password := _secret(settings.redis_key_password):
            arguments["ssl_password"] = MaskedStr(key_password)
        arguments |= {"ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
    return arguments


def connect_redis(settings: Settings) -> redis.Redis:
    """A client that has reached Redis and logged in. Raises `Misconfigured`, `Unavailable`."""
    url = _redis_url(settings)
    there = (url.hostname or "localhost", url.port or 6379)
    arguments = redis_arguments(settings)
    if url.scheme == "rediss" and ignores_tls(*there):
        # redis-py would wait for the handshake as long as for an answer: half a minute.
        raise Unavailable(f"Redis: no TLS is spoken there now: see {_named('redis')}")
    try:
        client = connect(settings.redis.get_secret_value(), **arguments)
        client.connection_pool.make_connection()
    except (TypeError, ValueError):
        # What they say quotes the value, which may be a password in its wrong place.
        _refuse("redis", "has an option (behind the ?) that redis-py does not take")
    try:
        with map_redis_errors():
            client.ping()
    except Misconfigured as error:
        client.close()
        if isinstance(error.__cause__, redis.AuthenticationError):
            raise Misconfigured(
                "Redis refuses the login: see the user and password in "
                f"{_named('redis')}, {_named('redis_username')} and {_named('redis_password')}"
            ) from None
        raise
    except Unavailable as error:
        client.close()
        fault = fault_of(error)
        if fault is not None:
            settings_named = {
                "untrusted": "redis_ca_file",
                "name": "redis",
                "unwanted": "redis_certificate_file",
                "plain": "redis",
            }
            raise Misconfigured(
                f"Redis: {fault.text}: see {_named(settings_named[fault.kind])}"
            ) from None
        if url.scheme == "redis" and speaks_tls(*there):
            raise Misconfigured(
                f"Redis: TLS is spoken there: let {_named('redis')} begin with rediss://"
            ) from None
        if url.scheme == "rediss" and not speaks_tls(*there):
            raise Unavailable(
                f"{error}; no TLS is spoken there now: see {_named('redis')}"
            ) from None
        raise
    return client


def _redis_url(settings: Settings) -> SplitResult:
    try:
        url = urlsplit(settings.redis.get_secret_value())
        _ = url.port  # a password with / or # in it ends up there
    except ValueError:
        _refuse("redis", "is no URL; write / ? # @ : % of a password as %2F %3F %23 %40 %3A %25")
    if url.scheme not in ("redis", "rediss", "unix"):
        _refuse("redis", "must begin with redis:// or rediss://")
    return url


def _context(settings: Settings, server: str) -> ssl.SSLContext:
    """Verifies the server and its name, and shows our certificate if there is one."""
    ca, certificate, key = (
        getattr(settings, f"{server}_{part}_file") for part in ("ca", "certificate", "key")
    )
    if bool(certificate) != bool(key):
        missing = "key_file" if certificate else "certificate_file"
        _refuse(f"{server}_{missing}", "is missing, a certificate and its key belong together")
    if certificate is None:
        _refuse_given(settings, [f"{server}_key_password"], "is given without a key file")
    try:
        context = ssl.create_default_context(cafile=_readable(f"{server}_ca_file", ca))
    except ssl.SSLError:
        _refuse(f"{server}_ca_file", "holds no certificate in PEM form")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(
                _readable(f"{server}_certificate_file", certificate) or "",
                _readable(f"{server}_key_file", key),
                # Without one OpenSSL would ask at the terminal.
                _secret(getattr(settings, f"{server}_key_password")),
            )
        except ssl.SSLError:
            _refuse(
                f"{server}_certificate_file",
                f"and {_named(f'{server}_key_file')} do not fit together, are not in PEM form, "
                f"or {_named(f'{server}_key_password')} is wrong",
            )
    return context


def _readable(name: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        path.open("rb").close()
    except OSError as error:
        _refuse(name, f"cannot be read: {error.strerror}")
    return str(path)


def _tls_names(server: str) -> list[str]:
    return [f"{server}_{n}" for n in ("ca_file", "certificate_file", "key_file", "key_password")]


def _refuse_given(settings: Settings, names: list[str] | tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(settings, name) is not None:
            _refuse(name, why)


def _refuse(name: str, why: str) -> NoReturn:
    raise Misconfigured(f"{_named(name)} {why}") from None


def _named(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value else ""


def refuse_wires_of(server: str, settings: Settings) -> None:
    """`Misconfigured` when logins or TLS are set for a server that this stack starts itself."""
    given = [
        name
        for name, field in Settings.model_fields.items()
        if name.startswith(f"{server}_") and getattr(settings, name) != field.default
    ]
    if given:
        names = " and ".join(f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in given)
        raise Misconfigured(
            f"the {server.capitalize()} that this stack starts is for this machine alone, without TLS and "
            f"with no login but its own: unset {names}, or name your own with --{server}"
        )
