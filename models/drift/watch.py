"""The fold of the drift watch: slices and label reports in, alerts out.

    merged slice, dead letters ──> DataJudge ──┐
                     └──> Recent ──> causes ───┤
                                               ├──> Incidents ──> alerts
    label report ──> LabelJudge ───────────────┘

A function of what it is given, in that order: no clock, no broker. What was restored goes on as if it had never ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, Self

import msgspec

from models.drift.alert import Alert
from models.drift.causes import causes
from models.drift.columns import Column
from models.drift.data_judge import DataJudge
from models.drift.incidents import Incidents, Terms
from models.drift.label_judge import LabelJudge
from models.drift.label_reports import FeedState, LabelReport, LabelSlice
from models.drift.recent import Recent
from models.drift.reference import Reference
from models.drift.signals import Signal
from models.drift.time_slice import NO_VERSION, TimeSlice
from models.pipeline import Pipeline

References = Callable[[str], Reference | None]
"""The reference of a champion's version; None where it has none, as a fallback."""

NO_BUDGET: Final = "psi-0.2"
"""The thresholds that are calibrated to no number of false alarms."""


class JudgesSlices(Protocol):
    """What `DataJudge` is to the watch."""

    def judge(self, slice_: TimeSlice, dead: Mapping[str, int]) -> list[Signal]: ...
    def with_reference(self, reference: Reference | None) -> None: ...
    def state(self) -> bytes: ...
    def restore(self, state: bytes) -> None: ...


class JudgesLabels(Protocol):
    """What `LabelJudge` is to the watch."""

    def judge(self, report: LabelReport) -> list[Signal]: ...
    def state(self) -> bytes: ...
    def restore(self, state: bytes) -> None: ...


class _State(msgspec.Struct, array_like=True):
    """`version` answers, `referred` is the one whose reference is in place; `stalled`: partitions without labels."""

    columns: list[str]
    version: str
    referred: str
    stalled: list[str]
    data: bytes
    labels: bytes
    incidents: bytes
    recent: bytes


class DriftWatch:
    """Watches one pipeline. `references` says what a champion was trained on; it is asked when another one answers most of
    a slice, and must give the same for a version each time. A version without one leaves that of the version before in place.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        columns: Sequence[Column],
        references: References,
        *,
        slices: JudgesSlices | None = None,
        labels: JudgesLabels | None = None,
    ) -> None:
        drift = pipeline.drift
        self._columns, self._references = tuple(columns), references
        self._trailing = drift.trailing_us is not None
        self._data: JudgesSlices = slices or DataJudge(self._columns, drift, None)
        self._labels: JudgesLabels = labels or LabelJudge(pipeline)
        budget = None if drift.thresholds == NO_BUDGET else drift.false_alarms_a_month
        self._incidents = Incidents(
            Terms(pipeline.name, drift.window_us, drift.slice_us, budget, drift.triggers)
        )
        self._recent = Recent(self._columns, drift)
        self._version = self._referred = NO_VERSION
        self._stalled: set[str] = set()

    @property
    def version(self) -> str:
        """The champion that answered most of the newest slice with answers; "" before the first."""
        return self._version

    @property
    def open_alerts(self) -> int:
        """How many alerts are open."""
        return len(self._incidents.open)

    def served(self, slice_: TimeSlice, dead: Mapping[str, int]) -> list[Alert]:
        """What follows from the next slice, and the dead letters of its time by reason.

        A slice with other columns, from before the pipeline was changed, is passed over.
        """
        if len(slice_.buckets) != len(self._columns):
            return []
        self._champion(slice_)
        self._recent.add(slice_, dead, self._version)
        signals = self._data.judge(slice_, dead)
        if not slice_.rows:
            # Where nothing came nothing is calm either: what cannot be measured any more is as it was.
            signals = [signal for signal in signals if signal.strength > 0]
        return self._incidents.hear(
            "served",
            slice_.end_us,
            signals,
            complete=slice_.rows > 0,
            held_up=bool(self._stalled),
            explained=self._explained,
        )

    def labels(self, report: LabelReport) -> list[Alert]:
        """What follows from the next report about labels."""
        if isinstance(report, FeedState):
            (self._stalled.add if report.stalled else self._stalled.discard)(report.partition)
        return self._incidents.hear(
            "labels",
            report.end_us if isinstance(report, LabelSlice) else report.at_us,
            self._labels.judge(report),
            complete=False,
            held_up=bool(self._stalled),
            explained=self._explained,
        )

    def state(self) -> bytes:
        """Everything that matters for what comes."""
        names = [column.name for column in self._columns]
        parts = (self._data.state(), self._labels.state(), self._incidents.state(), self._recent.state())
        return msgspec.msgpack.encode(
            _State(names, self._version, self._referred, sorted(self._stalled), *parts)
        )

    def restore(self, state: bytes) -> Self:
        """Go on from there; of a pipeline with other columns with what does not hang on them, open alerts above all.

        Raises ValueError when it is no state.
        """
        found = msgspec.msgpack.decode(state, type=_State)
        self._version, self._stalled = found.version, set(found.stalled)
        self._refer(found.referred)
        self._referred = found.referred  # also where it cannot be read now: the next restart asks again
        self._data.restore(found.data)
        self._labels.restore(found.labels)
        self._incidents.restore(found.incidents)
        if found.columns == [column.name for column in self._columns]:
            self._recent.restore(found.recent)
        return self

    def _champion(self, slice_: TimeSlice) -> None:
        """Notices another champion: the one that has answered most of the slice."""
        if not slice_.versions:
            return
        most = max(slice_.versions, key=lambda version: (slice_.versions[version], version))
        if most != self._version:
            self._version = most
            self._refer(most)

    def _refer(self, version: str) -> None:
        """Compare with what this version was trained on, where that is known."""
        if self._trailing or version == NO_VERSION:
            return
        reference = self._references(version)
        if reference is not None:
            self._referred = version
            self._data.with_reference(reference)

    def _explained(self, signals: Sequence[Signal]) -> tuple[str, ...]:
        return causes(self._recent, signals)
