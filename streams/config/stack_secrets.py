"""The secrets of a local stack: made once in its folder, its owner's alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from memory.errors import Misconfigured
from streams.local.state import write_atomically

SECRETS_FOLDER = "secrets"
HMAC_KEY = "visual_memory_hmac_key"
SIGNING_KEY = "visual_memory_signing_key"
# No names of settings as the key's is: workers read this folder, also where they use servers of
# somebody else.
REDIS_PASSWORD = "redis_password"  # noqa: S105 - a file's name
KAFKA_PASSWORD = "kafka_password"  # noqa: S105 - a file's name
KAFKA_USER = "visual-memory"


def make_secrets(data_dir: Path) -> Path:
    """The folder with the stack's secrets, each made once and never changed.

    Raises `Misconfigured` where somebody else may have read or written them, or may yet.
    """
    folder = data_dir / SECRETS_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_ours(data_dir, others_may=0o055)
    _check_ours(folder)
    for name in (HMAC_KEY, SIGNING_KEY, REDIS_PASSWORD, KAFKA_PASSWORD):
        if not os.path.lexists(folder / name):
            write_atomically(folder / name, secrets.token_hex(32))
        _check_ours(folder / name)
    return folder


def read_secret(data_dir: Path, name: str) -> str:
    return (data_dir / SECRETS_FOLDER / name).read_text()


def kafka_login_settings(data_dir: Path) -> dict[str, str]:
    """The settings with which this stack's own Kafka is spoken to."""
    return {
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_username": KAFKA_USER,
        "kafka_password": read_secret(data_dir, KAFKA_PASSWORD),
    }


def _check_ours(path: Path, *, others_may: int = 0) -> None:
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.getuid():
        raise Misconfigured(f"{path} is somebody else's; choose a folder of your own")
    if found.st_mode & 0o077 & ~others_may:
        raise Misconfigured(
            f"others may have put {path} there or read it (its mode is {found.st_mode & 0o777:o}); if "
            f"it is as you made it, close it: chmod go= {path}"
        )
