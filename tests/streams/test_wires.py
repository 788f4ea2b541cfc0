"""From settings to what the libraries take for TLS and logins, without a server."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from kafka import errors

from memory.errors import Misconfigured, Unavailable
from streams.cli.options import without_password
from streams.config.connections import connect_redis, kafka_cluster, redis_arguments
from streams.config.settings import Settings, load
from streams.kafka import tls_diagnosis
from streams.kafka.cluster import NO_SECURITY
from streams.kafka.errors import as_memory_error
from streams.kafka.log_filter import LOGGERS_WITH_PAYLOADS, keep_payloads_out_of_logs
from streams.kafka.tls_diagnosis import (
    OTHER_NAME,
    PLAIN,
    UNTRUSTED,
    fault_of,
    ignores_tls,
    speaks_tls,
)
from streams.workers import faust_app
from tests.wires import Papers

PASSWORD = "correct horse"
LOGIN = {"kafka_username": "ann", "kafka_password": PASSWORD}
FILES = ("ca_file", "certificate_file", "key_file")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(trustme.CA(), tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def files(papers: Papers) -> dict[str, str]:
    """The settings of files that fit together, without the server's name before them."""
    certificate, key = papers.certificate("ann")
    return dict(zip(FILES, map(str, (papers.ca_file, certificate, key)), strict=True))


