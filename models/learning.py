"""Everything that learns in a pipeline, stepped by records of `outcomes`: one record, one mini-batch.

    1. measure    what was served is judged by the labels that came (models/prequential.py)
    2. weigh      mature cohorts move the blend's weights and the calibrator (models/maturity.py, blend.py, calibrator.py)
    3. learn      every learner that is not frozen learns the labels (models/guard.py watches)

The order is the point: nothing is measured that has learnt the label, and nothing answers by a label that is not mature.
Learners do learn at once, label by label as they come: they follow what is new, and how far they are believed is decided
by step 2 alone.

No clock is read and no random number drawn, so equal records give equal bytes, wherever a restart cuts between them.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.durations import duration_us
from features.errors import DeveloperError, SnapshotError
from features.plan import Floats, Ints
from models.blend import CHAMPION, LEAST_JUDGED, FixedShare, pooled
from models.blend_scorer import SCORING_FORMAT
from models.calibrator import Calibrator
from models.decision import CostMatrix
from models.fallback import FallbackScorer
from models.guard import LossGuard, nonsense
from models.losses import present, row_losses
from models.matured import Matured
from models.maturity import NEVER_US, Judged, Maturity
from models.online_model import LearnerSpec, OnlineModel
from models.pipeline import Pipeline
from models.prequential import BLEND, Prequential, id_hash
from models.snapshot import part_of
from models.state_bytes import pack_state, unpack_state
from models.totals import WEIGHT_UNITS, weight_units

log = logging.getLogger(__name__)

STATE_FORMAT: Final = 1

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


@dataclass
class _Learner:
    """A learner and what is known of it. `born_us`: event time from which its scores are its own (after a reset)."""

    spec: LearnerSpec
    model: OnlineModel
    guard: LossGuard
    learnt: int = 0
    judged: int = 0
    born_us: int = NEVER_US
    frozen: str | None = None

    def state(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in ("learnt", "judged", "born_us", "frozen")}
        return {
            **kept,
            "identity": self.spec.identity,
            "guard": self.guard.state(),
            "model": self.model.state_bytes(),
        }


class Learning:
    """The learning side of one pipeline.

    `Learning(pipeline)` knows nothing yet; `Learning.restore(pipeline, state)` goes on where `state()` was taken, bit for
    bit. `step` takes each record of outcomes once and in order; who calls it sees to that.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        label = pipeline.label
        self._pipeline, self._kind = pipeline, label.kind
        self._blend = pipeline.blend
        costs = pipeline.decide if isinstance(pipeline.decide, CostMatrix) else None
        classes = len(label.classes) or 2
        declared = self._blend.mature_after
        self._prequential = Prequential(label.kind, classes, costs)
        self._maturity = Maturity(
            label.horizon_us,
            classes,
            None if declared is None else duration_us(declared, "Blend(mature_after)"),
        )
        self._weights = FixedShare(self._blend)
        self._calibrator = Calibrator(label.kind)
        self._learners = {spec.name: self._new(spec) for spec in pipeline.online}
        self._champion = CHAMPION  # the name of the newest champion's part
        self._targets = np.zeros(2)  # regression: number and sum of labels
        self._squares = np.zeros(2)  # regression: number and sum of the champion's squared errors, forgetting

    def step(self, batch: Matured) -> None:
        """Take in one record of outcomes, in the numbered order of this module."""
        self._prequential.step(batch)
        self._weigh(batch)
        self._learn(batch)

    # ---- 2. weigh

    def _weigh(self, batch: Matured) -> None:
        for row in np.flatnonzero(batch.undoing).tolist():
            code = float(batch.codes[row]) if batch.learnt[row] else math.nan
            self._maturity.correct(id_hash(batch.event_ids[row]), int(batch.times_us[row]), code)
        if not len(batch):
            return
        first = batch.select(batch.learnt & ~batch.undoing)
        self._follow_champion(first)
        for mature in self._maturity.take(self._judged(first), int(batch.known_us.max())):
            self._judge(mature)

    def _judged(self, batch: Matured) -> Judged:
        return Judged(
            np.array([id_hash(event_id) for event_id in batch.event_ids], np.uint64),
            batch.times_us,
            batch.known_us,
            batch.codes.copy(),
            np.minimum(weight_units(batch.propensities) / WEIGHT_UNITS, MOST_IMPORTANCE),
            self._groups(batch.codes),
            self._scores(batch),
        )

    def _scores(self, batch: Matured) -> dict[str, Floats]:
        """By part: the champion's under that name, the learners' where they were born already."""
        absent = np.full_like(batch.score, np.nan)
        scores = {CHAMPION: batch.parts.get(self._champion, absent)}
        for name, learner in self._learners.items():
            if name in batch.parts:
                born = _like(batch.times_us >= learner.born_us, batch.score)
                scores[name] = np.where(born, batch.parts[name], np.nan)
        return scores

    def _follow_champion(self, batch: Matured) -> None:
        """Weights and calibration begin anew with the first outcome that another champion has answered.

        The fallback comes before every champion and never after one: where an operator lets it answer for a while, the
        champion's weight waits.
        """
        seen = [name for name in CHAMPIONS if name in batch.parts and present(batch.parts[name]).any()]
        if not seen or seen[-1] == self._champion or (self._champion != CHAMPION and seen == [FALLBACK]):
            return
        if self._champion != CHAMPION:
            self._weights.restart()
            self._calibrator = Calibrator(self._kind)
            self._maturity.forget(CHAMPION)
        self._champion = seen[-1]

    def _groups(self, codes: Floats) -> Ints:
        if self._kind != "regression":
            return codes.astype(np.int64)
        mean = self._targets[1] / self._targets[0] if self._targets[0] else 0.0
        self._targets += np.array([len(codes), codes.sum()])
        return (codes > mean).astype(np.int64)

    def _judge(self, rows: Judged) -> None:
        for name, learner in self._learners.items():
            if name in rows.scores and learner.frozen is None:
                learner.judged += int(present(rows.scores[name]).sum())
        answered = pooled(self._kind, self._blend.pool, rows.scores, self._weights.weights)
        known = present(answered)
        if self._blend.calibrate:
            self._calibrator.learn(answered[known], rows.codes[known], rows.weights[known])
        self._weights.update(self._losses(rows), rows.weights)
        for name, learner in self._learners.items():
            if learner.judged >= LEAST_JUDGEMENTS and learner.frozen is None:
                self._weights.admit(name)

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

    # ---- 3. learn

    def _learn(self, batch: Matured) -> None:
        learnt = batch.select(batch.learnt)
        if not len(learnt):
            return
        scores = self._scores(learnt)
        for name, learner in self._learners.items():
            if learner.frozen is None:
                reason = self._trained(learner, learnt)
                if reason is None and name in scores:
                    reason = learner.guard.exploded(scores[name], scores[CHAMPION], learnt.codes)
                if reason is not None:
                    self._freeze(name, reason)

    def _trained(self, learner: _Learner, learnt: Matured) -> str | None:
        """Why the learner cannot go on after these rows; None when it can."""
        try:
            learner.model.learn(learnt.matrix, learnt.codes)
            learner.learnt += len(learnt)
            return nonsense(learner.model, learnt)
        except Exception as error:
            # It is somebody's model: whatever it raises, the others go on. Its words may differ from run to run (they
            # may name addresses), and stay out of the state.
            log.exception("learner %s cannot learn", learner.spec.name)
            return f"it raised {type(error).__name__}"

    def _freeze(self, name: str, reason: str) -> None:
        log.error("learner %s is frozen: %s", name, reason)
        self._learners[name].frozen = reason
        self._weights.drop(name)

    # ---- commands

    def freeze(self, name: str) -> None:
        """The learner learns no more and has no part in the blend, until `reset` or `restore_learner`."""
        self._freeze(self._known(name), "by command")

    def reset(self, name: str) -> None:
        """The learner begins anew; what was served by the old one no longer counts for its weight."""
        self._begin(self._new(self._learners[self._known(name)].spec))

    def restore_learner(self, name: str, state: bytes) -> None:
        """The learner is as it was in an older `state()`; its weight is earned anew.

        Raises SnapshotError when that state does not hold this learner.
        """
        spec = self._learners[self._known(name)].spec
        kept = _opened(state)["learners"].get(name)
        if kept is None or kept["identity"] != spec.identity:
            raise SnapshotError(f"the older state holds no learner {name} of the same declaration")
        restored = self._new(spec)
        restored.model = spec.restore(self._pipeline, part_of(state, kept["model"]))
        restored.learnt = kept["learnt"]
        self._begin(restored)

    def _begin(self, learner: _Learner) -> None:
        name = learner.spec.name
        learner.born_us = self._maturity.now_us
        self._learners[name] = learner
        self._weights.drop(name)
        self._maturity.forget(name)

    def _new(self, spec: LearnerSpec) -> _Learner:
        return _Learner(spec, spec.make(self._pipeline), LossGuard(self._kind))

    def _known(self, name: str) -> str:
        if name not in self._learners:
            raise DeveloperError(
                f"there is no learner {name!r}; pipeline {self._pipeline.name} has: "
                f"{', '.join(self._learners) or 'none'}"
            )
        return name

    # ---- what comes out

    def scoring(self) -> bytes:
        """What `BlendScorer` needs, and no more. Frozen learners are left out."""
        return pack_state(
            {
                "format": SCORING_FORMAT,
                "pool": self._blend.pool,
                "weights": self._weights.state(),
                "champion": self._champion,
                "calibrator": self._calibrator.state() if self._blend.calibrate else None,
                "learners": {
                    name: learner.model.scoring_bytes()
                    for name, learner in self._learners.items()
                    if learner.frozen is None
                },
            }
        )

    def state(self) -> bytes:
        """Everything, bit for bit; equal runs give equal bytes."""
        return pack_state(
            {
                "format": STATE_FORMAT,
                "prequential": self._prequential.state(),
                "maturity": self._maturity.state(),
                "weights": self._weights.state(),
                "calibrator": self._calibrator.state(),
                "champion": self._champion,
                "targets": self._targets,
                "squares": self._squares,
                "learners": {name: learner.state() for name, learner in self._learners.items()},
            }
        )

    @classmethod
    def restore(cls, pipeline: Pipeline, state: bytes) -> Learning:
        """Goes on where `state()` was taken. A learner that is new in the pipeline, or declared otherwise, begins anew.

        Raises SnapshotError for bytes that are no such state.
        """
        kept, learning = _opened(state), cls(pipeline)
        learning._prequential.restore(kept["prequential"])
        learning._maturity.restore(kept["maturity"])
        learning._weights.restore(kept["weights"])
        learning._calibrator = Calibrator.restore(pipeline.label.kind, kept["calibrator"])
        learning._champion = kept["champion"]
        learning._targets, learning._squares = kept["targets"], kept["squares"]
        for name in kept["learners"]:
            learner = learning._learners.get(name)
            if learner is None or learner.spec.identity != kept["learners"][name]["identity"]:
                learning._weights.drop(name)
                learning._maturity.forget(name)
            else:
                learning._restore(learner, kept["learners"][name], state)
        return learning

    def _restore(self, learner: _Learner, kept: dict[str, Any], state: bytes) -> None:
        learner.model = learner.spec.restore(self._pipeline, part_of(state, kept["model"]))
        learner.guard.restore(kept["guard"])
        learner.learnt, learner.judged = kept["learnt"], kept["judged"]
        learner.born_us, learner.frozen = kept["born_us"], kept["frozen"]

    def figures(self) -> dict[str, Any]:
        """What `driftwood models` shows, as plain numbers and texts; docs/evaluation.md explains each.

        `models` has a row for the served score ("blend"), for each batch model that has answered, and for each learner:
        `rolling` and `total` figures, `weight` in the blend, `frozen` (why, or None) and `learnt` (labels).
        """
        measured = self._prequential.figures()
        outcomes = dict(sorted(self._prequential.outcomes.items()))
        names = [*measured, *(name for name in self._learners if name not in measured)]
        return {
            "matured": measured.get(BLEND, {}).get("total", {}).get("rows", 0),
            "outcomes": outcomes,
            "label_delay_s": self._prequential.delays(),
            "maturity": self._maturity.figures(),
            "calibrator": self._calibrator.figures(),
            "models": {name: self._row(name, measured.get(name)) for name in names},
        }

    def _row(self, name: str, measured: dict[str, dict[str, float]] | None) -> dict[str, Any]:
        learner = self._learners.get(name)
        weight = self._weights.weights.get(CHAMPION if name == self._champion else name, 0.0)
        return {
            **(measured or {"rolling": {"rows": 0}, "total": {"rows": 0}}),
            "weight": None if name == BLEND else weight,
            "frozen": None if learner is None else learner.frozen,
            "learnt": None if learner is None else learner.learnt,
        }


def _opened(state: bytes) -> dict[str, Any]:
    kept = unpack_state(state)
    if kept.get("format") != STATE_FORMAT:
        raise SnapshotError(
            f"a learning state of format {kept.get('format')!r}, this driftwood reads {STATE_FORMAT}"
        )
    return kept


def _like(rows: Any, scores: Floats) -> Any:
    return rows if scores.ndim == 1 else rows[:, None]
