"""What the benchmarks of the whole road run: a pipeline, its events, and a model for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.card_payments import PIPELINE_FILE, TRAINING_EVENTS, payments, records, save_model
from driftwood.produce import CHUNK, Chunk
from examples.flights.data import prepare
from examples.flights.demo import TRAIN_UNTIL, training_events
from features.errors import DeveloperError
from models.loading import load_pipeline
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.events import event_records
from offline.label_records import label_records
from offline.train import train

Keyed = tuple[bytes, bytes]
"""(key, JSON): the key is that of the pipeline's first entity, by which producers keep the order of an entity."""


@dataclass(frozen=True)
class Workload:
    """`reference` as `driftwood run` takes it. `events` makes the first n; `save_model` trains one on `training_events`
    (0: as many as are usual) into the store at a folder and makes it the champion. `labels` makes those of the first n events
    that have one, by event id, in the order in which they became known; none where the pipeline does not learn."""

    reference: str
    events: Callable[[int], list[Keyed]]
    save_model: Callable[[Path, int], str]
    labels: Callable[[int], list[Keyed]] = lambda count: []

    @property
    def pipeline(self) -> Pipeline:
        """The declaration."""
        return load_pipeline(self.reference)


def card_workload(cards: int = 20_000, terminals: int = 2_000, skew: float = 0.0, seed: int = 1) -> Workload:
    """Generated payments."""
    return Workload(
        str(PIPELINE_FILE),
        lambda count: records(payments(count, cards=cards, terminals=terminals, skew=skew, seed=seed)),
        lambda folder, training: save_model(folder, training or TRAINING_EVENTS),
    )


def flight_workload(data: Path) -> Workload:
    """The flights of 2013 from April on, scored by a model of January to March; tables are prepared in `data`."""
    return Workload(
        "flights",
        lambda count: _flights(data, count),
        lambda folder, training: _flight_model(data, folder, training),
        lambda count: _landings(data, count),
    )


def chunked(made: Sequence[Keyed]) -> list[Chunk]:
    """As `driftwood.produce.Production` takes them; their times do not matter when they are sent as they stand."""
    bounds = [*range(0, len(made), CHUNK), len(made)]
    parts = [made[start:end] for start, end in pairwise(bounds)]
    return [
        Chunk(
            [value for _, value in part],
            np.full(len(part), np.nan),
            [key for key, _ in part],
        )
        for part in parts
    ]


def _flights(data: Path, count: int) -> list[Keyed]:
    later = _departures(data, count)
    arrow = pa.Table.from_pandas(later, preserve_index=False)
    values = event_records(arrow, load_pipeline("flights").feature_set)
    return list(zip(later["origin"].str.encode("utf-8"), values, strict=True))


def _landings(data: Path, count: int) -> list[Keyed]:
    labels = pd.read_parquet(prepare(data).labels)
    labels = labels[labels["flight_id"].isin(_departures(data, count)["flight_id"])]
    told = label_records(load_pipeline("flights"), pa.Table.from_pandas(labels, preserve_index=False))
    return [(event_id.encode(), value) for event_id, value in zip(told.event_ids, told.values, strict=True)]


def _departures(data: Path, count: int) -> pd.DataFrame:
    table = pd.read_parquet(prepare(data).events)
    later = table[table["scheduled_departure"] >= pd.Timestamp(TRAIN_UNTIL)].head(count)
    if len(later) < count:
        raise DeveloperError(f"there are {len(later):,} flights from April 2013 on, asked for {count:,}")
    return later


def _flight_model(data: Path, folder: Path, training: int) -> str:
    pipeline, store = load_pipeline("flights"), ModelStore(folder)
    events = training_events(data)
    events = events.tail(training) if training else events
    arrow = pa.Table.from_pandas(events, preserve_index=False)
    report = train(pipeline, arrow, prepare(data).labels, store=store, until=TRAIN_UNTIL)
    store.promote(pipeline.name, report.version)
    return report.version
