"""A yardstick with published results: half-hourly electricity prices of New South Wales, up or down (Elec2, Harries 1999).

    python -m benchmarks.quality.elec2 --data <elec2.parquet>
    python -m benchmarks.quality.elec2 --data <elec2.parquet> --json

The table is that of River's `Elec2` with two more columns, `event_time` and `label_time`. Nothing is trained before: the
learners answer from the first row on, with the columns as they are and no windows, so that they stand beside the results
that River publishes for the same task. Test, then train; everything runs through both roads in this process.

    accuracy           the label is known at once, before the next row is asked
    accuracy_delayed   it is known half an hour later, which is when the next row is asked: too late for that one
    kappa_temporal     (accuracy - that of "no change") / (1 - that): below 0 a model is worth nothing here, because the
                       last label repeats in 85 of 100 rows (Zliobaite et al. 2015); both ways, each against a no-change
                       classifier that has the same delay

There is no bar; the figures are for comparing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.quality.replay import replayed
from driftwood import Label, Pipeline, bounded_tree, scaled_logistic
from features.plan import Floats, Ints
from offline.one_order import Sent, merged

# Accuracy, test then train, label at once: River's benchmark page for binary classification.
PUBLISHED = {
    "no change": 0.8533,
    "ALMA": 0.9064,
    "leveraging bagging": 0.8927,
    "stacking": 0.8855,
    "adaptive random forest": 0.8766,
    "streaming random patches": 0.8689,
    "k nearest neighbours": 0.8531,
    "AMF": 0.8499,
    "logistic regression": 0.8221,
    "Hoeffding adaptive tree": 0.8213,
    "Hoeffding tree": 0.7956,
    "naive Bayes": 0.7287,
}
PACKAGES = ("driftwood", "river", "numpy", "numba")
FALLBACK = "fallback"
NUMBERS = ("date", "day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")


class HalfHour(msgspec.Struct):
    """One row of the table."""

    number: str
    at: int
    date: float
    day: float
    period: float
    nswprice: float
    nswdemand: float
    vicprice: float
    vicdemand: float
    transfer: float


def prices() -> Pipeline:
    """The columns as they are, and the default learners, one row a step: there is one an answer."""
    return Pipeline(
        "elec2",
        event=HalfHour,
        id="number",
        time="at",
        time_unit="s",
        earliest="1996-01-01",
        label=Label("up", horizon="1d"),
        features=list(NUMBERS),
        online=[scaled_logistic(rows_per_step=1), bounded_tree()],
        fallback=0.5,
    )


def main() -> None:
    """Run, and say what was found."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", type=Path, required=True, help="the table, as Parquet")
    parser.add_argument("--rows", type=int, help="only the first so many (default: all)")
    given = parser.parse_args()
    table = pd.read_parquet(given.data).iloc[: given.rows]
    tell(measured(table), as_json=given.json, show=_show)


def measured(table: pd.DataFrame) -> dict[str, Any]:
    """All figures."""
    up: Floats = (table["class"] == "UP").to_numpy().astype(np.float64)
    at_s = table["event_time"].to_numpy("datetime64[s]").astype(np.int64)
    label_s = table["label_time"].to_numpy("datetime64[s]").astype(np.int64)
    figures: dict[str, Any] = {}
    for name, known_s, behind in (("", at_s, 1), ("_delayed", label_s, 2)):
        say(f"labels {'half an hour late' if name else 'at once'}")
        scores = _scores(table, up, at_s, known_s)
        right = {part: _accuracy(up, found >= 0.5) for part, found in scores.items()}
        unchanged = _accuracy(up, np.concatenate([np.zeros(behind), up[:-behind]]) > 0)
        figures[f"accuracy{name}"] = {**right, "no change": unchanged}
        figures[f"kappa_temporal{name}"] = {
            part: round((share - unchanged) / (1 - unchanged), 4) for part, share in right.items()
        }
    return {**figures, "rows": len(table), "published": PUBLISHED, "machine": machine(PACKAGES)}


def _scores(table: pd.DataFrame, up: Floats, at_s: Ints, known_s: Ints) -> dict[str, Floats]:
    """What each part said of every row; 0.5 before it had a say."""
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        sent = merged(events(table, at_s), labels(up, known_s))
        answered, _ = replayed(prices(), Path(folder), sent, span_us=0)
    assert answered.ids == [str(row) for row in range(len(table))]
    return {
        name: np.nan_to_num(found, nan=0.5) for name, found in answered.scores.items() if name != FALLBACK
    }


def events(table: pd.DataFrame, at_s: Ints) -> Iterator[Sent]:
    """The rows as they are asked, each at its time (seconds)."""
    columns = zip(*(table[name].tolist() for name in NUMBERS), strict=True)
    for row, (at, values) in enumerate(zip(at_s.tolist(), columns, strict=True)):
        event = {"number": str(row), "at": at, **dict(zip(NUMBERS, values, strict=True))}
        yield Sent(at * 1_000_000, "events", msgspec.json.encode(event))


def labels(up: Floats, known_s: Ints) -> Iterator[Sent]:
    """Their labels, each when it is known (seconds)."""
    for row, (code, known) in enumerate(zip(up.tolist(), known_s.tolist(), strict=True)):
        label = {"event_id": str(row), "up": int(code), "known_at": known}
        yield Sent(known * 1_000_000, "labels", msgspec.json.encode(label), str(row).encode())


def _accuracy(up: Floats, said: Any) -> float:
    return round(float((said == (up > 0)).mean()), 4)


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    table = Table("", "accuracy", "kappa temporal", "delayed", "kappa temporal", title="Elec2")
    for part, share in figures["accuracy"].items():
        cells = [share, figures["kappa_temporal"].get(part, 0.0)]
        cells += [figures["accuracy_delayed"][part], figures["kappa_temporal_delayed"].get(part, 0.0)]
        table.add_row(part, *(f"{cell:.4f}" for cell in cells))
    for part, share in sorted(figures["published"].items(), key=lambda pair: -pair[1]):
        table.add_row(f"published: {part}", f"{share:.4f}", "", "", "")
    console.print(table)
    print_machine(console, figures["machine"])


if __name__ == "__main__":
    main()
