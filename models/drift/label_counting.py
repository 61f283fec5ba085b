"""Outcomes, counted into few small reports: what the rest of the drift watch knows about labels.

    outcomes ──> known times: one LabelSlice when a slice is over ──> volume, delays, classes, unknown ids
             ──> event times: a Cohort when next to all its labels are there ──> class share, calibration
             ──> losses: a LossChange in the moment in which ADWIN sees it

Time is the newest time at which a label became known; no clock is read. However outcomes are cut into records, the reports
are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from features.durations import duration_us
from features.plan import Floats, Ints
from models.drift.cohorts import Cohorts, said_and_came
from models.drift.columns import SCORE
from models.drift.label_reports import FeedState, LabelReport, LabelSlice
from models.drift.loss_book import LossBook
from models.drift.time_slice import NULL
from models.label import Label
from models.matured import Matured
from models.maturity import COHORTS, NEVER_US, delay_bin
from models.outcomes import CORRECTED, MATCHED, NAMES, UNKNOWN
from models.pipeline import Pipeline
from models.rolling import MOST_MODELS
from models.state_bytes import pack_state, unpack_state

FORMAT: Final = 1

_NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}
_MATCHED, _CORRECTED, _UNKNOWN = (_NUMBERS[name] for name in (MATCHED, CORRECTED, UNKNOWN))

VALUE: Final = "value"
"""The one class of a regression's labels."""


class LabelCounting:
    """Counts the outcomes of one pipeline, and watches their losses.

    A report is made by the outcome that ends its slice, or that lets a change be seen: at most one slice is open.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        label, drift = pipeline.label, pipeline.drift
        self._kind, self._length_us = label.kind, drift.slice_us
        self._classes = class_names(label)
        width_us = max(drift.slice_us, label.horizon_us // COHORTS)
        self._cohorts = Cohorts(self._classes, width_us, label.horizon_us, _mature_after_us(pipeline))
        self._book = LossBook(label.kind, self._classes)
        self._segments = _segment_names(pipeline)
        self._now_us = NEVER_US
        self._stalled: dict[str, int] = {}
        self._open(NEVER_US)

    def _open(self, start_us: int) -> None:
        self._start_us = start_us
        self._outcomes: Counter[str] = Counter()
        self._by_class: Counter[str] = Counter()
        self._delays: Counter[int] = Counter()
        self._behind = 0

    def step(self, matured: Matured) -> list[LabelReport]:
        """Count the outcomes of one record; the reports that they make, in their order."""
        if not len(matured):
            return []
        # That nobody knows an id turns out a horizon later: it is told in the hour of now.
        unknown = np.fromiter((kind == UNKNOWN for kind in matured.kinds), np.bool_, len(matured))
        known_us = np.where(unknown, NEVER_US, matured.known_us)
        clock_us = np.maximum(np.maximum.accumulate(known_us), self._now_us)
        self._now_us = int(clock_us[-1])
        starts = np.where(clock_us == NEVER_US, NEVER_US, clock_us - clock_us % self._length_us)
        found: list[LabelReport] = []
        for start_us in np.unique(starts).tolist():
            if start_us > self._start_us:
                found += self._close(start_us)
            rows = starts == start_us
            found += self._count(matured.select(rows), clock_us[rows])
        return found

    def hear(self, partition: str, stalled_since_ms: int | None, at_ms: int) -> list[LabelReport]:
        """What the join says of its partition at the wall clock `at_ms`: stalled since then, or (None) not any more.

        Nothing is reported that was known before. While a partition is stalled no cohort is mature: its time-outs wait.
        """
        before = self._stalled.get(partition)
        if (before is None) == (stalled_since_ms is None):
            return []
        if stalled_since_ms is None:
            since_ms = self._stalled.pop(partition)
        else:
            since_ms = self._stalled[partition] = stalled_since_ms
        at_us = at_ms * 1_000 if self._now_us == NEVER_US else self._now_us
        return [FeedState(partition, stalled_since_ms is not None, since_ms, at_ms, at_us)]

    def _close(self, next_us: int) -> list[LabelReport]:
        """End the open slice: in the one from `next_us` on something is known."""
        if self._start_us == NEVER_US:
            self._start_us = next_us
            return []
        # A slice later, because one partition of the join may be ahead of another.
        mature = [] if self._stalled else self._cohorts.mature(next_us - self._length_us)
        end_us = self._start_us + self._length_us
        closed = LabelSlice(
            self._start_us,
            end_us,
            dict(sorted(self._outcomes.items())),
            self._behind,
            {name: count for name, count in sorted(self._by_class.items()) if count},
            dict(sorted(self._delays.items())),
            self._book.taken(),
            [cohort for cohort, _ in mature],
        )
        self._open(next_us)
        changes = [self._book.mature(losses, cohort, end_us) for cohort, losses in mature]
        return [closed, *(one for some in changes for one in some)]

    def _count(self, rows: Matured, clock_us: Ints) -> list[LabelReport]:
        """Count rows of the open slice."""
        if self._kind == "regression" and rows.undoing[1:].any():
            # Its unit is learnt from the first labels: what is taken back behind them must not come before.
            return self._count_in_turn(rows, clock_us)
        kinds = np.fromiter(map(_NUMBERS.__getitem__, rows.kinds), np.int64, len(rows))
        now = (kinds == _UNKNOWN) | (rows.known_us >= self._start_us - self._length_us)
        self._behind += int((~now).sum())
        for kind, count in enumerate(np.bincount(kinds[now]).tolist()):
            if count:
                self._outcomes[NAMES[kind]] += count
        learnt, undoing = rows.learnt, rows.undoing
        self._count_classes(rows.codes[now & learnt], 1)
        self._count_classes(rows.replaced[now & undoing], -1)
        came = now & ((kinds == _MATCHED) | (kinds == _CORRECTED))
        self._delays.update(delay_bin(rows.known_us[came] - rows.times_us[came]).tolist())
        if undoing.any():
            self._gather(rows.select(undoing), -1)
        if not learnt.any():
            return []
        return list(self._gather(rows.select(learnt), 1, clock_us[learnt]))

    def _count_in_turn(self, rows: Matured, clock_us: Ints) -> list[LabelReport]:
        """The same piece by piece, each of which begins with the one row that takes something back."""
        piece = np.cumsum(rows.undoing)
        chosen = [piece == number for number in np.unique(piece).tolist()]
        return [one for mine in chosen for one in self._count(rows.select(mine), clock_us[mine])]

    def _count_classes(self, codes: Floats, sign: int) -> None:
        for place, count in enumerate(np.bincount(self._places(codes)).tolist()):
            if count:
                self._by_class[self._classes[place]] += sign * count

    def _gather(self, rows: Matured, sign: int, clock_us: Ints | None = None) -> Sequence[LabelReport]:
        """Put labels into their cohorts, or (-1) take those out that are replaced; measure those that came first."""
        codes = rows.codes if sign > 0 else rows.replaced
        scores, places = _subjects(rows), self._places(codes)
        losses = self._book.losses(scores, codes, learns=sign > 0)
        said = {} if self._kind == "regression" else _said(self._kind, scores, codes)
        self._cohorts.add(rows.times_us, places, rows.known_us - rows.times_us, losses[SCORE], said, sign)
        return [] if clock_us is None else self._measure(rows, losses, places, clock_us)

    def _measure(
        self, rows: Matured, losses: dict[str, Ints], places: Ints, clock_us: Ints
    ) -> Sequence[LabelReport]:
        """What a correction brings was measured before, with the label that it replaces."""
        segments = {name: _texts(rows.matrix.text(name)) for name in self._segments}
        first = ~rows.undoing
        if not first.all():
            losses = {subject: np.where(first, units, -1) for subject, units in losses.items()}
        return self._book.step(losses, places, clock_us, segments)

    def _places(self, codes: Floats) -> Ints:
        if self._kind == "regression":
            return np.zeros(len(codes), np.int64)
        return codes.astype(np.int64)

    def state(self) -> bytes:
        """Everything; `restore` goes on exactly from here."""
        return pack_state(
            {
                "format": FORMAT,
                "now": self._now_us,
                "start": self._start_us,
                "behind": self._behind,
                "outcomes": dict(sorted(self._outcomes.items())),
                "classes": dict(sorted(self._by_class.items())),
                "delays": [list(one) for one in sorted(self._delays.items())],
                "stalled": dict(sorted(self._stalled.items())),
                "cohorts": self._cohorts.state(),
                "book": self._book.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Go on from a state that `state` gave. Raises SnapshotError for anything else."""
        kept = unpack_state(state)
        self._now_us = kept["now"]
        self._open(kept["start"])
        self._behind = kept["behind"]
        self._outcomes, self._by_class = Counter(kept["outcomes"]), Counter(kept["classes"])
        self._delays = Counter(dict(kept["delays"]))
        self._stalled = dict(kept["stalled"])
        self._cohorts.restore(kept["cohorts"])
        self._book.restore(kept["book"])


