"""Labels of past events, as they were known at a given moment.

    event        label known          cut-off              label known
    ──┬────────────────┬──────────────────┬────────────────────┬─────> time
      │ as_of(cut-off) │ uses this one    │ not this one: at the cut-off nobody knew it

A labels file has one row for each time a label became known: the event's id, the label, and when it was known. Later
rows correct earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import DeveloperError
from features.event_times import instants_us
from features.feature_set import FeatureSet
from features.plan import Floats, Ints
from features.schema import nearest
from models.label import Label
from models.pipeline import Pipeline
from offline.columns import Columns, column_names, read_columns
from offline.events import Source
from offline.label_history import LabelHistory, known_names, label_history

KNOWN_AT = "known_at"


@dataclass(frozen=True)
class LabelColumns:
    """Names in the labels file. None: the event's id field, the label's name, and "known_at" where there is one.

    Without a column for it, a label counts as known `Label.horizon` after its event.
    """

    id: str | None = None
    label: str | None = None
    known_at: str | None = None


@dataclass(frozen=True)
class AsOf:
    """What was known of n events at a moment: `codes` float64[n], NaN where `known` (bool[n]) is False, or for events
    whose outcome is known to have no label."""

    codes: Floats
    known: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """Labels matched to n events: m rows, in the order in which they became known.

    `event` int64[m]: which event; `codes` float64[m]; `known_us` int64[m]. `values` float64[m, len(label.values)]: the
    numbers that came with it, NaN where there was none or no window is over it. `counts`: what was noticed on the way.
    """

    label: Label
    times_us: Ints  # int64[n], of the events
    event: Ints
    codes: Floats
    known_us: Ints
    values: Floats
    counts: dict[str, int]

    @property
    def end_us(self) -> int:
        """The last moment that the data speaks of: no label known later is in the file."""
        return int(max(self.known_us.max(initial=0), self.times_us.max(initial=0)))

    def as_of(self, cut_us: int) -> AsOf:
        """The last label known by then, for each event. Silence past the horizon counts as `Label.when_silent`."""
        codes = np.full(len(self.times_us), np.nan)
        known = np.zeros(len(self.times_us), bool)
        if not np.isnan(self.label.silent_code):
            silent = self.times_us <= cut_us - self.label.horizon_us
            codes[silent], known[silent] = self.label.silent_code, True
        by_then = self.known_us <= cut_us
        codes[self.event[by_then]] = self.codes[by_then]  # of several the last one stays: the latest known
        known[self.event[by_then]] = True
        return AsOf(codes, known)

    def history(self, event_ids: pa.Array) -> LabelHistory:
        """The labels as rows for the windows over them, among the events in their order (`event_ids`: theirs)."""
        values = np.column_stack([self.codes, self.values])
        values[np.isnan(self.codes)] = np.nan  # an event without a label has nothing that comes with one
        return label_history(self.label, self.times_us, event_ids, self.event, self.known_us, values)

    def delay_us(self, cut_us: int, share: float) -> int:
        """How long labels take: this share of those known by the cut-off came within it, at most the horizon."""
        if not np.isnan(self.label.silent_code):
            return self.label.horizon_us  # silence speaks only then
        by_then = self.known_us <= cut_us
        delays = self.known_us[by_then] - self.times_us[self.event[by_then]]
        if not len(delays):
            return self.label.horizon_us
        return int(np.clip(np.quantile(delays, share, method="higher"), 0, self.label.horizon_us))


def match_labels(
    pipeline: Pipeline, source: Source, columns: LabelColumns, event_ids: pa.Array, times_us: Ints
) -> Labels:
    """Reads the labels and finds their events (ids in any order; `event_ids` are distinct).

    Lines that are no JSON objects are left out and counted.

    Raises DeveloperError for a missing column, a value that the label cannot have, or a time without an offset where the
    pipeline names no time zone.
    """
    features = pipeline.feature_set
    names = column_names(source)
    id_column, label_column, known_column = chosen_columns(pipeline, names, columns)
    needed = _value_columns(pipeline, names)
    known = [known_column] if known_column else []
    table = read_columns(source, [id_column, label_column, *needed, *known])
    ids = table.ids(id_column, features.schema[features.id_field].type)
    place = _places(table, ids, features)
    codes = pipeline.label.codes(table.values(label_column), place)
    values = np.full((len(codes), len(pipeline.label.values)), np.nan)
    for name in needed:
        values[:, pipeline.label.values.index(name)] = _numbers(table.values(name), name, place)
    found = pc.index_in(ids, value_set=event_ids.cast(pa.string()))
    event = found.fill_null(-1).to_numpy().astype(np.int64)
    if known_column is None:
        moments = (
            times_us[event] + pipeline.label.horizon_us if len(times_us) else np.zeros(len(event), np.int64)
        )
        timed = np.ones(len(event), bool)
    else:
        moments, timed = moments_of(table.array(known_column), features, known_column)
    usable = (event >= 0) & timed
    counts = {
        "labels": len(codes),
        "labels of unknown events": int((event < 0).sum()),
        "labels without the time they became known": int(((event >= 0) & ~timed).sum()),
        "labels known before their event": int((moments[usable] < times_us[event[usable]]).sum()),
    }
    if table.unreadable.count:
        what = f"lines that are no JSON object, left out (the first: {table.unreadable.first})"
        counts[what] = table.unreadable.count
    found_labels = Labels(
        pipeline.label, times_us, event[usable], codes[usable], moments[usable], values[usable], counts
    )
    return _in_order(found_labels)


def chosen_columns(
    pipeline: Pipeline, names: Sequence[str], columns: LabelColumns
) -> tuple[str, str, str | None]:
    """The columns with the event's id, the label and, where there is one, when it was known. Raises DeveloperError."""
    label = columns.label or pipeline.label.name
    if not names:
        raise DeveloperError("the labels hold no readable row; expected Parquet, or one JSON object a line")
    if label not in names:
        raise DeveloperError(
            f"the labels have no column {label!r}; expected {nearest(label, names)}. Where they stand in a file "
            "of their own, name it after the events"
        )
    known = columns.known_at or (KNOWN_AT if KNOWN_AT in names else None)
    return columns.id or _id_column(pipeline.feature_set, names), label, known


