"""Prequential measurement: the score that was served is judged first, by the label that came, before anybody learns from it.

    served ──(label delay)──> label: 1. measure what was served   2. weights and calibrator   3. learn   (models/learning.py)

Nothing is scored again here. A model that did not exist when an event was answered has no score there and is not judged
by it, so a learner cannot be measured by a label that it has learnt.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from features.plan import Floats
from models.decision import CostMatrix
from models.losses import present
from models.matured import Matured
from models.outcomes import SILENT
from models.rolling import MOST_MODELS, ROLLING, Rolling
from models.totals import Scored, Totals, weight_units

BLEND = "blend"
"""The name under which the score is measured that was served, whatever it was made of (serve-mode)."""


class Prequential:
    """Running figures of the served score and of each part of it: since the beginning, and over the last outcomes.

    A correction is undone and redone: afterwards the figures are those of a run in which the corrected label came first
    (those since the beginning exactly, but for regression to 1e-12; those over the last outcomes always).
    """

    def __init__(
        self, kind: str, classes: int = 2, costs: CostMatrix | None = None, rolling: int = ROLLING
    ) -> None:
        self._kind, self._classes, self._costs = kind, classes, costs
        self.outcomes: Counter[str] = Counter()
        self._totals: dict[str, Totals] = {}
        self._rolling = Rolling(kind, classes, rolling)

    def step(self, batch: Matured) -> None:
        """Measure one record of outcomes: first labels, then corrections in their order."""
        self.outcomes.update(batch.kinds)
        learnt, undoing = batch.learnt, batch.undoing
        scores = {BLEND: batch.score, **batch.parts}
        weights = weight_units(batch.propensities)
        self._count(batch, scores, weights, undoing, batch.replaced, -1)
        self._count(batch, scores, weights, learnt, batch.codes, 1)
        first = learnt & ~undoing
        if first.any():
            self._append(batch, scores, weights, first)
        for row in np.flatnonzero(undoing).tolist():
            code = float(batch.codes[row]) if learnt[row] else float("nan")
            self._rolling.correct(int(batch.hashes[row]), code)

    def figures(self) -> dict[str, dict[str, dict[str, float]]]:
        """`{model: {"rolling": {...}, "total": {...}}}`, the served score as "blend".

        `rows` counts the labels that the model was judged by. `auc_error` and `ap_error` say how far the figures since
        the beginning, which come from a histogram, can be from the exact ones.
        """
        return {
            name: {
                "rolling": self._rolling.figures(name, self._costs),
                "total": totals.figures(self._costs),
            }
            for name, totals in self._totals.items()
        }

    def delays(self) -> dict[str, float]:
        """p50 and p95 of the delay of the last labels, in seconds from event time to known."""
        return self._rolling.delays()

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {
            "outcomes": dict(sorted(self.outcomes.items())),
            "totals": {name: totals.state() for name, totals in self._totals.items()},
            "rolling": self._rolling.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        kind, classes = self._kind, self._classes
        self.outcomes = Counter(state["outcomes"])
        self._totals = {name: Totals.restore(kind, classes, kept) for name, kept in state["totals"].items()}
        self._rolling = Rolling.restore(kind, classes, state["rolling"])

    def _count(
        self,
        batch: Matured,
        scores: dict[str, Floats],
        weights: npt.NDArray[np.int64],
        chosen: npt.NDArray[np.bool_],
        codes: Floats,
        sign: int,
    ) -> None:
        if not chosen.any():
            return
        for name, served in scores.items():
            rows = chosen & present(served)
            totals = self._totals_of(name)
            if totals is not None and rows.any():
                totals.add(Scored(served[rows], codes[rows], weights[rows], batch.thresholds[rows]), sign)

    def _totals_of(self, name: str) -> Totals | None:
        if name not in self._totals and len(self._totals) < MOST_MODELS:
            self._totals[name] = Totals(self._kind, self._classes)
        return self._totals.get(name)

    def _append(
        self,
        batch: Matured,
        scores: dict[str, Floats],
        weights: npt.NDArray[np.int64],
        first: npt.NDArray[np.bool_],
    ) -> None:
        came = np.fromiter((kind != SILENT for kind in batch.kinds), np.bool_, len(batch))
        delays_s = np.where(came, (batch.known_us - batch.times_us) / 1e6, np.nan)
        self._rolling.append(
            batch.hashes[first],
            batch.codes[first],
            weights[first],
            batch.thresholds[first],
            delays_s[first],
            {name: served[first] for name, served in scores.items()},
        )
