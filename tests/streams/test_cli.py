"""The command: what it refuses, with which exit code, and what it never prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from memory.errors import Misconfigured, Reason, Rejected, Unavailable
from memory.model.answers import Findings
from streams.cli import UNEXPECTED, cli, main
from streams.cli.options import visible
from streams.contract.messages import Outside, Receipt, SelectorDigest
from streams.local.server import HOST, free_port
from streams.workers import worker_process
from tests.integration.guide import SECTIONS
from tests.integration.running import KEY, ROOT

SECRET = "correct-horse"
KEYED = {"HMAC_KEY": KEY}


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_a_help_text(name: str) -> None:
    found = cli.commands[name]
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0
    assert found.help
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, with no settings but these."""
    bare = {n: v for n, v in os.environ.items() if not n.startswith("VISUAL_MEMORY_")}
    given = {f"VISUAL_MEMORY_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *words],
        env={**bare, **given, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_lines_of_ones_own_stay_lines_and_a_strangers_signs_are_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise Misconfigured("first: [bold]\nsecond: \x1b[2J\u202e 👩\u200d👧 :cat:")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.cli.cli", fail)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "first: [bold]",
        r"second: \x1b[2J\u202e 👩" + "\u200d👧 :cat:",
    ]
    assert visible("a\nb") == r"a\nb"


def test_what_nobody_foresaw_is_a_line_without_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr("streams.cli.cli", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UNEXPECTED == worker_process.EXIT_UNEXPECTED
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError at test_cli.py:" in line
    assert SECRET not in line


WRONG_USE = {
    "a label and its withdrawal": (["correct", "i", "cat", "--withdraw"], "either a label or"),
    "no label": (["correct", "i"], "either a label or"),
    "two selectors": (["forget", "--image", "i", "--subject", "s"], "exactly one of"),
    "no selector": (["forget", "--permanent"], "exactly one of"),
    "an image and an item": (["query", __file__, "--item", "i"], "either an image file or"),
    "nothing to ask with": (["query"], "either an image file or"),
    "an id for many": (["ingest", "--id", "i", __file__, str(ROOT / "README.md")], "single image"),
    "an unknown rule": (["query", "--item", "i", "--rule", "best"], "rank"),
    "an unknown role": (["worker", "cook"], "ingest"),
    "two ways with topics": (["topics", "--check", "--configure"], "either --check or --configure"),
    "no exclusion": (["query", "--item", "i", "--without", "colour=red"], "write image="),
    "an empty exclusion": (["query", "--item", "i", "--without", "image="], "is empty"),
    "a weight of nothing": (
        ["query", "--item", "i", "--weight", "cat=0.5"],
        "write image= or label=",
    ),
    "a weight of what has none": (
        ["query", "--item", "i", "--weight", "colour=red=0.5"],
        "write image= or label=",
    ),
    "a weight that is none": (
        ["query", "--item", "i", "--weight", "label=cat=heavy"],
        "and a number",
    ),
    "a weight below nothing": (["query", "--item", "i", "--weight", "label=cat=-1"], "from 0 to"),
    "near without how near": (["forget", "--near", "i"], "--near and --within go together"),
    "how near without what": (
        ["forget", "--image", "i", "--within", "0.1"],
        "--near and --within go together",
    ),
    "a time beside a request": (
        ["forget", "--request", __file__, "--not-before", "2030-01-01T00:00:00Z"],
        "says itself when",
    ),
    "a request that is no JSON": (["forget", "--request", __file__], "it is no JSON object"),
    "a request that is a number": (["forget", "--request", "{number}"], "it is no JSON object"),
    "a dry run of a request": (["forget", "--request", "{request}", "--dry-run"], "no --request"),
}


@pytest.mark.parametrize(("words", "said"), WRONG_USE.values(), ids=WRONG_USE)
def test_wrong_use_is_told_before_any_server_is_called(
    words: list[str], said: str, tmp_path: Path
) -> None:
    files = {"number": tmp_path / "number", "request": tmp_path / "request"}
    files["number"].write_text("7")
    files["request"].write_text("{}")
    words = [word.format(**files) for word in words]
    nowhere = ["--kafka", f"{HOST}:1", "--redis", f"redis://{HOST}:1"]
    done = CliRunner().invoke(cli, [*words, *nowhere], env={"VISUAL_MEMORY_HMAC_KEY": KEY})
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.servers  # half a minute: it waits for one
def test_a_server_that_is_away_at_the_start_ends_a_worker_with_2_and_one_line() -> None:
    done = run("worker", "correct", KAFKA=f"{HOST}:{free_port()}", **KEYED)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("Kafka")
    assert "Traceback" not in done.stderr


REFUSED = {
    "a bad number": ({"PARTITIONS": "0"}, "VISUAL_MEMORY_PARTITIONS"),
    "an unknown element type": ({"INDEX_DTYPE": SECRET}, "VISUAL_MEMORY_INDEX_DTYPE"),
    "a login without SASL": ({"KAFKA_PASSWORD": SECRET}, "VISUAL_MEMORY_KAFKA_PASSWORD"),
    "a user without a password": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_USERNAME": SECRET},
        "VISUAL_MEMORY_KAFKA_PASSWORD",
    ),
    "a file that is not there": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_CA_FILE": f"/{SECRET}"},
        "VISUAL_MEMORY_KAFKA_CA_FILE",
    ),
}


