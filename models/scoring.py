"""What the roads ask of a model, whichever it is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.feature_set import FeatureMatrix
from features.plan import Floats

Flags = npt.NDArray[np.bool_]


class Scorer(Protocol):
    """A model in service. It never learns: the same rows give the same scores, however they are cut into batches."""

    @property
    def name(self) -> str:
        """What kind of model it is, as the parts of a prediction name it: "lightgbm", "fallback"."""

    @property
    def version(self) -> str:
        """What a prediction names and a pin holds: `ModelStore.load` gives the same scorer again."""

    @property
    def feature_hash(self) -> str:
        """The hash of the features (`FeatureSet.hash`) that it reads."""

    @property
    def threshold(self) -> float:
        """Frozen with the version: from this score on the decision is yes. NaN where the label is not binary."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Said on every prediction of this scorer: `("fallback",)` where no model was trained yet."""

    def score(self, matrix: FeatureMatrix) -> Floats:
        """binary: float64[n], the probability of the label; regression: float64[n]; multiclass: float64[n, K]."""

    def unseen_categories(self, matrix: FeatureMatrix) -> Flags:
        """bool[n]: the row holds a category that the model never saw and reads as missing."""
