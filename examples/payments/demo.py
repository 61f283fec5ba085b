"""What `driftwood demo` does with the payments: which month trains, which are streamed, and what came true."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd

from examples.payments.data import between, prepare

__all__ = [
    "STREAMED",
    "TRAINING",
    "TRAIN_UNTIL",
    "outcomes",
    "prepare",
    "streamed_events",
    "streamed_labels",
    "training_events",
]

TRAIN_UNTIL = "2024-05-01T00:00:00Z"
TRAINING = (date(2024, 4, 1), date(2024, 5, 1))
STREAMED = (date(2024, 5, 1), date(2024, 6, 1))


def training_events(folder: Path) -> pd.DataFrame:
    """The payments of April."""
    return between(pd.read_parquet(prepare(folder).events), *TRAINING)


def streamed_events(folder: Path) -> pd.DataFrame:
    """The payments of May, in the order of their times."""
    return between(pd.read_parquet(prepare(folder).events), *STREAMED)


def streamed_labels(folder: Path) -> pd.DataFrame:
    """The labels of those payments, in the order of their arrival; the last ones come a week after the last payment."""
    labels = pd.read_parquet(prepare(folder).labels)
    streamed = labels["payment_id"].isin(streamed_events(folder)["payment_id"])
    return labels[streamed].reset_index(drop=True)


def outcomes(folder: Path) -> pd.DataFrame:
    """By payment_id: `outcome` (genuine, or how the fraud was done) and `label` (fraud or not)."""
    labels = pd.read_parquet(prepare(folder).labels)
    last = labels.drop_duplicates("payment_id", keep="last").set_index("payment_id")
    return last[["scenario", "fraud"]].rename(columns={"scenario": "outcome", "fraud": "label"})
