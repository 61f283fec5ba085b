"""The state store in Redis: three Lua scripts (features/redis_scripts/), one call each.

Keys, under `driftwood:<pipeline>:`

    partitions:<topic>                set: the partitions that were ever loaded
    partition:<topic>:<partition>     hash: epoch, applied, identity, watermark_us, pins, seen:<upstream>; oldest_bucket
                                      (of ids, that it may ask for), active_s (last load or commit, by Redis' clock)
    state:<entity>:<key>              hash: identity and tile (12 bytes) -> payload (features/packing.py)
    ids:buckets                       string: which buckets there are
    ids:<bucket>                      hash: 16-byte digest of an event id -> the event's position

and Feast's own keys beside them. A call sends a handful of large arguments, a MessagePack head and joined blobs, that
the script takes apart: redis-py spends 0.5 µs of the worker's CPU on every argument (docs/decisions/0010).

The scripts reach keys that they work out themselves, so this is for one Redis primary (with replicas for failover), not
for Redis Cluster. Redis 6.2 and 7 are tested.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from typing import Any, Self

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from features.errors import SettingError, StoreError, UnreachableError
from features.masked_urls import masked
from features.store import (
    BUCKETS,
    FULL_BUCKETS,
    IDLE_S,
    NOTHING_APPLIED,
    Claim,
    Claimed,
    Commit,
    Committed,
    Loaded,
    PartitionId,
    Position,
    Refused,
    epoch_step,
)

# A call that got no answer is sent again by redis-py: 5 times, after 0.1, 0.2, 0.4, 0.8 and 1 s. That covers a
# restart of Redis (2.5 s when connections are refused, 14 s when they hang); a longer absence is the caller's.
RETRIES = 5
BACKOFF_FIRST_S = 0.05  # redis-py doubles it before its first use
BACKOFF_LONGEST_S = 1.0
CONNECT_WITHIN_S = 2.0
# Far above any answer (a batch of 5,000 entities takes Redis 0.1 s) and above an fsync on a busy disk. Without a
# limit, a connection that a firewall dropped silently would hold the partition for ever.
ANSWER_WITHIN_S = 10.0

# A digest and its position take about 100 bytes of Redis, so a full bucket is 400 MB; four such (`FULL_BUCKETS`) are
# the most. Beyond it ids are not remembered: a repeat would count, and `Claimed.ids_dropped` says how many.
IDS_A_BUCKET = 4_000_000

# Keys that Redis looks at, or deletes, in one call while a pipeline is forgotten: about a millisecond of its time.
SCANNED = 1_000

# Error codes of Redis that pass by themselves, or with a failover; redis-py makes some of them classes of their own,
# Redis 6 hides every code inside the text when it stopped a script.
PASSING = {
    "READONLY": "it is a replica: point the setting at the primary, or wait for the failover to end",
    "BUSY": "another program's script blocks it: end that program, then `redis-cli script kill`",
}
LASTING = {
    "OOM": "Raise its maxmemory, or keep less: shorter windows, fewer entities. Nothing was written",
    "WRONGTYPE": "Another program wrote there: delete that key, or use a database of driftwood's own. Nothing was written",
    "MISCONF": "It cannot save to its disk: make room there. Nothing was written",
    "NOPERM": "Allow its user EVALSHA, SCRIPT LOAD and the hash commands on all keys",
}
CODE = re.compile(r"\b(" + "|".join((*PASSING, *LASTING)) + r")\b")

_encode = msgspec.msgpack.Encoder().encode


class RedisStore:
    """`StateStore` in Redis. `url` is what messages show (its password masked); `client` must not decode responses.

    Raises:
        UnreachableError: Redis does not answer, after the client's own retries.
        StoreError: it answers, and refuses: out of memory, no permission, a key that holds something else.
    """

    def __init__(self, client: Redis, url: str, ids_a_bucket: int = IDS_A_BUCKET) -> None:
        self._client = client
        self._shown = masked(url)
        self._ids_a_bucket = ids_a_bucket
        self._load = _script(client, "load")
        self._claim = _script(client, "claim")
        self._commit = _script(client, "commit")

    @classmethod
    def connect(cls, url: str, ids_a_bucket: int = IDS_A_BUCKET) -> Self:
        """A store with a client of its own; nothing is sent yet. Raises `SettingError` for a URL that is none."""
        return cls(connected(url), url, ids_a_bucket)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        arguments = (_topic_prefix(partition, "partitions"), str(partition.partition), str(epoch_step()))
        flat = await self._call(self._load, partition, *(text.encode() for text in arguments))
        fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
        return Loaded(
            epoch=int(fields["epoch"]),
            applied=int(fields.get("applied", NOTHING_APPLIED)),
            seen={name[5:]: _position(text) for name, text in fields.items() if name.startswith("seen:")},
            watermark_us=int(fields.get("watermark_us", 0)),
            identity=fields.get("identity"),
        )

    async def claim(self, claim: Claim) -> Claimed | Refused:
        """Step 3."""
        partition = claim.partition
        head = (
            str(claim.epoch),
            claim.applied,
            claim.in_flight,
            claim.first,
            str(claim.last),
            claim.versions,
            _state_prefix(partition, claim.entity),
            claim.missing,
            _ids_prefix(partition),
            claim.id_buckets,
            self._ids_a_bucket,
            FULL_BUCKETS,
            BUCKETS,
        )
        answer = await self._call(
            self._claim, partition, _encode(head), b"".join(claim.ids), claim.id_positions
        )
        if answer[0] != b"claimed":
            return _refused(answer)
        _, versions, pinned_last, states, repeats, ids_dropped = answer
        by_key = dict(zip(claim.missing, states, strict=True))
        return Claimed(versions.decode(), int(pinned_last), by_key, repeats, ids_dropped)

    async def commit(self, commit: Commit) -> Committed | Refused:
        """Step 7."""
        answer = await self._call(self._commit, commit.partition, *self._arguments(commit))
        return Committed() if answer[0] == b"committed" else _refused(answer)

    async def forget(self, pipeline: str) -> None:
        """Delete the positions, states and ids of a pipeline, positions first. Epochs stay, and so do Feast's rows."""
        client: Any = self._client  # redis-py types every answer as possibly awaitable
        try:
            async for key in client.scan_iter(f"driftwood:{pipeline}:partition:*", SCANNED):
                fields = [field for field in await client.hkeys(key) if field != b"epoch"]
                if fields:
                    await client.hdel(key, *fields)
            for kind in ("state", "ids"):
                await self._unlink(f"driftwood:{pipeline}:{kind}:*")
        except RedisError as error:
            raise explained(error, self._shown) from error

    async def _unlink(self, pattern: str) -> None:
        found: list[bytes] = []
        async for key in self._client.scan_iter(pattern, SCANNED):
            found.append(key)
            if len(found) == SCANNED:
                await self._client.unlink(*found)
                found.clear()
        if found:
            await self._client.unlink(*found)

    def _arguments(self, commit: Commit) -> tuple[bytes, ...]:
        partition = commit.partition
        keys, changes = _columns(commit.states, 2)
        row_keys, rows = _columns(commit.feature_rows, 2)
        head = (
            str(commit.epoch),
            str(commit.applied),
            str(commit.last),
            _fields(commit),
            commit.expire_s,
            _state_prefix(partition, commit.entity),
            keys,
            list(map(len, changes)),
            list(map(len, row_keys)),
            list(map(len, rows)),
            _ids_prefix(partition),
            _topic_prefix(partition, "partitions"),
            _topic_prefix(partition, "partition") + ":",
            IDLE_S,
            False if commit.oldest_bucket is None else commit.oldest_bucket,
            [f"seen:{upstream}" for upstream in commit.superseded],
            commit.claimed,
        )
        return _encode(head), *(b"".join(blobs) for blobs in (changes, row_keys, rows))

    async def _call(self, script: AsyncScript, partition: PartitionId, *arguments: bytes) -> Any:
        key = f"{_topic_prefix(partition, 'partition')}:{partition.partition}"
        try:
            return await script(keys=[key], args=arguments)
        except RedisError as error:
            raise explained(error, self._shown) from error


