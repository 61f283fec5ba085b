"""How much each part of the score is believed: weights and calibration, from mature outcomes of the champion in service.

outcomes ─> cohorts (maturity.py) ─> mature: 1. count judgements  2. calibrate what was pooled  3. weights  4. admit
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Final

import numpy as np

from features.durations import duration_us
from features.plan import Floats, Ints
from models.blend import CHAMPION, LEAST_JUDGED, FixedShare, pooled
from models.calibrator import Calibrator
from models.champion_input import is_over_champion
from models.fallback import FallbackScorer
from models.losses import present, row_losses
from models.matured import Matured
from models.maturity import NEVER_US, Judged, Maturity
from models.pipeline import Pipeline
from models.totals import WEIGHT_UNITS, weight_units

# Mature outcomes by which a learner must have been judged before it has a part in the blend.
LEAST_JUDGEMENTS = 200

# One held-out event stands for 1 / propensity events. In weights and calibration for no more than this many: a single
# label must not throw them over.
MOST_IMPORTANCE = 10.0

# The parts by which a champion answers. Any other part that is no learner's comes of one that was taken out of the
# pipeline: it is measured as long as its outcomes come, and weighs nothing.
FALLBACK: Final = FallbackScorer.name
CHAMPIONS: Final = (FALLBACK, "lightgbm")

# Outcomes after which the champion's squared error (the unit of a regression's losses) has half forgotten an old one.
_SCALE_MEMORY = 5_000


class Weighing:
    """Weights and calibrator of one pipeline.

    `champion` is the name of the champion's part, once one has answered, and `version` the version of it that is in service.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        label, spec = pipeline.label, pipeline.blend
        self._kind, self._spec = label.kind, spec
        declared = spec.mature_after
        self.maturity = Maturity(
            label.horizon_us,
            len(label.classes) or 2,
            None if declared is None else duration_us(declared, "Blend(mature_after)"),
        )
        self.weights = FixedShare(spec)
        self.calibrator = Calibrator(label.kind)
        self.champion, self.version = CHAMPION, ""
        self._answered_us = NEVER_US  # the newest event that the champion in service has answered
        self._over_champion = {one.name for one in pipeline.online if is_over_champion(one)}
        self._judgements: dict[str, int] = {}
        self._born_us: dict[
            str, int
        ] = {}  # from this event time on a learner's scores are its own (after a reset)
        self._targets = np.zeros(2)  # regression: number and sum of labels
        self._squares = np.zeros(2)  # regression: number and sum of the champion's squared errors, forgetting

    def step(self, batch: Matured, learners: Collection[str], *, frozen: bool = False) -> bool:
        """Take in one record. `learners` are those that may answer. True: another champion answers, all begins anew.

        While `frozen`, weights and calibrator stand still: what is mature is judged when labels flow again.
        """
        if not len(batch):
            return False
        learnt = batch.learnt
        for row in np.flatnonzero(batch.undoing).tolist():
            code = float(batch.codes[row]) if learnt[row] else math.nan
            self.maturity.correct(int(batch.hashes[row]), int(batch.times_us[row]), code)
        first = batch.select(learnt & ~batch.undoing)
        another = self._follow_champion(first)
        self.maturity.hold(self._judged(first, learners), int(batch.known_us.max()))
        for mature in () if frozen else self.maturity.release():
            self._judge(mature, learners)
        return another

    def scores(self, batch: Matured, learners: Collection[str]) -> dict[str, Floats]:
        """By part: that of the champion in service, and those of learners from their birth on; NaN elsewhere.

        A learner over the champion has said nothing but where that champion answered.
        """
        absent = np.full_like(batch.score, np.nan)
        current = np.fromiter((version == self.version for version in batch.champions), np.bool_, len(batch))
        scores = {CHAMPION: _where(current, batch.parts.get(self.champion, absent))}
        for name in learners:
            if name in batch.parts:
                own = batch.times_us >= self._born_us.get(name, batch.times_us)
                own = own & current if name in self._over_champion else own
                scores[name] = _where(own, batch.parts[name])
        return scores

    def drop(self, name: str) -> None:
        """The learner has no part in the blend until it was judged anew."""
        self.weights.drop(name)
        self._judgements.pop(name, None)

    def begin(self, name: str) -> None:
        """Another model answers under this name from now on; what the old one served does not judge it."""
        self.drop(name)
        self._born_us[name] = self.maturity.now_us
        self.maturity.forget(name)

    def _follow_champion(self, batch: Matured) -> bool:
        """Weights and calibration begin anew with the first outcome that another champion, or version of it, has answered.

        In service is who answered the newest event: labels of the champion before come for weeks after it. The fallback
        comes before every champion and never after one: where an operator lets it answer for a while, the champion's
        weight waits.
        """
        seen = [name for name in CHAMPIONS if name in batch.parts and present(batch.parts[name]).any()]
        if not seen or (self.champion not in (CHAMPION, FALLBACK) and seen == [FALLBACK]):
            return False
        name, answered = seen[-1], np.flatnonzero(present(batch.parts[seen[-1]]))
        newest = answered[batch.times_us[answered].argmax()]
        version, newest_us = batch.champions[newest], int(batch.times_us[newest])
        if name == self.champion and (version == self.version or newest_us <= self._answered_us):
            self._answered_us = max(self._answered_us, newest_us)
            return False
        another = self.champion != CHAMPION
        if another:
            # What is held was said of another champion. What corrected it is begun anew by whoever owns it.
            self.weights.restart()
            self.calibrator = Calibrator(self._kind)
            self.maturity.forget(CHAMPION)
        self.champion, self.version, self._answered_us = name, version, newest_us
        return another

    def _judged(self, batch: Matured, learners: Collection[str]) -> Judged:
        return Judged(
            batch.hashes,
            batch.times_us,
            batch.known_us,
            batch.codes.copy(),
            np.minimum(weight_units(batch.propensities) / WEIGHT_UNITS, MOST_IMPORTANCE),
            self._groups(batch.codes),
            self.scores(batch, learners),
        )

    def _groups(self, codes: Floats) -> Ints:
        """The class whose delay a label tells of; of a regression, below or above the mean so far."""
        if self._kind != "regression":
            return codes.astype(np.int64)
        mean = self._targets[1] / self._targets[0] if self._targets[0] else 0.0
        self._targets += np.array([len(codes), codes.sum()])
        return (codes > mean).astype(np.int64)

    def _judge(self, rows: Judged, learners: Collection[str]) -> None:
        for name in learners:
            if name in rows.scores:
                seen = int(present(rows.scores[name]).sum())
                self._judgements[name] = self._judgements.get(name, 0) + seen
        if self._spec.calibrate:
            answered = pooled(self._kind, self._spec.pool, rows.scores, self.weights.weights)
            known = present(answered) & present(rows.scores[CHAMPION])  # it corrects what this champion leads
            self.calibrator.learn(answered[known], rows.codes[known], rows.weights[known])
        self.weights.update(self._losses(rows), rows.weights)
        for name in learners:
            if self._judgements.get(name, 0) >= LEAST_JUDGEMENTS:
                self.weights.admit(name)

    def _losses(self, rows: Judged) -> dict[str, Floats]:
        """In nats, at most -log(LEAST_JUDGED) each; squared errors in units of twice the champion's mean one."""
        losses = {
            name: row_losses(self._kind, scores, rows.codes, LEAST_JUDGED)
            for name, scores in rows.scores.items()
        }
        if self._kind != "regression":
            return losses
        errors = losses[CHAMPION][~np.isnan(losses[CHAMPION])]
        self._squares *= 0.5 ** (len(errors) / _SCALE_MEMORY)
        self._squares += np.array([len(errors), errors.sum()])
        unit = 2 * self._squares[1] / self._squares[0] if self._squares[1] > 0 else 1.0
        return {name: np.minimum(loss / unit, -math.log(LEAST_JUDGED)) for name, loss in losses.items()}

    def scoring(self) -> dict[str, Any]:
        """What a scorer needs of it."""
        return {
            "pool": self._spec.pool,
            "weights": self.weights.state(),
            "champion": self.champion,
            "version": self.version,
            "calibrator": self.calibrator.state() if self._spec.calibrate else None,
        }

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {
            "maturity": self.maturity.state(),
            "weights": self.weights.state(),
            "calibrator": self.calibrator.state(),
            "champion": self.champion,
            "version": self.version,
            "answered": self._answered_us,
            "judgements": dict(self._judgements),
            "born": dict(self._born_us),
            "targets": self._targets,
            "squares": self._squares,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self.maturity.restore(state["maturity"])
        self.weights.restore(state["weights"])
        self.calibrator = Calibrator.restore(self._kind, state["calibrator"])
        self.champion, self.version = state["champion"], state["version"]
        self._answered_us = state["answered"]
        self._judgements, self._born_us = dict(state["judgements"]), dict(state["born"])
        self._targets, self._squares = state["targets"], state["squares"]


def _where(rows: Any, scores: Floats) -> Floats:
    """The scores of these rows; NaN in all others."""
    return np.where(rows if scores.ndim == 1 else rows[:, None], scores, np.nan)
