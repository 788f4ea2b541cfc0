"""A stack of docker-compose.yml, as its users start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from streams.local.process import LocalServerError
from streams.local.server import free_port
from tests.docker.engine import docker

ROOT = Path(__file__).parents[2]
SECONDS = 180.0


def until(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait until it holds, or fail saying what did not."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.5)


class Stack:
    """One project of compose with ports and volumes of its own, removed at the end."""

    def __init__(self) -> None:
        self.project = f"visual-memory-{uuid.uuid4().hex[:8]}"
        self.kafka = f"127.0.0.1:{(kafka := free_port())}"
        self.prometheus = f"http://127.0.0.1:{(prometheus := free_port())}"
        self._environment = os.environ | {
            "VISUAL_MEMORY_KAFKA_PORT": str(kafka),
            "VISUAL_MEMORY_PROMETHEUS_PORT": str(prometheus),
            "VISUAL_MEMORY_GRAFANA_PORT": str(free_port()),
            "VISUAL_MEMORY_PARTITIONS": "2",
        }
        named = self.compose("config", "--services").split()
        # No stand-in for Grafana can be made; it runs where its image can be pulled.
        without = set() if "VISUAL_MEMORY_GRAFANA_IMAGE" in os.environ else {"grafana"}
        self.services = sorted(set(named) - without)

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            print(self.compose("logs", "--tail", "40"))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes", "--timeout", "5")

    def compose(self, *arguments: str) -> str:
        """What a compose command printed. Raises LocalServerError with what it said instead."""
        command = ["docker", "compose", "--project-name", self.project, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LocalServerError(f"{arguments}:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def up(self, *options: str) -> None:
        """Start the services and wait until each is healthy (or, if it is a job, has ended)."""
        self.compose("up", "--detach", "--no-build", *options, *self.services)
        until(self.healthy, "a service is not healthy")

    def healthy(self) -> bool:
        return all(
            container["State"].get("Health", {"Status": "healthy"})["Status"] == "healthy"
            for container in self.containers()
        )

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """What `docker inspect` says of the containers, of the job that has ended too."""
        ids = self.compose("ps", "--all", "--quiet", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids))
        return found

    def kill(self, service: str) -> None:
        """SIGKILL to each container's first process, and wait until Docker has started another.

        Not `docker kill`, after which Docker would leave it ended as its user wished.
        """
        before = self._starts(service)
        for container in self.containers(service):
            os.kill(container["State"]["Pid"], signal.SIGKILL)
        until(
            lambda: all(
                running and started not in before for running, started in self._states(service)
            ),
            f"{service} was not started again",
        )

    def _starts(self, service: str) -> set[str]:
        return {started for _, started in self._states(service)}

    def _states(self, service: str) -> list[tuple[bool, str]]:
        return [
            (container["State"]["Running"], container["State"]["StartedAt"])
            for container in self.containers(service)
        ]
