"""The demo: a memory learns, recognises, is corrected and forgets, before one's eyes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress

from memory.model.answers import Position
from memory.model.events import Selector
from memory.model.questions import NOTHING_SUPPOSED, WhatIf
from memory.model.times import SECOND, now_us
from streams import stack
from streams.client import ForgetRequest, MemoryClient
from streams.config.connections import kafka_cluster
from streams.config.settings import CACHE
from streams.contract.messages import Answer, Receipt
from streams.contract.signing import Chain, SigningKey
from streams.demo.emoji import DEMO_CATEGORIES, Sample, emoji
from streams.demo.persistent import Persistent, start
from streams.erasure.chain import read_chain

TEACHER, ASKED = "google", "twitter"
DEMO_SOURCE = "demo-app"
K = 5
TIMEOUT = 280.0
COMPLETED_SECONDS = 300.0
MEANING = {
    "received": "the log has the request",
    "fenced": "nothing of it is admitted any more",
    "erased": "it is in no answer",
    "redis_purged": "Redis' files are written anew without it",
    "log_compacted": "reading the whole log finds nothing of it",
    "answers_expired": "questions and answers from before are gone",
    "repaired": "nothing derived rests on it",
    "completed": "all of this",
}
SENT_SECONDS = 20.0
"""What is not acknowledged by then is sent again."""


class DemoError(RuntimeError):
    """The memory did not do what the demo shows."""


def run_demo(*, everything: bool, data_dir: Path | None, json_: bool) -> None:
    """Run the demo on real servers; raises `DemoError` when something is not as it must be."""
    console = Console(stderr=json_, highlight=False)
    categories = None if everything else DEMO_CATEGORIES
    console.print(f"Fetching the emoji of two vendors and the servers (kept in {CACHE})")
    taught, asked = emoji(TEACHER, CACHE, categories), emoji(ASKED, CACHE, categories)
    with (
        _stack(data_dir, console) as folder,
        closing(Persistent(folder, DEMO_SOURCE, console.print, TIMEOUT)) as client,
    ):
        summary = _show(client, taught, asked, console)
    if json_:
        print(json.dumps(summary, ensure_ascii=False))  # noqa: T201 - for a program


@contextmanager
def _stack(data_dir: Path | None, console: Console) -> Iterator[Path]:
    """A running stack, in a folder to keep or in one thrown away afterwards."""
    if data_dir is None:
        with (
            tempfile.TemporaryDirectory(prefix="visual-memory-") as folder,
            _stack(Path(folder), console) as kept,
        ):
            yield kept
        return
    console.print("Starting Kafka, Redis with search, and five workers ...")
    started = time.monotonic()
    found = start(data_dir)
    try:
        console.print(f"  up in {time.monotonic() - started:.0f} s; metrics at {found.metrics}")
        yield data_dir
    finally:
        stack.down(data_dir)


def _show(
    client: Persistent, taught: Sequence[Sample], asked: Sequence[Sample], console: Console
) -> dict[str, Any]:
    console.rule("1. It learns")
    started = time.monotonic()
    positions = _teach(client, taught, console)
    first = _query(client, asked[0], positions)
    _expect(first.status == "answered", "the memory answers after it was taught")
    console.print(
        f"  {len(taught)} classes from one image each, by {TEACHER}, searchable "
        f"{time.monotonic() - started:.1f} s after the first event"
    )

    console.rule("2. It recognises another artist's drawings")
    answers = _ask(client, asked, console)
    top1, top5 = _accuracy(answers, asked)
    console.print(
        f"  asked with {ASKED}'s drawing of each: top-1 {top1:.1%}, top-5 {top5:.1%} "
        f"(guessing: {1 / len(taught):.2%})"
    )

    console.rule("3. A person corrects it")
    example = _example(answers, asked)
    sample, before = asked[example], answers[example]
    resting_on = before.neighbors[0].image_id
    _print_answer(console, f"asked with {ASKED}'s {sample.name!r}", before)
    flipped = _query(client, sample, [_correct(client, resting_on, "my own label")])
    console.print(f"  correction sent: item {resting_on} is 'my own label'")
    _print_answer(console, "asked again", flipped)
    _expect(
        before.label == sample.name and flipped.label == "my own label",
        "the answer flips with the correction",
    )

    foretold = _explain(client, sample, resting_on, console)

    request, after = _forget(client, sample, resting_on, console)
    _expect(after.label == foretold, "what it said it would be is what it is")
    completed = _prove(client, request, console)
    console.rule()
    return {
        "classes": len(taught),
        "top1": round(top1, 4),
        "top5": round(top5, 4),
        "answer": before.label,
        "answer_after_correction": flipped.label,
        "answer_after_forgetting": after.label,
        "completed": completed,
    }


def _query(
    client: Persistent,
    sample: Sample,
    after: Sequence[Position] = (),
    what_if: WhatIf = NOTHING_SUPPOSED,
    *,
    why: bool = False,
) -> Answer:
    return client.do(
        lambda c: client.result(
            c.ask(sample.path, k=K, what_if=what_if, why=why, after=after, timeout=TIMEOUT)
        )
    )


def _explain(client: Persistent, sample: Sample, image: str, console: Console) -> str | None:
    """Show why, and return what the answer would be without an image."""
    console.rule("4. It says what would change its mind")
    why = _query(client, sample, why=True).why
    flip = None if why is None else why.flip
    if flip is None or flip.images != (image,):
        raise DemoError("the demo expected that the answer rests on one image, and it did not")
    console.print(f"  asked why: without item {image} it would be {flip.label!r}")
    supposed = _query(client, sample, what_if=WhatIf((Selector.of(image=image),)))
    _print_answer(console, "asked as if that were forgotten", supposed)
    _expect(supposed.label == flip.label, "an answer without that image is the one it named")
    return supposed.label


def _correct(client: Persistent, image: str, label: str) -> Position:
    now, event_id = now_us(), f"{client.run} corrected"
    return client.do(
        lambda c: c.correct(image, label, time=now, event_id=event_id).position(SENT_SECONDS)
    )


def _prove(client: Persistent, request: ForgetRequest, console: Console) -> int:
    """Wait until it is erased from every copy, and verify the receipts; returns the number of the last."""
    console.rule("6. It proves it")
    receipt = client.do(lambda c: c.receipt(request, "completed", COMPLETED_SECONDS))
    for stage, meaning in MEANING.items():
        took = (receipt.stages[stage] - receipt.stages["received"]) / SECOND
        console.print(f"  {stage:<16} after {took:5.1f} s  {meaning}")
    settings = client.settings()
    public = SigningKey(settings.signing_keys()[0]).public
    chain = Chain([public])
    faults = [
        chain.check(value) for value in read_chain(kafka_cluster(settings), settings.namespace)
    ]
    _expect(not any(faults), "every receipt verifies")
    console.print(
        f"  {len(faults)} receipts in one chain, each signed and verified with the key {public[:16]}…; the "
        f"last is number {chain.sequence}"
    )
    for one in receipt.outside or ():
        console.print(f"  outside: {one.what} ({one.owner}): {one.must}")
    return chain.sequence


def _forget(
    client: Persistent, sample: Sample, resting_on: str, console: Console
) -> tuple[ForgetRequest, Answer]:
    console.rule("5. It forgets")
    request, forgotten, receipt = _ask_to_forget(client, resting_on)
    after = _query(client, sample, [forgotten])
    took = (receipt.stages["erased"] - receipt.stages["received"]) / 1000
    console.print(
        f"  forget-request for item {resting_on}: receipt says erased, {took:.0f} ms after the log "
        "had it"
    )
    _print_answer(console, "asked again", after)
    _expect(
        all(n.image_id != resting_on for n in after.neighbors),
        "no answer rests on what is forgotten",
    )
    return request, after


def _ask_to_forget(client: Persistent, image: str) -> tuple[ForgetRequest, Position, Receipt]:
    def ask(to: MemoryClient) -> tuple[ForgetRequest, Position]:
        request = to.forget(image=image, event_id=f"{client.run} forgotten")
        return request, request.position(SENT_SECONDS)

    request, position = client.do(ask)
    return request, position, client.do(lambda c: c.receipt(request, "erased", SENT_SECONDS))


def _teach(client: Persistent, samples: Sequence[Sample], console: Console) -> Sequence[Position]:
    now = now_us()
    positions: dict[str, Position] = {}

    def teach(to: MemoryClient) -> None:
        pending = [
            (s, to.ingest(s.path, id=s.id, label=s.name, time=now, event_id=f"{client.run} {s.id}"))
            for s in samples
            if s.id not in positions
        ]
        for sample, one in pending:
            positions[sample.id] = one.position(SENT_SECONDS)
            progress.update(bar, completed=len(positions))

    with Progress(console=console) as progress:
        bar = progress.add_task("  teaching", total=len(samples))
        client.do(teach)
    last: dict[int, Position] = {}
    for position in sorted(positions.values(), key=lambda p: p.offset):
        last[position.partition] = position
    return list(last.values())


def _ask(client: Persistent, samples: Sequence[Sample], console: Console) -> list[Answer]:
    answers: dict[str, Answer] = {}

    def ask(to: MemoryClient) -> None:
        futures = {
            s.id: to.ask(s.path, k=K, rule="plurality", timeout=TIMEOUT)
            for s in samples
            if s.id not in answers
        }
        for name, future in futures.items():
            answers[name] = client.result(future)
            progress.update(bar, completed=len(answers))

    with Progress(console=console) as progress:
        bar = progress.add_task("  asking", total=len(samples))
        client.do(ask)
    # The nearest neighbour is the answer of a 1-NN; the other four are for top-5.
    return [_nearest(answers[sample.id]) for sample in samples]


def _accuracy(answers: Sequence[Answer], asked: Sequence[Sample]) -> tuple[float, float]:
    """Top-1 and top-5, as shares."""
    pairs = list(zip(answers, asked, strict=True))
    top1 = sum(answer.label == sample.name for answer, sample in pairs)
    top5 = sum(sample.name in [n.label for n in answer.neighbors] for answer, sample in pairs)
    return top1 / len(asked), top5 / len(asked)


def _nearest(answer: Answer) -> Answer:
    return msgspec.structs.replace(answer, label=answer.neighbors[0].label)


def _example(answers: Sequence[Answer], asked: Sequence[Sample]) -> int:
    """A question whose right answer rests on its nearest neighbour most clearly."""

    def margin(i: int) -> float:
        nearest, second = answers[i].neighbors[:2]
        return second.distance - nearest.distance if answers[i].label == asked[i].name else -1.0

    return max(range(len(asked)), key=margin)


def _print_answer(console: Console, what: str, answer: Answer) -> None:
    console.print(f"  {what}: [bold]{answer.label}[/bold], resting on")
    for n in answer.neighbors[:3]:
        console.print(f"      {n.image_id:<14} {n.label:<22} distance {n.distance:.3f}")


def _expect(condition: bool, what: str) -> None:  # noqa: FBT001 - an assertion
    if not condition:
        raise DemoError(f"the demo expected that {what}, and it did not")
