"""Outcomes as the join stage would hand them on, and learners whose every number a test knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from driftwood import Blend, Label, Pipeline
from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from models.learners import Declared
from models.matured import Matured
from models.outcomes import CORRECTED, MATCHED
from models.state_bytes import pack_state, unpack_state

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
START_US = 1_700_000_000 * SECOND_US
NAN = float("nan")


class Event(msgspec.Struct):
    id: str
    at: int
    x: float
    y: float


def pipeline(
    kind: Any = "binary",
    online: Sequence[Any] = (),
    horizon: str = "1d",
    classes: Sequence[Any] = ("a", "b", "c"),
    **others: Any,
) -> Pipeline:
    """Two number features; three classes where the label is multiclass."""
    label = Label("came", kind=kind, horizon=horizon, classes=classes if kind == "multiclass" else ())
    return Pipeline(
        "served",
        event=Event,
        id="id",
        time="at",
        time_unit="s",
        features=["x", "y"],
        label=label,
        online=list(online),
        blend=others.pop("blend", Blend()),
        **others,
    )


def matrix(values: Any) -> FeatureMatrix:
    """Rows of the two features."""
    return FeatureMatrix(("x", "y"), np.asarray(values, np.float64), {})


def matured(
    codes: Any,
    score: Any,
    *,
    parts: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    first: int = 0,
    kinds: Sequence[str] | None = None,
    replaced: Any = None,
    times_us: Any = None,
    delays_us: Any = HOUR_US,
    values: Any = None,
    thresholds: Any = 0.5,
    propensities: Any = 1.0,
    champions: Any = None,
) -> Matured:
    """A record of n outcomes; event number i is `e<i>`, a second after the one before, its label an hour later."""
    codes = np.asarray(codes, np.float64)
    rows = len(codes)
    score = np.asarray(score, np.float64)
    times = START_US + (first + np.arange(rows)) * SECOND_US if times_us is None else np.asarray(times_us)
    undone = np.full(rows, NAN) if replaced is None else np.asarray(replaced, np.float64)
    named = [CORRECTED if value == value else MATCHED for value in undone.tolist()]  # noqa: PLR0124  # NaN
    return Matured(
        event_ids=[f"e{first + row}" for row in range(rows)] if ids is None else list(ids),
        times_us=times.astype(np.int64),
        known_us=(times + np.asarray(delays_us)).astype(np.int64),
        kinds=named if kinds is None else list(kinds),
        codes=codes,
        replaced=undone,
        matrix=matrix(np.zeros((rows, 2)) if values is None else values),
        score=score,
        parts={
            name: np.asarray(part, np.float64)
            for name, part in ({"lightgbm": score} if parts is None else parts).items()
        },
        thresholds=np.broadcast_to(np.float64(thresholds), (rows,)).astype(np.float64),
        propensities=np.broadcast_to(np.asarray(propensities, np.float64), (rows,)).copy(),
        champions=champions_of(parts, rows) if champions is None else list(champions),
    )


def champions_of(parts: Mapping[str, Any] | None, rows: int) -> list[str]:
    """The first version of whichever champion has a part."""
    return [f"{'fallback' if parts is not None and 'fallback' in parts else 'lightgbm'}-1"] * rows


class Rate:
    """Says the share of positives (or the mean) that it has seen, and what a test tells it to say instead."""

    def __init__(self, spec: RateSpec, count: float = 0.0, total: float = 0.0) -> None:
        self.spec, self.name = spec, spec.name
        self.count, self.total = count, total
        self.learnt: list[list[float]] = []

    def learn(self, matrix: FeatureMatrix, codes: Any, weights: Any = None) -> None:
        if self.spec.raises and self.count >= self.spec.breaks_at:
            raise RuntimeError(f"no more, at {id(self):x}")
        self.learnt.append(codes.tolist())
        self.seen = matrix
        self.count, self.total = self.count + len(codes), self.total + float(codes.sum())

    def score(self, matrix: FeatureMatrix) -> Any:
        said = self.spec.says if self.count >= self.spec.breaks_at else None
        value = (self.total + 1) / (self.count + 2) if said is None else said
        return np.full(len(matrix), value)

    def scoring_bytes(self) -> bytes:
        return self.state_bytes()

    def state_bytes(self) -> bytes:
        return pack_state({"count": self.count, "total": self.total})


@dataclass(frozen=True)
class RateSpec(Declared):
    """From `breaks_at` rows on the model says `says`, or raises when it learns."""

    name: str = "rate"
    says: float | None = None
    raises: bool = False
    breaks_at: float = float("inf")
    over_champion: bool = False

    def check(self, label: Any, place: str) -> None:
        return None

    def make(self, pipeline: Any) -> Rate:
        return Rate(self)

    def restore(self, pipeline: Any, state_bytes: bytes) -> Rate:
        try:
            return Rate(self, **unpack_state(state_bytes))
        except TypeError as error:
            raise SnapshotError("no rate") from error

    def scorer(self, pipeline: Any, scoring_bytes: bytes) -> Rate:
        return self.restore(pipeline, scoring_bytes)
