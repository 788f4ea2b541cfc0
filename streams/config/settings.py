"""Every setting, in one place: the only reader of the environment.

A setting `name` is read from ``VISUAL_MEMORY_NAME``, or from a file ``visual_memory_name`` in
the folder that ``VISUAL_MEMORY_SECRETS_DIR`` names (secrets of containers).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from platformdirs import user_cache_path, user_data_path
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from memory.claims.addresses import MAX_URI, WELL_FORMED
from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import MAX_LABEL
from memory.model.text import canonical_name

ENVIRONMENT_PREFIX = "VISUAL_MEMORY_"
CACHE = user_cache_path("visual-memory", appauthor=False)
DATA_HOME = user_data_path("visual-memory", appauthor=False)
MALLOC = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 256 << 20),
}
"""What glibc's malloc is told, by the variable that says otherwise: a parameter of malloc.h, and its value."""


def _parted(given: object) -> object:
    """The parts of a text that commas separate; anything else as it is."""
    if isinstance(given, str):
        return tuple(part for piece in given.split(",") if (part := piece.strip()))
    return given


def _spelt(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels as the memory spells them."""
    try:
        return tuple(
            canonical_name(label, what="a label", reason=Reason.INVALID_LABEL, limit=MAX_LABEL)
            for label in labels
        )
    except Rejected as why:
        raise ValueError(why.detail) from None


class Settings(BaseSettings):
    """Where the servers are and how this memory behaves. Times are in seconds."""

    model_config = SettingsConfigDict(
        # An empty variable says nothing, as compose files write it.
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    kafka: str = Field("localhost:9092", description="Kafka bootstrap servers, host:port,…")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how Kafka is spoken to; the last two need a user and a password"
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="how the user proves the password to Kafka"
    )
    kafka_username: str | None = Field(None, description="Kafka user (SASL)")
    kafka_password: SecretStr | None = Field(None, description="Kafka user's password (SASL)")
    kafka_ca_file: Path | None = Field(
        None, description="PEM file of who signs the brokers' certificates; the system's when none"
    )
    kafka_certificate_file: Path | None = Field(
        None, description="PEM file of our own certificate for Kafka (mutual TLS)"
    )
    kafka_key_file: Path | None = Field(None, description="PEM file of that certificate's key")
    kafka_key_password: SecretStr | None = Field(None, description="password of that key file")
    topic_prefix: str = Field("", description="put before every topic's name")
    replica_bytes: int = Field(
        512 << 20,
        ge=0,
        description="what the vectors of a query worker's own copy of the memory may take (about "
        "3 bytes a dimension and item); Redis is searched where they are more, or this is 0",
    )
    reliability: bool = Field(
        default=True,
        description="whether a query worker counts how often each item is a neighbour of another "
        "label (about 0.4 kB an item beside its replica)",
    )
    pruning: Literal["none", "soft", "hard"] = Field(
        "none", description="what is done with unreliable items where a question does not say"
    )
    min_share: float = Field(
        0,
        ge=0,
        le=1,
        description="the answer is to abstain where the leading label has less than this share, and the "
        "question does not say",
    )
    partitions: int = Field(8, ge=1, description="partitions of the writing and query topics")
    replication: int = Field(1, ge=1, description="replication factor of every topic")
    compaction_lag: float = Field(
        86400, gt=0, description="how long the log may keep a record after its tombstone"
    )

    redis: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        description="Redis URL, rediss://… with TLS; may hold a user and a password",
    )
    redis_username: str | None = Field(None, description="Redis ACL user, where the URL names none")
    redis_password: SecretStr | None = Field(
        None, description="Redis user's password, where the URL holds none"
    )
    redis_ca_file: Path | None = Field(
        None, description="PEM file of who signs Redis' certificate; the system's when none"
    )
    redis_certificate_file: Path | None = Field(
        None, description="PEM file of our own certificate for Redis (mutual TLS)"
    )
    redis_key_file: Path | None = Field(None, description="PEM file of that certificate's key")
    redis_key_password: SecretStr | None = Field(None, description="password of that key file")
    namespace: str = Field("vm", description="prefix of every Redis key of this memory")
    hmac_key: SecretStr | None = Field(
        None, description="64 hex digits; keys the digests of ids; never rotated; back it up apart"
    )

    signing_key: SecretStr | None = Field(
        None,
        description="64 hex digits; signs receipts (Ed25519); the erase role alone needs it; "
        "`visual-memory receipt key` tells its public key",
    )
    signing_key_before: SecretStr | None = Field(
        None,
        description="the former one, while the key is changed: it signs that the new one follows",
    )
    request_keys: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parted)] = Field(
        (),
        description="public keys, 64 hex digits each, separated by commas: requests to forget are taken only "
        "with a signature by one of them; none takes all",
    )
    request_key: SecretStr | None = Field(
        None, description="64 hex digits; the commands sign requests to forget with it (Ed25519)"
    )
    erasure_pause: float = Field(
        600,
        ge=0,
        description="at least so long between two rewrites of Redis' files, and between two scans of the log, "
        "for what was forgotten",
    )
    erasure_limit: float = Field(
        72 * 3600,
        gt=0,
        description="the time to erasure that is promised; `visual-memory audit` holds to it",
    )
    answers_kept: float = Field(
        3600, gt=0, description="how long the log keeps questions and answers"
    )

    embedder: str = Field(
        "lite0",
        description="lite0 | transformers:NAME_OR_FOLDER[@REVISION] | vectors:NAME:DIMENSION",
    )
    device: str | None = Field(None, description="torch device; the GPU when there is one")
    index_algorithm: Literal["FLAT", "HNSW"] = Field("FLAT", description="FLAT is exact")
    index_dtype: Literal["FLOAT16", "FLOAT32"] = Field("FLOAT16", description="element type")

    clock_skew: float = Field(
        300, ge=0, description="how far an event's time may be ahead of the log's"
    )
    max_image_bytes: int = Field(1 << 20, ge=1, description="larger images are rejected")
    max_image_pixels: int = Field(50_000_000, ge=1, description="larger images are rejected")
    claim_prefixes: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parted)] = Field(
        (),
        description="what an event's claim on an image may start with, separated by commas: "
        "file:///folder/ or https://host/folder/; none allows no claims",
    )
    claim_timeout: float = Field(10, gt=0, description="how long fetching one claim may take")
    claim_private_addresses: bool = Field(
        default=False, description="whether a claim's host may have a private or local IP address"
    )
    claim_encoded_slashes: bool = Field(
        default=False,
        description="whether a part of a claim's path may hold %2F, as names in object stores do",
    )
    claim_address_length: int = Field(
        MAX_URI,
        ge=1,
        le=WELL_FORMED.max_length,
        description="characters of the longest address of a claim",
    )
    claim_concurrency: int = Field(8, ge=1, description="claims a worker fetches side by side")
    batch: int = Field(256, ge=1, description="records merged together by the writing roles")
    image_batch: int = Field(
        32, ge=1, description="records merged together by the ingest role where it embeds"
    )
    questions_in_flight: int = Field(
        512, ge=1, description="questions a worker works at; those that wait for `after` apart"
    )

    instance: str | None = Field(
        None, description="name of this worker, unique in its role: a quick return after a crash"
    )
    web_host: str = Field("127.0.0.1", description="where /metrics, /livez and /readyz listen")
    web_port: int = Field(0, ge=0, le=65535, description="their port; 0 takes a free one")
    metric_labels: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_parted), AfterValidator(_spelt)
    ] = Field(
        (), description="labels (classes) whose items are counted in metrics, separated by commas"
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    def batch_of(self, role: str) -> int:
        """How many records a role merges together: fewer where each costs an embedding."""
        embeds = role == "ingest" and not self.embedder.startswith("vectors:")
        return self.image_batch if embeds else self.batch

    def secret_key(self) -> bytes:
        """The HMAC key's 32 bytes; `Misconfigured` when it is absent or malformed."""
        return _key_of("HMAC_KEY", self.hmac_key, "keep it for the life of the memory")

    def signing_keys(self) -> tuple[bytes, bytes | None]:
        """The 32 bytes of the key that signs receipts, and of the former one; `Misconfigured` as above."""
        change = "to change it later, see docs/forgetting.md"
        before = self.signing_key_before
        return (
            _key_of("SIGNING_KEY", self.signing_key, change),
            None if before is None else _key_of("SIGNING_KEY_BEFORE", before, change),
        )

    def desk_key(self) -> bytes | None:
        """The 32 bytes of the key that signs requests, where there is one; `Misconfigured` as above."""
        key = self.request_key
        return (
            None if key is None else _key_of("REQUEST_KEY", key, "tell the memory its public key")
        )


def _key_of(name: str, secret: SecretStr | None, hint: str) -> bytes:
    text = secret.get_secret_value().strip() if secret else ""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise Misconfigured(
            f"{ENVIRONMENT_PREFIX}{name} must be 64 hex digits (make one with: openssl rand -hex 32; {hint})"
        )
    return key


def load(**overrides: object) -> Settings:
    """Read the settings; `overrides` win over the environment. `Misconfigured` if one is bad."""
    secrets = os.environ.get(ENVIRONMENT_PREFIX + "SECRETS_DIR")
    read: Any = Settings  # where it reads from is no declared argument
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return cast("Settings", read(_secrets_dir=secrets, **given))
    except ValidationError as error:
        # Only names and reasons: the values may be secrets.
        faults = "; ".join(
            f"{ENVIRONMENT_PREFIX}{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
            for fault in error.errors()
        )
        raise Misconfigured(f"bad settings: {faults}") from None


def child_environment(*, metrics_dir: str, **values: object) -> dict[str, str]:
    """As `worker_environment`, for a worker whose metrics others export too."""
    return worker_environment(**values) | {"PROMETHEUS_MULTIPROC_DIR": metrics_dir}


def worker_environment(**values: object) -> dict[str, str]:
    """The present environment with these settings, for a worker as a child process."""
    given = {f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **given}


def prepare_process() -> None:
    """Set what native libraries go by; call it once numpy is imported and before torch is."""
    from threadpoolctl import threadpool_limits

    # Threads of OpenMP that spin while they wait starve the other workers of a machine: with
    # both cores busy, images a second went from under 1 to 30 without it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Those of numpy's BLAS do so too: a scan of 1,600 rows took 16 ms of CPU in place of 4, to be 1 ms
    # sooner done.
    threadpool_limits(1, "blas")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # By itself it gives the memory of each layer of a model back and asks for it anew, a fourth of the CPU
    # of an image; and each thread that embeds keeps an arena of its own, full of holes of other sizes.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for variable, (parameter, value) in MALLOC.items():
        if mallopt is not None and variable not in os.environ:
            mallopt(parameter, value)