def connected(url: str) -> Redis:
    """A client that tries again for some seconds; nothing is sent yet. Raises `SettingError` for a URL that is none."""
    try:
        client: Redis = Redis.from_url(
            url,
            retry=Retry(ExponentialBackoff(BACKOFF_LONGEST_S, BACKOFF_FIRST_S), RETRIES),
            socket_connect_timeout=CONNECT_WITHIN_S,
            socket_timeout=ANSWER_WITHIN_S,
        )
    except ValueError as error:
        expected = "redis://host:port/0, rediss://host:port/0 or unix:///path"
        raise SettingError("redis_url", masked(url), expected) from error
    return client


def explained(error: Exception, shown: str) -> UnreachableError | StoreError:
    """What Redis said, for a person: whether it may pass by itself, and what to do. `shown` is its `masked` URL."""
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        return UnreachableError("Redis", "redis_url", shown, _remedy(error))
    code = _code(error)
    if code in PASSING:
        return UnreachableError("Redis", "redis_url", shown, PASSING[code])
    return StoreError(f"Redis at {shown} refused: {error}. {LASTING.get(code, 'Look into its log')}")


def _script(client: Redis, name: str) -> AsyncScript:
    # `register_script` sends EVALSHA, and the script itself only when Redis does not know it (after a restart).
    text = files("features").joinpath("redis_scripts", f"{name}.lua").read_text(encoding="utf-8")
    return client.register_script(text)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> Sequence[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _fields(commit: Commit) -> list[str]:
    seen = ((f"seen:{upstream}", f"{at.offset}:{at.row}") for upstream, at in commit.seen.items())
    own = (("identity", commit.partition.identity), ("watermark_us", str(commit.watermark_us)))
    return list(chain.from_iterable((*own, *seen)))


def _topic_prefix(partition: PartitionId, kind: str) -> str:
    return f"driftwood:{partition.pipeline}:{kind}:{partition.topic}"


def _state_prefix(partition: PartitionId, entity: str) -> str:
    return f"driftwood:{partition.pipeline}:state:{entity}:"


def _ids_prefix(partition: PartitionId) -> str:
    return f"driftwood:{partition.pipeline}:ids:"


def _position(text: str) -> Position:
    offset, row = text.split(":")
    return Position(int(offset), int(row))


def _refused(answer: Sequence[bytes]) -> Refused:
    return Refused(answer[0].decode(), int(answer[1]))


def _remedy(error: Exception) -> str:
    if isinstance(error, AuthenticationError):
        return f"it asks for another user or password ({error}): correct the setting"
    return f"is it running, and may this machine reach it? ({error})"


def _code(error: Exception) -> str:
    if isinstance(error, OutOfMemoryError):
        return "OOM"
    if isinstance(error, NoPermissionError):
        return "NOPERM"
    if isinstance(error, ReadOnlyError):
        return "READONLY"
    found = CODE.search(str(error))
    return found.group() if found else ""
