"""What the transport hands over: the records of one fetch of one partition, contiguous and in the log's order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

Partition = tuple[str, int]
"""(topic, partition number). Faust's and aiokafka's named tuples of the same shape are equal to it and hash alike."""


def partitions_text(partitions: Iterable[Partition]) -> str:
    """Partitions for people.

    Example:
        >>> partitions_text([("shop.events", 1), ("shop.events", 0), ("shop.hop-card", 3)])
        'shop.events 0 1, shop.hop-card 3'
        >>> partitions_text([])
        'none, other workers of the group have them'
    """
    numbers: dict[str, list[int]] = {}
    for topic, number in sorted(partitions):
        numbers.setdefault(topic, []).append(number)
    texts = [f"{topic} {' '.join(map(str, found))}" for topic, found in numbers.items()]
    return ", ".join(texts) or "none, other workers of the group have them"


class Record(Protocol):
    """One Kafka record; aiokafka's is one.

    `timestamp` is the broker's or the producer's (as the topic is set), in milliseconds since the epoch; -1: none.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """At least one record of one partition.

    `start` is the offset that was asked for (the `end` of the batch before it under the same seek number, so a batch
    that got lost on the way is noticed), `end` the offset to ask for next; between them only offsets that the log does
    not show (compacted, transaction markers) are missing. `seek` numbers the seek under which the batch was fetched;
    numbers grow for ever within a process, so a batch queued before a seek can be told from those after it.
    `highwater` is the partition's end offset as the broker gave it with this fetch: highwater - end is the lag.
    """

    topic: str
    partition: int
    records: Sequence[Record]
    seek: int
    start: int
    end: int
    highwater: int

    @property
    def key(self) -> Partition:
        """The partition that the records stand in."""
        return (self.topic, self.partition)
