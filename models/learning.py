"""Everything that learns in a pipeline, stepped by records of `outcomes`: one record, one mini-batch.

    1. measure    what was served is judged by the labels that came (models/prequential.py)
    2. weigh      mature cohorts move the blend's weights and the calibrator (models/weighing.py)
    3. learn      every learner that is not frozen learns the labels (models/guard.py watches)

The order is the point: nothing is measured that has learnt the label, and nothing answers by a label that is not mature.
Learners do learn at once, label by label as they come: they follow what is new, and how far they are believed is decided
by step 2 alone.

No clock is read and no random number drawn, so equal records give equal bytes, wherever a restart cuts between them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.errors import DeveloperError, SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.blend import CHAMPION
from models.blend_scorer import SCORING_FORMAT
from models.champion_input import is_over_champion, with_champion
from models.decision import CostMatrix
from models.guard import LossGuard, nonsense
from models.label_feed import LabelFeed
from models.losses import present
from models.matured import Matured
from models.online_model import LearnerSpec, OnlineModel, taken
from models.pipeline import Pipeline
from models.prequential import BLEND, Prequential
from models.snapshot import part_of
from models.state_bytes import pack_state, unpack_state
from models.weighing import Weighing

log = logging.getLogger(__name__)

STATE_FORMAT: Final = 3


@dataclass
class _Learner:
    """A learner and what is known of it. `frozen` says why it neither learns nor answers; None: it does both."""

    spec: LearnerSpec
    model: OnlineModel
    guard: LossGuard
    learnt: int = 0
    frozen: str | None = None

    def state(self) -> dict[str, Any]:
        return {
            "identity": self.spec.identity,
            "learnt": self.learnt,
            "frozen": self.frozen,
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
        costs = pipeline.decide if isinstance(pipeline.decide, CostMatrix) else None
        self._prequential = Prequential(label.kind, len(label.classes) or 2, costs)
        self._feed = LabelFeed(label)
        self._weighing = Weighing(pipeline)
        self._learners = {spec.name: self._new(spec) for spec in pipeline.online}

    def step(self, batch: Matured) -> None:
        """Take in one record of outcomes, in the numbered order of this module."""
        self._prequential.step(batch)
        self._feed.step(batch)
        if self._weighing.step(batch, self._sound, frozen=self._feed.frozen is not None):
            for learner in [self._learners[name] for name in self._sound]:
                if is_over_champion(learner.spec):
                    self._begin(self._new(learner.spec))
        self._learn(batch)

    def teach(self, matrix: FeatureMatrix, codes: Floats) -> None:
        """Learn labels of events that nobody has answered, as history has them: nothing is measured, nothing weighed.

        Learners over the champion are left out: they correct what it has served.
        """
        for name in self._sound:
            learner = self._learners[name]
            if not is_over_champion(learner.spec):
                learner.model.learn(matrix, codes)
                learner.learnt += len(codes)

    @property
    def taught(self) -> bool:
        """Whether some learner has learnt a label."""
        return any(learner.learnt for learner in self._learners.values())

    @property
    def _sound(self) -> list[str]:
        return [name for name, learner in self._learners.items() if learner.frozen is None]

    def _learn(self, batch: Matured) -> None:
        learnt = batch.select(batch.learnt)
        if not len(learnt):
            return
        scores = self._weighing.scores(learnt, self._sound)
        for name in self._sound:
            learner = self._learners[name]
            reason = self._trained(learner, learnt, scores[CHAMPION])
            if reason is None and name in scores:
                reason = learner.guard.exploded(scores[name], scores[CHAMPION], learnt.codes)
            if reason is not None:
                self._freeze(name, reason)

    def _trained(self, learner: _Learner, learnt: Matured, champion: Floats) -> str | None:
        """Why the learner cannot go on after these rows; None when it can."""
        matrix, codes = learnt.matrix, learnt.codes
        if is_over_champion(learner.spec):
            matrix, codes = self._over_champion(learnt, champion)
        if not len(codes):
            return None
        try:
            learner.model.learn(matrix, codes)
            learner.learnt += len(codes)
            return nonsense(learner.model, matrix)
        except Exception as error:
            # It is somebody's model: whatever it raises, the others go on. Its words may differ from run to run (they
            # may name addresses), and stay out of the state.
            log.exception("learner %s cannot learn", learner.spec.name)
            return f"it raised {type(error).__name__}"

    def _over_champion(self, learnt: Matured, champion: Floats) -> tuple[FeatureMatrix, Floats]:
        """The rows that the champion in service has answered, with what it said."""
        rows = np.flatnonzero(present(champion))
        return with_champion(self._kind, taken(learnt.matrix, rows), champion[rows]), learnt.codes[rows]

    def _freeze(self, name: str, reason: str) -> None:
        log.error("learner %s is frozen: %s", name, reason)
        self._learners[name].frozen = reason
        self._weighing.drop(name)

    def label_feed(self, partition: str, stalled_since_ms: int | None) -> None:
        """A partition of the join says that labels are stalled since then (wall clock, ms); None: they flow again.

        While one says so, learning is frozen: weights and calibrator stand still, and outcomes wait in their cohorts. What
        learners learn from is missing by itself: no label comes, and the join calls nobody silent.
        """
        before = self._feed.frozen
        self._feed.hear(partition, stalled_since_ms)
        if before is None and self._feed.frozen is not None:
            log.warning("learning is frozen: %s", self._feed.frozen)
        elif before is not None and self._feed.frozen is None:
            log.warning("learning goes on: labels flow again (%s)", before)

    # ---- commands

    def freeze(self, name: str) -> None:
        """The learner learns no more and has no part in the blend, until `reset` or `restore_learner`."""
        self._freeze(self._known(name), "by command")

    def reset(self, name: str) -> None:
        """The learner begins anew; what was served by the old one no longer counts for its weight."""
        self._begin(self._new(self._learners[self._known(name)].spec))

    def restore_learner(self, name: str, state: bytes) -> None:
        """The learner is as it was in an older `state()`; its weight is earned anew.

        Raises SnapshotError when that state does not hold this learner, or what it corrected is not in service.
        """
        spec, older = self._learners[self._known(name)].spec, _opened(state)
        kept, corrected = older["learners"].get(name), older["weighing"]["version"]
        if kept is None or kept["identity"] != spec.identity:
            raise SnapshotError(f"the older state holds no learner {name} of the same declaration")
        if is_over_champion(spec) and corrected != self._weighing.version:
            raise SnapshotError(
                f"learner {name} of the older state corrects champion {corrected or 'none'}, "
                f"and {self._weighing.version or 'none'} is in service"
            )
        model = spec.restore(self._pipeline, part_of(state, kept["model"]))
        self._begin(_Learner(spec, model, LossGuard(self._kind), kept["learnt"]))

    def _begin(self, learner: _Learner) -> None:
        self._learners[learner.spec.name] = learner
        self._weighing.begin(learner.spec.name)

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
        learners = {name: self._learners[name].model.scoring_bytes() for name in self._sound}
        return pack_state({"format": SCORING_FORMAT, **self._weighing.scoring(), "learners": learners})

    def state(self) -> bytes:
        """Everything, bit for bit; equal runs give equal bytes."""
        return pack_state(
            {
                "format": STATE_FORMAT,
                "prequential": self._prequential.state(),
                "feed": self._feed.state(),
                "weighing": self._weighing.state(),
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
        learning._feed.restore(kept["feed"])
        learning._weighing.restore(kept["weighing"])
        for name, old in kept["learners"].items():
            learner = learning._learners.get(name)
            if learner is None or learner.spec.identity != old["identity"]:
                learning._weighing.begin(name)
                continue
            learner.model = learner.spec.restore(pipeline, part_of(state, old["model"]))
            learner.guard.restore(old["guard"])
            learner.learnt, learner.frozen = old["learnt"], old["frozen"]
        return learning

    def figures(self) -> dict[str, Any]:
        """What `driftwood models` shows, as plain numbers and texts; docs/evaluation.md explains each.

        `models` has a row for the served score ("blend"), for each batch model that has answered, and for each learner:
        `rolling` and `total` figures, `weight` in the blend, `frozen` (why, or None) and `learnt` (labels).
        """
        measured = self._prequential.figures()
        names = [*measured, *(name for name in self._learners if name not in measured)]
        return {
            "matured": measured.get(BLEND, {}).get("total", {}).get("rows", 0),
            "outcomes": dict(sorted(self._prequential.outcomes.items())),
            "label_delay_s": self._prequential.delays(),
            "label_feed": self._feed.figures(),
            "frozen": self._feed.frozen,
            "maturity": self._weighing.maturity.figures(),
            "calibrator": self._weighing.calibrator.figures(),
            "models": {name: self._row(name, measured.get(name)) for name in names},
        }

    def _row(self, name: str, measured: dict[str, dict[str, float]] | None) -> dict[str, Any]:
        learner, weights = self._learners.get(name), self._weighing.weights.weights
        weight = weights.get(CHAMPION if name == self._weighing.champion else name, 0.0)
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
