"""What stands unread in a topic: the bytes that were sent and that the consumer group has not committed yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# Records are counted together until they weigh this much, so that the memory here is the limit divided by this, not by
# the size of a record.
BLOCK_BYTES = 16 * 1024


@dataclass
class _Block:
    last_offset: int
    size: int


@dataclass
class _Partition:
    end: int  # before the first record of ours
    unread_before: int  # records that stood unread then: their size is not known
    in_flight: int = 0  # bytes handed to the producer, not acknowledged
    blocks: deque[_Block] = field(default_factory=deque)  # acknowledged, oldest first


class Backlog:
    """Unread bytes by partition. The producer says what it sends and what was acknowledged; `committed` is the group's.

    Example:
        >>> backlog = Backlog({0: (100, 90)})
        >>> backlog.sent(0, 400)
        >>> backlog.unread(0)  # 10 older records are taken to be as large as ours
        4400
        >>> backlog.acknowledged(0, offset=100, size=400)
        >>> backlog.committed({0: 101})
        >>> backlog.fullest()
        (0, 0)
    """

    def __init__(self, standing: Mapping[int, tuple[int, int]]) -> None:
        """`standing`: by partition the end offset before the first record is sent, and the group's committed offset."""
        self._partitions = {
            number: _Partition(end, max(end - committed, 0)) for number, (end, committed) in standing.items()
        }
        self._records = 0
        self._bytes = 0

    def sent(self, partition: int, size: int) -> None:
        """A record of `size` bytes was handed to the producer for this partition."""
        self._partitions[partition].in_flight += size
        self._records += 1
        self._bytes += size

    def acknowledged(self, partition: int, offset: int, size: int) -> None:
        """The broker has it at this offset. Offsets grow, with gaps where others send too."""
        standing = self._partitions[partition]
        standing.in_flight -= size
        if standing.blocks and standing.blocks[-1].size < BLOCK_BYTES:
            standing.blocks[-1].last_offset = offset
            standing.blocks[-1].size += size
        else:
            standing.blocks.append(_Block(offset, size))

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The group has read everything before these offsets. A block counts until the whole of it was read."""
        for number, offset in offsets.items():
            standing = self._partitions[number]
            standing.unread_before = min(standing.unread_before, max(standing.end - offset, 0))
            while standing.blocks and standing.blocks[0].last_offset < offset:
                standing.blocks.popleft()

    def unread(self, partition: int) -> int:
        """Bytes in this partition that the group has not committed, those on their way included."""
        standing = self._partitions[partition]
        mean = self._bytes / self._records if self._records else 0.0
        return (
            round(standing.unread_before * mean)
            + standing.in_flight
            + sum(block.size for block in standing.blocks)
        )

    def fullest(self) -> tuple[int, int]:
        """The partition with most unread bytes, and how many."""
        return max(
            ((number, self.unread(number)) for number in self._partitions), key=lambda standing: standing[1]
        )
