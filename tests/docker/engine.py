"""A Docker engine to test with: the one that answers, else one started here for as long."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.local.process import ChildSpec, LocalServerError, Process


def docker(*arguments: str) -> str:
    """What a docker command printed. Raises LocalServerError with what it said instead."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise LocalServerError(f"docker {' '.join(arguments[:3])} failed:\n{said}")
    return done.stdout.strip()


def answers() -> bool:
    """Whether the engine that the environment names, or the usual one, answers."""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def engine(data_root: Path) -> Iterator[None]:
    """Make `docker` reach an engine; one that is started here keeps its images in `data_root`.

    Raises LocalServerError when there is none and none can be started.
    """
    if shutil.which("docker") is None:
        raise LocalServerError("no `docker` command: install Docker (Debian: docker.io)")
    if answers():
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise LocalServerError(
            "no Docker engine answers, and none can be started here: that needs dockerd "
            "(Debian: docker.io) and root"
        )
    data_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="visual-memory-docker-", ignore_cleanup_errors=True
    ) as folder:
        address = f"unix://{folder}/docker.sock"
        os.environ["DOCKER_HOST"] = address
        command = ["dockerd", "--data-root", str(data_root), "--exec-root", f"{folder}/exec"]
        command += ["--pidfile", f"{folder}/pid", "--host", address]
        log = data_root.parent / "dockerd.log"
        with Process(
            ChildSpec("dockerd", command, log, ready=answers, ready_timeout=60, stop_timeout=60)
        ):
            try:
                yield
            finally:
                del os.environ["DOCKER_HOST"]
        # The engine leaves its network namespace mounted, in the way of removing the folder.
        leftover = f"{folder}/exec/netns/default"
        subprocess.run(["umount", leftover], capture_output=True, check=False)
