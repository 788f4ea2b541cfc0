"""What the memory says when it is looked through: doubted labels, what pruning changes, influence."""

from __future__ import annotations

from memory.decision.recall import NOT_COUNTED, UNKNOWN_ITEM
from memory.errors import Rejected
from memory.model.answers import Findings
from memory.model.questions import About, Review
from memory.ports import Search


def review(index: Search, asked: Review) -> Findings | Rejected:
    """See `VisualMemory.review`."""
    if asked.about is About.INFLUENCE:
        total, influence = index.influence(asked.count, asked.image_id)
        if asked.image_id is not None and not influence:
            return UNKNOWN_ITEM
        return Findings(str(asked.about), total, influence=tuple(influence))
    counts = index.wrong_counts()
    if counts is None:
        return NOT_COUNTED
    if asked.about is About.SUSPECTS:
        suspects = index.suspects()
        listed = tuple(suspects[: asked.count])
        return Findings(str(asked.about), len(suspects), counts.age, suspects=listed)
    effect = index.effect_of_pruning(asked.least)
    if effect is None:
        return NOT_COUNTED
    images = effect.images[: asked.count]
    return Findings(
        str(asked.about), len(effect.images), counts.age, images=images, labels=effect.labels
    )
