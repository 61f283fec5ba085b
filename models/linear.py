"""scaled_logistic and scaled_linear: River's linear models learning in mini-batches, their weights kept as flat arrays.

One step for each mini-batch of at most `rows_per_step` rows:

    encoded rows ─> the columns that are not all 0 ─> a mini-batch of LogisticRegression (one for each class)

Leaving out columns of zeros changes nothing that is learnt (their gradient is 0), and a step costs by what is there rather
than by all the categories that ever were. The bias is a column of ones, so that AdaGrad moves it like any weight: River's
own intercept takes steps of a constant size, which on rare positives are far too small at first and too large later.

A learner over the champion (`over_champion`) adds its sums to what the champion said: the loss is that of both together, and
with all weights 0 it says what the champion says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from river import linear_model, optim
from river.utils import VectorDict

from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.champion_input import champion_names, offsets, parted
from models.linear_scorer import LinearScorer, Weights
from models.online_input import FURTHEST, OnlineInput, Seen, softened
from models.online_model import labelled
from models.running_target import RunningTarget
from models.snapshot import pack, unpack

if TYPE_CHECKING:
    from models.learners import Linear
    from models.pipeline import Pipeline

BIAS = "1"

# A gradient this large comes of a weight on a row, never of the row: the inputs lie within ±10.
STEEPEST = 1e3


class _OverArrays:
    """River's mini-batches without the frames around them, which take most of the time of a step of 32 rows.

    And without BLAS, whose sums depend on the number of its threads.
    """

    _weights: Any
    intercept: float
    optimizer: Any
    _enter_learn_mode: Any
    _exit_learn_mode: Any
    _eval_gradient_many: Any
    _fit: Any
    _begin: Floats | float

    def learn_rows(
        self,
        names: list[str],
        values: Floats,
        targets: npt.NDArray[Any],
        weights: Floats,
        begin: Floats | float = 0.0,
    ) -> None:
        """What `learn_many` does once its frames are unwrapped, word for word (River 0.26.1).

        `begin` is added to the sums: what the champion said of each row.
        """
        self._begin = begin
        saved = self._enter_learn_mode(set(names))
        try:
            gradient = partial(self._eval_gradient_many, values)
            self._fit(x=names, y=targets, w=weights, get_grad=gradient)
        finally:
            self._exit_learn_mode(saved)

    def put(self, names: Sequence[str], weights: Floats, squares: Floats, steps: int) -> None:
        """Continues where another one stopped."""
        self._weights = VectorDict(dict(zip(names, weights.tolist(), strict=True)))
        self.optimizer.g2.update(zip(names, squares.tolist(), strict=True))
        self.optimizer.n_iterations = steps

    def _raw_dot_many(self, X: Floats, cols: Sequence[str]) -> Floats:  # noqa: N803  # River's name
        sums: Floats = np.einsum("ij,j->i", X, self._weights.to_numpy(cols)) + self.intercept
        return sums + self._begin


class _Logistic(_OverArrays, linear_model.LogisticRegression):
    pass


class _Linear(_OverArrays, linear_model.LinearRegression):
    pass


class LinearModel:
    """K of River's linear models over one encoding."""

    def __init__(self, spec: Linear, kind: str, parts: int, encoding: OnlineInput) -> None:
        self.name = spec.name
        self._spec = spec
        self._kind = kind
        self._input = encoding
        self._target = RunningTarget()
        estimator = _Linear if spec.regression else _Logistic
        self._parts = [
            estimator(optimizer=optim.AdaGrad(spec.learning_rate), intercept_lr=0.0, clip_gradient=STEEPEST)
            for _ in range(parts)
        ]
        self._scorer: LinearScorer | None = None

    @classmethod
    def made(cls, spec: Linear, pipeline: Pipeline) -> LinearModel:
        """A model that has learnt nothing: 0.5 for every row, or 0, or all classes alike."""
        label = pipeline.label
        parts = len(label.classes) if label.kind == "multiclass" else 1
        more = champion_names(label.kind, parts) if spec.champion_input else ()
        return cls(spec, label.kind, parts, OnlineInput.of(pipeline.feature_set, more))

    def learn(self, matrix: FeatureMatrix, codes: Floats, weights: Floats | None = None) -> None:
        """Scale and texts first, then one step for each mini-batch."""
        matrix, codes, weights = labelled(matrix, self._learnable(matrix, codes), weights)
        if not len(codes):
            return
        self._scorer = None
        matrix, begins = self._parted(matrix)
        self._input.learn(matrix)
        if self._kind == "regression":
            codes = self._scaled(codes, begins)
        seen = self._input.see(matrix)
        seen = softened(seen) if self._spec.soften else seen
        steps = -(-len(codes) // self._spec.rows_per_step)
        for rows in np.array_split(
            np.arange(len(codes)), steps
        ):  # of like size: a last step of one row would weigh most
            self._step(_part(seen, rows), codes[rows], weights[rows], begins[rows])

    def score(self, matrix: FeatureMatrix) -> Floats:
        """As the scorer of `scoring_bytes`."""
        return self._scoring().score(matrix)

    def scoring_bytes(self) -> bytes:
        """Flat arrays."""
        return self._scoring().to_bytes()

    def state_bytes(self) -> bytes:
        """Flat arrays too: weights and AdaGrad's sums of squares by column name, exactly."""
        names = list(self._parts[0].optimizer.g2)
        weights = [[part.weights.get(name, 0.0) for name in names] for part in self._parts]
        squares = [[part.optimizer.g2[name] for name in names] for part in self._parts]
        fields, arrays = self._input.state()
        head = {
            "kind": self._kind,
            "columns": names,
            "steps": self._parts[0].optimizer.n_iterations,
            "target": self._target.state(),
            "input": fields,
        }
        shape = (len(self._parts), len(names))
        arrays["weights"] = np.array(weights, np.float64).reshape(shape)
        arrays["squares"] = np.array(squares, np.float64).reshape(shape)
        return pack(head, arrays)

    @classmethod
    def restored(cls, spec: Linear, pipeline: Pipeline, state: bytes) -> LinearModel:
        """The model of `state_bytes`; raises SnapshotError."""
        fields, arrays = unpack(state)
        try:
            model = cls(
                spec, fields["kind"], len(arrays["weights"]), OnlineInput.restored(fields["input"], arrays)
            )
            model._target = RunningTarget.restored(fields["target"])
            for part, weights, squares in zip(
                model._parts, arrays["weights"], arrays["squares"], strict=True
            ):
                part.put(fields["columns"], weights, squares, fields["steps"])
            return model
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the state of {spec.name} does not fit together: {error!r}") from error

    def _learnable(self, matrix: FeatureMatrix, codes: Floats) -> Floats:
        """NaN also where a learner over the champion does not know what the champion said."""
        if not self._spec.over_champion:
            return codes
        said = matrix.values[:, -len(self._parts) :]
        return np.where(np.isfinite(said).all(axis=1), codes, np.nan)

    def _parted(self, matrix: FeatureMatrix) -> tuple[FeatureMatrix, Floats]:
        """The inputs, and where the sums begin: float64[n, K], 0 but for a learner over the champion."""
        if not self._spec.over_champion:
            return matrix, np.zeros((len(matrix), len(self._parts)))
        features, said = parted(matrix, len(self._parts))
        return (matrix if self._spec.champion_input else features), offsets(self._kind, said)

    def _scaled(self, codes: Floats, begins: Floats) -> Floats:
        """The target of a regression; over the champion it is what the champion missed, in units that keep 0 at 0."""
        if not self._spec.over_champion:
            self._target.learn(codes)
            return self._target.scaled(codes)
        missed = codes - begins[:, 0]
        self._target.learn(missed)
        return np.clip(missed / self._target.reach, -FURTHEST, FURTHEST)

    def _step(self, seen: Seen, codes: Floats, weights: Floats, begins: Floats) -> None:
        names, values = columns(seen, self._input)
        for at, part in enumerate(self._parts):
            if self._kind == "regression":
                part.learn_rows(names, values, codes, weights)
            else:
                targets = codes == (1.0 if self._kind == "binary" else float(at))
                part.learn_rows(names, values, targets, weights, begins[:, at])

    def _scoring(self) -> LinearScorer:
        if self._scorer is None:
            over = self._spec.over_champion
            scale = (0.0, self._target.reach) if over else self._target.scale
            self._scorer = LinearScorer(
                self._kind, self._input, self._weights(), scale, over, self._spec.soften
            )
        return self._scorer

    def _weights(self) -> Weights:
        found = [part.weights for part in self._parts]

        def of(names: Sequence[str]) -> Floats:
            rows = [[weights.get(name, 0.0) for name in names] for weights in found]
            return np.array(rows, np.float64).reshape(len(found), len(names))

        numbers, categories = self._input.number_names, self._input.category_names
        codes = [
            of([_code_name(name, code) for code in range(len(self._input.texts(at)))])
            for at, name in enumerate(categories)
        ]
        return Weights(
            of([BIAS])[:, 0], of(numbers), of([_missing_name(name) for name in numbers]), tuple(codes)
        )


def columns(seen: Seen, encoding: OnlineInput) -> tuple[list[str], Floats]:
    """The names and values float64[n, W] of all columns that are not 0 in every row."""
    numbers = encoding.number_names
    names = [BIAS, *numbers, *map(_missing_name, numbers)]
    blocks = [np.ones((len(seen), 1)), seen.numbers, seen.missing]
    for at, name in enumerate(encoding.category_names):
        codes = np.unique(seen.codes[:, at])
        names += [_code_name(name, code) for code in codes.tolist()]
        blocks.append(seen.codes[:, at, None] == codes)
    values = np.concatenate(blocks, axis=1)
    kept = np.flatnonzero(values.any(axis=0)).tolist()
    return [names[at] for at in kept], values[:, kept]


def _missing_name(name: str) -> str:
    return f"{name} missing"


def _code_name(name: str, code: int) -> str:
    return f"{name}={code}"


def _part(seen: Seen, rows: Any) -> Seen:
    return Seen(seen.numbers[rows], seen.missing[rows], seen.codes[rows])
