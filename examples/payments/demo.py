"""What `driftwood demo` does with the payments: which month trains, which are streamed, and what came true."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

import pandas as pd

from examples.payments.bank import Bank
from examples.payments.data import between, prepare

__all__ = [
    "EVERY",
    "FIGURES",
    "STREAMED",
    "TITLE",
    "TRAINING",
    "TRAIN_UNTIL",
    "WATCHED",
    "actor",
    "outcomes",
    "prepare",
    "streamed_events",
    "streamed_labels",
    "training_events",
]

TRAIN_UNTIL = "2024-05-01T00:00:00Z"
TRAINING = (date(2024, 4, 1), date(2024, 5, 1))
STREAMED = (date(2024, 5, 1), date(2024, 6, 16))

# How the models are compared, and how often: what investigators feel, in weeks, as it takes some to learn a new fraud.
FIGURES = ("ap", "card_precision_100")
EVERY: Literal["month", "week"] = "week"
TITLE = "April trains, labels 7 days late (of what is blocked none), a new fraud from 13 May on"

# Whether a monitor runs beside the workers.
WATCHED = True


def actor() -> Bank:
    """A bank that blocks what gets a decision."""
    return Bank()


def training_events(folder: Path) -> pd.DataFrame:
    """The payments of April."""
    return between(pd.read_parquet(prepare(folder).events), *TRAINING)


def streamed_events(folder: Path) -> pd.DataFrame:
    """The payments of May and half of June, in the order of their times."""
    return between(pd.read_parquet(prepare(folder).events), *STREAMED)


def streamed_labels(folder: Path) -> pd.DataFrame:
    """The labels of those payments, in the order of their arrival; the last ones come a week after the last payment."""
    labels = pd.read_parquet(prepare(folder).labels)
    streamed = labels["payment_id"].isin(streamed_events(folder)["payment_id"])
    return labels[streamed].reset_index(drop=True)


def outcomes(folder: Path) -> pd.DataFrame:
    """By payment_id: `outcome` (genuine, or how the fraud was done), `label` (fraud or not) and `card`, who paid.

    This is the truth about all payments, those that were blocked as well.
    """
    prepared = prepare(folder)
    labels = pd.read_parquet(prepared.labels)
    last = labels.drop_duplicates("payment_id", keep="last").set_index("payment_id")
    cards = pd.read_parquet(prepared.events).set_index("payment_id")["customer"]
    found = last[["scenario", "fraud"]].rename(columns={"scenario": "outcome", "fraud": "label"})
    return found.assign(card=cards)
