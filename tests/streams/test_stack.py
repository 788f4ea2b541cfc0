"""What a stack on one machine refuses before it starts anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory.errors import Misconfigured
from streams import stack
from streams.config import connections, stack_secrets
from streams.config.settings import ENVIRONMENT_PREFIX, load

PASSWORD = "correct horse"


@pytest.mark.parametrize(
    ("server", "given"),
    [
        ("kafka", {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}),
        ("kafka", {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_USERNAME": "ann"}),
        ("kafka", {"KAFKA_PASSWORD": PASSWORD}),
        ("redis", {"REDIS_USERNAME": "ann", "REDIS_PASSWORD": PASSWORD}),
        ("redis", {"REDIS_CA_FILE": "/papers/ca.pem"}),
    ],
    ids=str,
)
def test_wires_of_other_servers_are_named_before_own_ones_start(
    server: str, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(ENVIRONMENT_PREFIX + name, value)
    with pytest.raises(Misconfigured) as refusal:
        stack.up(tmp_path / "stack")
    message = str(refusal.value)
    named = " and ".join(ENVIRONMENT_PREFIX + name for name in given)
    assert f"unset {named}, or name your own with --{server}" in message
    assert PASSWORD not in message
    assert not (tmp_path / "stack").exists()


def test_settings_of_the_memory_itself_are_for_any_server() -> None:
    settings = load(embedder="vectors:test:2", namespace="other", partitions=3)
    for server in ("kafka", "redis"):
        connections.refuse_wires_of(server, settings)


def test_the_wires_of_a_server_that_is_named_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on to Kafka, where the settings count."""
    monkeypatch.setenv(f"{ENVIRONMENT_PREFIX}KAFKA_PASSWORD", PASSWORD)
    with pytest.raises(Misconfigured, match="KAFKA_PASSWORD is used with SASL only"):
        stack.up(tmp_path / "stack", kafka="localhost:1", redis="redis://localhost:1")


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = stack_secrets.make_secrets(tmp_path)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    keys = {stack_secrets.HMAC_KEY, stack_secrets.SIGNING_KEY}
    assert made.keys() == {*keys, stack_secrets.REDIS_PASSWORD, stack_secrets.KAFKA_PASSWORD}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert len(set(made.values())) == 4
    stack_secrets.make_secrets(tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


@pytest.mark.parametrize(
    "name",
    [
        *(stack_secrets.HMAC_KEY, stack_secrets.SIGNING_KEY),
        *(stack_secrets.REDIS_PASSWORD, stack_secrets.KAFKA_PASSWORD, "."),
    ],
)
def test_a_secret_that_others_may_have_put_there_or_read_is_refused(
    tmp_path: Path, name: str
) -> None:
    planted = stack_secrets.make_secrets(tmp_path) / name
    planted.chmod(0o755)
    with pytest.raises(Misconfigured, match="chmod go=") as caught:
        stack_secrets.make_secrets(tmp_path)
    assert str(planted) in str(caught.value)


def test_a_secret_that_is_elsewhere_is_refused(tmp_path: Path) -> None:
    key = stack_secrets.make_secrets(tmp_path) / stack_secrets.HMAC_KEY
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misconfigured, match="somebody else's"):
        stack_secrets.make_secrets(tmp_path)


def test_a_folder_that_others_may_write_into_or_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o775)
    with pytest.raises(Misconfigured, match="mode is 775"):
        stack_secrets.make_secrets(tmp_path)
    tmp_path.chmod(0o755)
    stack_secrets.make_secrets(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(Misconfigured, match="somebody else's"):
        stack_secrets.make_secrets(tmp_path)


def test_its_folder_is_made_where_no_folder_is_and_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SecretsWantedError(Exception):
        pass

    def refuse(_: Path) -> None:
        raise SecretsWantedError

    monkeypatch.setattr(stack, "make_secrets", refuse)
    folder = tmp_path / "of" / "a" / "stack"
    mask = os.umask(0)
    try:
        for _ in range(2):
            with pytest.raises(SecretsWantedError):
                stack.up(folder)
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o700
