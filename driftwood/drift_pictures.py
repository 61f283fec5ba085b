"""The pictures of the drift report, drawn for a light page; a dark one shows them with their lightness turned round."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib.dates
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from driftwood.drift_compared import Compared
from driftwood.drift_series import AlertLife, Strength, TimeLine
from driftwood.picture import COLOURS, DOTS_AN_INCH, MARKS
from features.durations import DAY_US, HOUR_US
from models.drift.signals import CLEARS, RAISES

_dated: Any = matplotlib.dates  # its locators have no types

# Subjects of a level that get a line of their own; more lines than this nobody tells apart.
MOST_LINES = 5

# Times the threshold up to which a time line is drawn in proportion; what is beyond is drawn by its order of magnitude.
IN_PROPORTION = 3.0

# Steps without a word of a subject behind which its line is broken; what is told of losses between the steps is none of them.
PAUSE = 3
LEAST_PAUSE_US = 3 * HOUR_US

WIDE = (6.0, 2.9)
NARROW = (5.4, 3.6)
"""Inches."""

INK, FAINT, BEFORE, NOW = "#1c1f23", "#8a9099", "#aab1ba", COLOURS[1]


@dataclass(frozen=True)
class Picture:
    """A picture as a PNG; `alt` says in words what it shows, `name` is its file's."""

    name: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Span:
    """From where to where the time axes go, microseconds since the epoch."""

    start_us: int
    end_us: int


def time_line(line: TimeLine, span: Span, name: str) -> Picture:
    """The strength of a level's subjects over event time, with the threshold and the alerts."""

    def drawn(panel: Axes) -> None:
        for life in line.lives:
            _life(panel, life, span)
        panel.axhline(RAISES, color=INK, linewidth=1.2, linestyle="--")
        panel.text(1.0, RAISES, " alert", transform=panel.get_yaxis_transform(), va="center", fontsize=9)
        _strengths(panel, line)
        _scale(panel, max((one.strength for one in line.strengths), default=0.0))
        _dates(panel, span)

    told = ", ".join(line.subjects[:MOST_LINES]) or "nothing"
    alerts = f"{len(line.lives)} alert{'' if len(line.lives) == 1 else 's'} marked"
    return _picture(name, f"Time line of the level {line.level}: {told} stood out; {alerts}.", drawn, WIDE)


def _scale(panel: Axes, most: float) -> None:
    top = max(2.0, 1.15 * most)
    if top > 2 * IN_PROPORTION:
        panel.set_yscale("symlog", linthresh=IN_PROPORTION)
        steps = [step * 10**power for power in range(7) for step in (1, 2, 5)]
        panel.yaxis.set_major_locator(FixedLocator([0, *(step for step in steps if step <= top)]))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    panel.set_ylim(0, top)
    panel.set_ylabel("times the threshold")


def _life(panel: Axes, life: AlertLife, span: Span) -> None:
    """A band from raised to resolved, with its number on top."""
    start, end = max(life.raised_us, span.start_us), life.resolved_us or span.end_us
    panel.axvspan(_time(start), _time(end), color=FAINT, alpha=0.22, linewidth=0)
    panel.axvline(_time(start), color=INK, linewidth=0.8)
    panel.text(
        _time(start),
        1.0,
        f" {life.number}{'!' if life.critical else ''}",
        transform=panel.get_xaxis_transform(),
        va="bottom",
        ha="center",
        fontsize=10,
        fontweight="bold",
    )


def _strengths(panel: Axes, line: TimeLine) -> None:
    shown = line.subjects[:MOST_LINES]
    every = {subject: [one for one in line.strengths if one.subject == subject] for subject in line.subjects}
    step_us = min((later - one for one, later in pairwise(line.moments)), default=0)
    for subject, found in every.items():
        times, values = _broken(found, max(PAUSE * step_us, LEAST_PAUSE_US))
        if subject not in shown:
            panel.plot(times, values, linestyle="", marker=".", markersize=3, color=FAINT, zorder=1)
            continue
        place = shown.index(subject)
        style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKS[place], "markersize": 3}
        panel.plot(times, values, label=textwrap.shorten(subject, 28), linewidth=1.6, **style)
    if shown:
        panel.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    else:
        panel.text(0.5, 0.3, f"never above {CLEARS:g}", transform=panel.transAxes, ha="center", fontsize=10)


def _broken(found: Sequence[Strength], pause_us: int) -> tuple[list[float], list[float]]:
    """Times and strengths, with a gap where the subject was calm: what is calm is not written down."""
    times, values = [], []
    before_us = None
    for one in found:
        if before_us is not None and one.at_us - before_us > pause_us:
            times.append(_time(before_us + 1))
            values.append(np.nan)
        times.append(_time(one.at_us))
        values.append(one.strength)
        before_us = one.at_us
    return times, values


def distribution(found: Compared, name: str) -> Picture:
    """A column's shares by bin, and the quantiles of a number, in the reference and now."""
    if not found.quantiles:
        return _picture(name, alt_of(found), lambda panel: _bars(panel, found), NARROW)

    def drawn(upper: Axes, lower: Axes) -> None:
        _boxes(upper, found)
        _bars(lower, found)

    return _two(name, alt_of(found), drawn)


