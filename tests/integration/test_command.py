"""The command on real images: what it prints, which exit code it ends with, what it changes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from memory.model.times import FOREVER
from streams.cli import cli
from streams.config.connections import kafka_cluster
from streams.config.settings import ENVIRONMENT_PREFIX
from streams.contract.topics import Topic
from tests.integration.running import KEY, Running, running
from tests.streams.test_topics import alter
from tests.waiting import until


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 64)).save(path)
    return path


@dataclass
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass
class Desk:
    """A memory and the command that speaks to it."""

    memory: Running
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *words: str | Path) -> Said:
        done = CliRunner().invoke(cli, [str(word) for word in words], env=dict(self.environment))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Said(done.exit_code, done.stdout, done.stderr)

    def json(self, *words: str | Path) -> dict[str, Any]:
        """What a command that ends well prints for a program."""
        said = self.run(*words, "--json")
        assert said.code == 0, (said.out, said.err)
        return said.json

    def labels(self, image: str | Path) -> dict[str, str]:
        """The labels of what an image's answer rests on, by id."""
        found = self.json("query", image, "-k", "100")["neighbors"]
        return {neighbor["id"]: neighbor["label"] for neighbor in found}

    def teach(self, name: str, seed: int, label: str = "cat", **options: str) -> Path:
        """An image of this id, learned by the memory."""
        image = draw(self.folder / label / f"{name}.png", seed)
        more = [part for option in options.items() for part in option]
        done = self.json("ingest", image, "--id", name, *more)
        sent = {"accepted": 1, "rejected": 0, "visible": 1, "in_time": True}
        assert done == {**sent, "passed_over": {}, "reasons": []}
        return image


