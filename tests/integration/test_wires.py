"""Workers and applications behind TLS and logins, each with its least rights, on real servers."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from click.testing import CliRunner

from memory.errors import Misconfigured
from memory.model.events import Selector, SelectorKind
from memory.model.keys import RequestKey
from memory.redis.connection import connect
from memory.redis.schema import GENERATION
from streams import bootstrap
from streams.cli import cli
from streams.client import MemoryClient, WhatIf
from streams.config import connections, memory_topics
from streams.config.permissions import WORKERS, Principal
from streams.config.settings import ENVIRONMENT_PREFIX, Settings, load
from tests.integration.events import EMBEDDER, unit
from tests.integration.running import KEY, SIGNING_KEY, Running, running
from tests.wires import (
    PLAIN_PASSWORD,
    PLAIN_USER,
    Kafka,
    Papers,
    Redis,
    guarded_kafka,
    guarded_redis,
)

pytestmark = pytest.mark.servers

NAME = "guarded"
BY_CERTIFICATE = (Principal.FORGET, Principal.QUERY)
"""These show a certificate to Kafka; the others log in by password."""


@dataclass
class Deployment:
    """Guarded servers, and what each principal shows to them."""

    folder: Path
    papers: Papers
    kafka: Kafka
    redis: Redis
    passwords: Mapping[str, str]

    def values(self, principal: Principal) -> dict[str, str]:
        """The settings of a principal."""
        user = f"{NAME}-{principal}"
        found = {
            "topic_prefix": "",
            "namespace": NAME,
            "hmac_key": KEY,
            "erasure_pause": "0.5",
            "signing_key": SIGNING_KEY if principal is Principal.ERASER else "",
            "embedder": EMBEDDER,
            "partitions": "2",
            "kafka_ca_file": str(self.papers.ca_file),
            "redis": self.redis.url(),
            "redis_ca_file": str(self.papers.ca_file),
            "redis_username": user,
            "redis_password": self.passwords[user],
        }
        if principal in BY_CERTIFICATE:
            certificate, key = self.papers.certificate(user)
            return found | {
                "kafka": self.kafka.mutual,
                "kafka_security_protocol": "SSL",
                "kafka_certificate_file": str(certificate),
                "kafka_key_file": str(key),
            }
        return found | {
            "kafka": self.kafka.sasl,
            "kafka_security_protocol": "SASL_SSL",
            "kafka_username": user,
            "kafka_password": self.passwords[user],
        }

    def settings(self, principal: Principal, **other: object) -> Settings:
        return load(**{**self.values(principal), **other})

    def environment(self, principal: Principal) -> dict[str, str]:
        """As `values`, the secrets in files as containers have them."""
        values = self.values(principal)
        folder = self.folder / f"secrets-{principal}"
        folder.mkdir(exist_ok=True)
        for name in ("redis_password", "kafka_password", "hmac_key", "signing_key"):
            if secret := values.pop(name, ""):
                (folder / f"visual_memory_{name}").write_text(f"{secret}\n")
        # An empty variable hides what the environment has of others.
        nothing = dict.fromkeys(self.values(Principal.OPERATOR), "")
        return in_environment(nothing | values | {"secrets_dir": str(folder), "log_level": "DEBUG"})

    def client(self, principal: Principal) -> MemoryClient:
        return bootstrap.client(self.settings(principal), f"the {principal}")


def in_environment(values: Mapping[str, str]) -> dict[str, str]:
    return {f"{ENVIRONMENT_PREFIX}{name.upper()}": value for name, value in values.items()}


def said(*arguments: str, environment: Mapping[str, str]) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, arguments, env=dict(environment))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Servers that nobody may use yet but by the rights that the product itself prints."""
    folder = tmp_path_factory.mktemp("wires")
    papers = Papers(trustme.CA(), folder)
    passwords = {f"{NAME}-{principal}": secrets.token_urlsafe(12) for principal in Principal}
    with (
        guarded_kafka(folder, papers) as kafka,
        guarded_redis(folder, papers, secrets.token_urlsafe(12)) as store,
    ):
        kafka.add_users(passwords)
        where = in_environment({"namespace": NAME})
        kafka.allow(said("permissions", "--only", "kafka", environment=where))
        for line in said("permissions", "--only", "redis", environment=where).splitlines():
            store.execute(line)
            user = line.split()[2]
            store.execute(f"ACL SETUSER {user} >{passwords[user]}")
        made = Deployment(folder, papers, kafka, store, passwords)
        operator = in_environment(made.values(Principal.OPERATOR))
        assert said("provision", environment=operator) == f"ready: 9 topics, {NAME}\n"
        yield made


