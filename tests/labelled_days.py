"""Days of outcomes as they become known: scores that are right by a given share, labels by class with delays of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.durations import DAY_US, HOUR_US
from models.drift.label_counting import LabelCounting
from models.drift.label_judge import LabelJudge
from models.drift.label_reports import LabelReport
from models.drift.signals import Signal
from models.matured import Matured
from models.outcomes import MATCHED, SILENT
from models.pipeline import Pipeline
from tests.served_outcomes import START_US, matured

FIRST_US = START_US // DAY_US * DAY_US


@dataclass(frozen=True)
class Day:
    """What one day is like: events, share of positives, share of wrong scores, and how late labels of each class are."""

    events: int = 2_000
    positives: float = 0.3
    wrong: float = 0.1
    delays_h: tuple[float, float] = (2.0, 2.0)
    silent: bool = False  # negatives are known by silence, after `delays_h[0]` exactly
    labels: float = 1.0  # share of labels that come


def outcomes(days: Sequence[Day], seed: int = 0) -> Matured:
    """All outcomes of these days in the order in which they become known; the parts say what the score says."""
    source = np.random.default_rng(seed)
    times, known, codes, scores, kinds = [], [], [], [], []
    for number, day in enumerate(days):
        at = FIRST_US + number * DAY_US + np.sort(source.integers(0, DAY_US, day.events))
        positive = source.random(day.events) < day.positives
        sure = source.uniform(0.8, 0.98, day.events)
        wrong = source.random(day.events) < day.wrong
        score = np.where(positive ^ wrong, sure, 1 - sure)
        delay = np.where(positive, day.delays_h[1], day.delays_h[0]) * HOUR_US
        if not day.silent:
            delay = delay * source.uniform(0.5, 1.5, day.events)
        else:
            delay = np.where(positive, delay * source.uniform(0.5, 1.5, day.events), delay)
        chosen = source.random(day.events) < day.labels
        times.append(at[chosen])
        known.append((at + delay.astype(np.int64))[chosen])
        codes.append(positive[chosen].astype(float))
        scores.append(score[chosen])
        kinds.append(np.where(~positive & day.silent, SILENT, MATCHED)[chosen])
    order = np.argsort(np.concatenate(known), kind="stable")
    at, score = np.concatenate(times)[order], np.concatenate(scores)[order]
    return matured(
        np.concatenate(codes)[order],
        score,
        times_us=at,
        delays_us=np.concatenate(known)[order] - at,
        kinds=np.concatenate(kinds)[order].tolist(),
        parts={"lightgbm": score, "online": np.clip(score * 0.99, 0.01, 0.99)},
    )


def cut(rows: Matured, size: int = 5_000) -> Iterator[Matured]:
    """The same rows in records of this size."""
    for start in range(0, len(rows), size):
        chosen = np.zeros(len(rows), np.bool_)
        chosen[start : start + size] = True
        yield rows.select(chosen)


def reports(pipeline: Pipeline, rows: Matured, size: int = 5_000) -> list[LabelReport]:
    """What a counting tells of them."""
    counting = LabelCounting(pipeline)
    return [report for record in cut(rows, size) for report in counting.step(record)]


def signals(pipeline: Pipeline, found: Sequence[LabelReport]) -> list[Signal]:
    """What a judge says to these reports."""
    judge = LabelJudge(pipeline)
    return [signal for report in found for signal in judge.judge(report)]


def day_of(signal: Signal) -> float:
    """The day, counted from the first, at which a signal was measured."""
    return (signal.at_us - FIRST_US) / DAY_US


def raised(found: Sequence[Signal]) -> dict[str, float]:
    """By name the first day at which each signal would raise an alert."""
    days: dict[str, float] = {}
    for one in found:
        if one.strength >= 1.0:
            days.setdefault(one.name, day_of(one))
    return days


def plain(value: Any) -> str:
    """For comparison, NaN equal to itself."""
    return repr(value)
