"""The ledger: what was served and waits for its label, and labels that wait for what was served. The join stage's state.

A row is found by the digest of its event's id (12 bytes of mmh3-128) and lies in a *bucket* of event time. Its life:

    WAITING ──(served)──> ROW ──(hot horizon)──> SHRUNK ──(horizon)──> SETTLED ──(one more horizon)──> gone
    labels came first      everything that was     where it stands in     its id was there: a label
                           served                  the archive            is late, an event a repeat

Memory, beside the bytes of a row: some `OVERHEAD_BYTES`. A ROW has about 90 bytes, 8 for each feature and score, and its
texts: some 450 bytes for twenty features; a SHRUNK or SETTLED one has about 20. Of ROWs there are at most `most_rows`,
of all together `SMALL_TIMES` as many: beyond, the oldest bucket gives way first, which is counted.

In the store a bucket is one key, `<partition>/<bucket>`, and a row one field of it; `<partition>/buckets` lists the buckets
and keeps how far the feeds are. Everything is in memory as well: the store is read when the partition is opened.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import mmh3
import msgspec

from features.layout import NEVER
from features.packing import STORED_HEADER
from streams.feeds import Clock, Feed, Feeds

DIGEST_BYTES: Final = 12
# Of a row in memory beside its own bytes: two Python objects for digest and bytes, and their places in the dictionary
# and in the lists of buckets. Measured with a million rows.
OVERHEAD_BYTES: Final = 160
# A payload's length has two bytes in the store. A longer row (some dozen texts of 1,024 characters) shrinks at once.
MOST_PAYLOAD_BYTES: Final = 65_535
# How many rows of all kinds there may be, in times of `most_rows`: the small ones have a tenth of the bytes.
SMALL_TIMES: Final = 8

# Buckets are as many to a horizon, and no longer than an hour: a time-out is late by at most one.
BUCKETS_A_HORIZON: Final = 256
LONGEST_BUCKET_US: Final = 3_600_000_000
SHORTEST_BUCKET_US: Final = 1_000

WAITING, ROW, SHRUNK, SETTLED = range(4)

_BUCKET_FIELD = struct.Struct("<qI")  # bucket, and a mark that tells it from the fields of feeds
_BUCKET_MARK = 0x6B637562
_CLOCK_FIELD = b"clock".ljust(DIGEST_BYTES, b"\0")
_BUCKETS = "buckets"
_REPLACES_NOTHING = struct.pack("<q", NEVER)


class Told(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a label or an action says, and where it stands: `upstream` and `offset` of its record."""

    action: int
    code: float
    known_us: int
    values: bytes  # float64 for each of `Label.values`
    upstream: str
    offset: int


class Entry(msgspec.Struct, array_like=True, gc=False):
    """A row. `offset` and `row` are its position in hop-join; `label` is what is in force, `waiting` what came early."""

    kind: int
    bucket: int
    time_us: int = 0
    offset: int = 0
    row: int = 0
    blocked: bool = False
    label: Told | None = None
    event_id: str = ""  # of one that waits
    waiting: list[Told] = []
    served: bytes = b""  # of a ROW (streams/join_stage.py)


class _Place(msgspec.Struct, array_like=True, gc=False):
    """What an `Entry` begins with: a decoder of this much leaves the rest of a row alone."""

    kind: int
    bucket: int