@pytest.fixture(scope="module")
def memory(deployment: Deployment) -> Iterator[Running]:
    """A worker of each role, each under its own name."""
    values: dict[str, Any] = deployment.values(Principal.OPERATOR)
    with running(
        deployment.folder,
        kafka=values.pop("kafka"),
        redis_url=values.pop("redis"),
        name="",
        workers=dict.fromkeys((*map(str, WORKERS), "erase"), 1),
        role_environments={
            **{str(role): deployment.environment(role) for role in WORKERS},
            "erase": deployment.environment(Principal.ERASER),
        },
        **values,
    ) as found:
        yield found


def test_a_memory_learns_is_corrected_and_forgets_with_the_least_rights(
    deployment: Deployment, memory: Running
) -> None:
    with (
        deployment.client(Principal.PRODUCER) as producer,
        deployment.client(Principal.REVIEWER) as reviewer,
        deployment.client(Principal.ASKER) as asker,
        deployment.client(Principal.PRIVACY_DESK) as desk,
    ):
        for number in range(3):
            sent = producer.ingest(
                unit(number),
                id=f"photo-{number}",
                label="lynx",
                subjects=["zelda"],
                embedder="test",
            )
            learned = asker.query(unit(number), embedder="test", k=1, after=[sent.position()])
            assert learned.label == "lynx"
        corrected = reviewer.correct("photo-0", "ocelot").position()
        assert asker.query(unit(0), embedder="test", k=1, after=[corrected]).label == "ocelot"
        named = [{"image": "photo-0"}, {"label": "ocelot"}]
        supposed = asker.query(
            unit(0),
            embedder="test",
            what_if=WhatIf(tuple(Selector.of(**each) for each in named), plus=("photo-1",)),
            why=True,
        )
        assert (supposed.label, supposed.supposed) == ("lynx", True)
        for kind, name in (("subject", "zelda"), ("source", "nobody")):
            nothing = WhatIf((Selector.of(**{kind: name}),))
            refused = asker.query(unit(0), embedder="test", what_if=nothing)
            assert refused.reason in ("nothing-left", "unknown-exclusion")
        for request in (
            desk.forget(image="photo-0"),
            desk.forget(label="lynx"),
            desk.forget(subject="zelda"),
        ):
            assert desk.receipt(request).stage == "erased"
            for stage in ("redis_purged", "repaired"):
                assert desk.receipt(request, stage).signature
        after = [request.position()]
        assert asker.query(unit(0), embedder="test", k=1, after=after).status == "empty"
        # What is refused is a fact of forgetting, which the ingest worker writes.
        late = producer.ingest(
            unit(0), id="photo-0", label="lynx", subjects=["zelda"], embedder="test"
        ).position()
        assert asker.query(unit(0), embedder="test", k=1, after=[late]).status == "empty"
        bad = producer.ingest(unit(0), id="photo-9", label="lynx", embedder="other").position()
        rejections = producer.rejections({0: 0}).poll(3)
        told = {(r.partition, r.offset): r.reason for r in rejections if r.topic == late.topic}
        assert set(told) == {(p.partition, p.offset) for p in (late, bad)}
    watching = bootstrap.monitor(deployment.settings(Principal.MONITOR))
    try:
        watching.measure()
        assert watching.status()["items"] == 0
        assert watching.oldest_open_forget([]) == 0
        # As if no forget worker had run, and as one leaves it that ends half way.
        unmerged = [replace(lag, position=0) for lag in watching.lag()]
        assert 0 < watching.oldest_open_forget(unmerged) < 600
        with half_forgotten(deployment):
            assert watching.oldest_open_forget([]) > 600
    finally:
        watching.close()
    bound = json.loads(
        said("audit", "--json", environment=deployment.environment(Principal.AUDITOR))
    )
    assert bound["faults"] == []
    assert refusals(deployment) == []


@contextmanager
def half_forgotten(deployment: Deployment) -> Iterator[None]:
    """A forget-request that was taken up long ago and is not carried out."""
    settings = deployment.settings(Principal.FORGET)
    store = bootstrap.redis_client(settings)
    index = bootstrap.open_index(settings, store)
    index.open_request(RequestKey("half-done"), 1)
    try:
        yield
    finally:
        index.close_request(RequestKey("half-done"), 1)
        store.close()


def refusals(deployment: Deployment) -> list[Any]:
    """What Redis refused to anybody until now."""
    admin: Any = connect(deployment.redis.admin)
    try:
        found: list[Any] = admin.acl_log()
        return found
    finally:
        admin.close()


