"""Labels, losses and expectations over time, from what the monitor has been told about labels: the lines of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from features.durations import DAY_US, HOUR_US
from features.plan import Floats
from models.drift.buckets import MISSING, bucket_values
from models.drift.cohorts import SCORE_BINS, score_bins
from models.drift.columns import SCORE, Column
from models.drift.estimate import moments
from models.drift.label_reports import ALL, LOSS_UNITS, SCORE_UNITS, LabelReport, LabelSlice
from models.drift.time_slice import TimeSlice
from models.maturity import bin_end_us
from models.outcomes import CORRECTED, MATCHED, UNKNOWN

Line = Sequence[tuple[int, float]]
Panels = Mapping[str, Mapping[str, Line]]
"""By the title of a panel, and the name of a line in it: values by microseconds since the epoch."""

EXPECTED, TRUE = "expected", "what came true"

# An AUC of fewer labels, or of fewer positives, is chance.
FEWEST_LABELS = 200
FEWEST_POSITIVES = 10

# Of many models only so many lines can be told apart.
MOST_MODELS = 6


def label_panels(reports: Iterable[LabelReport]) -> Panels:
    """How many labels came, how late, of which class and for which ids: by the day on which they became known."""
    days = _by_day(reports)
    if not days:
        return {}
    classes = sorted({name for slices in days.values() for one in slices for name in one.classes})
    hours = _hours(days)
    found: dict[str, dict[str, Line]] = {
        "labels an hour, by day": {"labels": [(at, count / hours[at]) for at, count in _line(days, _labels)]},
        "mean delay of a label, in days": {"labels": _line(days, _mean_delay)},
        "share of labels for unknown ids": {"labels": _line(days, _unknown_share)},
    }
    # Of two classes one line says all; of very many none says anything.
    shown = classes[-1:] if len(classes) <= 2 else classes[:MOST_MODELS]
    if len(classes) > 1:
        found["share of a class"] = {name: _line(days, _class_share(name)) for name in shown}
    return {title: lines for title, lines in found.items() if any(lines.values())}


def loss_panels(reports: Iterable[LabelReport]) -> Panels:
    """The mean loss of what was served, and of each model, by the day on which labels became known."""
    days = _by_day(reports)
    subjects = dict.fromkeys(
        losses.subject for slices in days.values() for one in slices for losses in one.losses
    )
    lines = {subject: _line(days, _mean_loss(subject)) for subject in list(subjects)[:MOST_MODELS]}
    return (
        {"mean loss, bounded to 0 to 1": {name: line for name, line in lines.items() if line}}
        if lines
        else {}
    )


def estimate_panels(
    slices: Sequence[TimeSlice], reports: Iterable[LabelReport], columns: Sequence[Column], step_us: int
) -> Panels:
    """AUC and log loss by event time: as the scores alone let expect, and as they were when all labels had come.

    Both from the same bins of the score, so that they can be compared. Nothing where the score is no probability.
    """
    place = next(
        (at for at, one in enumerate(columns) if one.name == SCORE and one.kind == "probability"), None
    )
    if place is None:
        return {}
    expected = _summed(((one.start_us, _said(one, place)) for one in slices), step_us)
    true = _summed(_came_true(reports), step_us)
    found: dict[str, dict[str, Line]] = {}
    for number, title in enumerate(("AUC", "log loss")):
        before = [(at_us, _expected(bins)[number]) for at_us, bins in expected.items()]
        after = [(at_us, _true(bins)[number]) for at_us, bins in true.items()]
        lines = {EXPECTED: _known(before), TRUE: _known(after)}
        found[title] = {name: line for name, line in lines.items() if line}
    return {title: lines for title, lines in found.items() if lines}


def _by_day(reports: Iterable[LabelReport]) -> dict[int, list[LabelSlice]]:
    found: dict[int, list[LabelSlice]] = {}
    for report in reports:
        if isinstance(report, LabelSlice):
            found.setdefault(report.start_us // DAY_US * DAY_US, []).append(report)
    return dict(sorted(found.items()))


def _line(days: Mapping[int, Sequence[LabelSlice]], of: Callable[[Sequence[LabelSlice]], float]) -> Line:
    # In the middle of the day that a value is of.
    return _known([(day + DAY_US // 2, of(slices)) for day, slices in days.items()])


def _hours(days: Mapping[int, Sequence[LabelSlice]]) -> dict[int, float]:
    """How many hours of each day are told of: of the first and the last one not all need be."""
    first = min(one.start_us for slices in days.values() for one in slices)
    last = max(one.end_us for slices in days.values() for one in slices)
    return {day + DAY_US // 2: (min(day + DAY_US, last) - max(day, first)) / HOUR_US for day in days}


def _known(line: Line) -> Line:
    return [(at_us, value) for at_us, value in line if not np.isnan(value)]


def _labels(slices: Sequence[LabelSlice]) -> float:
    return float(sum(one.outcomes.get(MATCHED, 0) + one.outcomes.get(CORRECTED, 0) for one in slices))


def _mean_delay(slices: Sequence[LabelSlice]) -> float:
    counted = [(bin_end_us(at), count) for one in slices for at, count in one.delays.items()]
    count = sum(count for _, count in counted)
    return sum(end_us * count for end_us, count in counted) / count / DAY_US if count else float("nan")


def _unknown_share(slices: Sequence[LabelSlice]) -> float:
    unknown = sum(one.outcomes.get(UNKNOWN, 0) for one in slices)
    return _divided(unknown, unknown + _labels(slices))


def _class_share(name: str) -> Callable[[Sequence[LabelSlice]], float]:
    def share(slices: Sequence[LabelSlice]) -> float:
        return _divided(
            sum(one.classes.get(name, 0) for one in slices), sum(sum(one.classes.values()) for one in slices)
        )

    return share


def _mean_loss(subject: str) -> Callable[[Sequence[LabelSlice]], float]:
    def loss(slices: Sequence[LabelSlice]) -> float:
        sums = [
            sums
            for one in slices
            for losses in one.losses
            if losses.subject == subject and losses.segment == ALL
            for sums in losses.classes.values()
        ]
        return _divided(sum(one.loss for one in sums) / LOSS_UNITS, sum(one.count for one in sums))

    return loss


def _divided(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _said(one: TimeSlice, place: int) -> Floats:
    """float64[bins, 3]: rows by bin of the score, the sum of their scores, and zeros."""
    buckets, counts = one.column(place)
    counts, buckets = counts[buckets != MISSING], buckets[buckets != MISSING]
    scores = bucket_values("probability", buckets)
    found = np.zeros((SCORE_BINS, 3))
    np.add.at(found[:, 0], score_bins(scores), counts)
    np.add.at(found[:, 1], score_bins(scores), counts * scores)
    return found


def _came_true(reports: Iterable[LabelReport]) -> Iterable[tuple[int, Floats]]:
    """By event time: rows by bin of the score, the sum of their scores, and how many came true."""
    for report in reports:
        for cohort in report.cohorts if isinstance(report, LabelSlice) else ():
            found = np.zeros((SCORE_BINS, 3))
            for at, (rows, said, came) in cohort.calibration.get(SCORE, {}).items():
                found[at] = rows, said / SCORE_UNITS, came
            yield cohort.start_us, found


def _summed(parts: Iterable[tuple[int, Floats]], step_us: int) -> dict[int, Floats]:
    """Added up by spans of `step_us`; a span is named by its middle."""
    found: dict[int, Floats] = {}
    for at_us, bins in parts:
        middle = at_us // step_us * step_us + step_us // 2
        found[middle] = found.get(middle, np.zeros((SCORE_BINS, 3))) + bins
    return dict(sorted(found.items()))


def _expected(bins: Floats) -> tuple[float, float]:
    """AUC and log loss, if the scores are calibrated."""
    rows = bins[:, 0].sum()
    if rows < FEWEST_LABELS or bins[:, 1].sum() < FEWEST_POSITIVES:
        return float("nan"), float("nan")
    held = bins[:, 0] > 0
    found, _ = moments((bins[held, 0] / rows)[None, :], bins[held, 1] / bins[held, 0])
    return float(found[0, 0]), float(found[0, 1])


def _true(bins: Floats) -> tuple[float, float]:
    """AUC and log loss as they were; scores of one bin count as equal, as in `_expected`."""
    rows, positives = bins[:, 0], bins[:, 2]
    negatives = rows - positives
    if rows.sum() < FEWEST_LABELS or min(positives.sum(), negatives.sum()) < FEWEST_POSITIVES:
        return float("nan"), float("nan")
    below = np.cumsum(negatives) - negatives / 2
    auc = (positives * below).sum() / positives.sum() / negatives.sum()
    scores = np.divide(bins[:, 1], rows, out=np.full(SCORE_BINS, 0.5), where=rows > 0)
    loss = -(positives * np.log(scores) + negatives * np.log1p(-scores)).sum() / rows.sum()
    return float(auc), float(loss)
