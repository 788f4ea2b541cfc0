"""The page on the experiments: its text, with every number from a file of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Shares = Mapping[str, Any]


def page(results: Mapping[str, Any]) -> str:
    """Markdown, of results of all studies."""
    machine = results["machine"]
    sections = [
        HEAD.format(date=machine["date"], cores=machine["cores"]),
        _rules(results["rules and k"]),
        _sizes(results["memory size"]),
        _classes(results["new classes"]),
        _domain(results["unseen domain"]),
        _unlearning(results["unlearning"]),
        _pruning(results["pruning"]),
        _corruption(results["label corruption"]),
        _law(results["the i-th neighbour"]),
        _churn(results["churn"]),
        MISSING,
    ]
    return "\n".join(sections)


HEAD = """# The paper's experiments, through the service

`make experiments` asks a running memory: images go in as events, labels are corrected and classes forgotten by
events, and every number below is of answers on the topic. It writes this page, its drawings and
`benchmarks/results/experiments.json`. This run: {date}, {cores} cores. Shares are in percent with Wilson's 95 % interval,
differences in points on the same questions with that of a paired bootstrap.

**Data.** *Digits*: 5,000 of MNIST, their 784 pixels at length 1 as vectors; 3,000 are remembered, 1,000 chosen by, 1,000
asked with. *Emoji*: Google's drawings of 1,641 are remembered, Twitter's asked with, as EfficientNet-Lite0 sees them,
labelled by their 96 subcategories. Both are far smaller than the paper's ImageNet and its encoders far better than these:
directions are compared, not values. Where nothing else is said k is 10 and the rule is rank.
"""
MISSING = """## Not here

The paper's taxonomy, re-ranking by a vision-language model, and a billion items.
"""


def _share(one: Shares) -> str:
    return f"{one['percent']:.1f} ({one['low']:.1f} to {one['high']:.1f})"


def _gain(one: Shares) -> str:
    return f"{one['points']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _by_k(found: Mapping[str, Mapping[str, Shares]]) -> str:
    ks = list(next(iter(found.values())))
    rows = [[rule, *(_share(found[rule][k]) for k in ks)] for rule in found]
    return _table(["rule", *(f"k = {k}" for k in ks)], rows)


def _fall(found: Mapping[str, Shares]) -> str:
    best = max(one["percent"] for one in found.values())
    return f"{found['100']['percent'] - best:+.1f}"


def _rules(found: Mapping[str, Any]) -> str:
    chosen, digits, emoji = found["chosen"], found["digits"], found["emoji"]
    falls = "; ".join(
        f"{rule} {_fall(digits[rule])} and {_fall(emoji[rule])}" for rule in ("plurality", "rank")
    )
    return f"""## Rules and k

{_by_k(digits)}
Digits. On the held-out digits {chosen["rule"]} with k = {chosen["k"]} is best ({_share(chosen["held_out"])}); with the asked ones that
choice is right for {_share(digits[chosen["rule"]][chosen["k"]])}.

{_by_k(emoji)}
Emoji. From each rule's best k to k = 100, in points, digits and emoji: {falls}. As in the paper rank falls
far less than plurality, on the digits hardly at all. With 17 drawings a subcategory the nearest alone is the best, and a
hundred neighbours reach far beyond what is alike.

![Digits](experiments/rules.svg) ![Emoji](experiments/emoji.svg)
"""


def _sizes(found: Mapping[str, Any]) -> str:
    rows = [[size, f"{one['items']:,}", _share(one)] for size, one in found["per_class"].items()]
    return f"""## Memory size

{_table(["of each class", "items", "accuracy"], rows)}
Digits; one memory that grows while it runs. As in the paper accuracy rises with the logarithm of the size and has not
stopped.

![Memory size](experiments/size.svg)
"""


def _classes(found: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{name}: {one['classes'][0]} classes, then {one['classes'][1]} more",
            _share(one["old_before"]),
            _share(one["old_after"]),
            _gain(one["old_moved"]),
            _share(one["new_after"]),
        ]
        for name, one in found.items()
    ]
    return f"""## New classes

