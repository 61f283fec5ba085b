"""What stands unread in the hop topics, shared between workers through Redis (see `streams/pressure.py`).

    driftwood:<pipeline>:pressure             set: the workers that wrote lately
    driftwood:<pipeline>:pressure:<worker>    hash: <topic>/<partition> -> unread bytes

Each worker's hash expires soon after it wrote last, so one that is gone does not hold the sources up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from features.masked_urls import masked
from features.redis_store import explained
from features.store import NOTHING_APPLIED

# A worker writes ten times a second. What one that is gone has left behind counts for this long, in milliseconds.
FORGOTTEN_AFTER_MS = 5_000

Partition = tuple[str, int]


class RedisPressure:
    """Unread bytes by hop partition and worker. `client` must not decode responses.

    Raises:
        UnreachableError: Redis does not answer.
        StoreError: it answers, and refuses: out of memory, no permission, a key that holds something else.
    """

    def __init__(self, client: Redis, url: str, pipeline: str) -> None:
        self._client, self._shown = client, masked(url)
        self._prefix = f"driftwood:{pipeline}:"
        self._workers = f"{self._prefix}pressure"

    @classmethod
    def connect(cls, url: str, pipeline: str) -> Self:
        """With a client of its own; nothing is sent yet."""
        return cls(Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=2.0), url, pipeline)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def applied(self, partitions: Sequence[Partition]) -> list[int]:
        """The last applied offset of each hop partition, -1 where nothing was."""
        if not partitions:
            return []
        asked = self._client.pipeline(transaction=False)
        for topic, number in partitions:
            asked.hget(f"{self._prefix}partition:{topic}:{number}", "applied")
        try:
            answers = await asked.execute()
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return [NOTHING_APPLIED if answer is None else int(answer) for answer in answers]

    async def share(self, worker: str, unread: Mapping[Partition, int]) -> dict[Partition, int]:
        """Write this worker's unread bytes; the answer sums over all workers."""
        try:
            workers = await self._write(
                worker, {f"{topic}/{number}": size for (topic, number), size in unread.items()}
            )
            return await self._sum(workers)
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error

    async def _write(self, worker: str, unread: Mapping[str, int]) -> list[bytes]:
        asked = self._client.pipeline()
        if unread:
            asked.sadd(self._workers, worker)
            asked.hset(self._of(worker), mapping=dict(unread))
            asked.pexpire(self._of(worker), FORGOTTEN_AFTER_MS)
        asked.smembers(self._workers)
        return sorted((await asked.execute())[-1])

    async def _sum(self, workers: Sequence[bytes]) -> dict[Partition, int]:
        asked = self._client.pipeline(transaction=False)
        for worker in workers:
            asked.hgetall(self._of(worker.decode()))
        found = await asked.execute()
        gone = [worker for worker, unread in zip(workers, found, strict=True) if not unread]
        if gone:
            removed = self._client.pipeline()
            removed.srem(self._workers, *gone)
            await removed.execute()
        total: Counter[Partition] = Counter()
        for unread in found:
            for name, size in unread.items():
                topic, _, number = name.decode().rpartition("/")
                total[topic, int(number)] += int(size)
        return dict(total)

    def _of(self, worker: str) -> str:
        return f"{self._workers}:{worker}"
