"""Counts by name, as `LabelHistory` adds them up, and the figures that are measured of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from models.drift.cohorts import SCORE_BINS
from models.drift.columns import SCORE
from models.drift.label_reports import ALL, Cohort, LabelSlice, LossSums
from models.drift.label_statistics import Measure, calibration, share
from models.outcomes import CORRECTED, DUPLICATE, LATE, MATCHED, UNKNOWN

Measured = Callable[[Mapping[str, int]], Measure | None]

_CAME: Final = (MATCHED, CORRECTED, LATE, DUPLICATE)


def counts_of_slice(slice_: LabelSlice) -> dict[str, int]:
    """The counts of a slice."""
    rows = sum(slice_.delays.values())
    counts = {
        "labels": sum(slice_.classes.values()),
        "came": sum(slice_.outcomes.get(name, 0) for name in _CAME),
        "unknown": slice_.outcomes.get(UNKNOWN, 0),
        "delay_n": rows,
        "delay_sum": sum(at * count for at, count in slice_.delays.items()),
        "delay_squares": sum(at * at * count for at, count in slice_.delays.items()),
    }
    for one in slice_.losses:
        for name, sums in one.classes.items():
            counts |= _figures(one.subject, one.segment, name, sums)
    return counts


def counts_of_cohort(cohort: Cohort) -> dict[str, int]:
    """The counts of a cohort."""
    counts = {f"class|{name}": count for name, count in cohort.classes.items()}
    counts["labels"] = sum(cohort.classes.values())
    counts |= _figures(SCORE, ALL, ALL, cohort.losses)
    for subject, bins in cohort.calibration.items():
        for at, figures in bins.items():
            for figure, count in zip(("n", "said", "came"), figures, strict=True):
                counts[f"calibration|{subject}|{at}|{figure}"] = count
    return counts


def _figures(subject: str, segment: str, name: str, sums: LossSums) -> dict[str, int]:
    key = f"loss|{subject}|{segment}|{name}"
    return {f"{key}|n": sums.count, f"{key}|sum": sums.loss, f"{key}|squares": sums.squares}


def unknown_share(counts: Mapping[str, int]) -> Measure | None:
    """The share of labels whose event nobody knows."""
    unknown = counts.get("unknown", 0)
    return share(unknown, unknown + counts.get("came", 0))


def class_share(name: str) -> Measured:
    """What measures the share of one class."""
    return lambda counts: share(counts.get(f"class|{name}", 0), counts.get("labels", 0))


def calibration_of(subject: str) -> Measured:
    """What measures how well one subject is calibrated."""

    def measured(counts: Mapping[str, int]) -> Measure | None:
        bins = [
            (
                rows,
                counts.get(f"calibration|{subject}|{at}|said", 0),
                counts.get(f"calibration|{subject}|{at}|came", 0),
            )
            for at in range(SCORE_BINS)
            if (rows := counts.get(f"calibration|{subject}|{at}|n", 0)) > 0
        ]
        return calibration(bins)

    return measured
