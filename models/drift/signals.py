"""A signal: how far one thing stands from what is usual, measured at one moment, in times of what raises an alert."""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

Level = Literal["data", "prediction", "estimate", "labels", "concept"]

LEVELS: Final[tuple[Level, ...]] = ("data", "prediction", "estimate", "labels", "concept")
"""In the order in which one leads to the next: what comes in, what is answered, how good that is thought to be, what becomes
known, and how good it was."""

RAISES: Final = 1.0
"""The strength from which a signal raises an alert."""

CLEARS: Final = 0.7
"""The strength below which it is calm: between the two an alert stays as it is, so that it does not flap."""

CRITICAL: Final = 2.0
"""The strength from which an alert is critical: so far from the threshold chance is no explanation any more."""


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """A span of event time (microseconds since the epoch), and how many rows or labels lie in it."""

    start_us: int
    end_us: int
    count: int


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a signal was measured on. What does not apply is left out.

    `quantiles` by share ("0.05", "0.5", …) and `shares` by category or rate: before and after, each. `top` are the columns
    that contribute most, with their strengths. `why` are sentences that say what is probably behind it.
    """

    reference: Window | None = None
    current: Window | None = None
    psi: float | None = None
    quantiles: dict[str, tuple[float, float]] = {}
    shares: dict[str, tuple[float, float]] = {}
    top: dict[str, float] = {}
    why: tuple[str, ...] = ()


class Signal(msgspec.Struct, frozen=True):
    """One measurement.

    `subject` is a feature, a raw field, a score, a model, or what the feed is about (`volume`, `dead_letters`, …); `segment`
    is "" for all rows, else "field=value". `statistic` names what was measured, `value` and `threshold` are in its unit;
    `strength` is `value` in times of `threshold`, in the sense of "more is worse": 1 raises an alert. `at_us` is the event
    time up to which was measured (of labels: the time at which they became known).
    """

    level: Level
    subject: str
    statistic: str
    at_us: int
    value: float
    threshold: float
    strength: float
    segment: str = ""
    evidence: Evidence = Evidence()

    @property
    def name(self) -> str:
        """By which it is the same signal at another moment.

        Example:
            >>> Signal("data", "amount", "ks", 0, 0.3, 0.1, 3.0, segment="country=DE").name
            'data/amount/ks/country=DE'
        """
        return "/".join((self.level, self.subject, self.statistic, *([self.segment] if self.segment else [])))


# Further than this is as good as infinite, and JSON has no infinity.
_FURTHEST: Final = 1e15


def finite(signal: Signal) -> Signal:
    """The signal with numbers that JSON has: what is infinite is at the edge, what is no number counts for nothing.

    Example:
        >>> finite(Signal("data", "amount", "ks", 0, math.inf, 0.1, math.nan)).strength
        0.0
    """
    evidence = signal.evidence
    quantiles = {name: pair for name, pair in evidence.quantiles.items() if not any(map(math.isnan, pair))}
    return msgspec.structs.replace(
        signal,
        value=_finite(signal.value),
        threshold=_finite(signal.threshold),
        strength=_finite(signal.strength),
        evidence=msgspec.structs.replace(
            evidence,
            psi=None if evidence.psi is None else _finite(evidence.psi),
            quantiles={name: (_finite(before), _finite(now)) for name, (before, now) in quantiles.items()},
            shares={name: (_finite(before), _finite(now)) for name, (before, now) in evidence.shares.items()},
            top={name: _finite(strength) for name, strength in evidence.top.items()},
        ),
    )


def _finite(value: float) -> float:
    return 0.0 if math.isnan(value) else min(max(float(value), -_FURTHEST), _FURTHEST)
