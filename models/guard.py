"""The guard-rails of a learner: one that says nothing sensible any more is frozen before it can do harm.

A frozen learner learns no more, is scored no more, and has no part in the blend, until somebody resets or restores it. Two
things are looked at: what it says of rows that it has just learnt (every number must be finite), and how wrong its served
scores were against the champion's over the same outcomes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.losses import present, row_losses
from models.online_model import OnlineModel, taken

# Rows of a mini-batch that are scored again after learning. Weights that are not finite show in any row.
PROBED = 4

# Outcomes over which losses are averaged (an old one counts 1/e after as many), and how many there must be.
LOSS_MEMORY = 500
LEAST_OUTCOMES = 500

# Log loss, in nats: frozen above 10 times the champion's and 5 more. Saying 0.7 % where the truth was yes costs 5; a
# learner that does so on the average does not merely predict badly, it has lost its numbers.
_NATS_TIMES, _NATS_MORE = 10.0, 5.0

# Squared error: frozen above 100 times what the champion's error and the label's variance are together.
_SQUARES_TIMES = 100.0


def nonsense(model: OnlineModel, matrix: FeatureMatrix) -> str | None:
    """Why the scores of a model cannot be used; None when they can. `matrix`: rows it has just learnt.

    A model that has too little to say anything (NaN in every row) is no nonsense.
    """
    scores = model.score(taken(matrix, np.arange(min(PROBED, len(matrix)))))
    if np.isnan(scores).all():
        return None
    if not present(scores).all():
        return "its scores are not finite"
    if scores.ndim == 2 and not (np.abs(scores.sum(axis=1) - 1) < 1e-6).all():
        return "its classes do not add up to 1"
    return None


class LossGuard:
    """How wrong one learner's served scores were lately, beside the champion's over the same outcomes."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sums = np.zeros(5)  # rows, the learner's losses, the champion's, labels, their squares

    def exploded(self, part: Floats, champion: Floats, codes: Floats) -> str | None:
        """Take in n outcomes (`codes` NaN: none); says why the learner's loss cannot be borne, or None."""
        both = present(part) & present(champion) & ~np.isnan(codes)
        if not both.any():
            return None
        mine = row_losses(self._kind, part[both], codes[both])
        theirs = row_losses(self._kind, champion[both], codes[both])
        labels = codes[both]
        sums = [len(mine), mine.sum(), theirs.sum(), labels.sum(), np.square(labels).sum()]
        self._sums = self._sums * math.exp(-len(mine) / LOSS_MEMORY) + np.array(sums)
        return self._judged()

    def _judged(self) -> str | None:
        rows, mine, theirs, labels, squares = self._sums.tolist()
        if rows < LEAST_OUTCOMES * (1 - math.exp(-1)):
            return None
        loss, other = mine / rows, theirs / rows
        if self._kind == "regression":
            bearable = _SQUARES_TIMES * (other + max(squares / rows - (labels / rows) ** 2, 0.0))
        else:
            bearable = _NATS_TIMES * other + _NATS_MORE
        if loss <= bearable:
            return None
        return f"its loss is {loss:.4g}, the champion's {other:.4g}: more than {bearable:.4g} is not borne"

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {"sums": self._sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a kept state."""
        self._sums = state["sums"]