@pytest.fixture(scope="module")
def desk(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("command")
    name = f"{folder.name}-{folder.parent.name}-"
    values = {
        "kafka": kafka_bootstrap,
        "redis": redis_url,
        "topic_prefix": name,
        "namespace": name,
        "hmac_key": KEY,
    }
    with running(
        folder,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=name,
        workers={"ingest": 1, "correct": 1, "forget": 1, "query": 1},
        embedder="lite0",
    ) as memory:
        environment = {f"{ENVIRONMENT_PREFIX}{n.upper()}": value for n, value in values.items()}
        yield Desk(memory, folder / "photos", environment)


def test_a_folder_is_taught_asked_corrected_and_forgotten(desk: Desk, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for n, label in enumerate(("cat", "cat", "dog")):
        draw(photos / label / f"{n}.png", n)
    (photos / "dog" / "bad.png").write_bytes(b"no image")

    taught = desk.run("ingest", photos, "--subject", "ada", "--source", "album", "--json")
    assert taught.code == 1
    counts = {name: taught.json[name] for name in ("accepted", "rejected", "visible")}
    assert counts == {"accepted": 3, "rejected": 1, "visible": 3}
    assert taught.json["reasons"][0]["reason"] == "not-an-image"

    answer = desk.json("query", photos / "dog" / "2.png", "-k", "1")
    assert (answer["label"], answer["neighbors"][0]["id"]) == ("dog", "dog/2.png")

    desk.json("correct", "dog/2.png", "wolf")
    desk.memory.wait_until_merged()
    answer = desk.json("query", "--item", "cat/0.png", "--rule", "plurality")
    assert {n["id"]: n["label"] for n in answer["neighbors"]} == {
        "cat/1.png": "cat",
        "dog/2.png": "wolf",
    }

    assert desk.json("forget", "--label", "wolf")["images"] == 1
    assert desk.json("forget", "--subject", "ada")["images"] == 2
    assert desk.json("query", photos / "dog" / "2.png")["status"] == "empty"

    desk.memory.wait_until_merged()
    found = desk.json("status")
    assert (found["items"], found["labels"]) == (0, 0)
    assert {lag["lag"] for lag in found["lag"]} == {0}
    assert desk.json("topics", "--check")["problems"] == []


def test_an_image_is_known_by_the_id_and_the_label_that_are_given(desk: Desk) -> None:
    image = desk.teach("by-name", 10, "fox", **{"--label": "vixen"})
    assert desk.labels(image)["by-name"] == "vixen"
    answer = desk.json("query", "--item", "by-name", "-k", "1")
    assert "by-name" not in [n["id"] for n in answer["neighbors"]]


def test_a_correction_is_taken_back(desk: Desk) -> None:
    image = desk.teach("withdrawn", 11)
    sent = desk.json("correct", "withdrawn", "lynx")
    assert sent["topic"] == kafka_cluster(desk.memory.settings).full_name(Topic.LABEL_CORRECTION)
    desk.memory.wait_until_merged()
    assert desk.labels(image)["withdrawn"] == "lynx"
    said = desk.run("correct", "withdrawn", "--withdraw")
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith(f"sent: {sent['topic']}[")
    desk.memory.wait_until_merged()
    assert desk.labels(image)["withdrawn"] == "cat"


@pytest.mark.parametrize("permanent", [False, True])
def test_what_is_forgotten_for_ever_is_told_from_what_may_come_back(
    desk: Desk, *, permanent: bool
) -> None:
    name = f"gone-{permanent}"
    image = desk.teach(name, 12 + permanent)
    receipt = desk.json("forget", "--image", name, *(["--permanent"] if permanent else []))
    assert (receipt["stage"], receipt["images"]) == ("erased", 1)
    assert (receipt["until"] == FOREVER) is permanent
    again = desk.run("ingest", image, "--id", name, "--json")
    assert again.code == 1, "until then it is not admitted"
    assert again.json["reasons"][0]["reason"] == "forgotten"
    assert name not in desk.labels(image)


def test_a_person_reads_what_was_done(desk: Desk) -> None:
    image = draw(desk.folder / "owl" / "read.png", 20)
    said = desk.run("ingest", image)
    assert (said.code, said.out) == (0, "")
    assert "accepted 1, rejected 0, visible 1" in said.err

    said = desk.run("query", image, "-k", "1")
    assert said.code == 0
    assert "owl (100%)" in said.err
    assert "read.png" in said.err

    said = desk.run("status")
    assert said.code == 0
    assert f"items: {desk.json('status')['items']}" in said.err
    assert "digest: " in said.err

    said = desk.run("forget", "--label", "owl")
    assert said.code == 0
    assert "erased: 1 images are in no answer any more" in said.err
    said = desk.run("forget", "--image", "read.png", "--wait", "sent")
    assert said.code == 0
    assert "sent as " in said.err


def test_a_name_is_found_however_it_is_spelt_and_a_forget_of_nothing_says_so(desk: Desk) -> None:
    """A Mac decomposes the names of its files: there the accent of José is a letter of its own."""
    composed, apart = "José", "Jose\u0301"
    image = desk.teach(f"of {apart}", 30, **{"--subject": apart, "--source": "mac"})
    assert desk.json("query", "--item", f"of {composed}")["status"] in ("answered", "empty")
    for wrong in ("josé", "Jose"):
        said = desk.run("forget", "--subject", wrong)
        assert said.code == 1
        assert "nothing matched" in said.err
        assert "erased" not in said.err
    said = desk.run("forget", "--subject", "Jos", "--json")
    assert (said.code, said.json["status"], said.json["matched"]) == (1, "unmatched", 0)
    assert f"of {composed}" in desk.labels(image)
    receipt = desk.json("forget", "--subject", composed)
    assert (receipt["status"], receipt["matched"], receipt["images"]) == ("matched", 1, 1)
    assert f"of {composed}" not in desk.labels(image)


def test_what_a_terminal_would_obey_is_shown_and_not_done(desk: Desk) -> None:
    """Markup, names of emoji, and a name of a file that takes the screen over."""
    names = ["IMG_7 [final].png", "x[/b].png", "[red]", ":cat:", "http://a/" + "long" * 40]
    images = [draw(desk.folder / "odd" / f"{n}.png", 60 + n) for n in range(len(names))]
    for image, name in zip(images, names, strict=True):
        desk.json("ingest", image, "--id", name, "--label", f"label of {name}")
    for image, name in zip(images, names, strict=True):
        said = desk.run("query", image, "-k", "1")
        assert said.code == 0, said
        assert f"label of {name} (100%)" in said.err
        _, table = said.err.split("┡")
        ids = [row.split("│")[2].strip() for row in table.splitlines() if row.startswith("│")]
        assert "".join(ids).replace(" ", "") == name.replace(" ", "")
    evil = desk.folder / "odd" / "\x1b[31mred\nline.png"
    evil.write_bytes(b"no image")
    said = desk.run("ingest", evil)
    assert said.code == 1
    assert "\x1b" not in said.err
    assert r"\x1b[31mred\nline.png: invalid-id" in said.err


def test_json_is_json_whatever_a_file_is_called(desk: Desk, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m.png")
    draw(tmp_path / "good.png", 80).with_name(name).write_bytes(b"no image")
    said = desk.run("ingest", tmp_path, "--json")
    assert said.code == 1
    assert (said.json["accepted"], said.json["rejected"]) == (1, 1)
    assert said.json["reasons"][0]["file"] == str(tmp_path / name)


def test_files_of_one_name_in_two_folders_are_two_images(desk: Desk, tmp_path: Path) -> None:
    months = [
        draw(tmp_path / name / "IMG_0001.png", n).parent for n, name in enumerate(("ma", "ap"))
    ]
    done = desk.json("ingest", *months)
    assert (done["accepted"], done["visible"]) == (2, 2)
    assert desk.labels(months[0] / "IMG_0001.png").items() >= {
        ("ma/IMG_0001.png", "ma"),
        ("ap/IMG_0001.png", "ap"),
    }


def test_what_cannot_be_read_or_is_no_image_is_named_and_the_rest_taken(
    desk: Desk, tmp_path: Path
) -> None:
    draw(tmp_path / "album" / "good.png", 90)
    (tmp_path / "album" / "film.mov").touch()
    (tmp_path / "album" / "gone.png").symlink_to(tmp_path / "nowhere")
    said = desk.run("ingest", tmp_path / "album", tmp_path / "typo.png")
    assert said.code == 1
    assert "gone.png: unreadable: No such file or directory" in said.err
    assert "typo.png: unreadable: No such file or directory" in said.err
    assert "passed over: 1 .mov" in said.err
    assert "accepted 1, rejected 2, visible 1" in said.err


def test_nothing_sent_is_no_success(desk: Desk, tmp_path: Path) -> None:
    assert desk.run("ingest", tmp_path).code == 1
    for n in range(2):
        (tmp_path / f"{n}.mov").touch()
    said = desk.run("ingest", tmp_path)
    assert said.code == 1
    assert "passed over: 2 .mov" in said.err
    assert "no image is there; images end with" in said.err
    assert desk.run("ingest", tmp_path, "--json").json["passed_over"] == {".mov": 2}


def test_a_folder_is_no_question(desk: Desk, tmp_path: Path) -> None:
    said = desk.run("query", tmp_path)
    assert said.code == 2
    assert "is a directory" in said.err


def test_why_and_what_if_are_asked_for_by_option(desk: Desk) -> None:
    for n, label in enumerate(("blot", "blot", "spot")):
        desk.teach(f"why-{n}", 700 + n, label)
    asked = ("query", "--item", "why-0", "-k", "100")
    plain = desk.json(*asked, "--why")
    assert "supposed" not in plain
    values = [each["value"] for each in plain["why"]["contributions"]]
    assert sum(values) == pytest.approx(plain["shares"][plain["label"]])
    flip = plain["why"]["flip"]
    without = [part for image in flip["images"] for part in ("--without", f"image={image}")]
    flipped = desk.json(*asked, *without)
    assert (flipped["label"], flipped["supposed"]) == (flip["label"], True)
    ids = {each["id"] for each in desk.json(*asked, "--without", "label=blot")["neighbors"]}
    assert "why-1" not in ids
    assert "why-2" in ids
    assert desk.json(*asked, "--weight", "image=why-2=1e6")["label"] == "spot"
    assert desk.json(*asked, "--plus", "why-2")["neighbors"][0]["id"] == "why-2"
    shown = desk.run(*asked, "--why", "--minus", "why-2").err
    assert "as the question supposes" in shown
    assert "value" in shown


def test_items_that_their_neighbours_call_otherwise_are_listed_for_review(desk: Desk) -> None:
    for n in range(8):
        desk.teach(f"grey-{n}", 720 + n, "noise")
    desk.teach("odd", 728, "no noise")

    def listed() -> dict[str, dict[str, Any]]:
        return {one["id"]: one for one in desk.json("suspects", "--count", "1000")["suspects"]}

    until(lambda: "odd" in listed(), what=listed)
    odd = listed()["odd"]
    assert (odd["label"], odd["wrong"] > 0) == ("no noise", True)
    assert odd["share"] > odd["own_share"]
    shown = desk.run("suspects").err
    assert "items may have a wrong label" in shown
    assert "odd" in shown
    desk.json("correct", "odd", "no noise")  # a person says that it is right
    until(lambda: "odd" not in listed(), what=listed)
    soft = desk.json("query", "--item", "grey-0", "--pruning", "none")
    assert "pruning" not in soft
    until(lambda: desk.run("query", "--item", "grey-0", "--pruning", "soft").code == 0)
    said = desk.run("query", "--item", "grey-0", "--pruning", "soft").err
    assert "soft pruning, by counts of" in said
    hard = desk.json("query", "--item", "grey-0", "--pruning", "hard")
    assert (hard["pruning"], hard["reliability_age"] >= 0) == ("hard", True)


def test_what_would_go_is_counted_and_nothing_goes(desk: Desk) -> None:
    for n in range(3):
        desk.teach(f"dune-{n}", 780 + n, "dune" if n else "sand", **{"--subject": "fatima"})
    until(lambda: desk.run("query", "--item", "dune-0").code == 0)
    for named, labels in (
        (("--subject", "fatima"), {"dune": 2, "sand": 1}),
        (("--label", "sand"), {"sand": 1}),
        (("--image", "dune-1"), {"dune": 1}),
        (("--image", "nobody's"), {}),
        (("--source", "nobody"), {}),
    ):
        would = desk.json("forget", *named, "--dry-run")
        assert (would["images"], would["labels"]) == (sum(labels.values()), labels)
    assert "3 images would go now" in desk.run("forget", "--subject", "fatima", "--dry-run").err
    assert desk.json("query", "--item", "dune-0")["status"] == "answered"


def test_a_data_subjects_request_is_taken_from_its_file(desk: Desk, tmp_path: Path) -> None:
    desk.teach("reed-0", 790, "reed", **{"--subject": "gustav"})
    file = tmp_path / "request.json"
    identity = {"identity_type": "email", "identity_value": "gustav", "identity_format": "raw"}
    request = {
        "regulation": "gdpr",
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "submitted_time": "2025-06-01T15:00:00Z",
        "subject_identities": [identity],
    }
    file.write_text(json.dumps(request))
    done = desk.json("forget", "--request", file)
    assert (done["images"], done["regulation"], done["status"]) == (1, "gdpr", "matched")
    assert done["submitted"] == 1_748_790_000_000_000
    again = desk.json("forget", "--request", file)
    assert (again["request"], again["status"]) == (done["request"], "repeated")
    assert "gustav" not in json.dumps(done)
    for text in ("[]", "{", '{"regulation": "gdpr"}'):
        file.write_text(text)
        with pytest.raises(AssertionError, match="invalid") if "gdpr" in text else nullcontext():
            assert desk.run("forget", "--request", file).code == 2
    assert desk.run("forget", "--request", file, "--subject", "gustav").code == 2


def test_it_abstains_where_the_leading_label_has_too_small_a_share(desk: Desk) -> None:
    for n, label in enumerate(("dawn", "dusk")):
        desk.teach(f"sky-{n}", 760 + n, label)
    asked = ("query", "--item", "sky-0", "-k", "100", "--min-share", "1")
    answer = desk.json(*asked)
    assert (answer["status"], answer["label"]) == ("abstained", None)
    assert len(answer["shares"]) > 1
    assert "abstained: " in desk.run(*asked).err
    assert desk.run("query", "--item", "sky-0", "--min-share", "2").code == 2


def test_how_often_an_item_voted_and_decided_is_told(desk: Desk) -> None:
    for n in range(2):
        desk.teach(f"moss-{n}", 770 + n, "moss")
    desk.json("query", "--item", "moss-0", "-k", "1")
    nearest = desk.json("query", "--item", "moss-0", "-k", "1")["neighbors"][0]["id"]

    def influence() -> dict[str, Any]:
        (found,) = desk.json("influence", nearest)["influence"]
        return dict(found)

    until(lambda: influence()["neighbor"] >= 2, what=influence)
    assert desk.json("influence", "--count", "1000")["total"] >= 1
    assert nearest in desk.run("influence", nearest).err
    desk.json("forget", "--image", nearest)
    with pytest.raises(AssertionError, match="unknown-item"):  # which the command's entry prints
        desk.run("influence", nearest)


def test_what_is_pruned_is_in_no_answer_until_it_is_taken_back(desk: Desk) -> None:
    for n in range(3):
        desk.teach(f"leaf-{n}", 740 + n, "leaf")
    asked = ("query", "--item", "leaf-0", "-k", "100")

    def cited() -> set[str]:
        return {each["id"] for each in desk.json(*asked)["neighbors"]}

    assert {"leaf-1", "leaf-2"} <= cited()
    dry = desk.json("prune", "leaf-1")
    assert dry == {"how": "dry-run", "images": ["leaf-1"], "labels": {}}
    assert "1 images go" in desk.run("prune", "leaf-1", "--apply").err
    until(lambda: "leaf-1" not in cited(), what=cited)
    assert "leaf-2" in cited()
    desk.teach("twig", 743, "twig")
    assert desk.run("query", "--item", "leaf-1").code == 1
    assert desk.json("prune", "--undo")["images"] == ["leaf-1"]
    until(lambda: "leaf-1" in cited(), what=cited)
    effect = desk.json("prune", "--from", "1")
    assert effect["images"]
    assert sum(one["gone"] for one in effect["labels"].values()) == len(effect["images"])
    shown = desk.run("prune", "--from", "100000").err
    assert "0 images would go" in shown
    assert "called right before" in shown


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--without", "label=nobody"], 1, "rejected unknown-exclusion"),
        (["--without", "image=why-3"], 1, "rejected unknown-exclusion"),
        (["--plus", "nobody"], 1, "rejected unknown-item"),
        (["--without", "person=x"], 2, "write image=, subject=, source= or label= and a name"),
        (["--without", "label"], 2, "the label"),
        (["--weight", "label=x=-1"], 2, "a number from 0 to 1e+06"),
        (["--weight", "subject=x=1"], 2, "write image= or label="),
        (["--weight", "label=x=much"], 2, "write image= or label="),
    ],
)
def test_what_cannot_be_supposed_is_told(
    desk: Desk, options: list[str], code: int, said: str
) -> None:
    desk.teach("supposed", 710)
    done = desk.run("query", "--item", "supposed", *options)
    assert done.code == code
    assert said in " ".join(done.err.split()).replace("│ ", "")


def test_a_question_without_an_answer_ends_with_1_and_says_why(desk: Desk) -> None:
    said = desk.run("query", "--item", "nobody")
    assert said.code == 1
    assert "rejected unknown-item" in said.err
    assert desk.run("query", "--item", "nobody", "--json").json["status"] == "rejected"


def test_a_rejected_image_ends_with_1_and_its_reason(desk: Desk, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    said = desk.run("ingest", bad)
    assert said.code == 1
    assert "accepted 0, rejected 1, visible 0" in said.err
    assert "not-an-image" in said.err


def test_a_difference_in_the_topics_ends_with_1_and_is_named(desk: Desk) -> None:
    name = kafka_cluster(desk.memory.settings).full_name(Topic.FORGET_RECEIPT)
    alter(desk.memory.settings.kafka, name, retention_ms="1000")
    try:
        for words in (["topics", "--check"], ["topics"]):
            said = desk.run(*words)
            assert said.code == 1
            assert f"{name}: retention.ms is 1000" in said.err
            assert "9 topics, 1 problems" in said.err
        assert len(desk.run("topics", "--check", "--json").json["problems"]) == 1
    finally:
        alter(desk.memory.settings.kafka, name, retention_ms="-1")


def test_topics_are_brought_to_what_the_settings_say(desk: Desk) -> None:
    """As with a larger limit for images, which the topics of before do not take."""
    limit = {"VISUAL_MEMORY_MAX_IMAGE_BYTES": str(3 << 20)}
    larger = Desk(desk.memory, desk.folder, {**desk.environment, **limit})
    said = larger.run("topics", "--check")
    assert said.code == 1
    assert "max.message.bytes" in said.err
    assert "visual-memory topics --configure" in said.err
    assert larger.run("topics", "--check", "--configure").code == 2
    changes = larger.json("topics", "--configure")["changes"]
    assert changes
    assert all(re.search(r"max\.message\.bytes was \d+, is \d+", change) for change in changes)
    assert larger.run("topics", "--check").code == 0
    assert desk.json("topics", "--configure")["changes"] == [], "nothing is made smaller"


def test_only_looking_creates_no_topic(
    desk: Desk, kafka_bootstrap: str, unique: Callable[[str], str]
) -> None:
    name = unique("looking")
    other = Desk(desk.memory, desk.folder, {**desk.environment, "VISUAL_MEMORY_TOPIC_PREFIX": name})
    for _ in range(2):
        said = other.run("topics", "--check")
        assert said.code == 1
        assert said.err.count("the topic is missing") == len(Topic)
    assert other.run("topics").code == 0
    assert other.run("topics", "--check").code == 0


def test_nothing_secret_is_printed(desk: Desk) -> None:
    """Not by what reads the settings, nor by what lists them."""
    secret = {
        **desk.environment,
        "VISUAL_MEMORY_REDIS": desk.environment["VISUAL_MEMORY_REDIS"].replace(
            "redis://", "redis://:correct-horse@"
        ),
        "VISUAL_MEMORY_HMAC_KEY": "ab" * 32,
    }
    mistaken = Desk(desk.memory, desk.folder, secret)
    for words in (["settings"], ["permissions"], ["topics"]):
        said = mistaken.run(*words)
        assert said.code == 0
        assert "correct-horse" not in said.out + said.err
        assert "ab" * 32 not in said.out + said.err
