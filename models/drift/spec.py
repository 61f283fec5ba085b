"""What a pipeline says about its drift watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from features.durations import duration_us
from features.errors import PipelineError
from models.drift.alert import Trigger
from models.drift.signals import LEVELS, Level

Convention = Literal["calibrated", "psi-0.2"]

TRAINING: Final = "training"

SHORTEST_SLICE_US: Final = 60_000_000
LONGEST_SLICE_US: Final = 86_400_000_000


@dataclass(frozen=True)
class Drift:
    """How a pipeline is watched.

    - `false_alarms_a_month`: how many are acceptable, over everything that is watched together (default 1).
    - `reference`: "training", the data that the champion was trained on (default), or a trailing period such as "28d".
    - `time_slice`: rows are counted by spans of event time of this length (default "1h"; "1m" to "1d"); `window`: so much of
      the newest time is compared with the reference (default "1d").
    - `fields`: raw fields of the event that are watched although no feature needs them (default: none, beside those that
      travel anyhow). They are then part of what is stored of an event, so the feature hash changes with them.
    - `segments`: raw text fields of the event by whose values the watch also looks, such as a country or a producer.
    - `thresholds`: "calibrated" to `false_alarms_a_month` (default), or "psi-0.2", the convention.
    - `triggers`: by level what an alert leads to: "freeze" or "reset" (the learners), or "retrain-requested" (a record on
      `control`). Default: nothing.

    Example:
        >>> Drift(0.5, reference="28d", triggers={"concept": ["retrain-requested"]}).window_us
        86400000000
        >>> Drift(-1)
        Traceback (most recent call last):
        features.errors.PipelineError: drift, false_alarms_a_month: -1; expected a number above 0
    """

    false_alarms_a_month: float = 1.0
    reference: str = TRAINING
    time_slice: str = "1h"
    window: str = "1d"
    fields: Sequence[str] = ()
    segments: Sequence[str] = ()
    thresholds: Convention = "calibrated"
    triggers: Mapping[Level, Sequence[Trigger]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.false_alarms_a_month > 0:
            raise PipelineError(
                "drift, false_alarms_a_month", f"{self.false_alarms_a_month!r}", "a number above 0"
            )
        if not SHORTEST_SLICE_US <= self.slice_us <= LONGEST_SLICE_US:
            raise PipelineError("drift, time_slice", f"{self.time_slice!r}", "from 1m to 1d")
        if self.window_us < self.slice_us or self.window_us % self.slice_us:
            raise PipelineError("drift, window", f"{self.window!r}", f"a multiple of {self.time_slice}")
        if self.trailing_us is not None and self.trailing_us < 2 * self.window_us:
            raise PipelineError(
                "drift, reference", f"{self.reference!r}", "training, or two windows at least"
            )
        for name, given in (("fields", self.fields), ("segments", self.segments)):
            if isinstance(given, str):
                raise PipelineError(
                    f"drift, {name}", f"{given!r} is one text", f"names in brackets: [{given!r}]"
                )
        unknown = [level for level in self.triggers if level not in LEVELS]
        if unknown:
            raise PipelineError("drift, triggers", f"{unknown[0]!r}", f"one of {', '.join(LEVELS)}")

    @property
    def slice_us(self) -> int:
        """The length of a time slice, in microseconds."""
        return duration_us(self.time_slice, "drift, time_slice")

    @property
    def window_us(self) -> int:
        """How much of the newest time is compared, in microseconds."""
        return duration_us(self.window, "drift, window")

    @property
    def trailing_us(self) -> int | None:
        """The length of a trailing reference, in microseconds; None: the champion's training data."""
        return None if self.reference == TRAINING else duration_us(self.reference, "drift, reference")
