"""Reports about labels become signals: is the label feed as usual, and has the loss of what was served grown?

The reference is what was seen before: the last weeks, in windows as long as the one of now. It needs nothing from training,
and says nothing before it has seen two weeks (of losses: one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from models.drift.concept_judge import ConceptJudge
from models.drift.label_counting import class_names
from models.drift.label_counts import (
    Measured,
    calibration_of,
    class_share,
    counts_of_cohort,
    counts_of_slice,
    unknown_share,
)
from models.drift.label_history import BLOCKS, NEVER_US, LabelHistory
from models.drift.label_reports import FeedState, LabelReport, LabelSlice, LossChange
from models.drift.label_statistics import (
    Deviation,
    Measure,
    delay,
    deviation,
    volume,
    volume_deviation,
    windows_a_month,
)
from models.drift.signals import CLEARS, RAISES, Evidence, Level, Signal, Window
from models.maturity import COHORTS
from models.pipeline import Pipeline
from models.state_bytes import pack_state, unpack_state

FORMAT: Final = 1

# Of the pipeline's false alarms: for the label feed, and for calibration (models/drift/concept_judge.py has the rest).
LABELS_SHARE: Final = 0.1
CALIBRATION_SHARE: Final = 0.05

# Classes whose share is watched.
MOST_CLASSES: Final = 8

# What was unusual for so many windows is the usual.
LONGEST: Final = 14

# Figures of blocks that are kept, so that each is worked out once; after so many all are worked out again.
MOST_MEASURED: Final = 5_000

# An outage is a fact and no measurement: its strength says that it is one.
_OUTAGE: Final = 1.0
_MS: Final = 1_000


class LabelJudge:
    """Judges the reports of one pipeline, in their order.

    Signals are those of strength CLEARS or more, and once more those that were so before and are not any longer.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        label, drift = pipeline.label, pipeline.drift
        self._kind, self._budget = label.kind, drift.false_alarms_a_month
        classes = class_names(label)
        self._shares = classes[1:] if label.kind == "binary" else classes[:MOST_CLASSES]
        self._known = LabelHistory(drift.window_us, drift.slice_us)
        width_us = max(drift.slice_us, label.horizon_us // COHORTS)
        self._mature = LabelHistory(drift.window_us, width_us)
        self._concept = ConceptJudge(self._known, self._mature, drift.false_alarms_a_month)
        self._stalled: dict[str, int] = {}
        self._held = False  # labels were held up since the last slice
        self._told: set[str] = set()
        self._measured: dict[tuple[str, str, int], Measure | None] = {}  # of full blocks
        self._unusual: dict[str, list[int]] = {}  # by signal the beginnings of windows that are no reference

    def judge(self, report: LabelReport) -> list[Signal]:
        """The signals that follow from the next report."""
        match report:
            case LabelSlice():
                found = self._slice(report)
            case LossChange():
                found = self._concept.change(report)
            case FeedState():
                found = self._feed(report)
        return self._worth_telling(found)

    def _worth_telling(self, found: list[Signal]) -> list[Signal]:
        told = [one for one in found if one.strength >= CLEARS or one.name in self._told]
        for one in told:
            (self._told.add if one.strength >= CLEARS else self._told.discard)(one.name)
        return told

    def _feed(self, state: FeedState) -> list[Signal]:
        if state.stalled:
            self._stalled[state.partition] = state.since_ms
        else:
            self._stalled.pop(state.partition, None)
        since_ms = min(self._stalled.values(), default=state.at_ms)
        hours = max(state.at_ms - since_ms, 0) / 3.6e6
        why = (f"no label has come for {hours:.1f} hours",) if self._stalled else ()
        strength = _OUTAGE if self._stalled else 0.0
        self._held = True
        evidence = Evidence(current=Window(since_ms * _MS, state.at_ms * _MS, 0), why=why)
        return [
            Signal("labels", "feed", "outage", state.at_us, hours, hours or 1.0, strength, evidence=evidence)
        ]

    def _slice(self, slice_: LabelSlice) -> list[Signal]:
        if slice_.end_us <= self._known.now_us:
            return []  # of a time that was judged before
        found: list[Signal] = []
        for cohort in slice_.cohorts:
            if self._mature.add(cohort.start_us, counts_of_cohort(cohort)):
                found += self._judge_mature(slice_.end_us)
        if self._held:
            self._mark_held(slice_.start_us)
        self._known.add(slice_.start_us, counts_of_slice(slice_))
        # The slice is over, so the step that it ends is: nothing of it can come any more.
        if self._known.add(slice_.end_us, {}):
            found += self._judge_known(slice_.end_us)
        return [*found, *self._concept.slice(slice_)]

    def _mark_held(self, until_us: int) -> None:
        """Steps from the newest to this one are no measure of the feed."""
        history = self._known
        if history.now_us == NEVER_US:
            return
        first_us = max(history.now_us, until_us - BLOCKS * history.window_us)
        for start_us in range(first_us, until_us + 1, history.step_us):
            history.add(start_us, {"held": 1})
        history.add(until_us, {"held": 1})
        self._held = bool(self._stalled)

    def _judge_known(self, at_us: int) -> list[Signal]:
        """The feed, by known times. While it is held up, and until that has left the window, it is what is held up."""
        history = self._known
        now = history.window()
        if not history.complete or now["held"]:
            return []
        chance = self._chance(LABELS_SHARE)
        start_us = history.now_us - history.window_us
        blocks = [(start, counts) for start, counts in history.full_blocks() if not counts["held"]]
        usual = self._usual("labels/feed/volume", blocks)
        past = [(start, self._measure("volume", "feed", start, volume, counts)) for start, counts in usual]
        found = volume_deviation(volume(now), start_us, past, history.window_us, chance)
        signals = [self._signal("labels", "feed", "volume", at_us, volume(now), found, history)]
        for name, measured in (("delay", delay), ("unknown_ids", unknown_share)):
            signals.append(
                self._against("labels", "feed", name, at_us, measured, now, blocks, chance, history)
            )
        return [one for one in signals if one is not None]

    def _judge_mature(self, at_us: int) -> list[Signal]:
        """Shares of classes, and calibration, by event times whose labels are there."""
        history = self._mature
        if not history.complete:
            return []
        now, blocks = history.window(), history.full_blocks()
        signals = []
        if self._kind != "regression":
            chance = self._chance(LABELS_SHARE)
            for name in self._shares:
                measured = class_share(name)
                signals.append(
                    self._against("labels", "class", name, at_us, measured, now, blocks, chance, history)
                )
            stood = {name.split("/")[1] for name in self._told if name.endswith("/calibration")}
            subjects = sorted(stood | {key.split("|")[1] for key in now if key.startswith("calibration|")})
            chance = self._chance(CALIBRATION_SHARE, len(subjects)) * 2  # one side only
            for subject in subjects:
                said = calibration_of(subject)
                one = self._against(
                    "concept", subject, "calibration", at_us, said, now, blocks, chance, history
                )
                signals.append(one if one is None or one.value > 0 else _calm(one))
        return [one for one in signals if one is not None]

    def _chance(self, share_of_budget: float, measures: int = 0) -> float:
        """That of one false alarm in one window: the share of the budget, over windows of a month and measures."""
        watched = measures or 3 + len(self._shares)
        return self._budget * share_of_budget / windows_a_month(self._known.window_us) / watched

    def _against(
        self,
        level: Level,
        subject: str,
        statistic: str,
        at_us: int,
        measured: Measured,
        now: Mapping[str, int],
        blocks: list[tuple[int, Counter[str]]],
        chance: float,
        history: LabelHistory,
    ) -> Signal | None:
        measure = measured(now)
        if measure is None:
            return Signal(level, subject, statistic, at_us, 0.0, 1.0, 0.0)
        usual = self._usual(f"{level}/{subject}/{statistic}", blocks)
        past = [
            one
            for start, counts in usual
            if (one := self._measure(statistic, subject, start, measured, counts))
        ]
        return self._signal(
            level, subject, statistic, at_us, measure, deviation(measure, past, chance), history
        )

    def _measure(
        self, statistic: str, subject: str, start_us: int, measured: Measured, counts: Counter[str]
    ) -> Any:
        """Of a full block, which stays as it is: it is measured once."""
        key = (statistic, subject, start_us)
        if key not in self._measured:
            if len(self._measured) >= MOST_MEASURED:
                self._measured.clear()
            self._measured[key] = measured(counts)
        return self._measured[key]

    def _usual(self, name: str, blocks: list[tuple[int, Counter[str]]]) -> list[tuple[int, Counter[str]]]:
        unusual = set(self._unusual.get(name, ()))
        return [(start_us, counts) for start_us, counts in blocks if start_us not in unusual]

    def _signal(
        self,
        level: Level,
        subject: str,
        statistic: str,
        at_us: int,
        now: Measure,
        found: Deviation | None,
        history: LabelHistory,
    ) -> Signal | None:
        if found is None:
            return None
        end_us = history.now_us
        start_us = end_us - history.window_us
        first_us = history.blocks[0][0] if history.blocks else start_us
        rows = "came" if history is self._known else "labels"
        evidence = Evidence(
            Window(first_us, start_us, history.counted_before(rows)),
            Window(start_us, end_us, history.window()[rows]),
            shares={statistic: (found.expected, now.shown)},
        )
        one = Signal(
            level,
            subject,
            statistic,
            at_us,
            found.distance,
            found.threshold,
            found.strength,
            evidence=evidence,
        )
        self._remember(one, start_us // history.window_us * history.window_us, history)
        return one

    def _remember(self, one: Signal, block_us: int, history: LabelHistory) -> None:
        """A window that raises an alert is no reference for the next ones, unless it has been like that for long."""
        known = self._unusual.setdefault(one.name, [])
        if one.strength >= RAISES:
            known += [start for start in (block_us, block_us + history.window_us) if start not in known]
        known[:] = [start for start in known if start > history.now_us - 40 * history.window_us]
        if len(known) > LONGEST:
            known.clear()

    def state(self) -> bytes:
        """Everything; `restore` goes on exactly from here."""
        return pack_state(
            {
                "format": FORMAT,
                "known": self._known.state(),
                "mature": self._mature.state(),
                "concept": self._concept.state(),
                "stalled": dict(sorted(self._stalled.items())),
                "held": self._held,
                "told": sorted(self._told),
                "unusual": dict(sorted(self._unusual.items())),
            }
        )

    def restore(self, state: bytes) -> None:
        """Go on from a state that `state` gave. Raises SnapshotError for anything else."""
        kept = unpack_state(state)
        self._known.restore(kept["known"])
        self._mature.restore(kept["mature"])
        self._concept.restore(kept["concept"])
        self._measured.clear()
        self._stalled, self._held, self._told = dict(kept["stalled"]), kept["held"], set(kept["told"])
        self._unusual = {name: list(starts) for name, starts in kept["unusual"].items()}


def _calm(one: Signal) -> Signal:
    """It has moved to the better."""
    return msgspec.structs.replace(one, strength=0.0)
