"""The audit of dependencies: what it finds, and that it never takes silence for good news."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import audit
from tests.audit import Advisories

VULNERABLE = {
    "id": "PYSEC-0000-1",
    "aliases": ["CVE-0000-1"],
    "summary": "it can be broken into",
    "affected": [
        {
            "package": {"name": "click", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """Answers pip-audit as OSV does: `click` has a vulnerability, all else has none."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = [VULNERABLE] if asked["package"]["name"] == "click" else []
        body = json.dumps({"vulns": known} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    """URL of a service of advisories on this machine."""
    with HTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def test_a_vulnerability_is_named_with_what_mends_it(osv: str) -> None:
    found = audit.advisories({"click": "8.3.3", "rich": "15.0.0"}, "osv", ("--osv-url", osv))
    assert found == Advisories(["click 8.3.3: PYSEC-0000-1, fixed in 99.0"], [])
    assert audit.verdict([], found, allow_unreachable=True) == 1


def test_an_accepted_advisory_is_passed_over(osv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-0000-1": "a test's"})
    found = audit.advisories({"click": "8.3.3"}, "osv", ("--osv-url", osv))
    assert found == Advisories()


def test_packages_without_a_known_vulnerability_are_audited(
    osv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = audit.advisories({"rich": "15.0.0"}, "osv", ("--osv-url", osv))
    assert audit.verdict([], found, allow_unreachable=False) == 0
    assert capsys.readouterr().out == "audited: no known vulnerability\n"


def test_a_service_that_cannot_be_reached_is_not_one_that_knows_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nobody = ("--osv-url", "http://127.0.0.1:1/v1/query")
    found = audit.advisories({"click": "8.3.3"}, "osv", nobody)
    assert found is None
    assert audit.verdict([], found, allow_unreachable=False) == audit.UNREACHABLE
    assert audit.verdict([], found, allow_unreachable=True) == 0
    assert capsys.readouterr().out.count("NOT AUDITED") == 2


def test_a_package_that_a_service_does_not_know_is_not_audited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pip-audit itself ends with 0 there and says that no vulnerability is known."""
    package = {"name": "click", "skip_reason": "Dependency not found on PyPI: click (8.3.3)"}
    found = audit.judged({"dependencies": [package], "fixes": []})
    assert audit.verdict([], found, allow_unreachable=False) == audit.UNREACHABLE
    assert "all but click" in capsys.readouterr().out


def test_a_broken_pin_counts_although_advisories_cannot_be_reached() -> None:
    assert audit.verdict(["rich is not pinned"], None, allow_unreachable=True) == 1


def test_everything_that_an_installation_brings_is_pinned() -> None:
    project = tomllib.loads((audit.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = audit.pinned(audit.CONSTRAINTS.read_text("utf-8"))
    found = list(audit.closure(audit.declared(project)))
    assert {"faust-streaming", "aiokafka", "pip-audit"} <= {
        canonicalize_name(each.name) for each in found
    }
    assert audit.unpinned(found, pins) == []


def test_what_is_not_pinned_or_installed_otherwise_is_named() -> None:
    found = list(audit.closure([Requirement("pytest")]))
    pins: dict[str, str] = {canonicalize_name(each.name): each.version for each in found}
    assert audit.unpinned(found, pins) == []
    pins["pluggy"] = "0.1"
    del pins["iniconfig"]
    problems = audit.unpinned(found, pins)
    assert [problem.partition(" ")[0] for problem in sorted(problems)] == ["iniconfig", "pluggy"]


@pytest.mark.parametrize("line", ["rich>=15", "rich", "-e .", "rich==15.*"])
def test_a_line_that_pins_nothing_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is no pin"):
        audit.pinned(f"# versions\nclick==8.3.3\n{line}\n")


def test_a_version_that_pip_calls_yanked_is_named() -> None:
    warning = (
        "WARNING: The candidate selected for download or install is a yanked version: "
        "'click' candidate (version 8.2.2 at ...)\nReason for being yanked: a regression\n"
    )
    assert audit.withdrawn(warning) == ["yanked: click"]
    assert audit.withdrawn("") == []
