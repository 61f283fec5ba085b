"""What the monitor has seen, read again: the records of `drift-slices` through the same watch, and the alerts that it raised.

    drift-slices ──> Heard: slices, dead letters, label reports ──> judges ──> strengths ──┐
    drift-alerts ──> lives of alerts ──────────────────────────────────────────────────────┴─> Watched

A watch is a function of what it hears, so these are the strengths that the monitor saw. Nothing is written anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from driftwood.alerts import board_of
from driftwood.drift_compared import Compared, compared, of_reference, of_slice
from driftwood.drift_pictures import Span
from driftwood.drift_quality import estimate_panels, label_panels, loss_panels
from driftwood.drift_report import Watched
from driftwood.drift_series import AlertLife, newest, strongest_now, time_lines
from driftwood.pipelines import topics_of
from features.durations import DAY_US
from features.errors import OperatorError
from models.drift.alert import Alert, moment
from models.drift.columns import watched_columns
from models.drift.data_judge import TRAILING_US, DataJudge
from models.drift.label_judge import LabelJudge
from models.drift.label_reports import LabelReport, LabelSlice
from models.drift.measures import Windows
from models.drift.reference import Reference
from models.drift.season import cells_of
from models.drift.signals import Signal
from models.drift.thresholds import LONG_WINDOWS
from models.drift.time_slice import Counting, TimeSlice
from models.drift.watch import NO_BUDGET, DriftWatch, References
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.batch import Record
from streams.settings import Settings
from streams.topic_log import TopicLog
from streams.topics import TopicAdmin
from streams.watch_alerts import AlertWatch
from streams.watch_frames import SliceFrames
from streams.watch_run import references

# A point for each day of the estimate, and for each week where there are more days than can be told apart.
MOST_DAYS: Final = 60


@dataclass
class Heard:
    """Stands in for the watch that raises alerts, and keeps what that one hears, in its order."""

    order: list[tuple[TimeSlice, Mapping[str, int]] | LabelReport] = field(default_factory=list)

    def served(self, slice_: TimeSlice, dead: Mapping[str, int]) -> Sequence[Alert]:
        """A merged slice, and the dead letters of its time by reason."""
        self.order.append((slice_, dead))
        return ()

    def labels(self, report: LabelReport) -> Sequence[Alert]:
        """A report about labels."""
        self.order.append(report)
        return ()

    def state(self) -> bytes:
        """Nothing that would be needed."""
        return b""

    def restore(self, state: bytes) -> object:
        """Goes on with what it has."""
        return self

    @property
    def slices(self) -> list[TimeSlice]:
        """The merged slices, in order of time."""
        return [one[0] for one in self.order if isinstance(one, tuple)]

    @property
    def reports(self) -> list[LabelReport]:
        """The reports about labels, in their order."""
        return [one for one in self.order if not isinstance(one, tuple)]


def watched(pipeline: Pipeline, settings: Settings, days: int) -> Watched:
    """What the report of the newest `days` of event time is made of.

    Raises:
        TopicError: a topic cannot be read.
        OperatorError: the monitor has handed nothing on yet.
    """
    learning = topics_of(pipeline, settings).learning
    TopicAdmin(settings).check([learning.drift_slices, learning.drift_alerts, learning.control])
    log, place = TopicLog(settings), (learning.drift_slices.name, 0)
    records = (record for batch in log.read(place, *log.bounds(place)) for record in batch)
    heard = heard_in(pipeline, records, learning.drift_slices.name, learning.hop_join.partitions)
    if not heard.slices:
        raise OperatorError(
            f"nothing is known of {pipeline.name} yet: no time slice of {pipeline.drift.time_slice} is complete. The monitor "
            f"counts them while it runs (driftwood monitor {pipeline.name})"
        )
    lives = board_of(settings, learning).lives
    return watched_of(pipeline, heard, lives, references(pipeline, ModelStore(settings.models_dir)), days)


def heard_in(pipeline: Pipeline, records: Iterable[Record], topic: str, partitions: int) -> Heard:
    """What the records of `drift-slices` say: copies dropped, the slices of all partitions of `hop-join` merged."""
    heard = Heard()
    watch = AlertWatch(pipeline, SliceFrames(pipeline, topic), partitions, lambda: heard)
    for record in records:
        watch.take(record)
    return heard


def watched_of(
    pipeline: Pipeline, heard: Heard, lives: Sequence[AlertLife], known: References, days: int
) -> Watched:
    """The same, of what was read. There is a slice at least."""
    drift, columns, slices = pipeline.drift, watched_columns(pipeline), heard.slices
    end_us = slices[-1].end_us
    shown, window = newest(slices, days * DAY_US), newest(slices, drift.window_us)
    span = Span(shown[0].start_us, end_us)
    version, signals = replayed(pipeline, heard, known, span.start_us)
    reference, words = _reference(pipeline, slices, version, known)
    reports = [one for one in heard.reports if isinstance(one, LabelSlice) and one.start_us >= span.start_us]
    step_us = DAY_US if len(shown) * drift.slice_us <= MOST_DAYS * DAY_US else 7 * DAY_US
    there = [life for life in lives if life.within(span.start_us, end_us)]
    return Watched(
        pipeline=pipeline.name,
        span=span,
        window=Span(window[0].start_us, end_us),
        reference=words,
        budget=None if drift.thresholds == NO_BUDGET else drift.false_alarms_a_month,
        rows=sum(one.rows for one in shown),
        versions=sorted({name for one in shown for name in one.versions}),
        lives=there,
        time_lines=time_lines([one for one in signals if one.at_us >= span.start_us], there),
        compared=[] if reference is None else _compared(reference, window),
        nothing_compared=_why_nothing(reference, window, words),
        now=strongest_now(signals, end_us),
        panels={
            "labels": label_panels(reports),
            "concept": loss_panels(reports),
            "estimate": estimate_panels(shown, reports, columns, step_us),
        },
    )


def replayed(pipeline: Pipeline, heard: Heard, known: References, from_us: int) -> tuple[str, list[Signal]]:
    """The champion that answered last, and all signals from this event time on.

    Slices from before anything that is remembered then are passed over: judging one costs some milliseconds.
    """
    columns, signals = watched_columns(pipeline), list[Signal]()
    watch = DriftWatch(
        pipeline,
        columns,
        known,
        slices=_Noted(DataJudge(columns, pipeline.drift, None), signals),
        labels=_Noted(LabelJudge(pipeline), signals),
    )
    kept_us = (
        (pipeline.drift.trailing_us or TRAILING_US) + (LONG_WINDOWS + 1) * pipeline.drift.window_us + DAY_US
    )
    for one in heard.order:
        if not isinstance(one, tuple):
            watch.labels(one)
        elif one[0].start_us >= from_us - kept_us:
            watch.served(*one)
    return watch.version, signals


class _Noted:
    """A judge whose signals are written down; in all else the judge itself."""

    def __init__(self, judge: Any, signals: list[Signal]) -> None:
        self._judge, self._signals = judge, signals

    def judge(self, *heard: Any) -> list[Signal]:
        found: list[Signal] = self._judge.judge(*heard)
        self._signals += found
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)


def _reference(
    pipeline: Pipeline, slices: Sequence[TimeSlice], version: str, known: References
) -> tuple[Reference | None, str]:
    """What now is compared with, and the words for it: the training data of the champion, else what came before."""
    drift = pipeline.drift
    found = None if drift.trailing_us is not None else known(version)
    if found is not None:
        return found, f"what model {version} was trained on, {_dates(found)}"
    end_us = slices[-1].end_us - drift.window_us
    first_us = end_us - (drift.trailing_us or TRAILING_US)
    before = [one for one in slices if first_us <= one.start_us and one.end_us <= end_us]
    made = Reference.of(watched_columns(pipeline), before, drift) if before else None
    if made is None or not made.ready:
        return None, "nothing yet: the time before is too short"
    return made, f"what came before, {_dates(made)}"


def _dates(reference: Reference) -> str:
    return f"{moment(reference.start_us)[:10]} to {moment(reference.end_us)[:10]}"


def _compared(reference: Reference, window: Sequence[TimeSlice]) -> list[Compared]:
    columns = reference.columns
    counting = Counting(columns, window[0].start_us, window[0].length_us)
    for one in window:
        counting.merge(one)
    now = counting.closed()
    if not now.rows:
        return []
    psi = _psi(reference, window)
    return [
        compared(column, of_reference(reference, place), of_slice(now, place), psi.get(place, 0.0))
        for place, column in enumerate(columns)
        if column.compared
    ]


def _psi(reference: Reference, window: Sequence[TimeSlice]) -> dict[int, float]:
    """PSI by column, against what the reference lets expect of these hours of the week."""
    layout, measures = reference.layout, reference.measures
    tallies = np.array([layout.of(one) for one in window])
    cells = cells_of(np.array([one.start_us for one in window], np.int64))
    expected = tallies[:, layout.parts_of] * reference.shares[cells]
    none = np.zeros((1, 0))
    found = tallies.sum(axis=0, dtype=np.float64)[None, :]
    windows = Windows(found, expected.sum(axis=0)[None, :], np.zeros(1), none, none)
    return dict(zip(measures.compared.tolist(), measures.stability(windows)[0].tolist(), strict=True))


def _why_nothing(reference: Reference | None, window: Sequence[TimeSlice], words: str) -> str:
    if reference is None:
        return f"Nothing is compared: {words}."
    return "" if any(one.rows for one in window) else "No event has come in the newest window."
