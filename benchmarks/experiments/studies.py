"""What is tried: each study asks the service and returns its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import service
from benchmarks.experiments.lab import lab
from benchmarks.experiments.samples import Samples, digits, drawings
from benchmarks.experiments.statistics import difference, log_law, share
from memory.model.questions import Rule
from streams.demo.emoji import OTHER_VENDORS

KS = (1, 3, 5, 10, 20, 30, 50, 100)
SIZES = (1, 2, 5, 10, 25, 50, 100, 200, 300)
CORRUPTED = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90)
DIGITS = "0123456789"
LATE_SUBCATEGORIES = 6
ROUNDS = 10


def rules_and_k(servers: service.Servers) -> dict[str, Any]:
    """Which rule, and how many neighbours (paper, figure of rules by k)."""
    remembered, chosen_by, asked = digits()
    found = {"digits": _by_rule(servers, "rules", remembered, asked)}
    on_held_out = _by_rule(servers, "held-out", remembered, chosen_by, ks=(3, 5, 10, 20))
    best = max(
        ((rule, k) for rule in on_held_out for k in on_held_out[rule]),
        key=lambda one: on_held_out[one[0]][one[1]]["percent"],
    )
    found["chosen"] = {"rule": best[0], "k": best[1], "held_out": on_held_out[best[0]][best[1]]}
    google, twitter = drawings("google"), drawings("twitter")
    found["emoji"] = _by_rule(servers, "emoji", google, twitter)
    return found


def _by_rule(
    servers: service.Servers,
    name: str,
    remembered: Samples,
    asked: Samples,
    ks: tuple[int, ...] = KS,
) -> dict[str, Any]:
    with lab(servers, name, remembered.vectors.shape[1]) as memory:
        memory.teach(remembered)
        return {
            str(rule): {str(k): share(memory.right(asked, rule=str(rule), k=k)) for k in ks}
            for rule in Rule
        }


def memory_size(servers: service.Servers) -> dict[str, Any]:
    """Accuracy as the memory grows, live, by so many more of each class."""
    remembered, _, asked = digits()
    places = [np.flatnonzero([label == digit for label in remembered.labels]) for digit in DIGITS]
    found, held = {}, 0
    with lab(servers, "size", remembered.vectors.shape[1]) as memory:
        before = 0
        for size in SIZES:
            more = remembered.take(np.concatenate([of[before:size] for of in places]))
            memory.teach(more, first=held)
            held, before = held + len(more), size
            found[str(size)] = {"items": held, **share(memory.right(asked))}
    return {"per_class": found}


def new_classes(servers: service.Servers) -> dict[str, Any]:
    """Classes arrive on a topic; what was known before stays (paper: 64 of NINCO beside a thousand)."""
    remembered, _, asked = digits()
    google, twitter = drawings("google"), drawings("twitter")
    names = sorted(set(google.labels))
    late = set(np.random.default_rng(2).permutation(names)[:LATE_SUBCATEGORIES].tolist())
    return {
        "emoji": _classes_arrive(servers, "late-emoji", google, twitter, late),
        "digits": _classes_arrive(servers, "late-digits", remembered, asked, {"8", "9"}),
    }


def _classes_arrive(
    servers: service.Servers, name: str, remembered: Samples, asked: Samples, late: set[str]
) -> dict[str, Any]:
    early = set(remembered.labels) - late
    old, new = asked.of(early), asked.of(late)
    with lab(servers, name, remembered.vectors.shape[1]) as memory:
        first = remembered.of(early)
        memory.teach(first)
        before = memory.right(old)
        memory.teach(remembered.of(late), first=len(first))
        after = memory.right(old)
        return {
            "classes": [len(early), len(late)],
            "old_before": share(before),
            "old_after": share(after),
            "old_moved": difference(before, after),
            "new_after": share(memory.right(new)),
        }


def unseen_domain(servers: service.Servers) -> dict[str, Any]:
    """Another vendor's drawings are asked for while vendors' drawings are added (paper: robustness sets)."""
    asked = drawings("twitter")
    found: dict[str, Any] = {}
    held, vendors = 0, ("google", *OTHER_VENDORS)
    with lab(servers, "domain", asked.vectors.shape[1]) as memory:
        for n, vendor in enumerate(vendors, 1):
            more = drawings(vendor)
            memory.teach(more, first=held)
            held += len(more)
            right = {k: memory.right(asked, k=k) for k in (1, 10)}
            found[" + ".join(vendors[:n])] = {
                "items": held,
                **{f"k_{k}": share(each) for k, each in right.items()},
            }
    return {"by_vendors": found}


def unlearning(servers: service.Servers) -> dict[str, Any]:
    """A class is forgotten; the answers are those of a memory that never had it."""
    remembered, _, asked = digits()
    rest, gone = asked.of("012345678"), asked.of("9")
    with lab(servers, "unlearn", remembered.vectors.shape[1]) as memory:
        memory.teach(remembered)
        before, known = memory.right(rest), memory.right(gone)
        memory.forget(label="9")
        after = memory.right(rest)
        answers = memory.ask(asked)
        forgotten = memory.right(gone)
    kept = np.flatnonzero([label != "9" for label in remembered.labels])
    with lab(servers, "never", remembered.vectors.shape[1]) as never:
        for place in _runs(kept):
            never.teach(remembered.take(place), first=int(place[0]))
        same = [
            (one.label, one.neighbors) == (other.label, other.neighbors)
            for one, other in zip(answers, never.ask(asked), strict=True)
        ]
    return {
        "rest_before": share(before),
        "rest_after": share(after),
        "rest_moved": difference(before, after),
        "class_before": share(known),
        "class_after": share(forgotten),
        "answers_as_if_never_seen": share(same),
    }


def _runs(places: Any) -> list[Any]:
    """Consecutive places together."""
    return np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)


def pruning(servers: service.Servers) -> dict[str, Any]:
    """Soft and hard pruning by wrong counts, clean and with wrong labels; and who is suspected."""
    remembered, _, asked = digits()
    found: dict[str, Any] = {}
    for name, corrupted in (("clean", 0), ("wrong_labels", 30)):
        wrong = _corrupted(remembered, corrupted)
        told = [wrong.get(n, label) for n, label in enumerate(remembered.labels)]
        with lab(servers, f"prune-{corrupted}", remembered.vectors.shape[1]) as memory:
            memory.teach(Samples(remembered.vectors, told))
            memory.wait_for_counts(asked)
            right = {
                kind: memory.right(asked, pruning=kind, k=10) for kind in ("none", "soft", "hard")
            }
            found[name] = {kind: share(each) for kind, each in right.items()}
            for kind in ("soft", "hard"):
                found[name][f"{kind}_gains"] = difference(right["none"], right[kind])
            if wrong:
                listed = [int(one.image_id[1:]) for one in memory.suspects()]
                found["suspects"] = {
                    "wrong_labels": len(wrong),
                    "of_the_first_100": share([n in wrong for n in listed[:100]]),
                    "of_all_listed": share([n in wrong for n in listed]),
                    "found": share([n in set(listed) for n in wrong]),
                }
    return found


def _corrupted(samples: Samples, percent: int) -> dict[int, str]:
    """Another label for so many of them, by number; with more percent the same and more."""
    rng = np.random.default_rng(1)
    order = rng.permutation(len(samples)).tolist()
    others = {n: rng.integers(1, len(DIGITS)) for n in order}
    return {
        n: DIGITS[(int(samples.labels[n]) + others[n]) % len(DIGITS)]
        for n in order[: len(samples) * percent // 100]
    }


def corruption(servers: service.Servers) -> dict[str, Any]:
    """More and more labels are corrected to wrong ones, live."""
    remembered, _, asked = digits()
    found: dict[str, Any] = {"rank_10": {}, "plurality_100": {}}
    with lab(servers, "corrupt", remembered.vectors.shape[1]) as memory:
        memory.teach(remembered)
        done: dict[int, str] = {}
        for percent in CORRUPTED:
            wrong = _corrupted(remembered, percent)
            memory.correct({n: label for n, label in wrong.items() if n not in done})
            done = wrong
            found["rank_10"][str(percent)] = share(memory.right(asked, k=10))
            plurality = memory.right(asked, rule="plurality", k=100)
            found["plurality_100"][str(percent)] = share(plurality)
    return found


def neighbours(servers: service.Servers) -> dict[str, Any]:
    """How often the i-th neighbour alone is right: it falls with ln i."""
    remembered, _, asked = digits()
    with lab(servers, "law", remembered.vectors.shape[1]) as memory:
        memory.teach(remembered)
        answers = memory.ask(asked, k=100)
    right = [
        [one.neighbors[i].label == label for one, label in zip(answers, asked.labels, strict=True)]
        for i in range(100)
    ]
    shown = (1, 2, 5, 10, 20, 50, 100)
    return {
        "by_rank": {str(i): share(right[i - 1]) for i in shown},
        "law": log_law([sum(each) / len(each) for each in right]),
    }


def churn(servers: service.Servers) -> dict[str, Any]:
    """Each round a hundred items are forgotten and as many others learned."""
    remembered, fresh, asked = digits()
    found: dict[str, Any] = {}
    with lab(servers, "churn", remembered.vectors.shape[1]) as memory:
        memory.teach(remembered)
        found["0"] = share(memory.right(asked))
        size = len(fresh) // ROUNDS
        for turn in range(ROUNDS):
            for n in range(turn * size, (turn + 1) * size):
                memory.forget(image=f"s{n}")
            part = fresh.take(range(turn * size, (turn + 1) * size))
            memory.teach(part, first=len(remembered) + turn * size)
            found[str(turn + 1)] = share(memory.right(asked))
    return {"by_round": found}


STUDIES: Mapping[str, Callable[[service.Servers], dict[str, Any]]] = {
    "rules and k": rules_and_k,
    "memory size": memory_size,
    "new classes": new_classes,
    "unseen domain": unseen_domain,
    "unlearning": unlearning,
    "pruning": pruning,
    "label corruption": corruption,
    "the i-th neighbour": neighbours,
    "churn": churn,
}
