"""What `driftwood demo` does with the payments: which month trains, which are streamed, and what came true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal

import pandas as pd

from examples.payments.bank import Bank
from examples.payments.data import SHIPPED, between, prepare
from examples.payments.switches import Switches

__all__ = [
    "DRIFTS",
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

_CALM = replace(SHIPPED, new_fraud_from=None)

# Worlds that drift from 13 May on, each in one way, by name; one that does not.
DRIFTS: Mapping[str, Switches] = {
    "new-fraud-pattern": SHIPPED,
    "amounts-moved": replace(_CALM, amounts_moved_from=42, amounts_moved_by=1.3),
    "labels-flipped": replace(_CALM, labels_flipped=(42, 76), flipped=0.1),
    "none": _CALM,
}

# Whether a monitor runs beside the workers.
WATCHED = True


def actor() -> Bank:
    """A bank that blocks what gets a decision."""
    return Bank()


def training_events(folder: Path, switches: Switches = SHIPPED) -> pd.DataFrame:
    """The payments of April."""
    return between(pd.read_parquet(prepare(folder, switches=switches).events), *TRAINING)


def streamed_events(folder: Path, switches: Switches = SHIPPED) -> pd.DataFrame:
    """The payments of May and half of June, in the order of their times."""
    return between(pd.read_parquet(prepare(folder, switches=switches).events), *STREAMED)


def streamed_labels(folder: Path, switches: Switches = SHIPPED) -> pd.DataFrame:
    """The labels of those payments, in the order of their arrival; the last ones come a week after the last payment."""
    labels = pd.read_parquet(prepare(folder, switches=switches).labels)
    streamed = labels["payment_id"].isin(streamed_events(folder, switches)["payment_id"])
    return labels[streamed].reset_index(drop=True)


def outcomes(folder: Path, switches: Switches = SHIPPED) -> pd.DataFrame:
    """By payment_id: `outcome` (genuine, or how the fraud was done), `label` (fraud or not) and `card`, who paid.

    This is the truth about all payments, those that were blocked as well.
    """
    prepared = prepare(folder, switches=switches)
    labels = pd.read_parquet(prepared.labels)
    last = labels.drop_duplicates("payment_id", keep="last").set_index("payment_id")
    cards = pd.read_parquet(prepared.events).set_index("payment_id")["customer"]
    found = last[["scenario", "fraud"]].rename(columns={"scenario": "outcome", "fraud": "label"})
    return found.assign(card=cards)