{_table(["", "old, before", "old, after", "moved", "new, after"], rows)}
Where the new are few beside the old, as in the paper (64 beside a thousand), what was known before holds. Two digits beside
eight are another case: an 8 lies among the 3 and the 5, a 9 among the 4 and the 7, and what is near may now be called
so.
"""


def _domain(found: Mapping[str, Any]) -> str:
    rows = [
        [vendors, f"{one['items']:,}", _share(one["k_1"]), _share(one["k_10"])]
        for vendors, one in found["by_vendors"].items()
    ]
    return f"""## An unseen domain

{_table(["remembered", "items", "k = 1", "k = 10"], rows)}
Emoji: Twitter's drawings are asked with, of which none is ever remembered, while other vendors' come in. As in the paper
what was never seen is known better the more domains the memory holds.
"""


def _unlearning(found: Mapping[str, Any]) -> str:
    as_if = found["answers_as_if_never_seen"]
    return f"""## Unlearning a class

The digit 9 is forgotten by one request. The other digits: {_share(found["rest_before"])} before,
{_share(found["rest_after"])} after, {_gain(found["rest_moved"])} points. Of the nines {_share(found["class_before"])} were called so before and
{_share(found["class_after"])} after. Of all {as_if["of"]:,} answers {as_if["percent"]:.1f} % are, neighbour by neighbour and weight by
weight, those of a memory that never had a nine.
"""


def _pruning(found: Mapping[str, Any]) -> str:
    rows = [
        [
            name.replace("_", " "),
            *(_share(one[kind]) for kind in ("none", "soft", "hard")),
            *(_gain(one[f"{kind}_gains"]) for kind in ("soft", "hard")),
        ]
        for name, one in found.items()
        if name != "suspects"
    ]
    suspects = found["suspects"]
    return f"""## Pruning

{_table(["labels", "no pruning", "soft", "hard", "soft gains", "hard gains"], rows)}
Digits, rank, k = 10; wrong counts are those of the running service, the factors and thresholds the paper's, tuned on
nothing here. Both gain, as in the paper, more with wrong labels than without, by about as much as a thousand questions can
tell from nothing. Of {suspects["wrong_labels"]} wrong labels `visual-memory suspects` lists {_share(suspects["found"])} %; of the first hundred that it lists
{_share(suspects["of_the_first_100"])} % are wrong, of all {_share(suspects["of_all_listed"])} %.
"""


def _corruption(found: Mapping[str, Any]) -> str:
    percents = list(found["rank_10"])
    rows = [
        [name.replace("_", ", k = "), *(_share(found[name][percent]) for percent in percents)]
        for name in found
    ]
    return f"""## Label corruption

{_table(["wrong labels", *(f"{percent} %" for percent in percents)], rows)}
Digits; labels are corrected to wrong ones, chosen at random, while the memory runs. With a hundred neighbours that
weigh alike accuracy hardly moves up to 60 %, as in the paper; with ten by rank, best while labels are right, it falls from
30 % on: the nearest neighbour has too much of the say.

![Label corruption](experiments/corruption.svg)
"""


def _law(found: Mapping[str, Any]) -> str:
    ranks, law = list(found["by_rank"]), found["law"]
    row = [[_share(found["by_rank"][i]) for i in ranks]]
    return f"""## The i-th neighbour

{_table([f"i = {i}" for i in ranks], row)}
Digits: how often the i-th neighbour alone is right. It falls with the logarithm of its rank, {law["a"]:.3f} - {-law["b"]:.3f} ln i
(R² {law["r2"]:.3f}), which is why rank weights fit: the paper's law.

![The i-th neighbour](experiments/neighbour.svg)
"""


def _churn(found: Mapping[str, Any]) -> str:
    rounds = found["by_round"]
    last = rounds[str(len(rounds) - 1)]
    low = min(one["percent"] for one in rounds.values())
    return f"""## Churn

Ten times a hundred of 3,000 digits are forgotten, one request each, and a hundred others learned: {_share(rounds["0"])} before, {_share(last)}
after the last, {low:.1f} at the lowest.
"""