def alt_of(found: Compared) -> str:
    """The picture of a column in a sentence.

    Example:
        >>> from models.drift.columns import Column
        >>> alt_of(Compared(Column("amount", "number", "feature"), (10, 10), {"1 to 2": (0.9, 0.5), "3": (0.1, 0.5)}))
        'amount, reference against now, by share: the largest change is 1 to 2, from 90.0 % to 50.0 %.'
    """
    if not found.bars:
        return f"{found.column.name}: no values."
    name = max(found.bars, key=lambda bar: abs(found.bars[bar][1] - found.bars[bar][0]))
    before, now = found.bars[name]
    change = f"the largest change is {name}, from {100 * before:.1f} % to {100 * now:.1f} %"
    return f"{found.column.name}, reference against now, by share: {change}."


def _bars(panel: Axes, found: Compared) -> None:
    places = np.arange(len(found.bars))
    before, now = np.array(list(found.bars.values()), float).reshape(-1, 2).T
    panel.bar(places - 0.2, before, 0.4, color=BEFORE, label="reference")
    # Hatched, so that the two are told apart without their colours.
    panel.bar(places + 0.2, now, 0.4, color=NOW, hatch="///", edgecolor="white", linewidth=0, label="now")
    names = [name if "-" in name else name.replace(" to ", "\u2013") for name in found.bars]
    names = [textwrap.shorten(name, 16, placeholder="…") if " " in name else name[:16] for name in names]
    panel.set_xticks(places, names, rotation=55, ha="right", rotation_mode="anchor", fontsize=8)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.margins(x=0.02)
    panel.legend(
        frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1
    )


def _boxes(panel: Axes, found: Compared) -> None:
    """Two rows: a line from the 5 % to the 95 % quantile, a box around the middle half, a mark at the median."""
    for row, colour in enumerate((BEFORE, NOW)):
        low, first, middle, last, high = (pair[row] for pair in found.quantiles.values())
        panel.plot([low, high], [-row, -row], color=colour, linewidth=1.6)
        panel.barh(-row, last - first, 0.5, left=first, color=colour, alpha=0.75)
        panel.plot([middle], [-row], marker="|", markersize=13, markeredgewidth=2.2, color=INK)
    ends = [value for pair in found.quantiles.values() for value in pair]
    if min(ends) > 0 and max(ends) / min(ends) > 30:
        panel.set_xscale("log")
    panel.set_yticks([0, -1], ["reference", "now"], fontsize=9)
    panel.set_ylim(-1.5, 0.5)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", alpha=0.25)


def lines(
    name: str, alt: str, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], span: Span
) -> Picture:
    """Figures over event time: of each panel, by its title, lines of (microseconds, value) by their names."""

    def drawn(axes: Sequence[Axes]) -> None:
        for panel, (title, found) in zip(axes, panels.items(), strict=True):
            for number, (line, points) in enumerate(found.items()):
                times = [_time(at_us) for at_us, _ in points]
                style: dict[str, Any] = {
                    "color": COLOURS[number % 6],
                    "marker": MARKS[number % 6],
                    "markersize": 4,
                }
                if line in STRONG:
                    style |= {"color": INK, "marker": "o"}
                panel.plot(times, [value for _, value in points], label=line, linewidth=1.6, **style)
            values = [value for points in found.values() for _, value in points]
            if min(values) >= 0 and min(values) <= max(values) / 3:
                panel.set_ylim(0, max(1.08 * max(values), 0.01))
            panel.set_title(title, fontsize=11, loc="left")
            if len(found) > 1:
                panel.legend(frameon=False, fontsize=9, ncols=3, loc="best")
            _dates(panel, span)

    size = (WIDE[0], 2.3 * len(panels))
    return _picture_of(name, alt, drawn, size, rows=len(panels))


STRONG = ("blend", "score", "what came true")
"""Lines in the colour of the ink."""


def _dates(panel: Axes, span: Span) -> None:
    locator = _dated.AutoDateLocator(minticks=3, maxticks=8)
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(_dated.ConciseDateFormatter(locator))
    panel.set_xlim(_time(span.start_us), _time(span.end_us))


def _time(at_us: int) -> float:
    return at_us / DAY_US  # days since the epoch, as matplotlib counts time


def _picture(name: str, alt: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> Picture:
    return _picture_of(name, alt, lambda panels: draw(panels[0]), size)


def _two(name: str, alt: str, draw: Callable[[Axes, Axes], None]) -> Picture:
    return _picture_of(name, alt, lambda panels: draw(panels[0], panels[1]), NARROW, rows=2, heights=(1, 2.4))


def _picture_of(
    name: str,
    alt: str,
    draw: Callable[[Sequence[Axes]], None],
    size: tuple[float, float],
    *,
    rows: int = 1,
    heights: Sequence[float] | None = None,
) -> Picture:
    written = io.BytesIO()
    # A category's name comes from an event: "$" in it begins no formula.
    with rc_context({"text.parse_math": False}):
        picture = Figure(figsize=size, layout="constrained")
        panels = picture.subplots(rows, 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel in panels:
            panel.grid(axis="y", alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        draw(list(panels))
        picture.savefig(written, format="png", dpi=DOTS_AN_INCH, pil_kwargs={"compress_level": 9})
    return Picture(name, alt, written.getvalue())
