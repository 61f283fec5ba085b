"""The parts of the drift benchmark with real data: both go through both roads and the monitor, record by record."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.printing import say
from benchmarks.quality import elec2 as market
from benchmarks.quality.flights import CUT, END, FIRST
from benchmarks.quality.replay import BLEND, MINUTE_US, Answered, Promotion, replayed, sent_of
from examples.flights.data import between, prepare
from examples.flights.demo import TRAIN_UNTIL
from features.event_times import moment_us
from models.drift.alert import Alert, moment
from models.drift.columns import SCORE, watched_columns
from models.drift.estimate import expected
from models.drift.time_slice import TimeSlice, merged
from models.loading import load_pipeline
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.monitor_in_process import MonitorInProcess
from offline.one_order import merged as one_order
from offline.topic_lists import ListedRecord
from offline.train import train

SLICE_MINUTES = 30
DAY_US = 86_400_000_000
FEWEST_LABELS = 200
# Of a time as text.
MINUTES, MONTH = 16, 7

# Victoria's prices, demand and the transfer come alive: until then these columns were constants.
MARKET_CHANGED = "1997-05-02"
AROUND_DAYS = 14


class _From:
    """A monitor that sees what was served from a moment on, and all outcomes."""

    def __init__(self, monitor: MonitorInProcess, from_us: int) -> None:
        self._monitor, self._from_us = monitor, from_us

    def __call__(self, topic: str, records: Sequence[ListedRecord]) -> None:
        since_ms = 0 if topic == "outcomes" else self._from_us // 1_000
        self._monitor.watch(topic, [record for record in records if record.timestamp >= since_ms])


def flights() -> dict[str, Any]:
    """2013 from April on against January to March: alerts, and expected AUC beside what came true, week by week."""
    cut_us = pd.Timestamp(TRAIN_UNTIL).value // 1_000
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        pipeline, prepared = _without_learners(load_pipeline("flights")), prepare(Path(folder) / "data")
        events = between(pd.read_parquet(prepared.events), FIRST, END)
        labels = pd.read_parquet(prepared.labels)
        labels = labels[labels["flight_id"].isin(events["flight_id"])]
        say("training LightGBM on January to March")
        models = ModelStore(Path(folder) / "models")
        past = between(events, FIRST, CUT)
        report = train(pipeline, past, prepared.labels, store=models, until=TRAIN_UNTIL)
        monitor = MonitorInProcess(pipeline, models.folder)
        times_us = events["scheduled_departure"].to_numpy("datetime64[us]").astype(np.int64)
        answered, _ = replayed(
            pipeline,
            models.folder,
            sent_of(pipeline, events, labels, times_us),
            span_us=SLICE_MINUTES * MINUTE_US,
            promotions=[Promotion(cut_us, report.version)],
            watch=_From(monitor, cut_us),
        )
    truth = labels.set_index("flight_id")["late"]
    found = weeks(pipeline, monitor.slices, answered, truth, times_us)
    differences = [row["difference"] for row in found.values()]
    return {
        "estimate_error_auc_by_week": found,
        "estimate_error_auc_mean": round(float(np.mean(np.abs(differences))), 4),
        "alerts": lives(monitor.alerts, cut_us),
        "raised_by_month": raised_by_month(monitor.alerts, cut_us),
    }


def elec2(data: Path) -> dict[str, Any]:
    """The market's change among all alerts. Nothing was trained before, so what came before is the reference."""
    table = pd.read_parquet(data)
    up = (table["class"] == "UP").to_numpy().astype(np.float64)
    at_s = table["event_time"].to_numpy("datetime64[s]").astype(np.int64)
    known_s = table["label_time"].to_numpy("datetime64[s]").astype(np.int64)
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        monitor = MonitorInProcess(market.prices(), Path(folder))
        sent = one_order(market.events(table, at_s), market.labels(up, known_s))
        replayed(market.prices(), Path(folder), sent, span_us=0, watch=monitor.watch)
    changed_us = moment_us(MARKET_CHANGED, "MARKET_CHANGED")
    raised = [moment_us(one.at, "at") for one in monitor.alerts if one.status == "raised"]
    around = [at for at in raised if 0 <= at - changed_us < AROUND_DAYS * DAY_US]
    return {
        "raised_within_14_days": len(around),
        "first_after_hours": round((min(around) - changed_us) / 3_600e6, 1) if around else None,
        "raised_elsewhere": len(raised) - len(around),
        "days": round(float(at_s[-1] - at_s[0]) / 86_400),
        "alerts": lives(monitor.alerts, 0),
    }


def _without_learners(pipeline: Pipeline) -> Pipeline:
    """The champion alone answers: it is what the reference is of."""
    made = copy.copy(pipeline)
    object.__setattr__(made, "online", ())
    return made


def weeks(
    pipeline: Pipeline, slices: Sequence[TimeSlice], answered: Answered, truth: Any, times_us: Any
) -> dict[str, dict[str, float]]:
    """By the Monday of each week: expected AUC with its standard error, what came true, and the difference."""
    columns = watched_columns(pipeline)
    place = [column.name for column in columns].index(SCORE)
    by_week: dict[str, list[TimeSlice]] = {}
    for one in slices:
        if one.rows:
            by_week.setdefault(_monday(one.start_us), []).append(one)
    codes = truth.reindex(answered.ids).to_numpy(dtype=float, na_value=np.nan)
    mondays = np.array([_monday(at) for at in times_us.tolist()])
    scores, found = answered.scores[BLEND], {}
    for monday, some in by_week.items():
        rows = (mondays == monday) & ~np.isnan(codes)
        if rows.sum() < FEWEST_LABELS:
            continue
        alike = [some[0], *(_at(one, some[0]) for one in some[1:])]
        said = expected(merged(columns, alike).column(place))
        came = float(roc_auc_score(codes[rows], scores[rows]))
        found[monday] = {
            "expected": round(said.auc, 4),
            "standard_error": round(said.auc_error, 4),
            "came_true": round(came, 4),
            "difference": round(said.auc - came, 4),
        }
    return found


def _at(one: TimeSlice, first: TimeSlice) -> TimeSlice:
    """The slice as one of the span of the first, so that they can be added."""
    made = copy.copy(one)
    return type(made)(
        first.start_us, first.length_us, *[getattr(made, name) for name in made.__struct_fields__[2:]]
    )


def _monday(time_us: int) -> str:
    day = np.datetime64(time_us, "us").astype("datetime64[D]")
    return str(day - (int(day.astype(np.int64)) - 4) % 7)


def lives(alerts: Sequence[Alert], since_us: int) -> list[str]:
    """A line for each alert: when it was raised and resolved, and what its strongest record said."""
    by_name: dict[str, list[Alert]] = {}
    for one in alerts:
        by_name.setdefault(one.alert, []).append(one)
    lines = []
    for records in by_name.values():
        if moment_us(records[0].at, "at") < since_us:
            continue
        strongest = max(records, key=lambda one: max((s.strength for s in one.signals), default=0.0))
        began, last = records[0].at, records[-1].at
        end = last[:MINUTES] if records[-1].status == "resolved" else "open"
        lines.append(f"{began[:MINUTES]} to {end}: {strongest.severity}, {strongest.title}")
    return lines


def raised_by_month(alerts: Sequence[Alert], since_us: int) -> Mapping[str, int]:
    """How many alerts were raised in each month, from a moment on."""
    found: dict[str, int] = {}
    for one in alerts:
        if one.status == "raised" and moment_us(one.at, "at") >= since_us:
            month = moment(moment_us(one.at, "at"))[:MONTH]
            found[month] = found.get(month, 0) + 1
    return found
