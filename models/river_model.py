"""river_model: any estimator of River as a learner, row by row and in order, exactly as the bare estimator would learn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from features.errors import ModelError, SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.online_input import LARGEST, OnlineInput, Seen
from models.online_model import labelled
from models.river_estimator import fresh, has_probabilities, last_step
from models.river_pickle import pickled, unpickled_from
from models.snapshot import pack, unpack

if TYPE_CHECKING:
    from models.label import Label
    from models.learners import RiverLearner
    from models.pipeline import Pipeline

Row = Mapping[str, float | str]


class RiverScorer:
    """River's own estimator, asked row by row; it never learns here.

    An estimator that has answers but no probabilities (passive-aggressive, perceptrons) gets some: `votes` float64[K, K]
    counts how often each answer, given before the label was learnt, met each class. A bare 0 or 1 would be an infinite
    loss at the first mistake.
    """

    def __init__(
        self,
        spec: RiverLearner,
        label: Label,
        estimator: Any,
        encoding: OnlineInput,
        votes: Floats | None = None,
    ) -> None:
        self.spec, self.label = spec, label
        self.estimator, self.encoding = estimator, encoding
        self._classes = {"binary": 2, "regression": 1}.get(label.kind, len(label.classes))
        # Begins with one label of every class for every answer: nothing is known of an answer that was never given.
        self.votes = np.ones((self._classes, self._classes)) if votes is None else votes
        self.bare = label.kind != "regression" and not has_probabilities(estimator)

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n], or float64[n, K]; NaN for a row on which the estimator fails."""
        scores = np.full((len(matrix), self._classes), np.nan)
        for at, row in enumerate(self.rows(matrix)):
            try:
                scores[at] = self._one(row)
            except Exception:  # noqa: BLE001, S110  # any library's error; NaN is how a learner says that it has no answer
                pass
        return {"binary": scores[:, -1], "regression": scores[:, 0]}.get(self.label.kind, scores)

    def rows(self, matrix: FeatureMatrix) -> Iterator[Row]:
        """The rows as the estimator takes them."""
        if self.spec.scale:
            return _encoded(self.encoding.see(matrix), self.encoding)
        return as_they_are(matrix)

    def to_bytes(self) -> bytes:
        """The estimator's pickle, and its encoding."""
        fields, arrays = self.encoding.state()
        return pack({"input": fields, "estimator": pickled(self.estimator)}, {**arrays, "votes": self.votes})

    @classmethod
    def loaded(cls, spec: RiverLearner, pipeline: Pipeline, data: bytes) -> RiverScorer:
        """The scorer of `to_bytes`, which must have been unsealed; raises SnapshotError."""
        fields, arrays = unpack(data)
        try:
            encoding = OnlineInput.restored(fields["input"], arrays)
            estimator = unpickled_from(data, fields["estimator"])
            return cls(spec, pipeline.label, estimator, encoding, arrays["votes"].copy())
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the state of {spec.name} does not fit together: {error!r}") from error

    def _one(self, row: Row) -> Any:
        if self.label.kind == "regression":
            return self.estimator.predict_one(row)
        if self.bare:
            counted = self.votes[self.answer(row)]
            return counted / counted.sum()
        found: Mapping[Any, float] = self.estimator.predict_proba_one(row)
        codes: list[Any] = [False, True] if self.label.kind == "binary" else list(range(self._classes))
        shares = np.array([found.get(code, 0.0) for code in codes], np.float64)
        total = shares.sum()
        if total == 0:  # nothing learnt yet: every class alike
            return np.full(len(shares), 1.0 / len(shares))
        return shares / total

    def answer(self, row: Row) -> int:
        """The class that the estimator names; the first one while it knows none."""
        return int(self.estimator.predict_one(row) or 0)


