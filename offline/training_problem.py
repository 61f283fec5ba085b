"""Which events a training may use: those before a cut-off whose labels were known by then, up to the label delay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from features.durations import duration_text
from features.errors import DeveloperError
from features.event_times import moment_us
from features.plan import Floats, Ints
from models.pipeline import Pipeline
from offline.backfill import Backfill
from offline.labels import Labels

# The validation period is the last fifth of the labelled rows: long enough to choose a threshold on, short enough to
# leave the model before it comparable with the final one.
FIT_SHARE = 0.8

# See `offline/train.py`. Not all: one label that took a year must not empty the training range.
DELAY_SHARE = 0.99


@dataclass(frozen=True)
class Problem:
    """Everything that the steps of one training share. Times in microseconds; `split_us` None: no validation."""

    pipeline: Pipeline
    past: Backfill
    labels: Labels
    since_us: int
    until_us: int
    gap_us: int
    split_us: int | None = None

    def rows(self, cut_us: int) -> tuple[Ints, Floats]:
        """(indices, targets) of the events that a training at this moment may use."""
        known = self.labels.as_of(cut_us)
        times = self.past.times_us
        inside = (times >= self.since_us) & (times <= cut_us - self.gap_us) & (times < cut_us)
        chosen = np.flatnonzero(inside & known.known & ~np.isnan(known.codes))
        return chosen, known.codes[chosen]


def pose(
    pipeline: Pipeline,
    past: Backfill,
    labels: Labels,
    since: str | int | None,
    until: str | int | None,
    gap_us: int | None,
) -> Problem:
    """The problem with its times in microseconds; None stands for all there is, and for the measured label delay."""
    since_us = int(past.times_us[0]) if since is None else _moment(since, "since")
    until_us = labels.end_us + 1 if until is None else _moment(until, "until")
    if gap_us is None:
        gap_us = labels.delay_us(until_us, DELAY_SHARE)
    return Problem(pipeline, past, labels, since_us, until_us, gap_us)


def split(problem: Problem) -> Problem:
    """Checks that there is something to learn, and finds the moment before which the validated model is fitted."""
    chosen, targets = problem.rows(problem.until_us)
    _check_learnable(problem, chosen, targets)
    split_us = int(problem.past.times_us[chosen[int(len(chosen) * FIT_SHARE)]])
    earlier, earlier_targets = problem.rows(split_us)
    enough = len(earlier) >= 2 * problem.pipeline.batch.min_data_in_leaf
    return replace(problem, split_us=split_us if enough and varies(problem, earlier_targets) else None)


def _check_learnable(problem: Problem, chosen: Ints, targets: Floats) -> None:
    label = problem.pipeline.label
    range_text = (
        f"{iso(problem.since_us)} to {iso(problem.until_us)} with a label delay of {gap_text(problem)}"
    )
    if len(chosen) < 2:
        raise DeveloperError(
            f"{len(chosen)} of {len(problem.past):,} events have a label {label.name} that may be used ({range_text}). "
            f"Events: {_sentence(left_out(problem))}. Labels: {_sentence(problem.labels.counts)}. Check the ids and times "
            "of the labels, or choose another range"
        )
    if not varies(problem, targets):
        raise DeveloperError(
            f"all {len(chosen):,} labels {label.name} ({range_text}) are {targets[0]:g}: there is nothing to tell apart"
        )


def _sentence(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "none"


def varies(problem: Problem, targets: Floats) -> bool:
    """Whether there is something to tell apart."""
    return len(targets) > 0 and (problem.pipeline.label.kind == "regression" or len(np.unique(targets)) > 1)


def left_out(problem: Problem) -> Mapping[str, int]:
    """Why events before the cut-off are not among the training rows; each one counts once."""
    times, known = problem.past.times_us, problem.labels.as_of(problem.until_us)
    before = times < problem.until_us
    early = before & (times < problem.since_us)
    recent = before & ~early & (times > problem.until_us - problem.gap_us)
    rest = before & ~early & ~recent
    return {
        "before the training range": int(early.sum()),
        "closer to the cut-off than the label delay": int(recent.sum()),
        "no label known by the cut-off": int((rest & ~known.known).sum()),
        "known to have no label": int((rest & known.known & np.isnan(known.codes)).sum()),
    }


def _moment(given: str | int, place: str) -> int:
    return given if isinstance(given, int) else moment_us(given, place)


def iso(time_us: int) -> str:
    """The moment as ISO 8601, UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return moment.isoformat().replace("+00:00", "Z")


def gap_text(problem: Problem) -> str:
    """The label delay in words."""
    return duration_text(problem.gap_us - problem.gap_us % 1_000_000)
