"""Judges what comes in and what is answered, slice by slice, against the reference: levels data, prediction and estimate."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from features.durations import DAY_US, HOUR_US
from features.plan import Floats
from models.drift.columns import Column
from models.drift.feed_rates import FeedCounts, feed_counts, feed_signals
from models.drift.findings import Findings
from models.drift.growing_rows import GrowingRows
from models.drift.measures import Measure, Measures, Windows
from models.drift.reference import Reference, largest_in
from models.drift.season import cells_of, hours_of
from models.drift.signals import CLEARS, Evidence, Signal
from models.drift.spec import Drift
from models.drift.thresholds import LONG_WINDOWS, Thresholds, calibrated
from models.drift.time_slice import TimeSlice, decoded, encoded

# The convention: a PSI above it is called a significant change.
PSI_LIMIT: Final = 0.2
# What a pipeline without reference is compared with: what came before, so long.
TRAILING_US: Final = 28 * DAY_US
# A trailing reference is made anew when so much time has passed.
REMADE_US: Final = DAY_US
# Signals that get the whole evidence, the strongest first; the others get their windows.
MOST_EVIDENCE: Final = 40
TOP: Final = 5


class _State(msgspec.Struct, array_like=True):
    columns: list[tuple[str, str]]
    slices: list[bytes]
    feed: list[FeedCounts]
    active: list[Signal]
    made_us: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class DataJudge:
    """Judges merged slices in order of time.

    With `reference` None, or a trailing one by `drift`, what came before is the reference. Until it is long enough
    (`Reference.ready`), and until a whole window has come after it, no signal is given but those of the feed's rates.
    """

    def __init__(self, columns: Sequence[Column], drift: Drift, reference: Reference | None) -> None:
        self._columns, self._drift = tuple(columns), drift
        self._trailing_us = drift.trailing_us or (0 if reference else TRAILING_US)
        self._slices: list[TimeSlice] = []
        self._packed: list[bytes] = []
        self._feed: list[FeedCounts] = []
        self._active: dict[str, Signal] = {}
        self._made_us = 0
        self._reference: Reference | None = None
        self._thresholds: Thresholds | None = None
        self._use(None if self._trailing_us else reference)

    @property
    def ready(self) -> bool:
        """Whether there is a reference that is long enough."""
        return self._thresholds is not None

    def with_reference(self, reference: Reference | None) -> None:
        """Compare with this one from now on. A pipeline whose `drift` asks for a trailing reference keeps that one."""
        if self._drift.trailing_us is None:
            self._trailing_us = 0 if reference else TRAILING_US
            self._use(reference)

    def judge(self, slice_: TimeSlice, dead: Mapping[str, int]) -> list[Signal]:
        """The signals that are `CLEARS` or stronger after this slice, and those that were so after the one before it."""
        self._take(slice_, dead)
        self._remake(slice_.end_us)
        found = {signal.name: signal for signal in (*self._of_feed(), *self._of_windows(slice_.end_us))}
        for name, before in self._active.items():
            if name not in found:
                # What can no longer be measured is no drift.
                found[name] = msgspec.structs.replace(
                    before, at_us=slice_.end_us, value=0.0, strength=0.0, evidence=Evidence()
                )
        given = [one for name, one in found.items() if one.strength >= CLEARS or name in self._active]
        self._active = {one.name: one for one in given if one.strength >= CLEARS}
        return sorted(given, key=lambda one: (-one.strength, one.name))

    def state(self) -> bytes:
        """What it remembers: the newest slices, compressed, and the signals that stand. Not a training reference."""
        known: list[tuple[str, str]] = [(column.name, column.kind) for column in self._columns]
        return _encode(_State(known, self._packed, self._feed, [*self._active.values()], self._made_us))

    def restore(self, state: bytes) -> None:
        """Go on from this state. Slices of other columns, from before a pipeline changed, are forgotten."""
        known = _decode(state)
        same = known.columns == [(column.name, column.kind) for column in self._columns]
        self._packed = known.slices if same else []
        self._slices = [decoded(zlib.decompress(one)) for one in self._packed]
        self._feed, self._active = known.feed, {one.name: one for one in known.active}
        self._made_us = known.made_us if same else 0
        if self._trailing_us:
            self._use(self._trailing())
        else:  # its thresholds are there, which take seconds
            self._count_again()

    def _use(self, reference: Reference | None) -> None:
        self._reference = reference
        ready = reference is not None and reference.ready
        budget = self._drift.false_alarms_a_month
        self._thresholds = calibrated(reference, budget) if reference is not None and ready else None
        self._count_again()

    def _count_again(self) -> None:
        reference = self._reference
        width = reference.layout.count if reference is not None else 0
        self._found, self._expected, self._rows = GrowingRows(width), GrowingRows(width), GrowingRows(1)
        for one in self._slices if reference is not None else ():
            self._put(one)

    def _put(self, slice_: TimeSlice) -> None:
        """What was counted of this slice, and what the reference lets expect of it."""
        reference = self._reference
        if reference is None:
            return
        found, start = reference.layout.of(slice_), np.array(slice_.start_us)
        self._found.append(found.astype(np.float64))
        self._expected.append(found[reference.layout.parts_of] * reference.shares[cells_of(start)])
        self._rows.append(reference.hourly[hours_of(start)] * slice_.length_us / HOUR_US)

    def _take(self, slice_: TimeSlice, dead: Mapping[str, int]) -> None:
        self._slices.append(slice_)
        self._packed.append(zlib.compress(encoded(slice_), 1))
        self._put(slice_)
        window = self._drift.window_us
        # A reference made before the pipeline's window was changed keeps its own.
        compared = max(window, self._reference.window_us if self._reference is not None else 0)
        kept_us = max(LONG_WINDOWS * compared, self._trailing_us + window + REMADE_US)
        old = sum(one.start_us < slice_.end_us - kept_us for one in self._slices[:8])
        del self._slices[:old], self._packed[:old]
        for rows in (self._found, self._expected, self._rows):
            rows.forget(old if self._reference is not None else 0)
        counts = feed_counts(slice_.start_us, slice_.end_us, slice_.rows, slice_.late, dead)
        self._feed.append(counts)
        while self._feed[0].start_us < slice_.end_us - (LONG_WINDOWS + 1) * window:
            del self._feed[0]

    def _remake(self, now_us: int) -> None:
        if self._trailing_us and now_us - self._made_us >= REMADE_US:
            self._made_us = now_us
            self._use(self._trailing())

    def _trailing(self) -> Reference | None:
        """What came in the trailing time before the window that ended when the reference was made last."""
        end = self._made_us - self._drift.window_us
        mine = [one for one in self._slices if end - self._trailing_us <= one.start_us and one.end_us <= end]
        return Reference.of(self._columns, mine, self._drift) if mine else None

    def _of_feed(self) -> list[Signal]:
        start = self._feed[-1].end_us - self._drift.window_us
        before = [one for one in self._feed if one.start_us < start]
        return feed_signals(before, [one for one in self._feed if one.start_us >= start])

    def _of_windows(self, now_us: int) -> list[Signal]:
        reference, thresholds = self._reference, self._thresholds
        if reference is None or thresholds is None:
            return []
        best: dict[str, Signal] = {}
        for number, length in enumerate(thresholds.lengths):
            first = now_us - length * reference.step_us
            if self._slices[0].start_us > first:
                continue
            for signal in self._of_window(reference, thresholds, number, first):
                if signal.name not in best or best[signal.name].strength < signal.strength:
                    best[signal.name] = signal
        return [*best.values()]

    def _of_window(
        self, reference: Reference, thresholds: Thresholds, number: int, first_us: int
    ) -> list[Signal]:
        slices = self._slices[bisect_left(self._slices, first_us, key=lambda one: one.start_us) :]
        windows = self._windows(reference, slices, whole=number == 0)
        values, distances = reference.measures.measured(windows)
        convention = self._drift.thresholds == "psi-0.2"
        if convention:
            windows = reference.measures.plain(windows)
        psi = reference.measures.stability(windows)[0]
        findings = Findings(reference, slices, windows.found[0], windows.expected[0], psi)
        if convention:
            return self._by_convention(reference, psi, findings, slices[-1].end_us) if number == 0 else []
        strengths = thresholds.strengths(distances, number)[0]
        return self._signals(reference, thresholds, number, values[0], strengths, findings, slices[-1].end_us)

    def _windows(self, reference: Reference, slices: Sequence[TimeSlice], *, whole: bool) -> Windows:
        found, expected, rows = (
            kept.newest(len(slices)).sum(axis=0)[None, :]
            for kept in (self._found, self._expected, self._rows)
        )
        if not whole:
            rows = found[
                :, [reference.layout.rows]
            ]  # the volume of a week says what was days ago: that is left to the window
        usual_largest = reference.usual_largest[None, :]
        largest = largest_in(self._columns, slices)[None, :] if whole else usual_largest
        return Windows(found, expected, rows[:, 0], largest, usual_largest)

    def _by_convention(
        self, reference: Reference, psi: Floats, findings: Findings, at_us: int
    ) -> list[Signal]:
        measures = reference.measures
        return [
            Signal(
                one.level, one.subject, "psi", at_us, float(value), PSI_LIMIT, float(value) / PSI_LIMIT,
                evidence=findings.of(one) if value >= CLEARS * PSI_LIMIT else Evidence(),
            )
            for one, value in zip(measures.all, psi, strict=False)
        ]  # fmt: skip

    def _signals(
        self,
        reference: Reference,
        thresholds: Thresholds,
        number: int,
        values: Floats,
        strengths: Floats,
        findings: Findings,
        at_us: int,
    ) -> list[Signal]:
        chosen = self._chosen(reference.measures, strengths)
        peaks = thresholds.peaks[number]
        found = []
        for rank, place in enumerate(chosen):
            measure, strength = reference.measures.all[place], float(strengths[place])
            evidence = Evidence()
            if strength >= CLEARS:
                evidence = (
                    findings.of(measure, float(peaks[place])) if rank < MOST_EVIDENCE else findings.plain
                )
            if measure.level != "data":
                evidence = msgspec.structs.replace(evidence, top=_top(reference.measures.all, strengths))
            value = float(values[place])
            threshold = value / strength if strength > 0 else 0.0
            found.append(
                Signal(
                    measure.level, measure.subject, measure.statistic, at_us, value, threshold, strength,
                    measure.segment, evidence,
                )
            )  # fmt: skip
        return found

    def _chosen(self, measures: Measures, strengths: Floats) -> list[int]:
        """Those that stand or stood, the strongest first. Of a column's segments only one, and if it says more than all rows."""
        order = np.argsort(-strengths, kind="stable")
        kept: list[int] = []
        taken: set[str] = set()
        stood = (
            np.array([name in self._active for name in measures.names]) if self._active else np.zeros(1, bool)
        )
        for place in order[
            (strengths >= CLEARS)[order] | np.broadcast_to(stood, order.shape)[order]
        ].tolist():
            measure = measures.all[place]
            if measure.group < 0 or measure.subject not in taken or measures.names[place] in self._active:
                kept.append(place)
            taken.add(measure.subject)
        return kept


def _top(measures: Sequence[Measure], strengths: Floats) -> dict[str, float]:
    """The columns that moved most among what came in, with their strengths."""
    found: dict[str, float] = {}
    for place in np.argsort(-strengths, kind="stable").tolist():
        if strengths[place] < CLEARS or len(found) == TOP:
            break
        if measures[place].level == "data" and measures[place].place >= 0:
            found.setdefault(measures[place].subject, round(float(strengths[place]), 3))
    return found