class RiverModel:
    """The estimator that learns."""

    def __init__(self, scorer: RiverScorer) -> None:
        self.name = scorer.spec.name
        self._spec = scorer.spec
        self._label = scorer.label
        self._scorer = scorer
        self._weighted = "w" in inspect.signature(last_step(scorer.estimator).learn_one).parameters

    @classmethod
    def made(cls, spec: RiverLearner, pipeline: Pipeline) -> RiverModel:
        """A clone of the pipeline's estimator."""
        estimator = fresh(spec.estimator, spec.seed)
        return cls(RiverScorer(spec, pipeline.label, estimator, OnlineInput.of(pipeline.feature_set)))

    @classmethod
    def restored(cls, spec: RiverLearner, pipeline: Pipeline, state: bytes) -> RiverModel:
        """The model of `state_bytes`, which must have been unsealed; raises SnapshotError."""
        return cls(RiverScorer.loaded(spec, pipeline, state))

    def learn(self, matrix: FeatureMatrix, codes: Floats, weights: Floats | None = None) -> None:
        """Row by row in order, or in mini-batches of `rows_per_step`. An estimator without weights learns each row once.

        Raises ModelError with what the estimator raised; it may have learnt the rows before.
        """
        matrix, codes, weights = labelled(matrix, codes, weights)
        if not len(codes):
            return
        if self._spec.scale:
            self._scorer.encoding.learn(matrix)
        rows = list(self._scorer.rows(matrix))
        step = self._spec.rows_per_step
        try:
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                self._learn(rows[part], self._targets(codes[part]), weights[part])
        except Exception as error:
            raise ModelError(f"the learner {self.name} failed to learn: {error!r}") from error

    def score(self, matrix: FeatureMatrix) -> Floats:
        """As the scorer of `scoring_bytes`."""
        return self._scorer.score(matrix)

    def scoring_bytes(self) -> bytes:
        """The estimator's pickle: River's estimators keep what they answer with and what they learn with together."""
        return self._scorer.to_bytes()

    def state_bytes(self) -> bytes:
        """The same."""
        return self._scorer.to_bytes()

    def _targets(self, codes: Floats) -> list[Any]:
        if self._label.kind == "binary":
            return [code == 1.0 for code in codes.tolist()]
        return codes.tolist() if self._label.kind == "regression" else [int(code) for code in codes.tolist()]

    def _learn(self, rows: list[Row], targets: list[Any], weights: Floats) -> None:
        plain = not self._weighted or bool((weights == 1.0).all())
        estimator = self._scorer.estimator
        if self._spec.rows_per_step > 1:
            weighted = {} if plain else {"w": pd.Series(weights)}
            estimator.learn_many(pd.DataFrame(rows).fillna(0.0), pd.Series(targets), **weighted)
            return
        for row, target, weight in zip(rows, targets, weights.tolist(), strict=True):
            if self._scorer.bare:
                self._scorer.votes[self._scorer.answer(row), int(target)] += 1.0
            if plain:
                estimator.learn_one(row, target)
            else:
                estimator.learn_one(row, target, w=weight)


def _encoded(seen: Seen, encoding: OnlineInput) -> Iterator[Row]:
    names = encoding.number_names
    missing = [(at, f"{names[at]} missing") for at in np.flatnonzero(encoding.ever_missing).tolist()]
    coded = [
        [f"{name}={text}" for text in encoding.texts(at)] for at, name in enumerate(encoding.category_names)
    ]
    for numbers, absent, codes in zip(seen.numbers.tolist(), seen.missing, seen.codes.tolist(), strict=True):
        row: dict[str, float | str] = dict(zip(names, numbers, strict=True))
        row |= {name: float(absent[at]) for at, name in missing}
        row |= {texts[code]: 1.0 for texts, code in zip(coded, codes, strict=True)}
        yield row


def as_they_are(matrix: FeatureMatrix) -> Iterator[Row]:
    """Each row by feature name, in the features' order; what is missing or infinite is left out.

    Example:
        >>> import pyarrow as pa
        >>> rows = FeatureMatrix(("km", "from"), np.array([[1.0, 0.0], [np.nan, 0.0]]), {1: pa.array(["JFK", None])})
        >>> list(as_they_are(rows))
        [{'km': 1.0, 'from': 'JFK'}, {}]
    """
    texts = {at: column.to_pylist() for at, column in matrix.categories.items()}
    for at, numbers in enumerate(matrix.values.tolist()):  # noqa: PD011  # a FeatureMatrix, not pandas
        row: dict[str, float | str] = {}
        for column, name in enumerate(matrix.names):
            value = texts[column][at] if column in texts else numbers[column]
            if isinstance(value, str):
                row[name] = value
            elif value is not None and math.isfinite(value):
                row[name] = min(max(value, -LARGEST), LARGEST)  # its square must still be a number
        yield row
