"""The parts of the drift benchmark that run on worlds and on made-up labels."""

from __future__ import annotations

import asyncio
import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import poisson  # type: ignore[import-untyped]  # SciPy has no types

from benchmarks.printing import say
from benchmarks.quality import drift_baselines, drift_labels
from benchmarks.quality.drift_life import (
    LABELS_BEFORE,
    Answered,
    Life,
    Trained,
    answered,
    counted_and_read,
    featured,
    trained,
)
from benchmarks.quality.drift_scored import Incident, Span, of_alarms, of_alerts, summary
from benchmarks.quality.drift_world import (
    CUT,
    KINDS,
    Onset,
    World,
    calm,
    drifted,
    pipeline,
    start_us,
    wide_pipeline,
)
from examples.payments.simulation import DAY_US
from features.event_times import moment_us
from models.drift.alert import Alert
from models.drift.thresholds import MONTH_DAYS
from models.pipeline import Pipeline
from offline.backfill import Backfill
from offline.in_process import InProcess
from offline.monitor_in_process import MonitorInProcess
from offline.one_order import Sent
from offline.topic_lists import ListedRecord
from streams.settings import Settings

BUDGET = 1.0
MONTHS_OF_A_WORLD = 10
CALM_DAYS, CHANGED_DAYS = 7, 14
REJECTED_BELOW = 0.05

# Of the concept streams: enough of a past that the watch says something.
LABELS_AN_HOUR, CALM_HOURS, CHANGED_HOURS = 40, 24 * 21, 72
MANY_AN_HOUR, MOST_HOURS = 1_000, 24 * 100

# Days, and customers, of the world that goes through the roads. In this process idle frames come with events only, so there
# have to be events in every hour.
ROAD_DAYS, ROAD_CUSTOMERS = 4, 1_000
# Enough events that a frame has some hundred rows.
CPU_DAYS, CPU_CUSTOMERS, CPU_SPAN_US = 2, 12_000, 15 * 60_000_000


# ---- nothing changes


def no_drift(months: int, first_seed: int, customers: int, time_slice: str) -> dict[str, Any]:
    """False alarms of calm worlds, over all levels together, and whether that is more than the budget."""
    made, since = pipeline(time_slice), CUT * DAY_US
    slices, read = counted_and_read(made, calm(first_seed, ROAD_DAYS, ROAD_CUSTOMERS))
    other = sum(one != another for one, another in zip(slices, read, strict=True))
    by_level: dict[str, int] = {}
    raised, done, seed = 0, 0, first_seed
    while done < months:
        part = min(MONTHS_OF_A_WORLD, months - done)
        begin_us, days = start_us(seed), CUT + round(part * MONTH_DAYS)
        world = calm(seed, days, customers)
        features = featured(made, world)
        model = trained(made, world, features, begin_us)
        one = answered(made, world, features, model.scorer, model.threshold, begin_us + since)
        since_us = begin_us + since - LABELS_BEFORE * DAY_US
        alerts = Life(made, model.reference).live(one, since_us, begin_us + days * DAY_US)
        false = [a for a in alerts if a.status == "raised" and moment_us(a.at, "at") >= begin_us + since]
        for alert in false:
            by_level[alert.levels[0]] = by_level.get(alert.levels[0], 0) + 1
        raised, done, seed = raised + len(false), done + part, seed + 1
        say(f"{done} months: {raised} alarms {by_level}")
    chance = float(poisson.sf(raised - 1, BUDGET * months))
    return {
        "alarms_per_month": round(raised / months, 3),
        "months": months,
        "budget": BUDGET,
        "by_level": by_level,
        "customers": customers,
        "time_slice": time_slice,
        "chance_of_so_many_within_budget": round(chance, 4),
        "budget_rejected": chance < REJECTED_BELOW,
        "frames": {"slices": len(read), "other": other},
    }


# ---- the concept detectors alone


@dataclass(frozen=True)
class Concept:
    """Figures of labels without and with a change."""

    calm: dict[str, Any]
    changed: dict[str, Any]


def concept(labels: int, seeds: int, first_seed: int) -> Concept:
    """False alarms in so many labels; labels until an error of 0.20 is found, over so many seeds."""
    hours, raised, seed = labels // MANY_AN_HOUR, 0, first_seed
    for begin in range(0, hours, MOST_HOURS):
        part = min(MOST_HOURS, hours - begin)
        raised += drift_labels.concept_raised(drift_labels.alerts_of(seed, part, MANY_AN_HOUR))
        seed += 1
        say(f"{(begin + part) * MANY_AN_HOUR:,} labels: {raised} alarms")
    found = [
        drift_labels.labels_until_found(first_seed + at, LABELS_AN_HOUR, CALM_HOURS, CHANGED_HOURS)
        for at in range(seeds)
    ]
    known = [one for one in found if one is not None]
    calm_figures = {
        "concept_alarms_per_1e5": round(raised / labels * 1e5, 4),
        "concept_labels": labels,
        "concept_alarms": raised,
    }
    changed = {
        "concept_delay_labels_p50": float(np.median(known)) if known else None,
        "concept_delay_labels_p90": round(float(np.quantile(known, 0.9)), 1) if known else None,
        "concept_found": f"{len(known)} of {seeds}",
    }
    return Concept(calm_figures, changed)


