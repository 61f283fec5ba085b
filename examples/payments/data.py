"""The payments that the commands use: `driftwood produce payments`, `train payments`, `demo --pipeline payments`.

One event is one payment at the moment when the terminal asks. The tables hold clean events and all labels; what goes
wrong on the way (duplicates, poison, an outage) is in the records of `records.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from examples.payments.feed import labels_of
from examples.payments.frauds import simulated_payments
from examples.payments.records import payment_id
from examples.payments.simulation import Ints, Payments, Scenario
from examples.payments.switches import Switches

# A smaller world than the default, for the demo: 290,000 payments, of which 178,000 are streamed. From 13 May on cards are
# tested, which the model of April has never seen: in a calm world of this size there is next to nothing to learn.
SHIPPED = Switches(days=76, customers=2_000, terminals=4_000, new_fraud_from=42)

# Raised whenever the tables change, so that older files are made anew.
TABLES_VERSION = 1

_STAMP = b"driftwood.payments"

Progress = Callable[[str, float], None]
"""Told what is being done and how much of all is done, 0.0 to 1.0."""


class Prepared(NamedTuple):
    """Where `prepare` put the two tables."""

    events: Path
    labels: Path


def events(made: Payments) -> pd.DataFrame:
    """One row a payment, in the order of (at, number): what the event says and no more.

    Example:
        >>> table = events(simulated_payments(Switches(days=7, customers=10, terminals=20)))
        >>> print(*table.loc[0, ["payment_id", "customer", "terminal", "amount"]])
        p000000000 c00001 t00004 110.17
    """
    return pd.DataFrame(
        {
            "payment_id": [payment_id(number) for number in made.numbers.tolist()],
            "at": _moments(made.times_us),
            "customer": [f"c{number:05d}" for number in made.customers.tolist()],
            "terminal": [f"t{number:05d}" for number in made.terminals.tolist()],
            "amount": made.amounts,
        }
    )


def labels(made: Payments, switches: Switches) -> pd.DataFrame:
    """One row a label, in the order of their arrival: `fraud` as said, `known_at` when the bank knew, `arrives_at`
    when it reached us, and `scenario`, the truth, which is for judging only."""
    feed = labels_of(made, switches)
    names = np.array([scenario.name.lower() for scenario in Scenario])
    return pd.DataFrame(
        {
            "payment_id": [payment_id(number) for number in made.numbers[feed.payments].tolist()],
            "fraud": feed.codes.astype(np.int8),
            "known_at": _moments(feed.known_us),
            "arrives_at": _moments(feed.arrives_us),
            "scenario": names[made.scenarios[feed.payments]],
        }
    )


def prepare(folder: Path, progress: Progress | None = None, switches: Switches = SHIPPED) -> Prepared:
    """Both tables as `events.parquet` and `labels.parquet` in `folder`, made if they are not there yet.

    Files of other switches or of another version are replaced, each in one step. Takes some seconds.
    """
    tell = progress or (lambda what, done: None)
    prepared = Prepared(folder / "events.parquet", folder / "labels.parquet")
    stamp = f"v{TABLES_VERSION} {switches}".encode()
    if all(_stamp_of(path) == stamp for path in prepared):
        tell("payments are prepared", 1.0)
        return prepared
    folder.mkdir(parents=True, exist_ok=True)
    tell("simulating payments", 0.0)
    made = simulated_payments(switches)
    tell("writing events", 0.3)
    _write(events(made), prepared.events, stamp)
    tell("writing labels", 0.6)
    _write(labels(made, switches), prepared.labels, stamp)
    tell("payments are prepared", 1.0)
    return prepared


def between(table: pd.DataFrame, start: date, end: date, column: str = "at") -> pd.DataFrame:
    """The rows whose `column` lies on the days from `start` up to, not including, `end`, UTC."""
    first, last = (pd.Timestamp(day.isoformat(), tz="UTC") for day in (start, end))
    return table[(table[column] >= first) & (table[column] < last)].reset_index(drop=True)


def _moments(times_us: Ints) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(times_us.astype("datetime64[us]"), tz="UTC")


def _stamp_of(path: Path) -> bytes | None:
    if not path.exists():
        return None
    try:
        return (pq.read_schema(path).metadata or {}).get(_STAMP)
    except pa.ArrowInvalid:  # no Parquet file: it is replaced like an old one
        return None


def _write(table: pd.DataFrame, path: Path, stamp: bytes) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    part = path.with_name(path.name + ".part")
    pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _STAMP: stamp}), part)
    part.replace(path)
