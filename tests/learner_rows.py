"""Made-up rows for learners: two numbers in awkward units, a category, and labels that depend on all three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from driftwood import Label, Pipeline, categorical
from features.feature_set import FeatureMatrix
from features.plan import Floats

NAMES = ("amount", "wind", "shop")
LABELS = {
    "binary": Label("bad"),
    "multiclass": Label("bad", kind="multiclass", classes=("a", "b", "c")),
    "regression": Label("bad", kind="regression"),
}


class Payment(msgspec.Struct):
    payment_id: str
    at: int
    amount: float | None
    wind: float | None
    shop: str | None


def pipeline(kind: str = "binary", online: Sequence[Any] = ()) -> Pipeline:
    return Pipeline(
        "payments",
        event=Payment,
        id="payment_id",
        time="at",
        time_unit="s",
        features=["amount", "wind", categorical("shop")],
        label=LABELS[kind],
        online=online,
    )


def rows(count: int, seed: int, flip: float = 1.0, shops: int = 8) -> tuple[FeatureMatrix, Floats]:
    """Rows and the number behind their labels; `flip` -1.0 turns the meaning of all features round."""
    source = np.random.default_rng(seed)
    amount, wind = source.normal(5e6, 2e6, count), source.normal(0.0, 1e-3, count)
    shop = source.integers(0, shops, count)
    behind = flip * ((amount - 5e6) / 2e6 + wind * 1e3 * np.where(shop % 2, 1.0, -1.0) + (shop % 3 == 0))
    return matrix(amount, wind, [f"shop {at}" for at in shop]), behind + source.logistic(0.0, 0.3, count)


def matrix(amount: Any, wind: Any, shops: Sequence[str | None]) -> FeatureMatrix:
    values = np.stack(
        [np.asarray(amount, float), np.asarray(wind, float), np.full(len(shops), np.nan)], axis=1
    )
    return FeatureMatrix(NAMES, values, {2: pa.array(shops, pa.string())})


def champion(kind: str, behind: Floats) -> Floats:
    """What a batch model would say that knows half of what is behind the labels."""
    half = behind / 2
    if kind == "regression":
        return 100.0 + 40.0 * half
    if kind == "binary":
        return 1.0 / (1.0 + np.exp(-2.0 * (half - 0.3)))
    raised = np.exp(np.stack([-half, np.zeros(len(half)), half], axis=1))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def codes_of(kind: str, behind: Floats) -> Floats:
    if kind == "regression":
        return 100.0 + 40.0 * behind
    if kind == "binary":
        return (behind > 0.3).astype(np.float64)
    return np.digitize(behind, [-0.5, 1.0]).astype(np.float64)
