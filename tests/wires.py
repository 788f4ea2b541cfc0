"""A Kafka and a Redis that let in only who shows a certificate or a password, for tests."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)

from memory.redis.connection import connect
from streams.config.settings import CACHE
from streams.kafka.cluster import KafkaCluster
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from streams.local.server import HOST, free_port

MECHANISM = "SCRAM-SHA-512"
PLAIN_USER, PLAIN_PASSWORD = "unscrambled", "a-password-as-it-is"
"""May log in by the mechanism PLAIN and has no rights."""


@dataclass(frozen=True)
class Papers:
    """A certificate authority, and the files of what it has signed."""

    ca: trustme.CA
    folder: Path

    @property
    def ca_file(self) -> Path:
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(path))
        return path

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate with this common name, for 127.0.0.1, and of its key."""
        made = self.ca.issue_cert(HOST, common_name=name)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        # Kafka reads keys in PKCS#8 only.
        loaded = load_pem_private_key(made.private_key_pem.bytes(), None)
        key.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, key


@dataclass(frozen=True)
class Kafka:
    """Its plain listener is the broker's own, and an administrator's; workers have no use for it."""

    plain: str
    sasl: str
    mutual: str

    def add_users(self, passwords: Mapping[str, str]) -> None:
        with KafkaCluster(self.plain).administration() as admin:
            done = admin.alter_user_scram_credentials(
                [
                    UserScramCredentialUpsertion(user, MECHANISM, password)
                    for user, password in passwords.items()
                ]
            )
            assert not any(done.values()), done

    def allow(self, commands: str) -> None:
        """Carry out ``kafka-acls.sh --add`` commands, one a line."""
        acls = [acl for line in commands.splitlines() for acl in _acls(line)]
        with KafkaCluster(self.plain).administration() as admin:
            done = admin.create_acls(acls)
            assert not done["failed"], done["failed"]


def _acls(line: str) -> Iterator[ACL]:
    program, *words = shlex.split(line)
    assert program == "kafka-acls.sh"
    options: dict[str, list[str]] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            options.setdefault(word[2:], []).append(following)
    (principal,) = options["allow-principal"]
    options["cluster"] = ["kafka-cluster"] * len(options.get("cluster", ()))
    for kind in ("topic", "group", "transactional-id", "cluster"):
        for name in options.get(kind, ()):
            for operation in options["operation"]:
                yield ACL(
                    principal,
                    "*",
                    ACLOperation[_snake(operation)],
                    ACLPermissionType.ALLOW,
                    ResourcePattern(ResourceType[kind.upper().replace("-", "_")], name),
                )


def _snake(operation: str) -> str:
    return "".join(f"_{c}" if c.isupper() else c.upper() for c in operation).lstrip("_")


@contextmanager
def guarded_kafka(folder: Path, papers: Papers) -> Iterator[Kafka]:
    """A Kafka with an authorizer: who has no right to a thing may not do it."""
    plain, sasl, mutual, controller = (free_port() for _ in range(4))
    chain, key = papers.certificate("broker")
    keystore = folder / "keystore.pem"
    keystore.write_bytes(key.read_bytes() + chain.read_bytes())
    addresses = {"PLAINTEXT": plain, "LOGIN": sasl, "MUTUAL": mutual}
    listeners = [f"{name}://{HOST}:{port}" for name, port in addresses.items()]
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    config = {
        "listeners": ",".join([*listeners, f"CONTROLLER://{HOST}:{controller}"]),
        "advertised.listeners": ",".join(listeners),
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,MUTUAL:SSL"
        ),
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Whoever comes by the plain listeners; nobody is nameless on the others.
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": f"{MECHANISM},PLAIN",
        "listener.name.login.scram-sha-512.sasl.jaas.config": login,
        "listener.name.login.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            f'user_{PLAIN_USER}="{PLAIN_PASSWORD}";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(papers.ca_file),
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": r"RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
    }
    with KafkaServer(folder / "kafka", CACHE, port=plain, extra_config=config):
        yield Kafka(*(f"{HOST}:{port}" for port in (plain, sasl, mutual)))


@dataclass(frozen=True)
class Redis:
    """`admin` is a URL of the plain port, for the one who may do everything."""

    admin: str
    port: int

    def url(self, scheme: str = "rediss") -> str:
        """The guarded port, without a user."""
        return f"{scheme}://{HOST}:{self.port}/0"

    def execute(self, line: str) -> None:
        client: Any = connect(self.admin)
        try:
            client.execute_command(*shlex.split(line))
        finally:
            client.close()


@contextmanager
def guarded_redis(folder: Path, papers: Papers, password: str) -> Iterator[Redis]:
    """A Redis with TLS; who has no ACL user may not log in."""
    guarded = free_port()
    chain, key = papers.certificate("redis")
    config = {
        "tls-port": str(guarded),
        "tls-cert-file": str(chain),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(papers.ca_file),
        "tls-auth-clients": "optional",
    }
    with RedisServer(folder / "redis", CACHE, extra_config=config, password=password) as server:
        yield Redis(server.url, guarded)
