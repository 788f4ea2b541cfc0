"""Audit what this project is installed with: `make audit`, or python -m tests.audit.

Every package that an installation brings must be pinned in constraints.txt, installed as pinned,
not yanked by its authors, and without a known vulnerability. It ends with 0 when all is well, with
1 when something is not, and with 69 when all that could be looked at is well but the advisories
could not be reached: not finding out is not the same as finding nothing. `--allow-unreachable`
makes of that 69 a 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h
SERVICES = ("pypi", "osv")
"""pip-audit's sources of advisories, in the order in which they are tried."""
ACCEPTED: Mapping[str, str] = {}
"""Advisories that do not concern us, by id, each with the reason."""


@dataclass
class Advisories:
    """What pip-audit said: vulnerabilities found, and packages it could not tell about."""

    found: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def pinned(text: str) -> dict[str, str]:
    """Versions by canonical name. ValueError naming a line that pins nothing."""
    pins: dict[str, str] = {}
    for line in text.splitlines():
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)", stripped)
        if match is None:
            raise ValueError(f"constraints.txt: {stripped!r} is no pin (name==version)")
        pins[canonicalize_name(match[1])] = match[2]
    return pins


def declared(project: Mapping[str, Any]) -> list[Requirement]:
    """What pyproject.toml asks for, its extras included."""
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(text) for text in chain(project["dependencies"], *extras)]


def closure(wanted: Sequence[Requirement]) -> Iterator[Distribution]:
    """Every installed distribution that the requirements bring with them, each once."""
    waiting, seen = list(wanted), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found = distribution(name)
            except PackageNotFoundError:
                continue  # `pip check` tells which are missing
            if extra == "":
                yield found
            waiting += [
                needed
                for needed in map(Requirement, found.requires or ())
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            ]


def unpinned(found: Sequence[Distribution], pins: Mapping[str, str]) -> list[str]:
    """Installed packages that are not pinned, or are installed in another version."""
    problems = []
    for each in found:
        name = canonicalize_name(each.name)
        if name == "pip":  # the environment's own
            continue
        if name not in pins:
            problems.append(f"{name} {each.version} is installed and not pinned")
        elif Version(pins[name]) != Version(each.version):  # some write v1 for 1
            problems.append(f"{name} {each.version} is installed, {pins[name]} is pinned")
    return problems


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def broken() -> list[str]:
    """What `pip check` finds."""
    done = pip("check")
    return [] if done.returncode == 0 else done.stdout.splitlines()


def yanked(constraints: Path) -> list[str]:
    """Pinned versions that their authors have withdrawn, or that the index does not have."""
    options = ("--dry-run", "--quiet", "--ignore-installed", "--no-deps")
    done = pip("install", *options, "-r", str(constraints))
    if done.returncode != 0:
        return [f"pip cannot resolve the pins: {done.stderr.strip()[-500:]}"]
    return withdrawn(done.stderr)


def withdrawn(said: str) -> list[str]:
    """The yanked versions of which pip has warned."""
    return [f"yanked: {name}" for name in re.findall(r"yanked version: '(.+?)' candidate", said)]


def advisories(
    pins: Mapping[str, str], service: str, options: Sequence[str] = ()
) -> Advisories | None:
    """What a service knows of the pins; None when it cannot be reached.

    pip-audit passes over packages that its service does not know and ends with 0 (an index that
    serves no advisories looks the same as one that has none), so its report is read, not its
    exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service]
        command += ["--requirement", str(file), "--no-deps", "--disable-pip", "--format", "json"]
        command += ["--progress-spinner", "off", "--timeout", "10", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return judged(json.loads(done.stdout))
    except ValueError:
        return None


def judged(report: Mapping[str, Any]) -> Advisories:
    """The report of pip-audit, without what is accepted."""
    result = Advisories()
    for package in report["dependencies"]:
        if "skip_reason" in package:
            result.unknown.append(package["name"])
        for known in package.get("vulns", ()):
            if ACCEPTED.keys().isdisjoint({known["id"], *known.get("aliases", ())}):
                fixed = ", ".join(known["fix_versions"]) or "no version yet"
                result.found.append(
                    f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}"
                )
    return result


def first_that_answers(pins: Mapping[str, str]) -> Advisories | None:
    """What the first service knows that can be reached and knows these packages at all."""
    sample = dict(list(pins.items())[:1])
    for service in SERVICES:
        tried = advisories(sample, service)
        if tried is not None and not tried.unknown:
            return advisories(pins, service)
    return None


def verdict(problems: Sequence[str], known: Advisories | None, *, allow_unreachable: bool) -> int:
    """Say what was found; the exit code."""
    for problem in [*problems, *(known.found if known else ())]:
        print(f"PROBLEM: {problem}")
    if problems or (known and known.found):
        return 1
    if known is None or known.unknown:
        which = "no package" if known is None else f"all but {', '.join(known.unknown)}"
        print(
            f"NOT AUDITED for vulnerabilities: advisories could be read of {which}. "
            "Run this again where the Python Package Index' JSON API or OSV can be reached."
        )
        return 0 if allow_unreachable else UNREACHABLE
    print("audited: no known vulnerability")
    return 0


def licences(found: Sequence[Distribution]) -> Iterator[str]:
    """A line each: name, version, licence as its authors state it."""
    for each in sorted(found, key=lambda d: canonicalize_name(d.name)):
        stated = next(
            iter(
                each.metadata.get_all("License-Expression")
                or each.metadata.get_all("License")
                or ("",)
            )
        )
        classified = [
            value.rpartition(" :: ")[2]
            for value in each.metadata.get_all("Classifier") or ()
            if value.startswith("License ::")
        ]
        short = stated if 0 < len(stated) < 60 else ", ".join(classified)
        yield f"{canonicalize_name(each.name)} {each.version}: {short or 'not stated'}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument(
        "--allow-unreachable",
        action="store_true",
        help="end with 0 where advisories cannot be reached and all else is well",
    )
    parser.add_argument("--licences", action="store_true", help="only list licences")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = pinned(CONSTRAINTS.read_text("utf-8"))
    found = list(closure(declared(project)))
    if options.licences:
        print("\n".join(licences(found)))
        return 0
    print(f"{len(found)} packages installed for this project, {len(pins)} pinned")
    problems = [*unpinned(found, pins), *broken(), *yanked(CONSTRAINTS)]
    print("looked at: every package pinned, installed as pinned, complete, and not yanked")
    return verdict(problems, first_that_answers(pins), allow_unreachable=options.allow_unreachable)


if __name__ == "__main__":
    sys.exit(main())
