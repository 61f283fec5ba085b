"""What driftwood asks of a model that learns from every label, and of the declaration that makes one.

Three things, so that answering never meets learning:

    LearnerSpec     plain data in the pipeline file; loads nothing
      ├─ make, restore ─> OnlineModel    lives in the ONE learner process; learns, and is written into snapshots
      └─ scorer        ─> OnlineScorer   lives in every worker; made of the snapshot's scoring bytes, never learns
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints

if TYPE_CHECKING:
    from models.label import Label
    from models.pipeline import Pipeline


class OnlineScorer(Protocol):
    """Scores rows; two calls give the same answer, and a row's score does not depend on the rows beside it."""

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n], or float64[n, K] for K classes; NaN where the model can say nothing."""


class OnlineModel(Protocol):
    """A model that learns. Equal calls in equal order give an equal model, bit for bit, also across a restore."""

    @property
    def name(self) -> str:
        """The learner's name in its pipeline."""

    def learn(self, matrix: FeatureMatrix, codes: Floats, weights: Floats | None = None) -> None:
        """One mini-batch of n rows, in order. `codes` float64[n] as `Label.codes` gives them; NaN: no label, not learnt.

        `weights` float64[n], 1.0 for an ordinary row.
        """

    def score(self, matrix: FeatureMatrix) -> Floats:
        """As the scorer of `scoring_bytes` would."""

    def scoring_bytes(self) -> bytes:
        """What a scorer needs, and no more."""

    def state_bytes(self) -> bytes:
        """Everything the model owns; `LearnerSpec.restore` continues from it as if nothing had happened."""


@runtime_checkable
class LearnerSpec(Protocol):
    """A learner as a pipeline file declares it."""

    @property
    def name(self) -> str:
        """Names its part of a score, its metrics and its place in snapshots; unique in the pipeline."""

    @property
    def identity(self) -> str:
        """Everything that decides what is learnt, the same in every process: part of the pipeline's version."""

    def check(self, label: Label, place: str) -> None:
        """Raises PipelineError, beginning with `place`, where this learner cannot predict that label."""

    def make(self, pipeline: Pipeline) -> OnlineModel:
        """A model that has learnt nothing yet."""

    def restore(self, pipeline: Pipeline, state_bytes: bytes) -> OnlineModel:
        """The model whose `state_bytes` these are. Raises SnapshotError."""

    def scorer(self, pipeline: Pipeline, scoring_bytes: bytes) -> OnlineScorer:
        """The scorer of a model's `scoring_bytes`. Raises SnapshotError."""


def labelled(
    matrix: FeatureMatrix, codes: Floats, weights: Floats | None
) -> tuple[FeatureMatrix, Floats, Floats]:
    """The rows that can be learnt: those with a label and a weight above 0."""
    weights = np.ones(len(codes)) if weights is None else weights
    kept = np.flatnonzero(np.isfinite(codes) & np.isfinite(weights) & (weights > 0))
    if len(kept) == len(codes):
        return matrix, codes, weights
    return taken(matrix, kept), codes[kept], weights[kept]


def taken(matrix: FeatureMatrix, rows: Ints) -> FeatureMatrix:
    """Some rows of a matrix, in the order of `rows` (int64)."""
    chosen = pa.array(rows, pa.int64())
    categories = {column: texts.take(chosen) for column, texts in matrix.categories.items()}
    return FeatureMatrix(matrix.names, matrix.values[rows], categories)
