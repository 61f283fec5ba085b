"""The alerts of a pipeline with what people have decided about them: `drift-alerts` and `control`, read to their ends.

drift-alerts ──> lives of alerts, copies dropped by (alert, sequence) ─┐
control ───────> who looks after an alert, what is silenced until when ┴─> Board
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from driftwood.drift_series import AlertLife, lives_of, moment_us
from driftwood.tail import Message, read
from features.durations import duration_us
from features.errors import DeveloperError, PipelineError
from models.drift.alert import Alert
from models.drift.alert import decoded as decoded_alert
from models.drift.signals import LEVELS
from streams.control import AlertAck, AlertSilence, AlertUnsilence
from streams.control import decoded as decoded_decision
from streams.settings import Settings
from streams.topics import LearnTopics, Topic


@dataclass(frozen=True)
class Decisions:
    """What stands on `control` about alerts: of each alert the newest ack, and the silences that were not ended."""

    acks: Mapping[str, AlertAck] = field(default_factory=dict)
    silences: Sequence[AlertSilence] = ()

    def silenced(self, alert: Alert, now: datetime) -> str | None:
        """Until when the alert is silenced (RFC 3339); None: it is not.

        It is while every one of its signals is: what joins an alert and is not silenced gives it its voice back.

        Example:
            >>> from models.drift.signals import Signal
            >>> amount = Signal("data", "amount", "ks", 0, 0.3, 0.1, 3.0)
            >>> alert = Alert("a", "raised", 0, "one", "warning", "", "", "", ("data",), (amount,), None, (), "")
            >>> until = AlertSilence("2024-05-01T02:00:00Z", "2024-05-01T00:00:00Z", "ann", subject="amount")
            >>> for hour in (1, 2):
            ...     print(Decisions(silences=[until]).silenced(alert, datetime(2024, 5, 1, hour, tzinfo=UTC)))
            2024-05-01T02:00:00Z
            None
        """
        silences = [one for one in self.silences if datetime.fromisoformat(one.until) > now]
        if alert.more:  # of those that are not listed the level is known alone
            silences = [one for one in silences if one.subject is None]
        about = [(signal.level, signal.subject) for signal in alert.signals]
        about += [(level, "") for level in alert.levels if alert.more]
        ends = [
            max((one.until for one in silences if _matches(one, *place)), key=moment_us, default=None)
            for place in about
        ]
        known = [end for end in ends if end is not None]
        return min(known, key=moment_us) if known and len(known) == len(ends) else None


@dataclass(frozen=True)
class Board:
    """All alerts that there ever were, in the order in which they were raised, and what was decided about them."""

    lives: Sequence[AlertLife]
    decisions: Decisions

    def find(self, reference: str) -> AlertLife:
        """The alert of this number, name, or beginning of a name (with or without the pipeline's).

        Raises DeveloperError where there is none, or more than one.
        """
        found = [life for life in self.lives if reference in (str(life.number), life.last.alert)]
        found = found or [life for life in self.lives if _begins(life.last, reference)]
        if len(found) == 1:
            return found[0]
        if not found:
            known = f"1 to {len(self.lives)}" if self.lives else "none yet"
            raise DeveloperError(
                f"there is no alert {reference!r}; expected a number or name of one that was raised: {known}"
            )
        names = ", ".join(f"{life.number} ({life.last.alert})" for life in found[-5:])
        raise DeveloperError(f"{reference!r} is the beginning of {len(found)} alerts; expected one: {names}")


def board_of(settings: Settings, topics: LearnTopics) -> Board:
    """Reads both topics to their ends. Raises TopicError when one cannot be read."""
    alerts = (alert for alert, _, _ in numbered(_present(settings, topics.drift_alerts)))
    return Board(lives_of(alerts), decisions_of(settings, topics))


def decisions_of(settings: Settings, topics: LearnTopics) -> Decisions:
    """What was decided up to now. Raises TopicError when it cannot be read."""
    return folded(_value(message) for message in _present(settings, topics.control))


def numbered(messages: Iterable[Message]) -> Iterator[tuple[Alert, int, int]]:
    """The alerts among the records of `drift-alerts`, from its first one on: each with its number and the record's offset.

    Copies after a crash are dropped, and so is what is no alert, as of a newer version. The number is that of `Board`.
    """
    numbers: dict[str, int] = {}
    told: dict[str, int] = {}
    for message in messages:
        try:
            alert = decoded_alert(_value(message))
        except ValueError:
            continue
        number = numbers.setdefault(alert.alert, len(numbers) + 1)
        if alert.sequence > told.get(alert.alert, -1):
            told[alert.alert] = alert.sequence
            yield alert, number, message.offset() or 0


def folded(values: Iterable[bytes]) -> Decisions:
    """What the records of `control` add up to, in their order."""
    acks: dict[str, AlertAck] = {}
    silences: dict[tuple[str | None, str | None], AlertSilence] = {}
    for value in values:
        record = decoded_decision(value)
        if isinstance(record, AlertAck):
            acks[record.alert] = record
        elif isinstance(record, AlertSilence) and _is_time(record.until):
            silences[record.level, record.subject] = record
        elif isinstance(record, AlertUnsilence):
            silences.pop((record.level, record.subject), None)
    return Decisions(acks, list(silences.values()))


def as_data(life: AlertLife, decisions: Decisions, now: datetime) -> dict[str, Any]:
    """One alert for programs: its newest record, its number, and what was decided about it."""
    ack = decisions.acks.get(life.last.alert)
    return {
        "number": life.number,
        "raised_at": life.records[0].at,
        **msgspec.to_builtins(life.last),
        "ack": None if ack is None else {"by": ack.by, "at": ack.at, "note": ack.note},
        "silenced_until": decisions.silenced(life.last, now),
    }


def since_us(text: str, now: datetime) -> int:
    """Microseconds since the epoch: of a time (RFC 3339, or a date; UTC without an offset), or so long before `now` as a duration says.

    Raises DeveloperError for anything else.
    """
    try:
        found = datetime.fromisoformat(text)
        return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e6)
    except ValueError:
        pass  # then it is a duration
    try:
        return round(now.timestamp() * 1e6) - duration_us(text, "--since")
    except PipelineError:
        raise DeveloperError(f"--since {text}: expected a time such as 2013-05-01T00:00:00Z, or 2d") from None


def checked_level(level: str | None) -> str | None:
    """The level; raises DeveloperError when there is none of this name."""
    if level is not None and level not in LEVELS:
        raise DeveloperError(f"--level {level}: expected one of {', '.join(LEVELS)}")
    return level


def _present(settings: Settings, topic: Topic) -> Iterator[Message]:
    return read(settings, topic, from_start=True, follow=False)


def _matches(silence: AlertSilence, level: str, subject: str) -> bool:
    return silence.level in (None, level) and silence.subject in (None, subject)


def _begins(alert: Alert, reference: str) -> bool:
    return alert.alert.startswith((reference, f"{alert.pipeline}/{reference}"))


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _value(message: Message) -> bytes:
    value = message.value()
    return value.encode() if isinstance(value, str) else value or b""
