"""What the roads ask of a model, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from features.feature_set import FeatureMatrix
from features.plan import Floats

Flags = npt.NDArray[np.bool_]

UncertaintyOf = Literal["spread of the parts", "calibrated interval"]


@dataclass(frozen=True)
class Scored:
    """The scores of n rows, and what they were made of.

    `score` and each of `parts` are float64[n], or float64[n, K] for K classes; a part is NaN where its model could say
    nothing. `weights` are the parts' shares of the score. `low` and `high`, float64[n], enclose it, or the score of the
    likeliest class (None: one model alone answered, so nothing is known of its uncertainty); `uncertainty_of` says what
    they are.
    """

    score: Floats
    parts: Mapping[str, Floats]
    weights: Mapping[str, float]
    low: Floats | None = None
    high: Floats | None = None
    uncertainty_of: UncertaintyOf = "spread of the parts"


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