def class_names(label: Label) -> tuple[str, ...]:
    """By code the name of a class in reports.

    Example:
        >>> class_names(Label("late")), class_names(Label("delay", kind="regression"))
        (('0', '1'), ('value',))
    """
    if label.kind == "regression":
        return (VALUE,)
    return tuple(str(value) for value in label.classes) or ("0", "1")


def _subjects(rows: Matured) -> dict[str, Floats]:
    """What was served: the score and its parts."""
    return {SCORE: rows.score, **{name: rows.parts[name] for name in sorted(rows.parts)[: MOST_MODELS - 1]}}


def _said(kind: str, scores: dict[str, Floats], codes: Floats) -> dict[str, tuple[Floats, Any]]:
    return {subject: said_and_came(kind, served, codes) for subject, served in scores.items()}


def _segment_names(pipeline: Pipeline) -> list[str]:
    """The declared segments that travel with an outcome: those that are features."""
    features = pipeline.feature_set.features
    categories = {feature.name for feature in features if feature.kind == "category"}
    return [name for name in pipeline.drift.segments if name in categories]


def _texts(values: pa.StringArray) -> list[str]:
    return [NULL if value is None else value for value in values.to_pylist()]


def _mature_after_us(pipeline: Pipeline) -> int | None:
    """What the pipeline says of it; where silence means a class, the horizon: that class is known no earlier."""
    declared, label = pipeline.blend.mature_after, pipeline.label
    if declared is not None:
        return duration_us(declared, "Blend(mature_after)")
    return None if np.isnan(label.silent_code) else label.horizon_us
