"""The concept detectors alone, on labels that are made up: calibrated scores of 0.1 and 0.9, of which one in ten is wrong.

Whoever says 0.9 is right nine times in ten: the error is 0.10, and it is no news. Then it is 0.20.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from driftwood import Label, Pipeline, scaled_logistic
from features.event_times import moment_us
from features.feature_set import FeatureMatrix
from models.drift.alert import Alert
from models.drift.label_counting import LabelCounting
from models.drift.watch import DriftWatch
from models.drift.watching import RowWatch
from models.matured import Matured

HOUR_US = 3_600_000_000
START_US = 19_814 * 24 * HOUR_US  # 2024-04-01
DELAY_US = HOUR_US
ERROR, CHANGED = 0.10, 0.20


class Answer(msgspec.Struct):
    """An event that says nothing."""

    number: str
    at: int
    x: float


def answers() -> Pipeline:
    """Whatever it is: the scores are made up."""
    return Pipeline(
        "answers",
        event=Answer,
        id="number",
        time="at",
        time_unit="us",
        label=Label("yes", horizon="2h"),
        features=["x"],
        online=[scaled_logistic()],
    )


def alerts_of(seed: int, hours: int, labels_an_hour: int, changed_from: int | None = None) -> list[Alert]:
    """What the watch says of so many hours; from the hour `changed_from` on twice as many are wrong."""
    pipeline = answers()
    counting = LabelCounting(pipeline)
    watch = DriftWatch(pipeline, RowWatch(pipeline).columns, lambda version: None)
    return [
        alert
        for batch in _batches(seed, hours, labels_an_hour, changed_from)
        for report in counting.step(batch)
        for alert in watch.labels(report)
    ]


def labels_until_found(seed: int, labels_an_hour: int, calm_hours: int, hours: int) -> int | None:
    """How many labels behind the change until an alert about the concept; None: never."""
    onset_us = START_US + calm_hours * HOUR_US
    for alert in alerts_of(seed, calm_hours + hours, labels_an_hour, calm_hours):
        at_us = moment_us(alert.at, "at")
        if "concept" in alert.levels and alert.status != "resolved" and at_us >= onset_us:
            return round((at_us - onset_us) * labels_an_hour / HOUR_US)
    return None


def concept_raised(alerts: list[Alert]) -> int:
    """How many alerts about the concept were raised."""
    return sum(one.status == "raised" and "concept" in one.levels for one in alerts)


def _batches(seed: int, hours: int, labels_an_hour: int, changed_from: int | None) -> Iterator[Matured]:
    draw = np.random.default_rng(seed)
    count = labels_an_hour
    nothing, ones = np.full(count, np.nan), np.ones(count)
    for hour in range(hours):
        wrong_share = CHANGED if changed_from is not None and hour >= changed_from else ERROR
        said = draw.random(count) < 0.5
        wrong = draw.random(count) < wrong_share
        known_us = START_US + hour * HOUR_US + np.arange(count, dtype=np.int64) * HOUR_US // count
        scores = np.where(said, 1 - ERROR, ERROR)
        yield Matured(
            [f"a{hour}-{number}" for number in range(count)],
            known_us - DELAY_US,
            known_us,
            ["matched"] * count,
            (said ^ wrong).astype(np.float64),
            nothing,
            FeatureMatrix(("x",), np.zeros((count, 1)), {}),
            scores,
            {"lightgbm": scores},
            0.5 * ones,
            ones,
            ["m1"] * count,
        )
