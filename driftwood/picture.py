"""The models side by side as a picture: a panel for each figure, a line for each part of the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from driftwood.by_period import CARDS, SHOWN, Period

# What is better, and in what it is counted: nobody should have to remember it.
AXES = {
    "auc": "area under the ROC curve, higher is better",
    "ap": "share of 1, higher is better",
    CARDS: "found / looked at, higher is better",
    "log_loss": "nats an event, lower is better",
}

# Okabe and Ito's colours, which those who are colour-blind tell apart; each part has a mark of its own as well.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKS = ("s", "^", "D", "v", "P", "X")

DOTS_AN_INCH = 130


def draw(periods: Sequence[Period], figures: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG of these `figures` over the periods."""
    picture = Figure(figsize=(5.4 * len(figures), 4.4), layout="constrained")
    panels = picture.subplots(1, len(figures), squeeze=False)[0]
    for panel, figure in zip(panels, figures, strict=True):
        _panel(panel, periods, figure)
    handles, names = panels[-1].get_legend_handles_labels()
    picture.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    picture.suptitle(title, fontsize=12)
    picture.savefig(path, dpi=DOTS_AN_INCH)


def _panel(panel: Axes, periods: Sequence[Period], figure: str) -> None:
    names = [f"{period.name}\n{_short(period.labels)} labels" for period in periods]
    for part, style in _styles(periods, figure).items():
        values = [period.figures.get(figure, {}).get(part, np.nan) for period in periods]
        panel.plot(names, values, label=part, **style)
    if figure == CARDS:
        possible = [np.nan if period.possible is None else period.possible for period in periods]
        panel.plot(names, possible, label="a perfect score", color="grey", linestyle=":", zorder=1)
    panel.set_title(SHOWN[figure], fontsize=11)
    panel.set_ylabel(AXES[figure])
    panel.margins(x=0.08)
    panel.grid(axis="y", alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", labelsize=8)


def _short(count: int) -> str:
    """For the room below a tick.

    Example:
        >>> _short(9_999), _short(26_617)
        ('9,999', '27k')
    """
    return f"{count:,}" if count < 10_000 else f"{count / 1_000:.0f}k"


def _styles(periods: Sequence[Period], figure: str) -> Mapping[str, Mapping[str, Any]]:
    """How each part is drawn: the blend in black, above all others."""
    parts = dict.fromkeys(part for period in periods for part in period.figures.get(figure, {}))
    others = [part for part in parts if part != "blend"]
    blend = {"color": "black", "linewidth": 2.6, "marker": "o", "zorder": 3}
    return {"blend": blend} | {
        part: {"color": colour, "linewidth": 1.5, "marker": mark, "markersize": 5, "zorder": 2}
        for part, colour, mark in zip(others, COLOURS * 9, MARKS * 9, strict=False)
    }
