"""What all workers of a pipeline must agree on, in Redis: one version of the frames, one number of partitions.

    driftwood:<pipeline>:version       text: the version of the frames that the running workers write; expires
    driftwood:<pipeline>:begun         hash: <topic>@<identity> -> number of partitions, as the first worker had it

Frames of two versions in one hop topic could be read to the end by neither, and rows spread over another number of
partitions would meet their entities' state in two workers at once. So who does not agree must not write at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, Self, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from features.masked_urls import masked
from features.redis_store import explained

# Workers renew the lease every three seconds (`streams/surroundings.py`). It outlives two looks that failed.
LEASE_MS = 10_000


class Agreed(NamedTuple):
    """The version that holds the lease; the partitions of each topic, empty when the version is another one."""

    version: str
    partitions: Mapping[str, int]


class RedisAgreement:
    """What the workers of `pipeline` agree on. `client` must not decode responses.

    Raises:
        UnreachableError: Redis does not answer.
        StoreError: it answers, and refuses: out of memory, no permission, a key that holds something else.
    """

    def __init__(self, client: Redis, url: str, pipeline: str) -> None:
        self._client, self._shown = client, masked(url)
        self._keys = [f"driftwood:{pipeline}:version", f"driftwood:{pipeline}:begun"]
        script = files("features").joinpath("redis_scripts", "agree.lua").read_text(encoding="utf-8")
        self._agree = client.register_script(script)

    @classmethod
    def connect(cls, url: str, pipeline: str) -> Self:
        """With a client of its own; nothing is sent yet."""
        return cls(Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=2.0), url, pipeline)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def begun(self) -> dict[str, int]:
        """The numbers of partitions with which this pipeline began, by topic and identity; empty before its first worker."""
        try:
            found: Any = await cast(
                "Awaitable[Any]", self._client.hgetall(self._keys[1])
            )  # its stubs serve both clients
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return {name.decode(): int(count) for name, count in found.items()}

    async def agree(self, version: str, partitions: Mapping[str, int]) -> Agreed:
        """Take or renew the lease for `version`; nothing is written when another version holds it.

        `partitions` has the number of partitions by topic and identity. The answer has those of who came first.
        """
        counts = [text for name, count in partitions.items() for text in (name, str(count))]
        try:
            held, *found = await self._agree(keys=self._keys, args=[version, str(LEASE_MS), *counts])
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return Agreed(held.decode(), dict(zip(partitions, map(int, found), strict=False)))