@pytest.mark.parametrize(("given", "named"), REFUSED.values(), ids=REFUSED)
def test_bad_settings_end_a_worker_with_2_and_are_named_without_their_value(
    given: dict[str, str], named: str
) -> None:
    done = run("worker", "ingest", **{"KAFKA": f"{HOST}:1", **KEYED, **given})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert named in line
    assert SECRET not in line
    assert KEY not in line


def test_without_a_stack_or_servers_a_command_says_how_to_get_one(tmp_path: Path) -> None:
    for words in (["status"], ["status", "--data-dir", str(tmp_path)]):
        done = run(*words)
        assert done.returncode == 2
        assert "visual-memory up" in done.stderr
        assert (str(tmp_path) if len(words) > 1 else "/nowhere/visual-memory") in done.stderr
        assert "Traceback" not in done.stderr


def test_a_stack_that_does_not_run_is_ended_at_once(tmp_path: Path) -> None:
    done = run("down", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr.strip()) == (0, "nothing runs in this folder")


def test_the_guides_table_has_every_code_that_a_worker_ends_with() -> None:
    """0: test_local_stack.py, 2: here and test_refusals.py, 70: test_delivery.py."""
    codes = SECTIONS["Exit codes and probes"]
    assert re.findall(r"^\| (\d+) \| ", codes, flags=re.MULTILINE) == ["0", "2", "70"]


class Uncounted:
    """An index, and a client of a query worker, that have not come to an end of their counting."""

    def __init__(self) -> None:
        self.asked = 0

    def wrong_counts(self) -> None:
        self.asked += 1

    def review(self, *_: object, **__: object) -> Findings:
        self.asked += 1
        raise Rejected(Reason.NOT_COUNTED, "not yet")


class Unheard(Uncounted):
    """A client of a query worker that knows of no such item."""

    def review(self, *_: object, **__: object) -> Findings:
        self.asked += 1
        raise Rejected(Reason.UNKNOWN_ITEM, "no such item")


def asked_of(one: object, monkeypatch: pytest.MonkeyPatch, *command: str) -> Result:
    """What a command comes to whose counts this one tells."""
    monkeypatch.setattr("streams.bootstrap.client", lambda *_: nullcontext(one))
    monkeypatch.setattr("streams.cli.review._counting", lambda _: nullcontext(one))
    monkeypatch.setattr("streams.cli.review.COUNTED_ASK_SECONDS", 0.01)
    where = ("--kafka", f"{HOST}:1", "--redis", f"redis://{HOST}:1/0")
    return CliRunner().invoke(cli, [*command, *where], env={"VISUAL_MEMORY_HMAC_KEY": KEY})


class Erased:
    """A client to whom a receipt says that a request came to these stages."""

    def __init__(self, *stages: str) -> None:
        self._stages = dict.fromkeys(stages, 1)

    def forget(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(request_id="f00d")

    def receipt(self, *_: object) -> Receipt:
        selector = SelectorDigest("image", "d1")
        outside = (Outside("a copy", "you", "delete it"),)
        return Receipt(
            "f00d", [*self._stages][-1], self._stages, selector, 1, 3, sequence=7, outside=outside
        )


def test_a_request_is_called_completed_once_its_receipt_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    erased = "erased: 3 images are in no answer any more\n"
    done = asked_of(Erased("received", "erased"), monkeypatch, "forget", "--image", "i")
    assert (done.exit_code, done.output) == (0, erased)
    done = asked_of(
        Erased("received", "erased", "completed"), monkeypatch, "forget", "--image", "i"
    )
    assert done.output == (
        f"{erased}completed: no file within reach holds anything of it; signed, number 7\n"
        "  outside: a copy (you): delete it\n"
    )


def test_what_no_count_would_change_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Unheard()
    done = asked_of(one, monkeypatch, "influence", "i", "--timeout", "1")
    assert isinstance(done.exception, Rejected)
    assert done.exception.reason is Reason.UNKNOWN_ITEM
    assert one.asked == 1


def test_counts_are_waited_for_as_long_as_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Uncounted()
    done = asked_of(one, monkeypatch, "influence", "--timeout", "0.2")
    assert isinstance(done.exception, Rejected)
    assert done.exception.reason is Reason.NOT_COUNTED
    assert one.asked > 1

    one.asked = 0
    done = asked_of(one, monkeypatch, "prune", "--timeout", "0.2")
    assert isinstance(done.exception, Unavailable)
    assert "not read and compared within 0.2 s" in str(done.exception)
    assert one.asked > 1
