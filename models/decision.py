"""From a score to a decision: a threshold, frozen with the model. The decision is `score >= threshold`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from features.errors import PipelineError
from features.plan import Floats


class DecisionRule(Protocol):
    """How the threshold of a new model is chosen."""

    def threshold(self, scores: Floats, events_per_day: float) -> float:
        """The threshold for a model that gave these scores float64[n] on a period after its training."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Decide for every score from `value` up.

    Example:
        >>> Threshold(0.8).threshold(np.array([0.1, 0.9]), events_per_day=100.0)
        0.8
    """

    value: float

    def __post_init__(self) -> None:
        _check_number("Threshold", "value", self.value)

    def threshold(self, scores: Floats, events_per_day: float) -> float:
        """The declared value, whatever the scores."""
        return float(self.value)


@dataclass(frozen=True)
class CostMatrix:
    """Decide where it is cheaper on average: of a wrong alarm (`false_positive`) and of a miss (`false_negative`).

    A score p costs (1 - p) * false_positive with the decision and p * false_negative without; the threshold is where
    both are equal (Elkan 2001, The foundations of cost-sensitive learning, equation 2). Right decisions cost nothing.
    Needs a probability: for binary labels only.

    Example:
        >>> CostMatrix(false_positive=5, false_negative=95).threshold(np.array([0.5]), events_per_day=100.0)
        0.05
    """

    false_positive: float
    false_negative: float

    def __post_init__(self) -> None:
        for name, value in (("false_positive", self.false_positive), ("false_negative", self.false_negative)):
            _check_number("CostMatrix", name, value)
            if value <= 0:
                raise PipelineError(f"CostMatrix({name})", repr(value), "a cost above 0")

    def threshold(self, scores: Floats, events_per_day: float) -> float:
        """false_positive / (false_positive + false_negative), whatever the scores."""
        return self.false_positive / (self.false_positive + self.false_negative)


@dataclass(frozen=True)
class DailyCapacity:
    """Decide for the `events` highest scores of an average day: as many as people can look at.

    The threshold is a number chosen once, from the scores of a later period: a day with more events, or worse ones,
    has more decisions. Where equal scores stand at the edge, all of them are left out rather than the capacity
    exceeded.

    Example:
        >>> scores = np.array([0.1, 0.2, 0.3, 0.4])           # two days of two events
        >>> DailyCapacity(1).threshold(scores, events_per_day=2.0)
        0.3
    """

    events: float

    def __post_init__(self) -> None:
        _check_number("DailyCapacity", "events", self.events)
        if self.events <= 0:
            raise PipelineError(
                "DailyCapacity(events)", repr(self.events), "a number of events a day, above 0"
            )

    def threshold(self, scores: Floats, events_per_day: float) -> float:
        """The least score that keeps the decisions of the period within the capacity (+inf: not one fits)."""
        ordered = np.sort(scores[~np.isnan(scores)])[::-1]
        room = math.floor(self.events * len(ordered) / events_per_day) if events_per_day > 0 else len(ordered)
        if room >= len(ordered):
            return float(ordered[-1]) if len(ordered) else 0.0
        # The first score beyond the capacity, and everything equal to it, stays out.
        within = ordered[ordered > ordered[room]]
        return float(within[-1]) if len(within) else float(np.nextafter(ordered[0], np.inf))


def _check_number(rule: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PipelineError(f"{rule}({name})", repr(value), "a finite number")
