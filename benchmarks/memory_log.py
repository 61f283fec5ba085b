"""What a broker is to stages that run in one process: a list of records a partition, each taken once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams.producer import Outgoing

# The broker's time of every record: long after the events' own times, and the same in every run.
ARRIVED_MS = 1_900_000_000_000

Place = tuple[str, int]


@dataclass(frozen=True)
class LogRecord:
    """A record as the road reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class MemoryLog:
    """What the stages published, until the next one takes it."""

    ends: Counter[Place] = field(default_factory=Counter)
    waiting: dict[Place, list[LogRecord]] = field(default_factory=lambda: defaultdict(list))

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Place, int]:
        """Into memory."""
        for message in messages:
            place = (message.topic, message.partition)
            record = LogRecord(self.ends[place], ARRIVED_MS, message.key, message.value, message.headers)
            self.waiting[place].append(record)
            self.ends[place] += 1
        return {place: end - 1 for place, end in self.ends.items()}

    def take(self, place: Place) -> list[LogRecord]:
        """What waits in a partition, to be worked on."""
        return self.waiting.pop(place, [])
