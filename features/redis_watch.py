"""The drift watch's states in Redis (`features/watch_store.py` says what they are).

driftwood:<pipeline>:watch:<topic>:<partition>     hash: epoch, applied, identity, state
"""

from __future__ import annotations

from importlib.resources import files
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from features.masked_urls import masked
from features.redis_store import connected, explained
from features.store import NOTHING_APPLIED, PartitionId, Refused, epoch_step
from features.watch_store import Watched, WatchState


class RedisWatch:
    """`WatchStore` in Redis. `client` must not decode responses.

    Raises:
        UnreachableError: Redis does not answer, after the client's own retries.
        StoreError: it answers, and refuses: out of memory, no permission, a key that holds something else.
    """

    def __init__(self, client: Redis, url: str) -> None:
        self._client, self._shown = client, masked(url)
        script = files("features").joinpath("redis_scripts", "watch.lua").read_text(encoding="utf-8")
        self._store = client.register_script(script)

    @classmethod
    def connect(cls, url: str) -> Self:
        """With a client of its own; nothing is sent yet. Raises `SettingError` for a URL that is none."""
        return cls(connected(url), url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def load(self, partition: PartitionId) -> Watched:
        """Raise the partition's epoch and read what is known of it."""
        key = _key(partition)
        try:
            async with self._client.pipeline(transaction=True) as both:
                both.hincrby(key, "epoch", epoch_step())
                both.hmget(key, ["applied", "identity", "state"])
                epoch, (applied, identity, state) = await both.execute()
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        last = NOTHING_APPLIED if applied is None else int(applied)
        return Watched(int(epoch), last, None if identity is None else identity.decode(), state)

    async def store(self, state: WatchState) -> Refused | None:
        """Keep it."""
        arguments = (state.epoch, state.applied, state.last, state.partition.identity, state.state)
        try:
            answer = await self._store(keys=[_key(state.partition)], args=arguments)
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        word, applied = answer[0].decode(), int(answer[1])
        return None if word == "stored" else Refused(word, applied)


def _key(partition: PartitionId) -> str:
    return f"driftwood:{partition.pipeline}:watch:{partition.topic}:{partition.partition}"
