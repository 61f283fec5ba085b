"""How a model's input is made of the features: category codes and stand-ins, frozen with the model.

    feature matrix                                 model input, float64[n, F]
    number   12.5                             ->   12.5
    number   missing, was missing in training ->   NaN (the trees learnt which way it goes)
    number   missing, never was in training   ->   the training rows' median
    category "UA"                             ->   its code, fixed at training
    category missing, or unseen in training   ->   NaN; unseen ones are told apart by `Encoded.unseen`

LightGBM itself would read a number that is missing for the first time as 0, which is seldom a sensible temperature or
distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import ModelError
from features.feature_set import FeatureMatrix
from features.plan import Floats

# A category feature keeps this many texts, the most frequent ones; the others count as unseen. LightGBM groups rare
# categories anyway, and every code costs memory in each tree that splits on it.
MOST_CATEGORIES = 4096

# Arrow's lookup hashes the whole vocabulary at every call (148 µs for 4,000 texts, 9 µs for 5), and any call of it costs
# some 20 µs. A dictionary that was built once (45 µs for 500 rows, whatever its size) is cheaper for a large vocabulary,
# and for the small batches of a quiet stream.
ARROW_LOOKUP = 512
ARROW_ROWS = 200

NAN = float("nan")


@dataclass(frozen=True)
class Encoded:
    """`values` is float64[n, F], row-major; `unseen` is bool[n]: some category of the row is unknown to the model."""

    values: Floats
    unseen: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """The texts of one category feature; the code of a text is its place."""

    texts: tuple[str, ...]

    def codes(self, column: pa.StringArray) -> Floats:
        """float64[n]: the code of each text, NaN where it is null or not in the vocabulary.

        Example:
            >>> Vocabulary(("AA", "UA")).codes(pa.array(["UA", None, "ZZ"]))
            array([ 1., nan, nan])
        """
        if len(self.texts) > ARROW_LOOKUP or len(column) < ARROW_ROWS:
            return np.array([self._places.get(text, NAN) for text in column.to_pylist()], dtype=np.float64)
        found = pc.index_in(column, value_set=self._array)
        places: Floats = found.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return places

    @cached_property
    def _array(self) -> pa.StringArray:
        return pa.array(self.texts, pa.string())

    @cached_property
    def _places(self) -> dict[str | None, float]:
        return {text: float(place) for place, text in enumerate(self.texts)}


@dataclass(frozen=True)
class Encoding:
    """`names` are the F features in order; `vocabularies` by column; `fills` float64[F], NaN where nothing stands in."""

    names: tuple[str, ...]
    vocabularies: Mapping[int, Vocabulary]
    fills: Floats

    def encode(self, matrix: FeatureMatrix) -> Encoded:
        """The model's input for these rows; each row's result depends on that row alone.

        Raises ModelError when the matrix holds other features than the model was trained on.
        """
        if tuple(matrix.names) != self.names:
            raise ModelError(f"the model reads {_brief(self.names)}, but was handed {_brief(matrix.names)}")
        values = np.array(matrix.values, dtype=np.float64, order="C")
        unseen = np.zeros(len(values), dtype=bool)
        for column, vocabulary in self.vocabularies.items():
            texts = matrix.categories[column]
            values[:, column] = vocabulary.codes(texts)
            unseen |= np.isnan(values[:, column]) & _present(texts)
        filled = values[:, self._filled]
        values[:, self._filled] = np.where(np.isnan(filled), self.fills[self._filled], filled)
        return Encoded(values, unseen)

    @cached_property
    def _filled(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~np.isnan(self.fills))


def learn_encoding(matrix: FeatureMatrix) -> Encoding:
    """The encoding that these training rows ask for; equal rows give an equal encoding.

    Example:
        >>> rows = FeatureMatrix(("km", "carrier"), np.array([[3.0, NAN], [5.0, NAN]]), {1: pa.array(["UA", "AA"])})
        >>> encoding = learn_encoding(rows)
        >>> encoding.encode(rows).values.tolist(), float(encoding.fills[0])
        ([[3.0, 1.0], [5.0, 0.0]], 4.0)
    """
    vocabularies = {column: _learn_vocabulary(texts) for column, texts in matrix.categories.items()}
    fills = np.full(len(matrix.names), NAN)
    for column in range(len(matrix.names)):
        values = matrix.values[:, column]
        if column not in vocabularies and len(values) and not np.isnan(values).any():
            fills[column] = np.median(values)
    return Encoding(tuple(matrix.names), vocabularies, fills)


def _learn_vocabulary(texts: pa.StringArray) -> Vocabulary:
    counts = pc.value_counts(texts.drop_null())
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    frequent = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:MOST_CATEGORIES]
    return Vocabulary(tuple(sorted(text for text, _ in frequent)))


def _present(texts: pa.StringArray) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = texts.is_valid().to_numpy(zero_copy_only=False)
    return present


def _brief(names: Sequence[str]) -> str:
    return f"{len(names)} features ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