# ---- one change


@dataclass(frozen=True)
class Ground:
    """A calm world of one seed, its model, and what was told until the onset: what all changes of this seed begin with."""

    seed: int
    world: World
    features: Backfill
    model: Trained
    calm: Answered
    span: Span
    life: Life
    before: list[Alert]


def injected(
    seeds: int, first_seed: int, customers: int, kinds: Sequence[str], time_slice: str
) -> dict[str, Any]:
    """Every kind of change in worlds of so many seeds, sudden and gradual, beside the baselines."""
    made, chosen = pipeline(time_slice), [kind for kind in KINDS if not kinds or kind in kinds]
    by_kind: dict[str, list[Incident]] = {}
    others: dict[str, list[Incident]] = {"always": [], "never": [], "adwin": [], "psi_0.2": []}
    for seed in range(first_seed, first_seed + seeds):
        ground = _ground(made, seed, customers)
        for kind in chosen:
            for gradual in (False, True):
                one = _changed(made, ground, kind, Onset(CUT + CALM_DAYS, gradual))
                name = f"{kind}, {'gradual' if gradual else 'sudden'}"
                by_kind.setdefault(name, []).append(_judged(ground, one))
                for other, alarms_us in _alarms(ground, one).items():
                    others[other].append(of_alarms(alarms_us, ground.span))
        say(f"{seed - first_seed + 1} of {seeds} seeds: {_in_short(by_kind)}")
        for name, found in by_kind.items():
            say(f"  {name}: {summary(found)}")
    everything = summary([one for found in by_kind.values() for one in found])
    return {
        "injected": {
            "detected_fraction": everything["detected_fraction"],
            "alerts_per_incident": everything["alerts_per_incident"],
            "seeds": seeds,
            "customers": customers,
            "time_slice": time_slice,
            "by_kind": {name: summary(found) for name, found in by_kind.items()},
        },
        "baselines": {
            "drift watch": everything,
            **{name: summary(found) for name, found in others.items()},
        },
    }


def _in_short(by_kind: dict[str, list[Incident]]) -> str:
    every = [one for found in by_kind.values() for one in found]
    figures = summary(every)
    return ", ".join(f"{name} {figures[name]}" for name in ("detected_fraction", "alerts_per_incident", "f1"))


def _ground(made: Pipeline, seed: int, customers: int) -> Ground:
    begin_us, days = start_us(seed), CUT + CALM_DAYS + CHANGED_DAYS
    world = calm(seed, days, customers)
    features = featured(made, world)
    model = trained(made, world, features, begin_us)
    since_us = begin_us + CUT * DAY_US
    one = answered(made, world, features, model.scorer, model.threshold, since_us)
    onset_us = since_us + CALM_DAYS * DAY_US
    span, life = Span(since_us, onset_us, begin_us + days * DAY_US), Life(made, model.reference)
    before = life.live(one, since_us - LABELS_BEFORE * DAY_US, onset_us)
    return Ground(seed, world, features, model, one, span, life, before)


def _changed(made: Pipeline, ground: Ground, kind: str, onset: Onset) -> Answered:
    world = drifted(ground.world, ground.seed, kind, onset)
    if not KINDS[kind].inputs:
        return replace(ground.calm, world=world)
    features, model = featured(made, world), ground.model
    return answered(made, world, features, model.scorer, model.threshold, ground.span.since_us)


def _judged(ground: Ground, one: Answered) -> Incident:
    span = ground.span
    alerts = ground.before + copy.deepcopy(ground.life).live(one, span.onset_us, span.end_us)
    return of_alerts(alerts, span, one.world.times_us, one.world.known_us)


def _alarms(ground: Ground, one: Answered) -> dict[str, list[int]]:
    return {
        "always": drift_baselines.always(one.slices),
        "never": [],
        "adwin": drift_baselines.adwin(one, ground.span),
        "psi_0.2": drift_baselines.psi(one.slices, ground.model.reference),
    }


# ---- what it costs


def cpu(seed: int) -> dict[str, float]:
    """Microseconds an event: everything that the monitor does with the records of both roads, for 30 features."""
    made = wide_pipeline()
    world = calm(seed, CPU_DAYS, CPU_CUSTOMERS)
    shown: list[tuple[str, Sequence[ListedRecord]]] = []
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        road = InProcess(made, Path(folder), lambda *one: shown.append(one), settings=Settings(partitions=1))
        road.mode = "champion"

        async def drive() -> None:
            await road.open()
            sent = (
                Sent(at, "events", value)
                for at, value in zip(world.times_us.tolist(), world.events(), strict=True)
            )
            await road.run(sent, CPU_SPAN_US)

        asyncio.run(drive())
        monitor = MonitorInProcess(made, Path(folder))
        began_s = time.process_time()
        for topic, records in shown:
            monitor.watch(topic, records)
        spent_s = time.process_time() - began_s
    return {
        "us": round(spent_s / len(world) * 1e6, 2),
        "features": len(made.feature_set.features),
        "events": len(world),
    }
