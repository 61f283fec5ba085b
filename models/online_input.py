"""How the learners see features: scaled by what was seen so far, with nothing in it that could poison a weight.

    number   12.5             ->  (12.5 - mean) / standard deviation, cut to ±10
    number   missing, or inf  ->  0 (the mean), and 1 in a column "… missing" of its own
    category "UA"             ->  one of at most 202 codes: 0 missing, 1 any other, 2 … the texts in the order they came

A trained model freezes its encoding at training; a learner starts from nothing, so its encoding is part of what it
learns, and is written into its snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import ModelError
from features.feature_set import FeatureMatrix, FeatureSet
from features.plan import Floats, Ints

# Texts of one category that get a code of their own, first come first served. Without a bound one mistaken field (a free
# text) would grow the model, its snapshots and the time of every answer without end.
MOST_TEXTS: Final = 200
MISSING, OTHER, FIRST_TEXT = 0, 1, 2

# Standard deviations. What lies further out is cut, when scaling and when the scale is learnt: one amount of 1e300 must
# move neither a weight nor the scale of all amounts after it. At 10 the scale stays where it is with up to 1 % of such
# values (10² x 1 %); a lower cut would hold against more, and take a count that is seldom above 0 for outliers.
FURTHEST: Final = 10.0

# Values after which mean and deviation are taken for bounds of the next batch; before that its own quartiles are.
SETTLED: Final = 30

# Rows. The mean forgets what is older, so that a moved distribution becomes the ordinary one. Lower: quicker, and noisier.
MEMORY: Final = 50_000.0

# Numbers are cut to ±LARGEST before anything else: beyond nanoseconds since 1970, and its square is far from overflow.
LARGEST: Final = 1e19

# A deviation this small beside its mean is the rounding of a constant.
ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Seen:
    """n rows as learners see them: `numbers` float64[n, F], scaled; `missing` bool[n, F]; `codes` int64[n, C]."""

    numbers: Floats
    missing: npt.NDArray[np.bool_]
    codes: Ints

    def __len__(self) -> int:
        return len(self.numbers)


def softened(seen: Seen) -> Seen:
    """For linear learners that ask for it: numbers as asinh(z), which is z near 0 and its logarithm far out.

    Where windows have long tails, a row ten deviations out in one of them would else be decided by it alone.
    """
    return Seen(np.arcsinh(seen.numbers), seen.missing, seen.codes)


class OnlineInput:
    """The running scale of every number and the codes of every category's texts.

    Example:
        >>> rows = FeatureMatrix(("km", "from"), np.array([[1.0, 0.0], [3.0, 0.0], [np.nan, 0.0]]),
        ...                      {1: pa.array(["JFK", None, "EWR"])})
        >>> scale = OnlineInput(("km", "from"), (1,))
        >>> scale.learn(rows)
        >>> seen = scale.see(rows)
        >>> seen.numbers[:, 0].tolist(), seen.missing[:, 0].tolist(), seen.codes[:, 0].tolist()
        ([-1.0, 1.0, 0.0], [False, False, True], [2, 0, 3])
    """

    def __init__(self, names: Sequence[str], categories: Sequence[int]) -> None:
        self.names = tuple(names)
        self._categories = tuple(sorted(categories))
        self._numbers = np.array([at for at in range(len(names)) if at not in categories], np.int64)
        width = len(self._numbers)
        self._count, self._mean, self._squares = np.zeros(width), np.zeros(width), np.zeros(width)
        self.ever_missing = np.zeros(width, np.bool_)
        self._codes: list[dict[str, int]] = [{} for _ in self._categories]

    @classmethod
    def of(cls, feature_set: FeatureSet, more: Sequence[str] = ()) -> OnlineInput:
        """An encoding that has seen nothing; `more` names numbers that stand behind the features."""
        kinds = [feature.kind for feature in feature_set.features]
        categories = [at for at, kind in enumerate(kinds) if kind == "category"]
        return cls((*feature_set.names, *more), categories)

    @property
    def number_names(self) -> list[str]:
        """The features that are numbers, in the order of `Seen.numbers`."""
        return [self.names[at] for at in self._numbers]

    @property
    def category_names(self) -> list[str]:
        """The features that are categories, in the order of `Seen.codes`."""
        return [self.names[at] for at in self._categories]

    def texts(self, category: int) -> list[str]:
        """What the codes of a category stand for, in their order."""
        return ["(missing)", "(other)", *self._codes[category]]

    def learn(self, matrix: FeatureMatrix) -> None:
        """Takes these rows into the scale and gives codes to new texts."""
        self._check(matrix)
        values = matrix.values[:, self._numbers]
        present = np.isfinite(values)
        values = np.clip(values, -LARGEST, LARGEST)
        self.ever_missing |= (~present).any(axis=0)
        self._learn_numbers(np.where(present, values, np.nan), present)
        for codes, column in zip(self._codes, self._categories, strict=True):
            _learn_texts(codes, matrix.categories[column])

    def see(self, matrix: FeatureMatrix) -> Seen:
        """The rows, encoded; each by itself. Raises ModelError for a matrix of other features."""
        self._check(matrix)
        values = matrix.values[:, self._numbers]
        missing = ~np.isfinite(values)
        filled = np.where(missing, self._mean, values)
        scaled = (np.clip(filled, -LARGEST, LARGEST) - self._mean) * self._inverse_deviation()
        codes = np.empty((len(values), len(self._categories)), np.int64)
        for at, column in enumerate(self._categories):
            known = {None: MISSING} | self._codes[at]
            codes[:, at] = list(map(known.get, matrix.categories[column].to_pylist(), repeat(OTHER)))
        return Seen(np.clip(scaled, -FURTHEST, FURTHEST), missing, codes)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Fields and arrays for `models.snapshot.pack`."""
        fields = {
            "names": list(self.names),
            "categories": list(self._categories),
            "texts": [list(codes) for codes in self._codes],
        }
        scale = np.stack([self._count, self._mean, self._squares])
        return fields, {"scale": scale, "ever_missing": self.ever_missing}

    @classmethod
    def restored(cls, fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> OnlineInput:
        """What `state` was taken from."""
        made = cls(fields["names"], fields["categories"])
        made._count, made._mean, made._squares = (row.copy() for row in arrays["scale"])
        made.ever_missing = arrays["ever_missing"].copy()
        made._codes = [
            {text: code for code, text in enumerate(texts, FIRST_TEXT)} for texts in fields["texts"]
        ]
        return made

    def _check(self, matrix: FeatureMatrix) -> None:
        if tuple(matrix.names) != self.names:
            raise ModelError(f"a learner reads {len(self.names)} features, was handed other ones")

    def _deviation(self) -> Floats:
        deviation: Floats = np.sqrt(self._squares / np.maximum(self._count, 1.0))
        return deviation

    def _inverse_deviation(self) -> Floats:
        """0 for a number that never changed (but for the rounding of its mean): it says nothing, whatever it is."""
        deviation = self._deviation()
        moves = deviation > ROUNDING * np.abs(self._mean)
        return np.divide(1.0, deviation, out=np.zeros_like(deviation), where=moves)

    def _learn_numbers(self, values: Floats, present: npt.NDArray[np.bool_]) -> None:
        """Chan's update of means and squared deviations (Chan, Golub, LeVeque 1983), over values cut to their bounds."""
        added = present.sum(axis=0).astype(np.float64)
        values = np.where(present, np.clip(values, *self._bounds(values)), 0.0)
        mean = values.sum(axis=0) / np.maximum(added, 1.0)
        squares = (np.where(present, values - mean, 0.0) ** 2).sum(axis=0)
        apart = np.where(added > 0, mean - self._mean, 0.0)
        total = np.maximum(self._count + added, 1.0)
        self._squares += squares + apart * apart * self._count * added / total
        self._mean += apart * added / total
        self._count += added
        self._squares *= np.minimum(MEMORY / np.maximum(self._count, 1.0), 1.0)
        self._count = np.minimum(self._count, MEMORY)

    def _bounds(self, values: Floats) -> tuple[Floats, Floats]:
        """Where the values of this batch are cut: by what was seen before, else by their own quartiles."""
        centre, reach = self._mean, FURTHEST * self._deviation()
        fresh = (self._count < SETTLED) & np.isfinite(values).any(axis=0)
        if fresh.any():
            first, median, third = np.nanquantile(values[:, fresh], (0.25, 0.5, 0.75), axis=0)
            centre, reach = centre.copy(), reach.copy()
            centre[fresh], reach[fresh] = median, FURTHEST * (third - first)
        # All alike so far: whatever else comes is the first news.
        open_ = reach <= ROUNDING * np.abs(centre)
        return np.where(open_, -LARGEST, centre - reach), np.where(open_, LARGEST, centre + reach)


def _learn_texts(codes: dict[str, int], column: pa.StringArray) -> None:
    if len(codes) >= MOST_TEXTS:
        return
    for text in pc.unique(column).to_pylist():  # in the order in which they first appear
        if text is not None and text not in codes and len(codes) < MOST_TEXTS:
            codes[text] = FIRST_TEXT + len(codes)
