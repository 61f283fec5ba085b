"""Features of past events, worked out by the kernel of the stream: training sees what serving will see.

Rows go through entity after entity in one order, as they would hop by hop, and each event's features are those before
it. Labels stand among the events, each where it became known (`offline/label_history.py`), for the windows over them. How
rows are cut into chunks changes nothing, to the last bit. State lives in memory only: `bytes_per_entity` for
every entity that occurs (`driftwood features` prints it).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.errors import DeveloperError
from features.feature_set import FeatureMatrix, FeatureSet
from features.inputs import entity_inputs
from features.plan import EntityPlan, Floats, Ints
from features.rows import Rows, entity_keys
from features.state import EntityBatch, EntityState
from offline.events import CHUNK_ROWS, Source
from offline.history import History, Order, Progress, ReadReport, read_history
from offline.label_history import LabelHistory, LabelledEvents, known_names

# No entity is ever evicted here: without a store it could not come back. The memory grows with those that occur.
NO_LIMIT = 2**31 - 1

_NO_ROWS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Backfill:
    """n events, in order, as a model would have seen them.

    `ages_s` float64[n, entities]: seconds since the entity's newest earlier event (NaN: none, or no key); `late`
    bool[n]: for some entity a newer event stood before it; `dropped` int64[n]: window groups and points that it came
    too late for, over all entities.
    """

    event_ids: pa.StringArray
    times_us: Ints
    matrix: FeatureMatrix
    ages_s: Floats
    late: npt.NDArray[np.bool_]
    dropped: Ints

    def __len__(self) -> int:
        return len(self.times_us)


def backfill_chunks(
    feature_set: FeatureSet, chunks: Iterable[Rows], labels: LabelHistory | None = None
) -> Iterator[Backfill]:
    """The features of each chunk, one after another; only the state of the entities stays in memory.

    `labels` are those of these events, for windows over labels; they keep four bytes an event and such an entity.

    Raises DeveloperError where there are windows over labels, and no labels.
    """
    if labels is None and known_names(feature_set):
        raise DeveloperError("the pipeline has windows over labels, so its features need the labels as well")
    stages = [_Stage(plan, labels) for plan in feature_set.entities]
    for rows in chunks:
        batches = [stage.through(rows) for stage in stages]
        windows = np.concatenate([np.empty((len(rows), 0)), *(batch.features for batch in batches)], axis=1)
        yield Backfill(
            rows.event_ids,
            rows.times_us,
            feature_set.assemble(rows, windows),
            np.stack([batch.age_s for batch in batches], axis=1) if batches else np.empty((len(rows), 0)),
            np.any([batch.late for batch in batches], axis=0) if batches else np.zeros(len(rows), bool),
            np.sum([batch.dropped for batch in batches], axis=0)
            if batches
            else np.zeros(len(rows), np.int64),
        )


def compute_features(
    feature_set: FeatureSet,
    events: Source,
    order: Order = "event time",
    chunk_rows: int = CHUNK_ROWS,
    progress: Progress | None = None,
) -> tuple[Backfill, ReadReport]:
    """The features of all events in these files or this table, and what became of the records.

    `order`: "event time" takes them by (event time, id), "as given" in the order of the files. The result is in memory:
    8 bytes a feature and row; `read_history` and `backfill_chunks` do the same piece by piece. A pipeline with windows over
    labels needs those as well: `offline.train.labelled_features`.

    Raises DeveloperError for files that cannot be read or lack a required column, and where windows are over labels.
    """
    with tempfile.TemporaryDirectory(prefix="driftwood-") as scratch:
        history, report = read_history(events, feature_set, Path(scratch), order, progress)
        return joined(feature_set, _reported(history, feature_set, chunk_rows, progress)), report


def joined(feature_set: FeatureSet, pieces: Iterable[Backfill]) -> Backfill:
    """All pieces in one."""
    parts = list(pieces) or list(backfill_chunks(feature_set, [_no_rows(feature_set)]))
    categories = {
        column: pa.concat_arrays([part.matrix.categories[column] for part in parts])
        for column in parts[0].matrix.categories
    }
    return Backfill(
        pa.concat_arrays([part.event_ids for part in parts]),
        np.concatenate([part.times_us for part in parts]),
        FeatureMatrix(feature_set.names, np.concatenate([part.matrix.values for part in parts]), categories),
        np.concatenate([part.ages_s for part in parts]),
        np.concatenate([part.late for part in parts]),
        np.concatenate([part.dropped for part in parts]),
    )


def _reported(
    history: History, feature_set: FeatureSet, chunk_rows: int, progress: Progress | None
) -> Iterator[Backfill]:
    done = 0
    for piece in backfill_chunks(feature_set, history.chunks(chunk_rows)):
        done += len(piece)
        if progress is not None:
            progress("computing features", done / len(history))
        yield piece


class _Stage:
    """One entity on the way through the history."""

    def __init__(self, plan: EntityPlan, labels: LabelHistory | None) -> None:
        self._plan, self._state = plan, EntityState(plan, NO_LIMIT)
        self._labels = LabelledEvents(plan, labels) if labels is not None and plan.label_inputs else None

    def through(self, rows: Rows) -> EntityBatch:
        """The next rows."""
        keys = entity_keys(rows, self._plan.keys)
        labels, before = (None, _NO_ROWS) if self._labels is None else self._labels.among(keys)
        known = keys if labels is None else [*keys, *labels.keys]
        self._state.load(dict.fromkeys(self._state.missing(known)))
        numbers, hashes = entity_inputs(self._plan, rows)
        columns = (keys, rows.times_us, numbers, hashes)
        batch = self._state.update_batch(*columns, pack=False, labels=labels, labels_before=before)
        self._state.committed(batch.number)
        return batch


def _no_rows(feature_set: FeatureSet) -> Rows:
    layout = feature_set.layout
    texts = tuple(pa.array([], pa.string()) for _ in layout.texts)
    return Rows(
        layout, pa.array([], pa.string()), np.zeros(0, np.int64), np.zeros((0, len(layout.numbers))), texts
    )
