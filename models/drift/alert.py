"""An alert, as it stands on `drift-alerts`: raised once, updated while it grows, resolved when everything is calm again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from models.drift.signals import Level, Signal

Status = Literal["raised", "updated", "resolved"]
Severity = Literal["warning", "critical"]
Trigger = Literal["freeze", "reset", "retrain-requested"]


class Alert(msgspec.Struct, frozen=True):
    """One record of `drift-alerts`; its key is `alert`.

    - `alert`: the alert's name, the same from raised to resolved: pipeline, level, subject and the event time at which it
      was raised. `sequence` counts its records from 0: a copy after a crash has the same one.
    - `at`, `since`: event times (RFC 3339) of this record, and of the first signal.
    - `signals`: what has moved, as it was last measured, the strongest first, with its evidence: the strongest 20, and `more`
      that are not listed. `levels` of all of them, in the order of their kinds.
    - `budget`: false alarms a month to which the thresholds were calibrated; None: to none, such as the convention PSI > 0.2.
    - `why`: what is probably behind it; `runbook`: the heading of docs/operations.md that says what to do.
    - `triggers`: what this record leads to, as the pipeline has it: each stands on one record of an alert, the one with which a
      level came that triggers it.
    """

    alert: str
    status: Status
    sequence: int
    pipeline: str
    severity: Severity
    at: str
    since: str
    title: str
    levels: tuple[Level, ...]
    signals: tuple[Signal, ...]
    budget: float | None
    why: tuple[str, ...]
    runbook: str
    triggers: tuple[Trigger, ...] = ()
    more: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Alert).decode


def encoded(alert: Alert) -> bytes:
    """The alert as it stands on the topic: JSON."""
    return _encode(alert)


def decoded(value: bytes) -> Alert:
    """The alert in a record's value. Raises ValueError when there is none."""
    return _decode(value)  # msgspec's errors are ValueErrors


def moment(time_us: int) -> str:
    """An event time as people read it.

    Example:
        >>> moment(1_367_366_400_000_000)
        '2013-05-01T00:00:00Z'
    """
    text = datetime.fromtimestamp(time_us // 1_000_000, UTC).isoformat()
    return text.replace("+00:00", "Z")