def test_no_password_and_no_event_is_in_any_log_even_at_the_level_debug(
    deployment: Deployment, memory: Running
) -> None:
    logs = {path.name: path.read_text() for path in deployment.folder.glob("*.log")}
    assert set(logs) == {f"{role}-0.log" for role in (*WORKERS, "erase")}
    assert all("DEBUG" in text for text in logs.values())
    hidden = [*deployment.passwords.values(), KEY, SIGNING_KEY, "photo-", "lynx", "ocelot", "zelda"]
    assert not [(n, secret) for n, text in logs.items() for secret in hidden if secret in text]


@pytest.mark.parametrize(
    ("principal", "forbidden", "topic"),
    [
        (Principal.PRODUCER, "forget", "forget-receipt"),
        (Principal.PRODUCER, "correct", "label-correction"),
        (Principal.REVIEWER, "ingest", "image-ingest"),
        (Principal.ASKER, "ingest", "image-ingest"),
        (Principal.ASKER, "forget", "forget-receipt"),
        (Principal.PRIVACY_DESK, "query", "prediction"),
    ],
)
def test_nobody_sends_what_is_anothers_to_send(
    deployment: Deployment, principal: Principal, forbidden: str, topic: str
) -> None:
    with deployment.client(principal) as client:
        attempts: Mapping[str, Callable[[], object]] = {
            "ingest": lambda: client.ingest(unit(1), id="i", label="x", embedder="test"),
            "correct": lambda: client.correct("i", "x"),
            "forget": lambda: client.forget(image="i"),
            "query": lambda: client.query(unit(1), embedder="test"),
        }
        with pytest.raises(Misconfigured, match=f"Authorization.* on .*{topic}.*permissions"):
            attempts[forbidden]()


