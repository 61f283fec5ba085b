"""What the drift watch has seen, as time lines: the strength of every level over event time, and the life of every alert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from models.drift.alert import Alert
from models.drift.signals import LEVELS, Level, Signal
from models.drift.time_slice import TimeSlice


@dataclass(frozen=True)
class AlertLife:
    """One alert from raised to resolved: its records in their order, at least one. `number` marks it in pictures, from 1."""

    number: int
    records: tuple[Alert, ...]

    @property
    def last(self) -> Alert:
        """As it stands now."""
        return self.records[-1]

    @property
    def open(self) -> bool:
        """Whether it is not resolved."""
        return self.last.status != "resolved"

    @property
    def raised_us(self) -> int:
        """When it was raised, event time."""
        return moment_us(self.records[0].at)

    @property
    def resolved_us(self) -> int | None:
        """When it was resolved, event time; None while it is open."""
        return None if self.open else moment_us(self.last.at)

    @property
    def strongest(self) -> Signal | None:
        """The strongest signal that it ever had; None when it has none."""
        return max(self.loudest.signals, key=lambda signal: signal.strength, default=None)

    @property
    def loudest(self) -> Alert:
        """The record with the strongest signal; the newest one of several."""
        return max(self.records, key=lambda record: (_strength(record), record.sequence))

    @property
    def critical(self) -> bool:
        """Whether it was critical at any time."""
        return any(record.severity == "critical" for record in self.records)

    def within(self, start_us: int, end_us: int) -> bool:
        """Whether it was open at any time of this span."""
        resolved = self.resolved_us
        return self.raised_us < end_us and (resolved is None or resolved >= start_us)


@dataclass(frozen=True)
class Strength:
    """The strength of a subject at one moment."""

    at_us: int
    subject: str
    strength: float


@dataclass(frozen=True)
class TimeLine:
    """A level: its signals in their order, and the alerts that speak of it."""

    level: Level
    strengths: tuple[Strength, ...]
    lives: tuple[AlertLife, ...]

    @property
    def moments(self) -> list[int]:
        """When anything stood out, ascending."""
        return sorted({one.at_us for one in self.strengths})

    @property
    def subjects(self) -> list[str]:
        """Those that ever stood out, the strongest first."""
        best: dict[str, float] = {}
        for one in self.strengths:
            best[one.subject] = max(one.strength, best.get(one.subject, one.strength))
        return sorted(best, key=lambda subject: (-best[subject], subject))


def lives_of(alerts: Iterable[Alert]) -> list[AlertLife]:
    """The records of `drift-alerts`, put together by alert; copies after a crash are dropped.

    Example:
        >>> raised = Alert("a", "raised", 0, "one", "warning", "2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z", "amount", ("data",),
        ...                (), 1.0, (), "drift-data")
        >>> [(found.number, found.open, len(found.records)) for found in lives_of([raised, raised])]
        [(1, True, 1)]
    """
    found: dict[str, dict[int, Alert]] = {}
    for alert in alerts:
        found.setdefault(alert.alert, {}).setdefault(alert.sequence, alert)
    lives = [tuple(records[number] for number in sorted(records)) for records in found.values()]
    # By their place on the topic, as `driftwood alerts list` numbers them: a number never changes.
    return [AlertLife(number, records) for number, records in enumerate(lives, 1)]


def time_lines(signals: Sequence[Signal], lives: Sequence[AlertLife]) -> list[TimeLine]:
    """A line for each level, in the order of the levels; those of which nothing is known have an empty one."""
    strongest: dict[Level, dict[tuple[int, str], float]] = {level: {} for level in LEVELS}
    for signal in signals:
        subject = f"{signal.subject} ({signal.segment})" if signal.segment else signal.subject
        known = strongest[signal.level]
        place = (signal.at_us, subject)
        known[place] = max(signal.strength, known.get(place, 0.0))
    return [
        TimeLine(
            level,
            tuple(Strength(at_us, subject, found) for (at_us, subject), found in sorted(known.items())),
            tuple(one for one in lives if any(level in record.levels for record in one.records)),
        )
        for level, known in strongest.items()
    ]


def newest(slices: Sequence[TimeSlice], span_us: int) -> list[TimeSlice]:
    """The slices of the newest `span_us` of event time."""
    if not slices:
        return []
    since = slices[-1].end_us - span_us
    return [one for one in slices if one.start_us >= since]


def moment_us(text: str) -> int:
    """The microseconds since the epoch of an RFC 3339 time.

    Example:
        >>> moment_us("2013-05-01T00:00:00Z")
        1367366400000000
    """
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


def strongest_now(signals: Sequence[Signal], at_us: int) -> Mapping[tuple[Level, str], Signal]:
    """Of each level and subject the strongest signal of this moment."""
    found: dict[tuple[Level, str], Signal] = {}
    for signal in signals:
        place = (signal.level, signal.subject)
        if signal.at_us == at_us and (place not in found or signal.strength > found[place].strength):
            found[place] = signal
    return found


def _strength(alert: Alert) -> float:
    return max((signal.strength for signal in alert.signals), default=0.0)
