"""What `driftwood demo` does with the flights: which months train, which are streamed, and what came true."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Literal

import pandas as pd

from examples.flights.data import between, prepare

TRAIN_UNTIL = "2013-04-01T04:00:00Z"  # midnight in New York
TRAINING = (date(2013, 1, 1), date(2013, 4, 1))
STREAMED = (date(2013, 4, 1), date(2013, 7, 1))

# How the models are compared, and how often.
FIGURES = ("auc", "log_loss")
EVERY: Literal["month", "week"] = "month"
TITLE = "January to March 2013 train, labels at landing time"

# Whether a monitor runs beside the workers.
WATCHED = False

# The year is what it was: there are no other worlds to choose from.
DRIFTS: Mapping[str, None] = {}


def actor() -> None:
    """Nobody acts on these predictions: late flights are late all the same."""


def training_events(folder: Path) -> pd.DataFrame:
    """The events of January to March."""
    return between(pd.read_parquet(prepare(folder).events), *TRAINING)


def streamed_events(folder: Path) -> pd.DataFrame:
    """The events of April to June, in the order of their scheduled departures."""
    return between(pd.read_parquet(prepare(folder).events), *STREAMED)


def streamed_labels(folder: Path) -> pd.DataFrame:
    """The labels of those events, in the order in which they became known."""
    labels = pd.read_parquet(prepare(folder).labels)
    streamed = labels["flight_id"].isin(streamed_events(folder)["flight_id"])
    return labels[streamed].reset_index(drop=True)


def outcomes(folder: Path) -> pd.DataFrame:
    """By flight_id: `outcome` (arrived, cancelled or diverted) and `label` (late or not; null unless it arrived)."""
    labels = pd.read_parquet(prepare(folder).labels)
    return labels.set_index("flight_id")[["outcome", "late"]].rename(columns={"late": "label"})
