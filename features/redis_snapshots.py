"""The learner's snapshots in Redis (`features/snapshot_store.py` says what they are).

    driftwood:<pipeline>:snapshot                      text: the newest version
    driftwood:<pipeline>:snapshots                     sorted set: the versions that are kept, with their bytes
    driftwood:<pipeline>:snapshot:<version>:scoring    what scorers load
    driftwood:<pipeline>:snapshot:<version>:state      everything that the learner owns
    driftwood:<pipeline>:snapshot:<version>:held       a copy of the state that a command still needs; expires
    driftwood:<pipeline>:snapshot_figures              hash: bytes of all that are kept, how many were dropped

and the hash of the partition of `outcomes`, with epoch, applied and seen as any other (`features/redis_store.py`).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Self, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from features.masked_urls import masked
from features.redis_store import RedisStore, connected, explained
from features.snapshot_store import NO_SNAPSHOT, Kept, Published, Snapshot
from features.store import Loaded, PartitionId, Refused


class RedisSnapshots:
    """`SnapshotStore` of one pipeline in Redis. `client` must not decode responses.

    Raises:
        UnreachableError: Redis does not answer, after the client's own retries.
        StoreError: it answers, and refuses: out of memory, no permission, a key that holds something else.
    """

    def __init__(self, client: Redis, url: str, pipeline: str, kept: Kept | None = None) -> None:
        self._client, self._shown, self._kept = client, masked(url), kept or Kept()
        self._store = RedisStore(client, url)
        self._newest = f"driftwood:{pipeline}:snapshot"
        self._index = f"driftwood:{pipeline}:snapshots"
        self._figures = f"driftwood:{pipeline}:snapshot_figures"
        script = files("features").joinpath("redis_scripts", "publish.lua").read_text(encoding="utf-8")
        self._publish = client.register_script(script)

    @classmethod
    def connect(cls, url: str, pipeline: str) -> Self:
        """With a client of its own; nothing is sent yet. Raises `SettingError` for a URL that is none."""
        return cls(connected(url), url, pipeline)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def newest(self) -> int:
        """The newest version, or `NO_SNAPSHOT`."""
        found = await self._get(self._newest)
        return NO_SNAPSHOT if found is None else int(found)

    async def scoring(self, version: int) -> bytes | None:
        """What a scorer loads; None: this version is not there any more."""
        return await self._get(self._key(version, "scoring"))

    async def state(self, version: int) -> bytes | None:
        """Everything that the learner owned; None: this version is not there any more."""
        found = await self._get(self._key(version, "state"))
        return found if found is not None else await self._get(self._key(version, "held"))

    async def versions(self) -> list[int]:
        """Those that are kept, oldest first."""
        try:
            members = await self._client.zrange(self._index, 0, -1)
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return [int(member.partition(b":")[0]) for member in members]

    async def hold(self, version: int, seconds: int) -> bool:
        """Keep the state of a version for so long, whatever is dropped; False: it is not there any more."""
        state = await self.state(version)
        if state is None:
            return False
        try:
            await self._client.set(self._key(version, "held"), state, ex=seconds)
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return True

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        return await self._store.load(partition)

    async def publish(self, snapshot: Snapshot) -> Published | Refused:
        """Make it the newest."""
        place = snapshot.partition
        partition = f"driftwood:{place.pipeline}:partition:{place.topic}:{place.partition}"
        head = msgspec.msgpack.encode(
            (
                str(snapshot.epoch),
                str(snapshot.applied),
                str(snapshot.version),
                _fields(snapshot),
                [f"seen:{upstream}" for upstream in snapshot.superseded],
                f"{self._newest}:",
                *self._kept,
            )
        )
        try:
            answer = await self._publish(
                keys=[partition, self._newest, self._index, self._figures],
                args=[head, snapshot.scoring, snapshot.state],
            )
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        word, number = answer[0].decode(), int(answer[1])
        return Published(number) if word == "published" else Refused(word, number)

    def _key(self, version: int, what: str) -> str:
        return f"{self._newest}:{version}:{what}"

    async def _get(self, key: str) -> bytes | None:
        try:
            return cast("bytes | None", await self._client.get(key))
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error


def _fields(snapshot: Snapshot) -> list[str]:
    seen = [(f"seen:{upstream}", f"{at.offset}:{at.row}") for upstream, at in snapshot.seen.items()]
    return [text for pair in (("identity", snapshot.partition.identity), *seen) for text in pair]
