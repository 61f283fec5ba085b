"""How good the answers are on the flights of 2013: trained on January to March, the rest of the year scored once.

    python -m benchmarks.quality.flights            about 15 minutes on one free core
    python -m benchmarks.quality.flights --json

Everything runs through both roads, in this process and in one order of time (`offline/in_process.py`):

    January to March   the fallback answers, the learners learn: windows, learners and ledger are as they would be live
    April to December  LightGBM, trained on the labels known by the end of March and never again, answers beside the learners

A label is used once the aircraft has landed, and then only from the next slice on: up to `--slice` minutes late, never
early. Features and settings were chosen on January to March alone: trained to February, judged on March (docs/decisions/
0037). `lead` is how far the blend's AUC stands above the best part's in a month; the target is never below -0.005.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.quality.replay import BLEND, MINUTE_US, Answered, Promotion, replayed, sent_of
from examples.flights.data import between, prepare
from examples.flights.demo import TRAIN_UNTIL
from features.plan import Floats
from models.loading import load_pipeline
from models.model_store import ModelStore
from offline.train import train

FIRST, CUT, END = date(2013, 1, 1), date(2013, 4, 1), date(2014, 1, 1)
PACKAGES = ("driftwood", "lightgbm", "river", "numpy", "numba")

# Before the learners have met the first labels there is only the fallback; it is no part of what is compared.
FALLBACK = "fallback"


def main() -> None:
    """Run, and say what was found."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--slice", type=int, default=30, help="minutes of event time in a slice (default: 30)"
    )
    parser.add_argument(
        "--until", type=date.fromisoformat, default=END, help="stop before this day (default: all)"
    )
    given = parser.parse_args()
    tell(measured(given.slice, given.until), as_json=given.json, show=_show)


def measured(slice_minutes: int, until: date = END) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        answered, learner, truth = _answers(Path(folder), slice_minutes, until)
    rows = np.flatnonzero([name[:10] >= CUT.isoformat() for name in answered.ids])
    ids = [answered.ids[row] for row in rows]
    codes = truth.reindex(ids).to_numpy(dtype=float, na_value=np.nan)
    parts = {name: scores[rows] for name, scores in answered.scores.items() if name != FALLBACK}
    weights = {name: values[rows] for name, values in answered.weights.items() if name != FALLBACK}
    months = np.array([name[:7] for name in ids])
    return {
        **_figures(codes, parts),
        "by_month": {
            str(month): _of_month(codes, parts, weights, months == month) for month in np.unique(months)
        },
        "labels": int((~np.isnan(codes)).sum()),
        "outcomes": learner["outcomes"],
        "slice_minutes": slice_minutes,
        "machine": machine(PACKAGES),
    }


def _answers(folder: Path, slice_minutes: int, until: date) -> tuple[Answered, dict[str, Any], Any]:
    """What was answered from January on, the learner's figures, and by flight_id whether it was late (null: unknown)."""
    pipeline, prepared = load_pipeline("flights"), prepare(folder / "data")
    events = between(pd.read_parquet(prepared.events), FIRST, until)
    labels = pd.read_parquet(prepared.labels)
    labels = labels[labels["flight_id"].isin(events["flight_id"])]
    say("training LightGBM on January to March")
    models = ModelStore(folder / "models")
    past = between(events, FIRST, CUT)
    report = train(pipeline, past, prepared.labels, store=models, until=TRAIN_UNTIL)
    promotion = Promotion(pd.Timestamp(TRAIN_UNTIL).value // 1_000, report.version)
    times_us = events["scheduled_departure"].to_numpy("datetime64[us]").astype(np.int64)
    sent = sent_of(pipeline, events, labels, times_us)
    span_us = slice_minutes * MINUTE_US
    answered, learner = replayed(pipeline, models.folder, sent, span_us=span_us, promotions=[promotion])
    return answered, learner, labels.set_index("flight_id")["late"]


def _of_month(
    codes: Floats, parts: Mapping[str, Floats], weights: Mapping[str, Floats], inside: Any
) -> dict[str, Any]:
    figures = _figures(codes[inside], {name: scores[inside] for name, scores in parts.items()})
    best = max(auc for name, auc in figures["auc"].items() if name != BLEND)
    return {
        "labels": int((~np.isnan(codes[inside])).sum()),
        **figures,
        "lead": round(figures["auc"][BLEND] - best, 4),
        "weight": {name: round(float(np.nanmean(values[inside])), 3) for name, values in weights.items()},
    }


def _figures(codes: Floats, parts: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """AUC and log loss of each part over all events that have a label."""
    known = ~np.isnan(codes)
    scored = {name: scores[known] for name, scores in parts.items()}
    return {
        "auc": {
            name: round(float(roc_auc_score(codes[known], scores)), 4) for name, scores in scored.items()
        },
        "log_loss": {
            name: round(float(log_loss(codes[known], scores)), 4) for name, scores in scored.items()
        },
    }


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    names = list(figures["auc"])
    table = Table("", *names, "lead", title="Flights of 2013: AUC / log loss")
    for month, row in {**figures["by_month"], "all": figures}.items():
        cells = [f"{row['auc'][name]:.4f} / {row['log_loss'][name]:.4f}" for name in names]
        table.add_row(month, *cells, f"{row['lead']:+.4f}" if "lead" in row else "")
    console.print(table)
    print_machine(console, figures["machine"])


if __name__ == "__main__":
    main()