@dataclass(frozen=True)
class Horizons:
    """How long rows live, in microseconds of event time, and how many there may be."""

    horizon_us: int
    hot_us: int
    most_rows: int

    @property
    def bucket_us(self) -> int:
        """The length of a bucket."""
        return min(max(self.horizon_us // BUCKETS_A_HORIZON, SHORTEST_BUCKET_US), LONGEST_BUCKET_US)


@dataclass
class _Queue:
    """Digests by bucket, the smallest first. What was there and has changed its kind is skipped by who takes."""

    buckets: dict[int, list[bytes]] = field(default_factory=dict)
    heaped: set[int] = field(default_factory=set)

    def put(self, bucket: int, digest: bytes) -> None:
        if bucket in self.heaped:
            heapq.heappush(self.buckets[bucket], digest)
        else:
            self.buckets.setdefault(bucket, []).append(digest)

    def oldest(self) -> int | None:
        return min(self.buckets, default=None)

    def pop(self, bucket: int) -> bytes:
        """The smallest digest of the bucket, which is there."""
        heap = self.buckets[bucket]
        if bucket not in self.heaped:
            heapq.heapify(heap)
            self.heaped.add(bucket)
        digest = heapq.heappop(heap)
        if not heap:
            del self.buckets[bucket]
            self.heaped.discard(bucket)
        return digest


def digest_of(event_id: str) -> bytes:
    """Under which an event is found. 96 bits: among 10^9 events two meet once in 10^11 systems."""
    return mmh3.mmh3_x64_128_digest(event_id.encode())[:DIGEST_BYTES]


class Ledger:
    """The rows of one partition of `hop-join`, and what of them has changed since the last batch.

    Example:
        >>> ledger = Ledger(0, Horizons(horizon_us=3_600_000_000, hot_us=60_000_000, most_rows=1_000))
        >>> ledger.put(digest_of("a"), Entry(ROW, ledger.bucket(50_000_000), 50_000_000, served=b"..."))
        >>> ledger.entities, ledger.get(digest_of("a")).time_us, ledger.get(digest_of("b"))
        (1, 50000000, None)
        >>> [digest == digest_of("a") for digest, entry in ledger.shrinking(120_000_000, most=10)]
        [True]
    """

    def __init__(self, partition: int, horizons: Horizons) -> None:
        self.horizons = horizons
        self.evictions = 0
        self._partition = partition
        self._bucket_us = horizons.bucket_us
        self.rows: dict[bytes, bytes] = {}
        self._bytes = 0
        self._hot = self._shrunk = 0
        self._queues = {"hot": _Queue(), "open": _Queue(), "settled": _Queue()}
        self._in_bucket: dict[int, int] = {}
        self._listed: set[int] = set()  # as the store has them
        self._changed: dict[tuple[int, bytes], bytes] = {}

    # ---- what is there

    @property
    def entities(self) -> int:
        """How many rows there are, of all kinds."""
        return len(self.rows)

    @property
    def hot(self) -> int:
        """How many of them hold what was served."""
        return self._hot

    @property
    def shrunk(self) -> int:
        """Of how many what was served is in the archive alone."""
        return self._shrunk

    @property
    def open_us(self) -> int:
        """Up to which event time everything is settled; `NEVER` where nothing waits."""
        bucket = self._queues["open"].oldest()
        return NEVER if bucket is None else bucket * self._bucket_us

    @property
    def nbytes(self) -> int:
        """Their memory, in bytes."""
        return self._bytes + OVERHEAD_BYTES * len(self.rows)

    def bucket(self, time_us: int) -> int:
        """The bucket of an event time."""
        return time_us // self._bucket_us

    def get(self, digest: bytes) -> Entry | None:
        """The row of an event."""
        packed = self.rows.get(digest)
        return None if packed is None else _decode(packed)

    def put(self, digest: bytes, entry: Entry, packed: bytes | None = None) -> None:
        """A new row, or what became of one. `packed` is the row as `packed_entry` gives it, where that is known."""
        packed, before = packed or packed_entry(entry), None
        known = self.rows.get(digest)
        if known is not None:
            before = _place_of(known)
            self._count(before, len(known), -1)
            if before.bucket != entry.bucket:
                self._changed[before.bucket, digest] = b""
        self.rows[digest] = packed
        self._count(entry, len(packed), 1)
        self._changed[entry.bucket, digest] = packed
        for name in _QUEUES[entry.kind]:
            if before is None or before.bucket != entry.bucket or name not in _QUEUES[before.kind]:
                self._queues[name].put(entry.bucket, digest)

    def remove(self, digest: bytes) -> None:
        """A row that is there goes."""
        packed = self.rows.pop(digest)
        before = _place_of(packed)
        self._count(before, len(packed), -1)
        self._changed[before.bucket, digest] = b""

    # ---- what time does to it: each yields the oldest first, within a bucket by digest, and the caller changes the row

    def shrinking(self, now_us: int, most: int) -> Iterator[tuple[bytes, Entry]]:
        """ROWs older than the hot horizon (at most so many), and the oldest of those that are too many."""
        hot_us = self.horizons.hot_us
        yield from self._due("hot", (ROW,), now_us - hot_us, most)
        while self._hot > self.horizons.most_rows:
            self.evictions += 1
            yield from self._due("hot", (ROW,), None, 1)

    def timing_out(self, due_us: int, most: int) -> Iterator[tuple[bytes, Entry]]:
        """Rows whose horizon has ended."""
        kinds = (WAITING, ROW, SHRUNK)
        yield from self._due("open", kinds, due_us - self.horizons.horizon_us, most)

    def forgotten(self, due_us: int, most: int) -> Iterator[tuple[bytes, Entry]]:
        """SETTLED rows one more horizon later."""
        yield from self._due("settled", (SETTLED,), due_us - 2 * self.horizons.horizon_us, most)

    def too_many(self) -> Iterator[tuple[bytes, Entry]]:
        """The oldest of all, settled ones first, while there are more rows than may be."""
        while len(self.rows) > SMALL_TIMES * self.horizons.most_rows:
            self.evictions += 1
            settled = next(self._due("settled", (SETTLED,), None, 1), None)
            yield settled or next(self._due("open", (WAITING, ROW, SHRUNK), None, 1))

    def _due(
        self, name: str, kinds: Sequence[int], before_us: int | None, most: int
    ) -> Iterator[tuple[bytes, Entry]]:
        queue = self._queues[name]
        while most and (bucket := queue.oldest()) is not None:
            if before_us is not None and (bucket + 1) * self._bucket_us > before_us:
                return
            digest = queue.pop(bucket)
            entry = self.get(digest)
            if entry is not None and entry.bucket == bucket and entry.kind in kinds:
                most -= 1
                yield digest, entry

    def _count(self, row: Entry | _Place, nbytes: int, by: int) -> None:
        self._bytes += by * nbytes
        self._hot += by * (row.kind == ROW)
        self._shrunk += by * (row.kind == SHRUNK)
        self._in_bucket[row.bucket] = left = self._in_bucket.get(row.bucket, 0) + by
        if not left:
            del self._in_bucket[row.bucket]

    # ---- to the store and back

    @property
    def list_key(self) -> str:
        """The key under which the store lists this partition's buckets."""
        return f"{self._partition}/{_BUCKETS}"

    def bucket_key(self, bucket: int) -> str:
        """The key of a bucket in the store."""
        return f"{self._partition}/{bucket}"

    def changes(self, feeds: Feeds) -> list[tuple[str, bytes]]:
        """What has changed since they were last asked for, as `Commit.states` has it."""
        by_bucket: dict[int, list[bytes]] = {}
        for (bucket, digest), packed in self._changed.items():
            by_bucket.setdefault(bucket, []).append(_change(digest, packed))
        self._changed.clear()
        listed = self._list_changes() + feed_changes(feeds)
        states = [(self.bucket_key(bucket), b"".join(parts)) for bucket, parts in by_bucket.items()]
        return [*states, (self.list_key, b"".join(listed))] if listed else states

    def _list_changes(self) -> list[bytes]:
        there = self._in_bucket.keys()
        changed = [(bucket, b"\1") for bucket in there - self._listed]
        changed += [(bucket, b"") for bucket in self._listed - there]
        self._listed = set(there)
        return [_change(_BUCKET_FIELD.pack(bucket, _BUCKET_MARK), mark) for bucket, mark in sorted(changed)]

    def load(self, packed: bytes | None) -> None:
        """Take in a bucket as the store has it."""
        for digest, payload in records(packed or b""):
            entry = _decode(payload)
            self.rows[digest] = payload
            self._count(entry, len(payload), 1)
            for name in _QUEUES[entry.kind]:
                self._queues[name].put(entry.bucket, digest)

    def load_list(self, packed: bytes | None, feeds: Feeds) -> list[int]:
        """Take in how far the feeds are; the buckets that there are."""
        for name, payload in records(packed or b""):
            bucket, mark = _BUCKET_FIELD.unpack(name)
            if name == _CLOCK_FIELD:
                feeds.clock = msgspec.msgpack.decode(payload, type=Clock)
            elif mark == _BUCKET_MARK:
                self._listed.add(bucket)
            else:
                feed = msgspec.msgpack.decode(payload, type=Feed)
                feeds.feeds[feed.name] = feed
        return sorted(self._listed)


_QUEUES = {WAITING: ("open",), ROW: ("hot", "open"), SHRUNK: ("open",), SETTLED: ("settled",)}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_place_of = msgspec.msgpack.Decoder(_Place).decode


def feed_changes(feeds: Feeds) -> list[bytes]:
    """Change records of the feeds that moved."""
    if not (feeds.changed or feeds.turned):
        return []
    changes = [_change(_CLOCK_FIELD, msgspec.msgpack.encode(feeds.clock))]
    for name in sorted(feeds.changed):
        feed = feeds.feeds.get(name)
        changes.append(_change(digest_of(name), b"" if feed is None else msgspec.msgpack.encode(feed)))
    feeds.changed.clear()
    feeds.turned = False
    return changes


def fits(packed: bytes) -> bool:
    """Whether the store has room for the row."""
    return len(packed) <= MOST_PAYLOAD_BYTES


def packed_entry(entry: Entry) -> bytes:
    """The row as it is kept, in memory and in the store."""
    # The encoder's bytes keep the room that it had set aside: some 200 bytes a row.
    return bytes(memoryview(_encode(entry)))


def _change(name: bytes, payload: bytes) -> bytes:
    """A change record of features/packing.py: the store knows no other. The name stands for identity and tile."""
    return b"".join((name, _REPLACES_NOTHING, len(payload).to_bytes(2, "little"), payload))


def records(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and payload of each stored record."""
    at = 0
    while at < len(packed):
        start = at + STORED_HEADER.size
        end = start + int.from_bytes(packed[start - 2 : start], "little")
        yield packed[at : at + DIGEST_BYTES], packed[start:end]
        at = end
