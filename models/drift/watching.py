"""From answered events to what the drift watch counts: the watched columns, in their order.

The same for what was served (`streams/watch_slices.py`) and for what a model was trained on, so that the two compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from features.feature_set import FeatureMatrix
from features.plan import Floats
from features.rows import Rows
from models.drift.columns import DECISION, Column, watched_columns
from models.drift.time_slice import WatchedRows
from models.pipeline import Pipeline


class RowWatch:
    """Takes the watched columns of a pipeline out of its rows."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.columns: tuple[Column, ...] = watched_columns(pipeline)
        self._segments: Sequence[str] = tuple(pipeline.drift.segments)
        self._layout = pipeline.feature_set.layout
        self._names = pipeline.feature_set.names

    def rows(
        self, rows: Rows, matrix: FeatureMatrix, score: Floats, threshold: float, version: str
    ) -> WatchedRows:
        """n events with their features and scores: `score` float64[n], or float64[n, K] for K classes.

        `threshold` is that of the decision, NaN without one; `version` is that of the champion, or of the fallback.
        """
        numbers = np.empty((len(rows), len(self._numbers)))
        numbers[:, self._into_features] = matrix.values[:, self._from_features]
        numbers[:, self._into_fields] = rows.numbers[:, self._from_fields]
        scores = [place for place, column in enumerate(self._numbers) if column.source == "score"]
        for at, place in enumerate(scores):
            if self._numbers[place].name == DECISION:
                # Without a threshold nothing is decided, and a score that is missing decides nothing.
                undecided = np.isnan(score) | np.isnan(threshold)
                numbers[:, place] = np.where(undecided, np.nan, score >= threshold)
            else:
                numbers[:, place] = score if score.ndim == 1 else score[:, at]
        segments = {name: rows.text(name).to_pylist() for name in self._segments}
        return WatchedRows(rows.times_us, numbers, self._texts(rows, matrix), segments, version)

    @cached_property
    def _numbers(self) -> list[Column]:
        return [column for column in self.columns if column.kind != "category"]

    @cached_property
    def _into_features(self) -> list[int]:
        return [place for place, column in enumerate(self._numbers) if column.source == "feature"]

    @cached_property
    def _from_features(self) -> list[int]:
        return [self._names.index(self._numbers[place].name) for place in self._into_features]

    @cached_property
    def _into_fields(self) -> list[int]:
        return [place for place, column in enumerate(self._numbers) if column.source in ("field", "entity")]

    @cached_property
    def _from_fields(self) -> list[int]:
        return [self._layout.numbers.index(self._numbers[place].name) for place in self._into_fields]

    def _texts(self, rows: Rows, matrix: FeatureMatrix) -> list[pa.StringArray]:
        return [
            matrix.text(column.name) if column.source == "feature" else rows.text(column.name)
            for column in self.columns
            if column.kind == "category"
        ]


def together(rows: Sequence[WatchedRows]) -> WatchedRows:
    """Rows of one version as one. There is at least one."""
    if len(rows) == 1:
        return rows[0]
    return WatchedRows(
        np.concatenate([one.times_us for one in rows]),
        np.concatenate([one.numbers for one in rows]),
        [pa.concat_arrays([one.texts[place] for one in rows]) for place in range(len(rows[0].texts))],
        {name: [value for one in rows for value in one.segments[name]] for name in rows[0].segments},
        rows[0].version,
    )
