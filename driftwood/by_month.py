"""How good each part of the score was, month by month: as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from driftwood.answers import first_the_blend

# A month with fewer labels says more about chance than about a model.
FEWEST_LABELS = 200

FIGURES = ("auc", "ap", "log_loss")
SHOWN = {"auc": "AUC", "ap": "average precision", "log_loss": "log loss"}


@dataclass(frozen=True)
class Month:
    """`figures[name][part]` of the events of a month ("2013-04") whose label came."""

    month: str
    labels: int
    figures: Mapping[str, Mapping[str, float]]


def by_month(times: Sequence[str], parts: Sequence[Mapping[str, float]], labels: pd.Series) -> list[Month]:
    """Of events with RFC 3339 `times`, their scores by part, and 0/1 `labels` (null: none); all aligned.

    A part is judged on the events that it scored. Months with fewer than `FEWEST_LABELS` are left out.
    """
    table = pd.DataFrame(list(parts))
    table["truth"] = labels.to_numpy(dtype=float, na_value=np.nan)
    table["month"] = [time[:7] for time in times]
    known = table.dropna(subset=["truth"])
    names = sorted(
        (str(name) for name in known.columns if name not in ("truth", "month")), key=first_the_blend
    )
    return [
        Month(str(month), len(rows), _figures(rows, names))
        for month, rows in known.groupby("month")
        if len(rows) >= FEWEST_LABELS and rows["truth"].nunique() == 2
    ]


def _figures(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {name: {} for name in FIGURES}
    for part in names:
        scored = rows.dropna(subset=[part])
        if scored["truth"].nunique() < 2:
            continue
        truth, scores = scored["truth"].to_numpy(), scored[part].to_numpy()
        found["auc"][part] = round(float(roc_auc_score(truth, scores)), 4)
        found["ap"][part] = round(float(average_precision_score(truth, scores)), 4)
        found["log_loss"][part] = round(float(log_loss(truth, scores)), 4)
    return found


def draw(months: Sequence[Month], figures: Sequence[str], title: str, path: Path) -> None:
    """A PNG: one panel for each figure, one line for each part over the months; the blend in black."""
    picture = Figure(figsize=(4.8 * len(figures), 3.6), layout="constrained")
    panels = picture.subplots(1, len(figures), squeeze=False)[0]
    names = [month.month for month in months]
    for panel, figure in zip(panels, figures, strict=True):
        for part in dict.fromkeys(part for month in months for part in month.figures[figure]):
            values = [month.figures[figure].get(part, np.nan) for month in months]
            bold = {"color": "black", "linewidth": 2.5} if part == "blend" else {"linewidth": 1.5}
            panel.plot(names, values, marker="o", label=part, **bold)
        panel.set_title(SHOWN[figure])
        panel.grid(alpha=0.3)
        panel.tick_params(axis="x", rotation=45)
    panels[0].legend()
    picture.suptitle(title)
    picture.savefig(path, dpi=120)
