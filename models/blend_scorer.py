"""What a worker answers with: the champion and the learners of one snapshot, pooled and calibrated. It never learns.

    champion.score ──┐
    learner scores ──┴─ pool by weights ── calibrate ── score, [low, high]

A learner that raises or has no finite score for a row is left out of that row, and its part is NaN there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.blend import CHAMPION, fresh_weights, pooled
from models.calibrator import Calibrator
from models.champion_input import is_over_champion, with_champion
from models.losses import present
from models.pipeline import Pipeline
from models.scoring import Flags, Scored, Scorer
from models.snapshot import part_of
from models.state_bytes import unpack_state

log = logging.getLogger(__name__)

Mode = Literal["blend", "champion", "fallback"]

SCORING_FORMAT: Final = 2


class BlendScorer:
    """One snapshot in service. `scoring` is what `Learning.scoring` gave; the same rows give the same scores however they
    are cut.

    - mode "blend": the pooled and calibrated score answers.
    - mode "champion": the champion's own score answers; the learners are scored beside it, so that they go on being
      measured and can be switched back to with open eyes.
    - mode "fallback": nothing but `champion`, which is then the declared fallback, is asked.

    Raises SnapshotError for bytes that are no scoring snapshot of this pipeline's learners.
    """

    name = "blend"

    def __init__(self, pipeline: Pipeline, champion: Scorer, scoring: bytes, mode: str = "blend") -> None:
        self._champion, self._mode, self._kind = champion, mode, pipeline.label.kind
        state = unpack_state(scoring)
        if state.get("format") != SCORING_FORMAT:
            raise SnapshotError(
                f"a scoring snapshot of format {state.get('format')!r}, this driftwood reads {SCORING_FORMAT}"
            )
        self._pool = state["pool"]
        self._calibrator = None
        if state["calibrator"] is not None:
            self._calibrator = Calibrator.restore(self._kind, state["calibrator"])
        # Another champion, or another version of it, than the one beside which all this was earned: none of its outcomes is known yet.
        unjudged = state["champion"] != CHAMPION and state["version"] != champion.version
        weights = state["weights"]
        if unjudged:
            weights = fresh_weights([name for name in weights if name != CHAMPION])
            self._calibrator = None
        specs = {spec.name: spec for spec in pipeline.online}
        self._over_champion = {name for name, spec in specs.items() if is_over_champion(spec)}
        self._learners = {
            name: specs[name].scorer(pipeline, part_of(scoring, part))
            for name, part in state["learners"].items()
            if mode != "fallback" and name in specs and not (unjudged and name in self._over_champion)
        }
        self._weights = self._served_weights(weights)

    @property
    def version(self) -> str:
        """The champion's; a snapshot has a number of its own."""
        return self._champion.version

    @property
    def feature_hash(self) -> str:
        """The champion's."""
        return self._champion.feature_hash

    @property
    def threshold(self) -> float:
        """The champion's: a calibrated blend is on the same scale, whoever weighs most in it."""
        return self._champion.threshold

    @property
    def flags(self) -> tuple[str, ...]:
        """The champion's."""
        return self._champion.flags

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n], or float64[n, K] for K classes."""
        return self.parts(matrix).score

    def unseen_categories(self, matrix: FeatureMatrix) -> Flags:
        """bool[n]: categories that the champion never saw."""
        return self._champion.unseen_categories(matrix)

    def parts(self, matrix: FeatureMatrix) -> Scored:
        """The score, what it was made of, and its uncertainty; the champion is called once."""
        champion = self._champion.score(matrix)
        parts = {self._champion.name: champion}
        for name, learner in self._learners.items():
            rows = with_champion(self._kind, matrix, champion) if name in self._over_champion else matrix
            parts[name] = _finite(name, learner, rows, champion)
        if self._mode != "blend":
            return Scored(champion, parts, self._weights)
        raw = pooled(self._kind, self._pool, parts, self._weights)
        score = raw if self._calibrator is None else self._calibrator.calibrate(raw)
        if self._calibrator is not None and self._calibrator.has_interval:
            low, high = self._calibrator.interval(raw)
            return Scored(score, parts, self._weights, low, high, "calibrated interval")
        answering = [part for name, part in parts.items() if self._weights[name] > 0]
        if len(answering) < 2:
            return Scored(score, parts, self._weights)
        return Scored(score, parts, self._weights, *spread(score, answering), "spread of the parts")

    def _served_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """By the names of the parts, the champion first; they add up to 1, and are 0 for what does not answer."""
        if self._mode != "blend":
            return {self._champion.name: 1.0, **dict.fromkeys(self._learners, 0.0)}
        held = {name: weights.get(name, 0.0) for name in self._learners}
        total = weights[CHAMPION] + sum(held.values())
        return {
            self._champion.name: weights[CHAMPION] / total,
            **{name: w / total for name, w in held.items()},
        }


def spread(score: Floats, parts: list[Floats]) -> tuple[Floats, Floats]:
    """(low, high) float64[n]: between which the parts and the score lie; over classes, of the likeliest class.

    Example:
        >>> spread(np.array([0.4]), [np.array([0.3]), np.array([0.6]), np.array([np.nan])])
        (array([0.3]), array([0.6]))
    """
    columns = [score, *parts]
    if score.ndim == 2:
        rows, likeliest = np.arange(len(score)), score.argmax(axis=1)
        columns = [column[rows, likeliest] for column in columns]
    return np.fmin.reduce(columns), np.fmax.reduce(columns)


def _finite(name: str, learner: Any, matrix: FeatureMatrix, like: Floats) -> Floats:
    """The learner's scores, NaN where they are not finite or it raised."""
    try:
        with np.errstate(all="ignore"):
            scores = np.asarray(learner.score(matrix), np.float64)
        if scores.shape != like.shape:
            raise ValueError(f"scores of shape {scores.shape}, expected {like.shape}")  # noqa: TRY301
    except Exception:
        # It is somebody's model: whatever it raises, the others answer. The learner's guard sees it as well.
        log.exception("learner %s cannot score; it is left out", name)
        return np.full_like(like, np.nan)
    kept = present(scores)
    return scores if kept.all() else np.where(kept if scores.ndim == 1 else kept[:, None], scores, np.nan)
