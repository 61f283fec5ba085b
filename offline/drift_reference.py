"""What the training data of a model look like, counted as the drift watch counts what is served.

    history ─chunks─> features ─> TrainingCounts.add ──────────────────────────┐
    scores of a model on what it was not fitted on ─> `alike` ─> scores of all ┴─> time slices ─> Reference, beside the model

The columns are those of the monitor, and the features those of the backfill that training uses. Three things are not as they
were (docs/decisions/0044):

- A model is too sure of rows that it was fitted on, and only the validation period has scores of others. So scores of fitted
  rows are moved: each to the one that stands at its rank in the validation period.
- The first days are left out as long as windows reach back before the first event, where that leaves half of the range: a
  month after the start, a count over 30 days is not what it will be.
- Spans that lie in the training range only in part are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints
from features.rows import Rows
from models.drift.buckets import MISSING, WIDTHS, category_bucket, number_buckets, probability_buckets
from models.drift.columns import DECISION, Column
from models.drift.reference import Reference
from models.drift.time_slice import (
    MOST_NAME,
    MOST_VALUES,
    NULL,
    SegmentCounts,
    TimeSlice,
    WatchedRows,
    merged,
    outside_range,
)
from models.drift.watching import RowWatch
from models.lightgbm_model import LightGBMScorer
from models.online_model import taken
from models.pipeline import Pipeline
from offline.training_problem import Problem

SETTLED_SHARE: Final = 0.5
"""Of the training range: so much of it has to lie behind the days that are left out."""

RANKS: Final = 1_000
"""At so many ranks scores are compared; between them they are moved in proportion."""


@dataclass(frozen=True)
class Scored:
    """Scores of n events of a history, from the one at `first` on: float64[n], or float64[n, K] for K classes."""

    first: int
    times_us: Ints
    scores: Floats


class TrainingCounts:
    """Counts a history chunk by chunk, in the order of event time; memory is that of the counts, and of declared segments."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._watch = RowWatch(pipeline)
        self._slices: dict[int, TimeSlice] = {}
        self._first_us: int | None = None
        self._segments: dict[str, list[str | None]] = {name: [] for name in pipeline.drift.segments}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is counted."""
        return self._watch.columns

    def add(self, rows: Rows, matrix: FeatureMatrix) -> None:
        """The next events and their features."""
        if not len(rows):
            return
        if self._first_us is None:
            self._first_us = int(rows.times_us.min())
        classes = len(self._pipeline.label.classes) if self._pipeline.label.kind == "multiclass" else 0
        no_score = np.full((len(rows), classes) if classes else len(rows), np.nan)
        watched = self._watch.rows(rows, matrix, no_score, np.nan, "")
        for name, values in watched.segments.items():
            self._segments[name] += values
        for one in counted_slices(self.columns, watched, self._pipeline.drift.slice_us):
            before = self._slices.get(one.start_us)
            self._slices[one.start_us] = one if before is None else merged(self.columns, [before, one])

    def reference(
        self, problem: Problem, scores: Scored, threshold: float | None, version: str
    ) -> bytes | None:
        """The reference of a model, as `ModelStore.save_reference` keeps it; None where no whole slice was trained on."""
        decided = np.nan if threshold is None else threshold
        slices = self.slices(problem.since_us, problem.until_us, scores, decided, version)
        return Reference.of(self.columns, slices, self._pipeline.drift).encoded() if slices else None

    def slices(
        self, since_us: int, until_us: int, scored: Scored, threshold: float, version: str
    ) -> list[TimeSlice]:
        """The slices of the training range, in their order, with these scores of all its events.

        `threshold` is that of the decision, NaN without one; `version` the model's.
        """
        begin_us = self._settled_us(since_us, until_us)
        scores = self._scores(scored, threshold)
        return [
            self._finished(one, scores[one.start_us], version)
            for start_us, one in sorted(self._slices.items())
            if begin_us <= start_us and one.end_us <= until_us
        ]

    def _finished(self, one: TimeSlice, scores: TimeSlice, version: str) -> TimeSlice:
        buckets, counts = [*one.buckets], [*one.counts]
        for at, place in enumerate(self._scored):
            buckets[place], counts[place] = scores.buckets[at], scores.counts[at]
        return msgspec.structs.replace(
            one,
            buckets=buckets,
            counts=counts,
            segments={
                name: {
                    value: self._with_scores(found, scores.segments[name][value])
                    for value, found in by.items()
                }
                for name, by in one.segments.items()
            },
            versions={version: one.rows},
        )

    def _with_scores(self, found: SegmentCounts, scores: SegmentCounts) -> SegmentCounts:
        missing, outside, sums = [*found.missing], [*found.outside], [*found.bucket_sums]
        for at, place in enumerate(self._scored):
            missing[place], outside[place] = scores.missing[at], scores.outside[at]
            sums[place] = scores.bucket_sums[at]
        return SegmentCounts(found.rows, missing, outside, sums)

    @property
    def _scored(self) -> list[int]:
        return [place for place, column in enumerate(self.columns) if column.source == "score"]

    def _scores(self, scored: Scored, threshold: float) -> dict[int, TimeSlice]:
        """What was counted of the scores alone, by the start of the slice."""
        columns = [column for column in self.columns if column.source == "score"]
        inside = slice(scored.first, scored.first + len(scored.times_us))
        segments = {name: values[inside] for name, values in self._segments.items()}
        rows = WatchedRows(scored.times_us, score_columns(columns, scored.scores, threshold), [], segments)
        slices = counted_slices(columns, rows, self._pipeline.drift.slice_us)
        return {one.start_us: one for one in slices}

    def _settled_us(self, since_us: int, until_us: int) -> int:
        """From when on the windows are full: the longest of those for which enough of the range is left behind it."""
        if self._first_us is None:
            return since_us
        latest_us = until_us - SETTLED_SHARE * (until_us - since_us)
        full_us = [self._first_us + reach_us for reach_us in _reaches_us(self._pipeline)]
        return max([since_us, *(one for one in full_us if one <= latest_us)])


def training_scores(problem: Problem, final: LightGBMScorer, unfitted: Floats | None) -> Scored:
    """Scores of all events of the training range, as of a model that was not fitted on them.

    `unfitted` are those of the newest of them by a model that was not; None: there are none, and fitted ones stand for them.
    """
    times_us = problem.past.times_us
    first, last = np.searchsorted(times_us, (problem.since_us, problem.until_us)).tolist()
    newest = 0 if unfitted is None else len(unfitted)
    fitted = final.score(taken(problem.past.matrix, np.arange(first, last - newest, dtype=np.int64)))
    if unfitted is not None and newest:
        fitted = np.concatenate([alike(fitted, unfitted), unfitted])
    return Scored(first, times_us[first:last], fitted)


def alike(scores: Floats, wanted: Floats) -> Floats:
    """Scores moved so that their distribution is that of `wanted`: each to the one at its rank there. By class.

    Example:
        >>> alike(np.array([0.9, 0.0, 0.4, 0.1]), np.array([0.2, 0.3, 0.5, 0.8])).round(1).tolist()
        [0.8, 0.2, 0.5, 0.3]
    """
    if not len(scores):
        return scores
    if scores.ndim > 1:
        return np.column_stack([alike(*pair) for pair in zip(scores.T, wanted.T, strict=True)])
    ranks = np.linspace(0, 1, RANKS + 1)
    found, there = np.quantile(scores, ranks), np.quantile(wanted, ranks)
    moved: Floats = np.interp(scores, found, there)
    return moved


def counted_slices(columns: Sequence[Column], rows: WatchedRows, length_us: int) -> list[TimeSlice]:
    """All slices in which rows lie, in their order: what `Counting` counts of each, for all at once.

    Example:
        >>> amount = Column("amount", "number", "feature")
        >>> rows = WatchedRows(np.array([10, 70, 20]), np.array([[1.0], [2.0], [np.nan]]), [])
        >>> [(one.start_us, one.rows, one.column(0)[1].tolist()) for one in counted_slices([amount], rows, 60)]
        [(0, 2, [1, 1]), (60, 1, [1])]
    """
    spans, places = np.unique(rows.times_us // length_us, return_inverse=True)
    total = len(spans)
    found = [_counted(column, values, places, total) for column, values in _columns(columns, rows)]
    segments = [
        (name, _segments(values, places, total, [(one.buckets, one.wrong) for one in found]))
        for name, values in rows.segments.items()
    ]
    sizes = np.bincount(places, minlength=total).tolist()
    slices = [
        TimeSlice(
            start_us=span * length_us,
            length_us=length_us,
            rows=sizes[at],
            late=0,
            buckets=[one.by_slice[at][0] for one in found],
            counts=[one.by_slice[at][1] for one in found],
            outside=[one.outside[at] for one in found],
            names=[one.names[at] for one in found],
            segments={name: values[at] for name, values in sorted(segments)},
            versions={rows.version: sizes[at]},
        )
        for at, span in enumerate(spans.tolist())
    ]
    return [_bounded(columns, one) for one in slices]


def score_columns(columns: Sequence[Column], scores: Floats, threshold: float) -> Floats:
    """float64[n, columns]: the scores, and where a threshold decides whether they reached it."""
    by_class = scores.reshape(len(scores), -1)
    undecided = np.isnan(by_class[:, 0]) | np.isnan(threshold)
    decisions = np.where(undecided, np.nan, by_class[:, 0] >= threshold)
    found = [decisions if one.name == DECISION else by_class[:, at] for at, one in enumerate(columns)]
    return np.column_stack(found)


@dataclass(frozen=True)
class _Counted:
    """One column: `buckets` and `wrong` int64[n] by row, the others by slice."""

    buckets: Ints
    wrong: Ints
    by_slice: list[tuple[bytes, bytes]]
    outside: list[int]
    names: list[dict[int, str]]


def _columns(
    columns: Sequence[Column], rows: WatchedRows
) -> Iterator[tuple[Column, Floats | pa.StringArray]]:
    numbers, texts = iter(rows.numbers.T), iter(rows.texts)
    for column in columns:
        yield column, next(texts) if column.kind == "category" else next(numbers)


def _counted(column: Column, values: Floats | pa.StringArray, places: Ints, total: int) -> _Counted:
    names: list[dict[int, str]] = [{} for _ in range(total)]
    wrong: Ints = np.zeros(len(places), np.int64)
    if column.kind == "category":
        buckets, names = _categories(column, values, places, total)
    else:
        buckets = (probability_buckets if column.kind == "probability" else number_buckets)(values)
        wrong = outside_range(column, values)
    pairs, counts = _occurring(places * WIDTHS[column.kind] + buckets, total * WIDTHS[column.kind])
    owners, buckets_found = np.divmod(pairs, WIDTHS[column.kind])
    cuts = np.searchsorted(owners, np.arange(1, total))
    by_slice = [
        (some.astype(np.int32).tobytes(), many.astype(np.int64).tobytes())
        for some, many in zip(np.split(buckets_found, cuts), np.split(counts, cuts), strict=True)
    ]
    outside = np.bincount(places, weights=wrong, minlength=total).astype(np.int64).tolist()
    return _Counted(buckets, wrong, by_slice, outside, names)


def _occurring(codes: Ints, size: int) -> tuple[Ints, Ints]:
    """Which of the codes below `size` occur, ascending, and how often each does."""
    if size > 64 * len(codes):  # a table of them all would be mostly empty
        return np.unique(codes, return_counts=True)
    table = np.bincount(codes, minlength=size)
    found = np.flatnonzero(table)
    return found, table[found]


def _categories(
    column: Column, texts: pa.StringArray, places: Ints, total: int
) -> tuple[Ints, list[dict[int, str]]]:
    coded = texts.dictionary_encode()
    known = coded.dictionary.to_pylist()
    hashes = np.array([MISSING, *(category_bucket(name) for name in known)], np.int64)
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    names: list[dict[int, str]] = [{} for _ in range(total)]
    if column.compared and not column.hidden:
        for pair in np.unique(places * (len(known) + 1) + codes).tolist():
            place, code = divmod(pair, len(known) + 1)
            if code:
                bucket, name = int(hashes[code]), known[code - 1][:MOST_NAME]
                names[place][bucket] = min(names[place].get(bucket, name), name)
    buckets: Ints = hashes[codes]
    return buckets, [dict(sorted(one.items())) for one in names]


def _segments(
    values: Sequence[str | None], places: Ints, total: int, columns: Sequence[tuple[Ints, Ints]]
) -> list[dict[str, SegmentCounts]]:
    """By slice and value what is counted of a segment."""
    coded: dict[str, int] = {}
    codes = np.array(
        [coded.setdefault((value or NULL)[:MOST_NAME], len(coded)) for value in values], np.int64
    )
    pairs, groups = np.unique(places * max(len(coded), 1) + codes, return_inverse=True)

    def sums(what: Sequence[Ints]) -> Ints:
        by_column = [np.bincount(groups, weights=one, minlength=len(pairs)) for one in what]
        return np.column_stack(by_column).astype(np.int64)

    sizes = np.bincount(groups, minlength=len(pairs))
    missing = sums([buckets == MISSING for buckets, _ in columns])
    outside = sums([wrong for _, wrong in columns])
    bucket_sums = sums([buckets for buckets, _ in columns])  # that of MISSING is 0
    texts = list(coded)
    found: list[dict[str, SegmentCounts]] = [{} for _ in range(total)]
    for at, pair in enumerate(pairs.tolist()):
        place, code = divmod(pair, len(coded))
        counts = (missing[at].tolist(), outside[at].tolist(), bucket_sums[at].tolist())
        found[place][texts[code]] = SegmentCounts(int(sizes[at]), *counts)
    return [dict(sorted(one.items())) for one in found]


def _bounded(columns: Sequence[Column], one: TimeSlice) -> TimeSlice:
    """As merging bounds the values of a segment."""
    many = any(len(values) > MOST_VALUES for values in one.segments.values())
    return merged(columns, [one]) if many else one


def _reaches_us(pipeline: Pipeline) -> set[int]:
    """How far windows look back."""
    return {output.window_us for plan in pipeline.feature_set.entities for output in plan.outputs}
