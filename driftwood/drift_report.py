"""The drift report: one HTML file that says what is open, since when and how strong, and shows now beside the reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwood import drift_pictures
from driftwood.drift_compared import Compared
from driftwood.drift_page import rendered
from driftwood.drift_pictures import Picture, Span
from driftwood.drift_series import AlertLife, TimeLine
from models.drift.alert import moment
from models.drift.signals import RAISES, Level, Signal

OF_COLUMNS: tuple[Level, ...] = ("data", "prediction", "estimate")
"""Levels whose subjects are columns; those of the others are models and what the label feed is about."""

# PSI from which one speaks of some change, and of much: the convention of credit scoring.
SOME, MUCH = 0.1, 0.2


@dataclass(frozen=True)
class Watched:
    """What a report is made of: of the event times of `span`, and of `window`, which is called now.

    `reference` says in words what now is compared with, `budget` false alarms a month (None: thresholds by convention).
    `lives`: the alerts that were open at any time of the span. `compared`: every column whose values are compared;
    `nothing_compared` says why it is empty. `now`: the strongest signal of each level and subject at the end. `panels` are
    figures over time by section ("labels", "concept", "estimate"): title of a panel, its lines.
    """

    pipeline: str
    span: Span
    window: Span
    reference: str
    budget: float | None
    rows: int
    versions: Sequence[str]
    lives: Sequence[AlertLife]
    time_lines: Sequence[TimeLine]
    compared: Sequence[Compared]
    nothing_compared: str
    now: Mapping[tuple[Level, str], Signal]
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]]

    @property
    def open(self) -> list[AlertLife]:
        """The alerts that are not resolved, the most severe and strongest first."""
        return sorted((life for life in self.lives if life.open), key=_worst_first)


@dataclass(frozen=True)
class FeatureRow:
    """A column as the page shows it, with what stands out most of it now, and the numbers of open alerts that name it."""

    found: Compared
    strongest: Signal | None
    alerts: tuple[int, ...]
    picture: Picture

    @property
    def strength(self) -> float:
        """In times of the threshold."""
        return 0.0 if self.strongest is None else self.strongest.strength

    @property
    def loud(self) -> bool:
        """Whether one should look at it."""
        return self.strength >= RAISES or bool(self.alerts)

    @property
    def verdict(self) -> str:
        """In a word, so that colour says nothing alone."""
        if self.loud:
            return "has moved"
        if self.found.psi >= MUCH:
            return "differs, below its threshold"
        return "differs a little" if self.found.psi >= SOME else "as usual"


@dataclass(frozen=True)
class Written:
    """The files of a report, and what it says of each column."""

    page: Path
    pictures: tuple[Path, ...]
    features: tuple[FeatureRow, ...]


def write(watched: Watched, folder: Path) -> Written:
    """Write `index.html`, which needs nothing beside it, and its pictures as PNG files, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = pictures_of(watched)
    features = features_of(watched)
    drawn = [*sections.values(), *(row.picture for row in features)]
    for picture in drawn:
        (folder / f"{picture.name}.png").write_bytes(picture.png)
    page = folder / "index.html"
    page.write_text(rendered(watched=watched, sections=sections, features=features), encoding="utf-8")
    return Written(page, tuple(folder / f"{picture.name}.png" for picture in drawn), tuple(features))


def features_of(watched: Watched) -> list[FeatureRow]:
    """The worst first: those of which something is above its threshold, then by PSI."""
    rows = []
    for found in watched.compared:
        name = found.column.name
        signals = [one for one in watched.now.values() if one.subject == name and one.level in OF_COLUMNS]
        strongest = max(signals, key=lambda signal: signal.strength, default=None)
        alerts = tuple(life.number for life in watched.open if _speaks_of(life, name))
        rows.append(
            FeatureRow(
                found,
                strongest,
                alerts,
                drift_pictures.distribution(found, f"feature-{_file_name(name)}"),
            )
        )
    return sorted(
        rows, key=lambda row: (-row.strength, not row.alerts, -row.found.psi, row.found.column.name)
    )


def pictures_of(watched: Watched) -> dict[str, Picture]:
    """By section: the time line of each level on which anything was seen, and the figures over time."""
    found = {
        f"time-{line.level}": drift_pictures.time_line(line, watched.span, f"time-{line.level}")
        for line in watched.time_lines
        if line.strengths or line.lives
    }
    for section, panels in watched.panels.items():
        if panels:
            alt = f"{'; '.join(panels)}: over event time, {moment(watched.span.start_us)} to {moment(watched.span.end_us)}."
            found[section] = drift_pictures.lines(section, alt, panels, watched.span)
    return found


def figures_of(watched: Watched, features: Sequence[FeatureRow]) -> dict[str, Any]:
    """What `--json` prints: the figures of the page."""
    return {
        "pipeline": watched.pipeline,
        "from": moment(watched.span.start_us),
        "to": moment(watched.span.end_us),
        "reference": watched.reference,
        "open": [
            {
                "number": life.number,
                "alert": life.last.alert,
                "severity": life.last.severity,
                "since": life.last.since,
                "title": life.last.title,
                "levels": life.last.levels,
                "strength": None if life.strongest is None else round(life.strongest.strength, 3),
                "runbook": life.last.runbook,
            }
            for life in watched.open
        ],
        "features": [
            {
                "name": row.found.column.name,
                "verdict": row.verdict,
                "strength": round(row.strength, 3),
                "psi": round(row.found.psi, 4),
                "rates": row.found.rates,
                "quantiles": {
                    f"{share:g}": [float(f"{value:.3g}") for value in pair]
                    for share, pair in row.found.quantiles.items()
                },
                "alerts": row.alerts,
            }
            for row in features
        ],
    }


def _worst_first(life: AlertLife) -> tuple[bool, float, int]:
    strongest = 0.0 if life.strongest is None else life.strongest.strength
    return life.last.severity != "critical", -strongest, life.number


def _speaks_of(life: AlertLife, column: str) -> bool:
    return any(one.subject == column and one.level in OF_COLUMNS for one in life.last.signals)


def _file_name(column: str) -> str:
    """Of a column, whose name may hold a class of the label."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", column)