@pytest.mark.parametrize("role", WORKERS)
def test_a_worker_writes_no_topic_that_only_others_fill(
    deployment: Deployment, role: Principal
) -> None:
    """Its password or certificate, stolen, does not make anybody forget or learn anything."""
    settings = deployment.settings(role)
    with bootstrap.client(settings, "thief") as thief, pytest.raises(Misconfigured):
        thief.ingest(unit(1), id="stolen", label="x", embedder="test").position()
    with bootstrap.client(settings, "thief") as thief, pytest.raises(Misconfigured):
        thief.correct("stolen", "x").position()


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("DEL", f"{NAME}:{GENERATION}:item:{{i}}"),
        ("HSET", f"{NAME}:{GENERATION}:item:{{i}}", "label", "x"),
        ("HDEL", f"{NAME}:{GENERATION}:item:{{i}}", "label"),
        ("FCALL", "vm1_erase", "3", *(f"{NAME}:{GENERATION}:{k}:{{i}}" for k in "abc")),
        ("FCALL", "vm1_fence", "1", f"{NAME}:{GENERATION}:until:{{x}}", "1"),
        ("HSET", f"{NAME}:meta", "embedder", "x"),
        ("HGET", "another:1:item:{i}", "label"),
        ("FT.DROPINDEX", f"{NAME}:{GENERATION}:index"),
        ("FT.CONFIG", "SET", "ON_TIMEOUT", "RETURN"),
        ("CONFIG", "SET", "appendonly", "no"),
        ("FUNCTION", "FLUSH"),
        ("ACL", "LIST"),
        ("KEYS", "*"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_who_only_answers_changes_nothing_in_redis(
    deployment: Deployment, memory: Running, command: tuple[str, ...]
) -> None:
    store: Any = connections.connect_redis(deployment.settings(Principal.QUERY))
    try:
        with pytest.raises(redis.exceptions.NoPermissionError):
            store.execute_command(*command)
    finally:
        store.close()


def test_who_only_answers_starts_where_the_facts_of_forgetting_are_taken(
    deployment: Deployment, memory: Running
) -> None:
    """And refuses where one is missing, as in a Redis restored from an older copy."""
    with deployment.client(Principal.PRIVACY_DESK) as desk:
        desk.receipt(desk.forget(subject="y"))
    settings = deployment.settings(Principal.QUERY)
    store = bootstrap.redis_client(settings)
    admin: Any = connect(deployment.redis.admin)
    try:
        index = bootstrap.open_index(settings, store)
        ids = memory_topics.known_topic_ids(settings)
        answering = bootstrap.open_memory(settings, index, None, ids)
        fence = index.selector_key(Selector(SelectorKind.SUBJECT, "y"))
        key = f"{NAME}:{GENERATION}:until:{{{fence}.0}}"
        kept = admin.getdel(key)
        with pytest.raises(Misconfigured, match=r"1 facts of forgetting .*start a forget worker"):
            bootstrap.catch_up_on_fences(settings, answering, ids, index.missing_facts)
        admin.set(key, kept)
        bootstrap.catch_up_on_fences(settings, answering, ids, index.missing_facts)
    finally:
        store.close()
        admin.close()


def other_ca(deployment: Deployment) -> str:
    path = deployment.folder / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("principal", "broken", "named"),
    [
        (Principal.INGEST, {"kafka_password": "mistaken"}, "KAFKA_PASSWORD"),
        (Principal.INGEST, {"kafka_sasl_mechanism": "SCRAM-SHA-256"}, "KAFKA_SASL_MECHANISM"),
        (Principal.INGEST, {"kafka_ca_file": other_ca}, "KAFKA_CA_FILE"),
        (Principal.INGEST, {"kafka": lambda d: by_name(d.kafka.sasl)}, "KAFKA "),
        (
            Principal.INGEST,
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ca_file": None},
            "KAFKA_SECURITY_PROTOCOL",
        ),
        (Principal.INGEST, {"kafka": lambda d: d.kafka.plain}, "KAFKA_SECURITY_PROTOCOL"),
        (
            Principal.QUERY,
            {"kafka_certificate_file": None, "kafka_key_file": None},
            "KAFKA_CERTIFICATE_FILE",
        ),
        (Principal.INGEST, {"redis_password": "mistaken"}, "REDIS_PASSWORD"),
        (Principal.INGEST, {"redis_username": None, "redis_password": None}, "REDIS_USERNAME"),
        (Principal.INGEST, {"redis_ca_file": other_ca}, "REDIS_CA_FILE"),
        (Principal.INGEST, {"redis": lambda d: by_name(d.redis.url())}, "REDIS"),
        (
            Principal.INGEST,
            {"redis": lambda d: d.redis.url("redis"), "redis_ca_file": None},
            "begin with rediss://",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else str(value),
)
def test_a_worker_that_is_not_let_in_names_the_setting_and_no_secret(
    deployment: Deployment, principal: Principal, broken: Mapping[str, Any], named: str
) -> None:
    values: dict[str, Any] = deployment.values(principal)
    for name, value in broken.items():
        values[name] = value(deployment) if callable(value) else value
    secret = [values.get(name) for name in ("kafka_password", "redis_password", "hmac_key")]
    with pytest.raises(Misconfigured) as refusal:
        bootstrap.worker(load(**values), str(principal))
    message = str(refusal.value)
    assert named in message
    assert not [value for value in secret if value and value in message]


def by_name(address: str) -> str:
    """An address under another name of the same machine, which no certificate is for."""
    return address.replace("127.0.0.1", "localhost")


def test_a_redis_url_may_hold_the_user_and_the_password(deployment: Deployment) -> None:
    user = f"{NAME}-{Principal.MONITOR}"
    url = deployment.redis.url().replace("//", f"//{user}:{deployment.passwords[user]}@")
    settings = deployment.settings(
        Principal.MONITOR, redis=url, redis_username=None, redis_password=None
    )
    store = connections.connect_redis(settings)
    try:
        assert store.ping()
    finally:
        store.close()


def test_a_password_that_goes_as_it_is_stands_in_no_log(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    """The mechanism PLAIN has it in a request, which kafka-python logs at the level DEBUG."""
    settings = deployment.settings(
        Principal.OPERATOR,
        kafka_sasl_mechanism="PLAIN",
        kafka_username=PLAIN_USER,
        kafka_password=PLAIN_PASSWORD,
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(Misconfigured, match="Authorization"):
        memory_topics.known_topic_ids(settings)
    assert f"Authenticated as {PLAIN_USER}" in caplog.text
    assert PLAIN_PASSWORD not in caplog.text


def test_a_rebuild_needs_no_more_rights_than_its_own_and_workers_follow_with_theirs(
    deployment: Deployment, memory: Running
) -> None:
    """The last test of this module: what comes after is in another generation."""
    before = len(refusals(deployment))
    with (
        deployment.client(Principal.PRODUCER) as producer,
        deployment.client(Principal.ASKER) as asker,
        deployment.client(Principal.PRIVACY_DESK) as desk,
    ):
        sent = producer.ingest(unit(50), id="kept", label="lynx", embedder="test").position()
        assert asker.query(unit(50), embedder="test", k=1, after=[sent]).status == "answered"
        said("rebuild", environment=deployment.environment(Principal.REBUILDER))
        sent = producer.ingest(unit(51), id="new", label="lynx", embedder="test").position()
        answer = asker.query(unit(50), embedder="test", k=2, after=[sent])
        assert [neighbour.image_id for neighbour in answer.neighbors] == ["kept", "new"]
        desk.receipt(desk.forget(image="kept"))
        assert asker.query(unit(50), embedder="test", k=1).neighbors[0].image_id == "new"
    assert len(refusals(deployment)) == before
