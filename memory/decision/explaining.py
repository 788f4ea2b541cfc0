"""What an answer rests on, and what would change it."""

from __future__ import annotations

from collections.abc import Sequence

from memory.decision.flipping import smallest_flip, tolerance_of_wrong_labels
from memory.decision.values import shapley_values
from memory.decision.voting import Tally
from memory.model.answers import Contribution, Flip, Hit, Why
from memory.model.questions import MAX_REMOVED


def explain(says: Tally, hits: Sequence[Hit], winner: str) -> Why:
    """Of an answer `winner` to which `hits` voted as `says`.

    There must be `MAX_REMOVED` more hits than vote, or all that the memory holds.
    """
    sums, _ = says.result
    total = sum(sums.values())
    values = shapley_values(says, winner)
    contributions = []
    for i, hit in enumerate(hits):
        adds = says.scales[i] * says.ranks[i] if i < says.voting else 0
        contributions.append(
            Contribution(
                image_id=hit.image_id,
                label=hit.label,
                distance=hit.distance,
                share=adds / total,
                of_label=adds / sums[hit.label] if adds else 0.0,
                value=values[i] / total,
            )
        )
    change = smallest_flip(says, winner, MAX_REMOVED)
    flip = None
    if change is not None:
        flip = Flip(tuple(hits[i].image_id for i in change.places), change.label)
    return Why(
        contributions=tuple(contributions),
        flip=flip,
        more_than=min(MAX_REMOVED, len(hits)) if flip is None else None,
        survives=tolerance_of_wrong_labels(says, winner),
    )