def _places(table: Columns, ids: pa.ChunkedArray, features: FeatureSet) -> Callable[[int], str]:
    """Where a label stands, for messages: its file, its row, and its event unless ids are private."""

    def place(row: int) -> str:
        event = ids[row].as_py()
        hidden = event is None or features.schema[features.id_field].privacy != "free"
        return table.place(row) + ("" if hidden else f" (event {event})")

    return place


def _value_columns(pipeline: Pipeline, names: Sequence[str]) -> list[str]:
    """The numbers that come with labels and that a window is over."""
    needed = [name for name in pipeline.label.values if name in known_names(pipeline.feature_set)]
    for name in needed:
        if name not in names:
            raise DeveloperError(
                f"the labels have no column {name!r}, which a window is over; expected {nearest(name, names)}"
            )
    return needed


def _numbers(values: Sequence[object], name: str, place: Callable[[int], str]) -> Floats:
    """float64[n]: the numbers that come with labels; NaN for null."""
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, int | float):
            raise DeveloperError(f"label value {name}, {place(row)}: {value!r}; expected a number (or null)")
    return np.array(values, np.float64)


def _in_order(labels: Labels) -> Labels:
    order = np.lexsort((labels.known_us, labels.event))
    event, codes, known_us = labels.event[order], labels.codes[order], labels.known_us[order]
    again = event[1:] == event[:-1]
    same = (codes[1:] == codes[:-1]) | (np.isnan(codes[1:]) & np.isnan(codes[:-1]))
    counts = labels.counts | {
        "labels said again": int((again & same).sum()),
        "labels that contradict an earlier one": int((again & ~same).sum()),
    }
    values = labels.values[order]
    return replace(labels, event=event, codes=codes, known_us=known_us, values=values, counts=counts)


def _id_column(features: FeatureSet, names: Sequence[str]) -> str:
    own = features.schema[features.id_field].json_name
    return "event_id" if own not in names and "event_id" in names else own


def moments_of(
    column: pa.ChunkedArray, features: FeatureSet, name: str
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The times of a column: (int64[n] microseconds, bool[n]: there is one). Raises DeveloperError where they are none."""
    kind, time = column.type, features.time
    present = column.is_valid().to_numpy().copy()
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        moments = (
            column.cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64()).fill_null(0).to_numpy()
        )
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if not time.scale_us:
            raise DeveloperError(
                f"label column {name} holds numbers ({kind}): expected times, as {time.field} is one"
            )
        numbers = column.cast(pa.float64()).to_numpy()
        present &= ~np.isnan(numbers)
        moments = np.rint(np.nan_to_num(numbers) * time.scale_us).astype(np.int64)
    else:
        moments = np.zeros(len(column), np.int64)
        moments[present] = _clock_times(column.drop_null(), features, name)
    return moments, present


def _clock_times(column: pa.ChunkedArray, features: FeatureSet, name: str) -> Ints:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)
    try:
        values = [datetime.fromisoformat(v) if isinstance(v, str) else v for v in column.to_pylist()]
    except ValueError as error:
        raise DeveloperError(
            f"label column {name}: {error}; expected times such as '2013-04-01T10:15:00Z'"
        ) from error
    nowhere = features.time.zone is None and not features.time.dates  # a day is midnight UTC, as in the event
    if nowhere and any(isinstance(v, datetime) and v.tzinfo is None for v in values):
        raise DeveloperError(
            f"label column {name} holds clock times without an offset, and the pipeline names no time_zone; "
            'expected UTC times ("…Z"), or time_zone="…" in the pipeline'
        )
    return instants_us(values, features.time.zone)