def of(server: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{server}_{name}": path for name, path in files.items()}


def both(settings: Settings) -> tuple[Any, Any]:
    return kafka_cluster(settings).security, redis_arguments(settings)


def test_plain_text_needs_no_arguments() -> None:
    assert both(load()) == (NO_SECURITY, {})
    assert faust_app.credentials(kafka_cluster(load()).security) is None


def test_a_login_goes_to_kafka_python_and_to_faust() -> None:
    settings = load(kafka_security_protocol="SASL_PLAINTEXT", **LOGIN)
    assert kafka_cluster(settings).security == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ann",
        "sasl_plain_password": PASSWORD,
    }
    credentials: Any = faust_app.credentials(kafka_cluster(settings).security)
    assert (credentials.username, credentials.password) == ("ann", PASSWORD)
    assert credentials.mechanism.value == "SCRAM-SHA-512"
    assert credentials.protocol.value == "SASL_PLAINTEXT"


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_tls_verifies_the_broker_and_its_name(protocol: str, files: dict[str, str]) -> None:
    login = LOGIN if protocol == "SASL_SSL" else {}
    settings = load(kafka_security_protocol=protocol, **of("kafka", files), **login)
    context = kafka_cluster(settings).security["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1
    credentials: Any = faust_app.credentials(kafka_cluster(settings).security)
    assert credentials.protocol.value == protocol


def test_tls_trusts_whom_the_system_trusts_where_no_file_says_whom() -> None:
    context = kafka_cluster(load(kafka_security_protocol="SSL")).security["ssl_context"]
    usual = ssl.create_default_context()
    assert context.cert_store_stats() == usual.cert_store_stats()
    assert context.check_hostname


def test_redis_gets_its_login_and_files(files: dict[str, str]) -> None:
    settings = load(
        redis="rediss://host:6379/0",
        redis_username="ann",
        redis_password=PASSWORD,
        **of("redis", files),
    )
    assert redis_arguments(settings) == {
        "username": "ann",
        "password": PASSWORD,
        "ssl_ca_certs": files["ca_file"],
        "ssl_certfile": files["certificate_file"],
        "ssl_keyfile": files["key_file"],
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def test_a_key_file_may_have_a_password(papers: Papers, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    certificate, key = papers.certificate("locked")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )
    given = {
        "kafka_security_protocol": "SSL",
        "kafka_certificate_file": certificate,
        "kafka_key_file": locked,
    }
    assert "ssl_context" in kafka_cluster(load(**given, kafka_key_password=PASSWORD)).security
    for wrong in ({}, {"kafka_key_password": "wrong"}):
        with pytest.raises(Misconfigured, match="KAFKA_KEY_PASSWORD is wrong"):
            kafka_cluster(load(**given, **wrong))


def test_secrets_come_from_files_as_containers_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "visual_memory_kafka_password").write_text(f"{PASSWORD}\n")
    (tmp_path / "visual_memory_redis_password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("VISUAL_MEMORY_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("VISUAL_MEMORY_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("VISUAL_MEMORY_KAFKA_USERNAME", "ann")
    kafka, redis = both(load())
    assert kafka["sasl_plain_password"] == redis["password"] == PASSWORD


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_CA_FILE", "KAFKA_USERNAME", "KAFKA_SECURITY_PROTOCOL", "REDIS_CA_FILE"):
        monkeypatch.setenv(f"VISUAL_MEMORY_{name}", "")
    assert both(load()) == (NO_SECURITY, {})


TLS = {"kafka_security_protocol": "SSL"}
URL = {"redis": "rediss://host"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kafka_security_protocol": "SASL_SSL", "kafka_password": PASSWORD}, "KAFKA_USERNAME"),
        ({"kafka_security_protocol": "SASL_SSL", "kafka_username": "ann"}, "KAFKA_PASSWORD"),
        ({"kafka_username": "ann"}, "KAFKA_USERNAME is used with SASL only"),
        (TLS | {"kafka_password": PASSWORD}, "KAFKA_PASSWORD is used with SASL only"),
        ({"kafka_ca_file": "{ca_file}"}, "KAFKA_CA_FILE is used with TLS only"),
        (TLS | {"kafka_ca_file": "{absent}"}, "KAFKA_CA_FILE cannot be read"),
        (TLS | {"kafka_ca_file": "{key_file}"}, "KAFKA_CA_FILE holds no certificate"),
        (TLS | {"kafka_certificate_file": "{certificate_file}"}, "KAFKA_KEY_FILE is missing"),
        (TLS | {"kafka_key_file": "{key_file}"}, "KAFKA_CERTIFICATE_FILE is missing"),
        (TLS | {"kafka_key_password": PASSWORD}, "KAFKA_KEY_PASSWORD is given without"),
        (
            TLS | {"kafka_certificate_file": "{ca_file}", "kafka_key_file": "{key_file}"},
            "KAFKA_CERTIFICATE_FILE and .*KAFKA_KEY_FILE do not fit",
        ),
        ({"redis_ca_file": "{ca_file}"}, "REDIS_CA_FILE is used with TLS only"),
        (URL | {"redis_ca_file": "{absent}"}, "REDIS_CA_FILE cannot be read"),
        (URL | {"redis_certificate_file": "{certificate_file}"}, "REDIS_KEY_FILE is missing"),
        (URL | {"redis_username": "ann"}, "REDIS_PASSWORD is missing"),
        (
            {"redis": f"rediss://:{PASSWORD}@host", "redis_password": PASSWORD},
            "REDIS_PASSWORD is given and VISUAL_MEMORY_REDIS holds one too",
        ),
        ({"redis": f"redis://ann:{PASSWORD}/x@host"}, "VISUAL_MEMORY_REDIS is no URL"),
        ({"redis": f"https://ann:{PASSWORD}@host"}, "VISUAL_MEMORY_REDIS must begin with"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_together_is_named_without_its_value(
    given: dict[str, str], named: str, files: dict[str, str]
) -> None:
    paths = files | {"absent": "/no/such/file"}
    settings = load(**{name: value.format(**paths) for name, value in given.items()})
    with pytest.raises(Misconfigured, match=named) as refusal:
        both(settings)
    message = str(refusal.value)
    assert not [value for value in (PASSWORD, *paths.values()) if value in message]


@pytest.mark.parametrize(
    "option", ["socket_timeout=hunter2", "hunter2=1", "ssl_cert_reqs=hunter2", "db=hunter2"]
)
def test_an_option_of_the_redis_url_that_is_not_understood_is_told_without_its_value(
    option: str,
) -> None:
    with pytest.raises(Misconfigured, match="VISUAL_MEMORY_REDIS has an option") as caught:
        connect_redis(load(kafka="localhost:9", redis=f"redis://localhost:9/0?{option}"))
    assert "hunter2" not in str(caught.value)


def test_no_argument_shows_a_password_where_it_is_printed(files: dict[str, str]) -> None:
    settings = load(
        kafka_security_protocol="SASL_PLAINTEXT",
        **LOGIN,
        redis_password=PASSWORD,
        redis="redis://h",
    )
    printed = (
        f"{settings!r} {both(settings)} {faust_app.credentials(kafka_cluster(settings).security)}"
    )
    assert PASSWORD not in printed


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://ann:secret@host:6380/1", "rediss://ann:***@host:6380/1"),
        ("redis://:secret@host", "redis://:***@host"),
    ],
)
def test_a_redis_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_an_error_of_rights_names_the_topic_and_where_rights_are_told() -> None:
    for arguments in (("photos",), ({"photos"},)):
        error = as_memory_error(errors.TopicAuthorizationFailedError(*arguments))
        assert isinstance(error, Misconfigured)
        assert "on photos: " in str(error)
        assert "visual-memory permissions" in str(error)


def test_what_the_libraries_say_of_requests_and_records_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keep_payloads_out_of_logs()
    keep_payloads_out_of_logs()
    with caplog.at_level(logging.DEBUG):
        for name in LOGGERS_WITH_PAYLOADS:
            logging.getLogger(name).debug("a record")
            logging.getLogger(name).info("a state")
    assert [record.message for record in caplog.records] == ["a state"] * len(LOGGERS_WITH_PAYLOADS)
    assert all(len(logging.getLogger(name).filters) == 1 for name in LOGGERS_WITH_PAYLOADS)


def test_a_user_that_redis_lets_in_but_not_ask_is_refused_at_once(
    redis_client: redis.Redis, redis_url: str, unique: Callable[[str], str]
) -> None:
    user, word = unique("user"), "correct-horse"
    redis_client.acl_setuser(user, enabled=True, passwords=[f"+{word}"], commands=["-@all"])
    try:
        settings = load(redis=redis_url, redis_username=user, redis_password=word)
        with pytest.raises(Misconfigured, match="refuses this user") as caught:
            connect_redis(settings)
        assert word not in str(caught.value)
    finally:
        redis_client.acl_deluser(user)


class Answering(threading.Thread):
    """Takes connections one after another, with TLS or hanging up at once."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(daemon=True)
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            with plain:
                if self._context is not None:
                    try:
                        self._context.wrap_socket(plain, server_side=True).close()
                    except OSError:
                        continue

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.join()


@pytest.fixture
def with_tls(papers: Papers) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = papers.certificate("server")
    context.load_cert_chain(certificate, key)
    server = Answering(context)
    server.start()
    yield server.port
    server.close()


@pytest.fixture
def without_tls() -> Iterator[int]:
    server = Answering(None)
    server.start()
    yield server.port
    server.close()


def test_a_port_is_told_to_speak_tls_or_not(with_tls: int, without_tls: int) -> None:
    assert speaks_tls("127.0.0.1", with_tls)
    assert not speaks_tls("127.0.0.1", without_tls)


def test_a_port_that_leaves_a_handshake_unanswered_is_told_from_others(
    with_tls: int, without_tls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_diagnosis, "HANDSHAKE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert ignores_tls("127.0.0.1", port)
    assert not ignores_tls("127.0.0.1", port)
    assert not ignores_tls("127.0.0.1", with_tls)
    assert not ignores_tls("127.0.0.1", without_tls)


@pytest.mark.timeout(20)
def test_a_redis_without_tls_is_named_as_such_long_before_its_client_gives_up(
    redis_url: str,
) -> None:
    with pytest.raises(Unavailable, match=r"no TLS is spoken there now: see VISUAL_MEMORY_REDIS$"):
        connect_redis(load(redis=redis_url.replace("redis://", "rediss://")))


def refused(port: int, name: str, ca_file: Path | None) -> Exception:
    """What comes of a handshake with the server on a port, wrapped as libraries do."""
    context = ssl.create_default_context(cafile=ca_file)
    try:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            context.wrap_socket(plain, server_hostname=name).close()
    except OSError as error:
        wrapped = RuntimeError("connection failed")
        wrapped.__cause__ = error
        return wrapped
    raise AssertionError("the handshake succeeded")


def test_the_fault_is_found_behind_other_errors(with_tls: int, papers: Papers) -> None:
    assert fault_of(refused(with_tls, "127.0.0.1", None)) == UNTRUSTED
    assert fault_of(refused(with_tls, "localhost", papers.ca_file)) == OTHER_NAME


def test_an_error_that_may_pass_is_no_fault() -> None:
    assert fault_of(ConnectionRefusedError()) is None
    assert fault_of(TimeoutError()) is None
    looped = ValueError()
    looped.__context__ = RuntimeError()
    looped.__context__.__cause__ = looped
    assert fault_of(looped) is None


def test_plain_text_where_tls_is_expected_is_a_fault() -> None:
    theirs = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(theirs, ssl.MemoryBIO(), server_hostname="h")
    theirs.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as refusal:
        client.do_handshake()
    assert fault_of(refusal.value) == PLAIN
