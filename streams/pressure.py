"""Back-pressure: the sources wait while too much stands unread in any hop topic.

Only sources are slowed. The dataflow may have a cycle, and a stage that waited for the stage behind it could wait for
itself. Every worker knows how many bytes it has sent into each hop partition and, from the store, up to where they were
applied; it shares what is unread through Redis. Ingest waits while the fullest partitions of all hop topics together are
above the limit (what stands in one hop moves on into the next when that one is slow), and then `driftwood produce` waits
for `events` to be read. On the embedded broker this is what keeps data from being dropped; a real Kafka keeps the backlog
on disk, and there the limit may be 0, which means none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from features.errors import StoreError, UnreachableError
from streams.batch import Partition
from streams.producer import Outgoing

log = logging.getLogger(__name__)

# Between two looks at what was applied, and at what others sent: with 20 MB/s from other workers through four partitions
# about 0.5 MB come on top of the limit. What this worker sends counts at once.
LOOK_EVERY_S = 0.1


class SharedUnread(Protocol):
    """Where workers share what is unread. Partitions are named "<topic>/<number>"."""

    async def applied(self, partitions: Sequence[Partition]) -> list[int]:
        """The last applied offset of each hop partition, -1 where nothing was."""
        ...

    async def share(self, worker: str, unread: Mapping[Partition, int]) -> dict[Partition, int]:
        """Write this worker's unread bytes by partition; the answer is the sum over all workers."""
        ...


class Publishing(Protocol):
    """The publisher, as far as it is needed here."""

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """Publish; the last offset in each partition."""
        ...


class MeasuredPublisher:
    """Delivers through `publisher`, and tells the pressure what it sent into the topics `measured`."""

    def __init__(self, publisher: Publishing, pressure: Pressure, measured: Collection[str]) -> None:
        self._publisher, self._pressure, self._measured = publisher, pressure, frozenset(measured)

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """As the publisher does."""
        offsets = await self._publisher.deliver(messages)
        sizes: Counter[Partition] = Counter()
        for message in messages:
            if message.topic in self._measured:
                sizes[message.topic, message.partition] += len(message.value)
        for place, size in sizes.items():
            self._pressure.sent(place, offsets[place], size)
        return offsets


class Pressure:
    """What this worker has sent and nobody has applied yet; `relief` waits until the fullest partitions have room.

    The memory is bounded by the limit itself: an entry per unapplied record, and no source adds to it above the limit.
    """

    def __init__(
        self, shared: SharedUnread, worker: str, limit_bytes: int, troubled: Callable[[], None] = lambda: None
    ) -> None:
        """`troubled` is called for each look that Redis did not answer."""
        self._shared, self._worker, self._limit_bytes = shared, worker, limit_bytes
        self._troubled = troubled
        self._sent: dict[Partition, deque[tuple[int, int]]] = defaultdict(deque)
        self._unread: Counter[Partition] = (
            Counter()
        )  # of all workers, as of the last look; and what was sent since
        self._room = asyncio.Event()
        self._room.set()
        self.fullest_bytes = 0

    def sent(self, place: Partition, offset: int, size: int) -> None:
        """Records of `size` bytes were sent into a hop partition; the last of them stands at `offset`."""
        if self._limit_bytes:
            self._sent[place].append((offset, size))
            self._unread[place] += size
            self._decide()

    async def relief(self, within_s: float) -> bool:
        """Wait up to `within_s` until the hop topics hold no more unread bytes than the limit; do they?"""
        try:
            async with asyncio.timeout(within_s):
                await self._room.wait()
        except TimeoutError:
            return False
        return True

    async def watch(self) -> None:
        """Look every `LOOK_EVERY_S`, for ever; a task of the worker.

        While Redis does not answer, or refuses, the sources do as they did: whether the worker can go on without it, the
        stages find out.
        """
        said = ""
        while self._limit_bytes:
            trouble = ""
            try:
                await self.look()
            except (UnreachableError, StoreError) as error:
                self._troubled()
                trouble = str(error)
            if trouble and trouble != said:  # ten lines a second would bury those that say more
                log.warning("how much stands unread is not known: %s", trouble)
            said = trouble
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Forget what was applied, share the rest, and let the sources go on or wait."""
        partitions = list(self._sent)
        for key, applied in zip(partitions, await self._shared.applied(partitions), strict=True):
            waiting = self._sent[key]
            while waiting and waiting[0][0] <= applied:
                waiting.popleft()
        unread = {key: sum(size for _, size in waiting) for key, waiting in self._sent.items()}
        known = Counter(self._unread)
        everybodys = await self._shared.share(self._worker, unread)
        self._unread = Counter(everybodys) + (self._unread - known)  # the latter was sent meanwhile
        self._decide()

    def _decide(self) -> None:
        self.fullest_bytes = max(self._unread.values(), default=0)
        fullest: Counter[str] = Counter()
        for (topic, _), size in self._unread.items():
            fullest[topic] = max(fullest[topic], size)
        if fullest.total() > self._limit_bytes:
            self._room.clear()
        else:
            self._room.set()
