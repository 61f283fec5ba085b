"""How good each part of the score was: over all, and month by month or week by week."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from driftwood.answers import first_the_blend
from models.card_precision import CardPrecision, card_precision

Every = Literal["month", "week"]

# A period with fewer labels says more about chance than about a model.
FEWEST_LABELS = 200

# So many cards can be looked at each day.
CARDS_A_DAY = 100
CARDS = f"card_precision_{CARDS_A_DAY}"

SHOWN = {
    "auc": "AUC",
    "ap": "average precision",
    CARDS: f"card precision@{CARDS_A_DAY} a day",
    "log_loss": "log loss",
}
"""The figures, as people are told of them."""

_TRUTH, _AT, _CARD = "truth ", "at ", "card "  # no part's name ends with a space
_PERIODS = {"month": ("M", "%Y-%m"), "week": ("W-SUN", "%Y-%m-%d")}


@dataclass(frozen=True)
class Period:
    """Events whose label came: of a month ("2013-04"), of the week from a Monday on ("2024-05-06"), or of "all" times.

    `figures[name][part]`, the names as in `SHOWN`. `possible`: the card precision of a perfect score, where it was asked
    for; below 1, as on most days fewer cards are bad than are looked at.
    """

    name: str
    labels: int
    figures: Mapping[str, Mapping[str, float]]
    possible: float | None = None


class Judged:
    """The events whose label came, with their scores.

    Of events with RFC 3339 `times` and their scores by part; `truth` has their 0/1 `label` (null: none came), and where card
    precision is wanted their `card`; all aligned. A part is judged on the events that it scored.
    """

    def __init__(
        self, times: Sequence[str], parts: Sequence[Mapping[str, float]], truth: pd.DataFrame
    ) -> None:
        table = pd.DataFrame(list(parts))
        self.parts = sorted(map(str, table.columns), key=first_the_blend)
        table[_TRUTH] = truth["label"].to_numpy(dtype=float, na_value=float("nan"))
        table[_AT] = np.array([time.rstrip("Z") for time in times], "datetime64[us]")
        if "card" in truth:
            table[_CARD] = truth["card"].to_numpy()
        self._rows = table.dropna(subset=[_TRUTH])

    def whole(self) -> Period:
        """All of them."""
        return self._period("all", self._rows)

    def by(self, every: Every) -> list[Period]:
        """Those periods that have `FEWEST_LABELS`, and labels of both kinds, in their order."""
        kind, written = _PERIODS[every]
        begins = self._rows[_AT].dt.to_period(kind).dt.start_time.dt.strftime(written)
        return [
            self._period(str(name), rows)
            for name, rows in self._rows.groupby(begins)
            if len(rows) >= FEWEST_LABELS and rows[_TRUTH].nunique() == 2
        ]

    def _period(self, name: str, rows: pd.DataFrame) -> Period:
        found: dict[str, dict[str, float]] = {}
        for part in self.parts:
            scored = rows.dropna(subset=[part])
            if scored[_TRUTH].nunique() == 2:
                for figure, value in _figures(scored, part).items():
                    found.setdefault(figure, {})[part] = round(value, 4)
        possible = _cards(rows, _TRUTH).possible.mean() if _CARD in rows else None
        return Period(name, len(rows), found, None if possible is None else round(float(possible), 4))


def _figures(rows: pd.DataFrame, part: str) -> dict[str, float]:
    truth, scores = rows[_TRUTH].to_numpy(), rows[part].to_numpy()
    found = {
        "auc": float(roc_auc_score(truth, scores)),
        "ap": float(average_precision_score(truth, scores)),
        "log_loss": float(log_loss(truth, scores)),
    }
    return found | {CARDS: _cards(rows, part).mean} if _CARD in rows else found


def _cards(rows: pd.DataFrame, part: str) -> CardPrecision:
    times_us = rows[_AT].to_numpy().astype("int64")
    truth, scores = rows[_TRUTH].to_numpy(), rows[part].to_numpy(dtype=float)
    return card_precision(times_us, rows[_CARD].tolist(), truth, scores, CARDS_A_DAY)
