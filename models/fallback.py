"""The score while there is no model: what the pipeline declared, flagged on every prediction."""

from __future__ import annotations

import hashlib

import numpy as np

from features.errors import ModelError
from features.expressions import Expression
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.pipeline import Pipeline
from models.scoring import Flags

FALLBACK_PREFIX = "fallback-"

# Stands for "the highest score a rule can give" where there is no bound, and is still a number in JSON.
HIGHEST = 1e300


class FallbackScorer:
    """A declared number (or one for each class), or a rule over the features.

    A rule that has no value for an event (something in it is missing) scores 0. Rules of binary labels are cut to 0 .. 1.

    The decision threshold follows the pipeline's rule. A daily capacity needs scores to choose from, and there are
    none yet: nothing is decided until there is a model.
    """

    name = "fallback"
    flags: tuple[str, ...] = ("fallback",)

    def __init__(self, pipeline: Pipeline) -> None:
        self.feature_hash = pipeline.feature_set.hash
        self.version = _version(pipeline)
        self.threshold = _threshold(pipeline)
        self._fallback = pipeline.fallback
        self._names = pipeline.feature_set.names
        self._binary = pipeline.label.kind == "binary"

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n], or float64[n, K] for K classes; raises ModelError for a matrix of other features."""
        if tuple(matrix.names) != self._names:
            raise ModelError(
                f"fallback {self.version} reads {len(self._names)} features, was handed other ones"
            )
        if isinstance(self._fallback, Expression):
            values = np.nan_to_num(self._fallback.evaluate(matrix), nan=0.0)
            return np.clip(values, 0.0, 1.0) if self._binary else values
        if isinstance(self._fallback, tuple):
            return np.tile(np.array(self._fallback), (len(matrix), 1))
        return np.full(len(matrix), self._fallback)

    def unseen_categories(self, matrix: FeatureMatrix) -> Flags:
        """bool[n], all False: nothing was learnt, so nothing is unseen."""
        return np.zeros(len(matrix), dtype=bool)


def _version(pipeline: Pipeline) -> str:
    fallback = pipeline.fallback
    source = fallback.source if isinstance(fallback, Expression) else fallback
    content = repr((pipeline.feature_set.hash, source, pipeline.decide))
    return FALLBACK_PREFIX + hashlib.sha256(content.encode()).hexdigest()[:12]


def _threshold(pipeline: Pipeline) -> float:
    if pipeline.decide is None:
        return float("nan")
    fallback = pipeline.fallback
    # Learners that answer beside it may say more than it does.
    alone = isinstance(fallback, float) and not pipeline.online
    highest = fallback if alone else 1.0 if pipeline.label.kind == "binary" else HIGHEST
    # One event out of infinitely many a day: a rule that chooses by rank finds no room for it.
    return pipeline.decide.threshold(np.array([highest]), float("inf"))
