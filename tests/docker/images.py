"""The images that containers are tested with: the official ones, or stand-ins made here.

A stand-in has the user, the folders, the variables and the entry point of the image that it
stands in for, as far as docker-compose.yml and the tests use them. What is in it is real: the
servers of the local stack and Debian's Prometheus, on a base made by debootstrap.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from streams.local.downloads import install_kafka, install_redis
from streams.local.process import LocalServerError
from tests.docker.engine import docker
from tests.servers import KAFKA_IMAGE, REDIS_IMAGE

ROOT = Path(__file__).parents[2]
RECIPES = Path(__file__).parent / "standins"
OFFICIAL = {
    "VISUAL_MEMORY_KAFKA_IMAGE": KAFKA_IMAGE,
    "VISUAL_MEMORY_REDIS_IMAGE": REDIS_IMAGE,
    "VISUAL_MEMORY_PROMETHEUS_IMAGE": "prom/prometheus:v3.5.0",
    "VISUAL_MEMORY_GRAFANA_IMAGE": "grafana/grafana:12.1.0",
}
SERVICE = "visual-memory:test"
BASE = "visual-memory-standin/base:1"
CERTIFICATES = Path("/usr/local/share/ca-certificates")


def images(mode: str) -> dict[str, str]:
    """Images by the variable of docker-compose.yml that names them; `mode` as of the command.

    Raises LocalServerError when they cannot be had.
    """
    if mode == "official" or (mode == "auto" and _pulled()):
        for image in OFFICIAL.values():
            docker("pull", image)
        return OFFICIAL | {"VISUAL_MEMORY_IMAGE": _service()}
    _base()
    stand_ins = {
        f"VISUAL_MEMORY_{name.upper()}_IMAGE": _stand_in(name)
        for name in ("kafka", "redis", "prometheus")
    }
    return stand_ins | {"VISUAL_MEMORY_IMAGE": _service("--build-arg", f"BASE={BASE}")}


def _pulled() -> bool:
    try:
        docker("pull", KAFKA_IMAGE)
    except LocalServerError:
        return False
    return True


def _service(*options: str) -> str:
    # The host's network reaches the package index through whatever the host reaches it.
    docker("build", "--network", "host", "--tag", SERVICE, *options, str(ROOT))
    return SERVICE


def _base() -> None:
    if docker("images", "--quiet", BASE):
        return
    if shutil.which("debootstrap") is None:
        raise LocalServerError(
            "no image can be pulled here, and stand-ins need debootstrap (Debian: debootstrap)"
        )
    packages = "python3,python3-venv,ca-certificates,openjdk-17-jre-headless,libgomp1,wget"
    with tempfile.TemporaryDirectory(prefix="visual-memory-base-") as folder:
        root = Path(folder) / "root"
        _run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root))
        for certificate in CERTIFICATES.glob("*.crt"):
            shutil.copy(certificate, root / CERTIFICATES.relative_to("/"))
        _run("chroot", str(root), "update-ca-certificates")
        archive = Path(folder) / "base.tar"
        _run("tar", "-C", str(root), "-cf", str(archive), ".")
        certificates = "/etc/ssl/certs/ca-certificates.crt"
        docker("import", "--change", f"ENV PIP_CERT={certificates}", str(archive), BASE)


def _stand_in(name: str) -> str:
    tag = f"visual-memory-standin/{name}:1"
    with tempfile.TemporaryDirectory(prefix=f"visual-memory-{name}-") as folder:
        context = Path(folder) / "context"
        shutil.copytree(RECIPES / name, context)
        match name:
            case "kafka":
                shutil.copytree(install_kafka(), context / "jars")
            case "redis":
                for part in ("redis-server", "redis-cli", "redisearch.so"):
                    shutil.copy(install_redis() / part, context)
            case _:
                for part in ("prometheus", "promtool"):
                    found = shutil.which(part)
                    if found is None:
                        raise LocalServerError(f"no `{part}`: install it (Debian: prometheus)")
                    shutil.copy(found, context)
        docker("build", "--tag", tag, str(context))
    return tag


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalServerError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
