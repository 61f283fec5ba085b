"""Labels of past events as rows for the windows over labels, each at its place in the order of the events.

    events    ──e1────e2────e3──────────e4────> their order
    e1's label known here ──┘ stands before e4: an event sees what was known before its own time

A label that became known at t counts for events later than t; those at exactly t come first. Which labels make a row is
the join stage's rule: the first one known within the horizon, what silence says where there is none by then, and every one
after that says something else (a correction). Labels known before their event or after the horizon make none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.feature_set import FeatureSet
from features.label_rows import NO_TIME, LabelRows
from features.plan import EntityPlan, Floats, Ints
from models.label import Label


@dataclass(frozen=True)
class LabelHistory:
    """m label rows of n events, in order.

    `event` int64[m]: whose label; `before` int64[m], ascending: how many events stand before the row; `known_us` int64[m];
    `values` float64[m, V]: the label's code, then its values in the order of `names`. `replaced_known_us` int64[m] and
    `replaced` float64[m, V] are what the row of the same event had said before, `NO_TIME` where it had said nothing.
    """

    names: tuple[str, ...]
    event: Ints
    before: Ints
    known_us: Ints
    values: Floats
    replaced_known_us: Ints
    replaced: Floats

    def __len__(self) -> int:
        return len(self.event)

    def between(self, first: int, end: int) -> slice:
        """The rows that stand before an event from number `first` to before `end`."""
        begin, after = np.searchsorted(self.before, [first, end], side="left").tolist()
        return slice(begin, after)


def known_names(feature_set: FeatureSet) -> frozenset[str]:
    """What the windows of a pipeline need of labels; empty where it has no windows over labels."""
    return frozenset(name for plan in feature_set.entities for name in plan.label_inputs)


def label_history(
    label: Label, times_us: Ints, event_ids: pa.Array, event: Ints, known_us: Ints, values: Floats
) -> LabelHistory:
    """The rows of n events at `times_us`, in the order in which they are worked on.

    `event`, `known_us` and `values` (float64[m, V], the label's code first) are labels as they became known, those of one
    event together and in their order.
    """
    delay_us = known_us - times_us[event]
    inside = np.flatnonzero((delay_us >= 0) & (delay_us <= label.horizon_us))
    event, known_us, values = event[inside], known_us[inside], values[inside]
    if not np.isnan(label.silent_code):
        event, known_us, values = _with_silence(label, times_us, event, known_us, values)
    news = _news(event, values)
    event, known_us, values = event[news], known_us[news], values[news]
    again = np.flatnonzero(event[1:] == event[:-1]) + 1
    replaced_us, replaced = np.full(len(event), NO_TIME), np.full(values.shape, np.nan)
    replaced_us[again], replaced[again] = known_us[again - 1], values[again - 1]
    turn = _turns(event, known_us, event_ids)
    # Where the order is not that of time, a label comes when the events have got beyond it; never before its own event.
    newest_us = np.maximum.accumulate(times_us) if len(times_us) else times_us
    before = np.maximum(np.searchsorted(newest_us, known_us[turn], side="right"), event[turn] + 1)
    by_place = np.argsort(before, kind="stable")
    turn, before = turn[by_place], before[by_place]
    names = (label.name, *label.values)
    return LabelHistory(
        names, event[turn], before, known_us[turn], values[turn], replaced_us[turn], replaced[turn]
    )


def _with_silence(
    label: Label, times_us: Ints, event: Ints, known_us: Ints, values: Floats
) -> tuple[Ints, Ints, Floats]:
    """With a row at the end of the horizon for every event of which nothing was known by then."""
    silent = np.setdiff1d(np.arange(len(times_us)), event)
    said = np.full((len(silent), values.shape[1]), np.nan)
    said[:, 0] = label.silent_code
    ends_us = times_us[silent] + label.horizon_us
    return (
        np.concatenate([event, silent]),
        np.concatenate([known_us, ends_us]),
        np.concatenate([values, said]),
    )


def _news(event: Ints, values: Floats) -> Ints:
    """Those rows that say something else than the row of the same event before them."""
    before, after = values[:-1], values[1:]
    same = ((before == after) | (np.isnan(before) & np.isnan(after))).all(axis=1)
    return np.flatnonzero(np.concatenate([[True] * len(event[:1]), (event[1:] != event[:-1]) | ~same]))


def _turns(event: Ints, known_us: Ints, event_ids: pa.Array) -> Ints:
    """The rows by the time at which they became known, then by the event's id, then as they came."""
    columns = {"known": known_us, "id": event_ids.take(pa.array(event)), "place": np.arange(len(event))}
    keys = [(name, "ascending") for name in columns]
    turns: Ints = pc.sort_indices(pa.table(columns), keys).to_numpy().astype(np.int64)
    return turns


class LabelledEvents:
    """The label rows of one entity, chunk after chunk of the events that they are about."""

    def __init__(self, plan: EntityPlan, labels: LabelHistory) -> None:
        self._labels = labels
        self._columns = [labels.names.index(name) for name in plan.label_inputs]
        self._codes: dict[str | None, int] = {None: -1}  # a key by its number, so that a key is kept once
        self._keys: list[str] = []
        self._key_of = np.full(int(labels.event.max(initial=-1)) + 1, -1, np.int32)  # by event
        self._events = 0

    def among(self, keys: Sequence[str | None]) -> tuple[LabelRows, Ints]:
        """The label rows among the next events, whose keys these are, and how many of those stand before each."""
        first, end = self._events, self._events + len(keys)
        kept = self._key_of[first:end]
        kept[:] = [self._code(key) for key in keys[: len(kept)]]
        self._events = end
        rows = np.arange(len(self._labels))[self._labels.between(first, end)]
        codes = self._key_of[self._labels.event[rows]]
        rows, codes = rows[codes >= 0], codes[codes >= 0]
        labels = self._labels
        label_rows = LabelRows(
            [self._keys[code] for code in codes.tolist()],
            labels.known_us[rows],
            labels.values[rows][:, self._columns],
            labels.replaced_known_us[rows],
            labels.replaced[rows][:, self._columns],
        )
        return label_rows, labels.before[rows] - first

    def _code(self, key: str | None) -> int:
        code = self._codes.get(key)
        if code is None:
            assert key is not None, "None has its code from the start"
            code = self._codes[key] = len(self._keys)
            self._keys.append(key)
        return code
