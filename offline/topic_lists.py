"""What a broker is to stages that run in one process: topics as lists of records, each record taken once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from streams.batch import Partition
from streams.producer import Outgoing


@dataclass(frozen=True, slots=True)
class ListedRecord:
    """A record as a stage reads it; `timestamp` in milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class TopicLists:
    """What waits in each partition. `now_ms` stamps what is published.

    Example:
        >>> import asyncio
        >>> lists = TopicLists(lambda: 1_000)
        >>> asyncio.run(lists.deliver([Outgoing("shop.events", 0, None, b"{}", [])]))
        {('shop.events', 0): 0}
        >>> [record.offset for record in lists.take(("shop.events", 0))], lists.waiting()
        ([0], [])
    """

    now_ms: Callable[[], int]
    _ends: Counter[Partition] = field(default_factory=Counter)
    _records: dict[Partition, list[ListedRecord]] = field(default_factory=lambda: defaultdict(list))

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """As the broker's publisher does: append, and say the last offset in each partition."""
        now_ms = self.now_ms()
        places = [(message.topic, message.partition) for message in messages]
        for place, message in zip(places, messages, strict=True):
            self.append(place, now_ms, message.key, message.value, message.headers)
        return {place: self._ends[place] - 1 for place in places}

    def append(
        self,
        place: Partition,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """One more record at the end of a partition."""
        self._records[place].append(ListedRecord(self._ends[place], timestamp, key, value, headers))
        self._ends[place] += 1

    def waiting(self) -> list[Partition]:
        """The partitions in which something waits, in the order of their names."""
        return sorted(place for place, records in self._records.items() if records)

    def take(self, place: Partition) -> list[ListedRecord]:
        """All that waits in a partition; it is gone from there."""
        return self._records.pop(place, [])
