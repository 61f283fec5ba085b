"""What an alarm was worth: one change at a known moment, what was raised before it, and what behind it.

since ──── calm ──── onset ──── changed ──── end
   every alarm is false   the first one has found it, more are one too many
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.event_times import moment_us
from features.plan import Ints
from models.drift.alert import Alert


@dataclass(frozen=True)
class Span:
    """From when on somebody watches, when it changes, and the end, in microseconds."""

    since_us: int
    onset_us: int
    end_us: int


@dataclass(frozen=True)
class Incident:
    """`found_us`: when it was found, None: never. `alarms` behind the onset, `false_alarms` before it.

    `events`, `labels`: how many came from the onset until it was found (labels: of changed events); None: not counted.
    """

    span: Span
    found_us: int | None
    alarms: int
    false_alarms: int
    events: int | None = None
    labels: int | None = None

    @property
    def delay(self) -> float:
        """From 0, at once, to 1, never."""
        if self.found_us is None:
            return 1.0
        return (self.found_us - self.span.onset_us) / (self.span.end_us - self.span.onset_us)


def of_alerts(alerts: Sequence[Alert], span: Span, times_us: Ints, known_us: Ints) -> Incident:
    """What the drift watch made of it. An alert that was open already and is updated has found it as well."""
    raised = np.array([_at_us(one) for one in alerts if one.status == "raised"], np.int64)
    told = np.array([_at_us(one) for one in alerts if one.status != "resolved"], np.int64)
    behind = told[(told >= span.onset_us) & (told < span.end_us)]
    found_us = int(behind.min()) if len(behind) else None
    until_us = span.end_us if found_us is None else found_us
    return Incident(
        span,
        found_us,
        max(int(((raised >= span.onset_us) & (raised < span.end_us)).sum()), int(found_us is not None)),
        int(((raised >= span.since_us) & (raised < span.onset_us)).sum()),
        int(((times_us >= span.onset_us) & (times_us < until_us)).sum()),
        int(((times_us >= span.onset_us) & (known_us < until_us)).sum()),
    )


def of_alarms(alarms_us: Sequence[int], span: Span) -> Incident:
    """What a detector made of it that only rings."""
    found = np.array(sorted(alarms_us), np.int64)
    behind = found[(found >= span.onset_us) & (found < span.end_us)]
    before = ((found >= span.since_us) & (found < span.onset_us)).sum()
    return Incident(span, int(behind[0]) if len(behind) else None, len(behind), int(before))


def summary(incidents: Sequence[Incident]) -> dict[str, Any]:
    """Of many: the share that was found, alarms for each, false alarms, delays (medians of those found), F1."""
    found = [one for one in incidents if one.found_us is not None]
    false_alarms = sum(one.false_alarms for one in incidents)
    calm_days = sum(one.span.onset_us - one.span.since_us for one in incidents) / 86_400e6
    hours = [(one.found_us - one.span.onset_us) / 3_600e6 for one in found if one.found_us is not None]
    return {
        "incidents": len(incidents),
        "detected_fraction": round(len(found) / max(len(incidents), 1), 3),
        "alerts_per_incident": round(float(np.mean([one.alarms for one in found])), 2) if found else None,
        "false_alarms_per_30_days": round(30 * false_alarms / calm_days, 2) if calm_days else None,
        "delay_hours_p50": _median(hours),
        "delay_events_p50": _median([one.events for one in found if one.events is not None]),
        "delay_labels_p50": _median([one.labels for one in found if one.labels is not None]),
        "f1": round(2 * len(found) / (len(found) + len(incidents) + false_alarms), 3),
        "normalised_delay": round(float(np.mean([one.delay for one in incidents])), 3),
    }


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 1) if values else None


def _at_us(alert: Alert) -> int:
    return moment_us(alert.at, "at")
