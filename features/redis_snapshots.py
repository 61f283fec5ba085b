"""The learner's snapshots in Redis (`features/snapshot_store.py` says what they are).

    driftwood:<pipeline>:snapshot                      text: the newest version
    driftwood:<pipeline>:snapshots                     sorted set: the versions that are kept, with bytes and time
    driftwood:<pipeline>:snapshot:<version>:scoring    what scorers load
    driftwood:<pipeline>:snapshot:<version>:state      everything that the learner owns
    driftwood:<pipeline>:snapshot:<version>:held       a copy of the state that a command still needs; expires
    driftwood:<pipeline>:snapshot_counts               hash: bytes of all that are kept, how many were dropped

    driftwood:<pipeline>:figures                       JSON: how good the models are, as of the newest snapshot

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
from features.snapshot_store import Published, Snapshot
from features.snapshots_kept import Kept, Standing
from features.store import Loaded, PartitionId, Refused


class RedisSnapshots:
    """`SnapshotStore` in Redis. `client` must not decode responses.

    Raises:
        UnreachableError: Redis does not answer, after the client's own retries.
        StoreError: it answers, and refuses: out of memory, no permission, a key that holds something else.
    """

    def __init__(self, client: Redis, url: str, kept: Kept | None = None) -> None:
        self._client, self._shown, self._kept = client, masked(url), kept or Kept()
        self._store = RedisStore(client, url)
        script = files("features").joinpath("redis_scripts", "publish.lua").read_text(encoding="utf-8")
        self._publish = client.register_script(script)

    @classmethod
    def connect(cls, url: str) -> Self:
        """With a client of its own; nothing is sent yet. Raises `SettingError` for a URL that is none."""
        return cls(connected(url), url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def latest(self, pipeline: str) -> int | None:
        """The newest version, or None before the first."""
        found = await self._get(_newest(pipeline))
        return None if found is None else int(found)

    async def scoring(self, pipeline: str, version: int) -> bytes | None:
        """What a scorer loads; None: this version is not there any more."""
        return await self._get(_key(pipeline, version, "scoring"))

    async def state(self, pipeline: str, version: int) -> bytes | None:
        """Everything that the learner owned; None: this version is not there any more."""
        found = await self._get(_key(pipeline, version, "state"))
        return found if found is not None else await self._get(_key(pipeline, version, "held"))

    async def figures(self, pipeline: str) -> bytes | None:
        """The figures of the newest, as JSON; None before the first."""
        return await self._get(_figures(pipeline))

    async def versions(self, pipeline: str) -> list[int]:
        """Their versions."""
        return [one.version for one in await self.standing(pipeline)]

    async def standing(self, pipeline: str) -> list[Standing]:
        """Those that are kept, oldest first."""
        try:
            members = await self._client.zrange(f"{_newest(pipeline)}s", 0, -1)
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return [Standing(*map(int, member.split(b":"))) for member in members]

    async def hold(self, pipeline: str, version: int, seconds: int) -> bool:
        """Keep the state of a version for so long, whatever is dropped; False: it is not there any more."""
        state = await self.state(pipeline, version)
        if state is None:
            return False
        try:
            await self._client.set(_key(pipeline, version, "held"), state, ex=seconds)
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        return True

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        return await self._store.load(partition)

    async def publish(self, snapshot: Snapshot) -> Published | Refused:
        """Make it the newest."""
        place = snapshot.partition
        newest = _newest(place.pipeline)
        partition = _partition(place.pipeline, place.topic, place.partition)
        head = msgspec.msgpack.encode(
            (
                str(snapshot.epoch),
                str(snapshot.applied),
                str(snapshot.version),
                _fields(snapshot),
                [f"seen:{upstream}" for upstream in snapshot.superseded],
                f"{newest}:",
                snapshot.at_s,
                [_partition(place.pipeline, *holder) for holder in snapshot.pinned_by],
                *self._kept,
            )
        )
        try:
            answer = await self._publish(
                keys=[partition, newest, f"{newest}s", f"{newest}_counts", _figures(place.pipeline)],
                args=[head, snapshot.scoring, snapshot.state, snapshot.figures],
            )
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error
        word, number = answer[0].decode(), int(answer[1])
        return Published(number) if word == "published" else Refused(word, number)

    async def _get(self, key: str) -> bytes | None:
        try:
            return cast("bytes | None", await self._client.get(key))
        except (RedisError, OSError) as error:
            raise explained(error, self._shown) from error


def _newest(pipeline: str) -> str:
    return f"driftwood:{pipeline}:snapshot"


def _partition(pipeline: str, topic: str, number: int) -> str:
    return f"driftwood:{pipeline}:partition:{topic}:{number}"


def _figures(pipeline: str) -> str:
    return f"driftwood:{pipeline}:figures"


def _key(pipeline: str, version: int, what: str) -> str:
    return f"{_newest(pipeline)}:{version}:{what}"


def _fields(snapshot: Snapshot) -> list[str]:
    seen = [(f"seen:{upstream}", f"{at.offset}:{at.row}") for upstream, at in snapshot.seen.items()]
    return [text for pair in (("identity", snapshot.partition.identity), *seen) for text in pair]
