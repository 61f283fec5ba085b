"""State as bytes: how the cells of an entity travel to the store and back.

All numbers are little-endian.

    stored record   identity u32 | tile i64 | length u16 | payload                   one after another: what is loaded
    change record   identity u32 | tile i64 | replaced i64 | length u16 | payload    one after another: what is written

In Redis an entity is one hash. A field's name is identity and tile (12 bytes), its value the payload. Writing a change
record means: delete the field of `replaced`, the tile whose place in the ring this one took (NEVER: none), then write
the field, or delete it when the length is 0.

    identity 0, tile 0    newest event time i64
    KNOWN_IDENTITY, 0     newest time of a label i64
    COUNT                 rows f64
    MOMENTS               rows, sum, the sum's rounding remainder, squared deviations: 4 f64
    EXTREMES              minimum, maximum: 2 f64
    DISTINCT              u64 hashes, ascending
    SUMS                  rows, sum, its remainder, sum of squares, its remainder: 5 f64
    LAST                  (tile 0) time i64, value f64
    SEEN                  (tile 0) time i64
    DECAYED               (tile 0) time i64, decayed sum of values f64, decayed sum of weights f64
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from features.compiled import compiled
from features.layout import NEVER, Row, Table
from features.memory import ChangeLog
from features.plan import Ints

STORED_HEADER: Final = struct.Struct("<IqH")
CHANGE_HEADER: Final = struct.Struct("<IqqH")
META: Final = (0, 0)  # identity and tile of the newest event time

Bytes = npt.NDArray[np.uint8]

_NEVER: Final = NEVER
_STORED, _CHANGE = STORED_HEADER.size, CHANGE_HEADER.size


def deletions(fields: Iterable[tuple[int, int]]) -> bytes:
    """Change records that delete these fields (identity, tile).

    Example:
        >>> deletions([(7, 100)]).hex()
        '07000000640000000000000000000000000000800000'
    """
    return b"".join(CHANGE_HEADER.pack(identity, tile, NEVER, 0) for identity, tile in fields)


def packed_changes(words: Ints, cells: Table, stride: int, log: ChangeLog) -> Sequence[bytes]:
    """The change records of each entity of a logged batch, in the order of the log's entities."""
    ends = np.zeros(int(log.counts[0]) + 1, np.int64)
    blob = pack(words, cells, stride, log, ends).tobytes()
    bounds = ends.tolist()
    return [blob[begin:end] for begin, end in pairwise(bounds)]


@compiled
def pack(words: Ints, cells: Table, stride: int, log: ChangeLog, ends: Ints) -> Bytes:
    """All change records of a batch, ordered by entity; `ends` (int64[entities + 1], zeros) becomes their bounds."""
    entities, changes, slots, changed = log.counts[0], log.counts[1], log.slots, log.changed
    for change in range(changes):
        entity = changed[change, 0]
        cell = cells[changed[change, 1]]
        ends[entity + 1] += _CHANGE + 8 * _payload_words(words, slots[entity] * stride, cell)
    for entity in range(entities):
        ends[entity + 1] += ends[entity]
    blob = np.empty(ends[entities], np.uint8)
    place = ends[:entities].copy()
    for change in range(changes):
        entity, cell, before = changed[change, 0], cells[changed[change, 1]], changed[change, 2]
        base, at = slots[entity] * stride, place[entity]
        length = _payload_words(words, base, cell)
        tile = words[base + cell.tile] if cell.tile >= 0 else 0
        _write(blob, at, cell.identity, 4)
        _write(blob, at + 4, tile, 8)
        _write(blob, at + 12, before if before != tile else _NEVER, 8)
        _write(blob, at + 20, 8 * length, 2)
        first = base + cell.data + (1 if cell.width == 0 else 0)
        for word in range(length):
            _write(blob, at + _CHANGE + 8 * word, words[first + word], 8)
        place[entity] = at + _CHANGE + 8 * length
    return blob


@compiled
def unpack(
    words: Ints, parts: Table, cells: Table, stride: int, slots: Ints, blob: Bytes, ends: Ints, unknown: Ints
) -> tuple[int, int]:
    """Read the stored records of several entities into their rows.

    `ends` (int64[entities + 1]) bounds each entity's records in the blob. Fields that this plan does not know, or whose
    place in a ring is taken by a newer tile (the ring was longer once), are listed in `unknown` as entity, identity,
    tile. Returns the number of those, and the first entity whose bytes are damaged or -1.
    """
    count = 0
    for entity in range(len(slots)):
        at, end, base, part = ends[entity], ends[entity + 1], slots[entity] * stride, 0
        while at < end:
            if at + _STORED > end:
                return count, entity
            identity, tile, length = _read(blob, at, 4), _read(blob, at + 4, 8), _read(blob, at + 12, 2)
            at += _STORED
            if at + length > end:
                return count, entity
            part = _part(parts, identity, part)
            taken = tile
            if part >= 0:
                cell = cells[parts[part].cell + tile % parts[part].ring]
                taken = _take(words, base, cell, tile, blob, at, length)
            if part < 0 or taken != _NEVER:
                unknown[count, 0], unknown[count, 1], unknown[count, 2] = entity, identity, taken
                count += 1
            at += length
    return count, -1


@compiled
def _take(words: Ints, base: int, cell: Row, tile: int, blob: Bytes, at: int, length: int) -> int:
    """Put a payload into its cell. Returns the tile number of the field that lost its place, NEVER when none did."""
    whole = length // 8
    fits = length == 8 * cell.width if cell.width > 0 else 0 < whole <= cell.bound + 1 and length == 8 * whole
    if not fits:
        return tile
    loser = _NEVER
    if cell.tile >= 0:
        loser = int(words[base + cell.tile])
        if loser > tile:
            return tile
        words[base + cell.tile] = tile
    first = base + cell.data
    if cell.width == 0:
        words[first] = whole
        first += 1
    for word in range(whole):
        words[first + word] = _read(blob, at + 8 * word, 8)
    return loser


@compiled
def _part(parts: Table, identity: int, guess: int) -> int:
    """Which part of the plan has this identity, or -1. Records of one part mostly come together."""
    if guess >= 0 and parts[guess].identity == identity:
        return guess
    for part in range(len(parts)):
        if parts[part].identity == identity:
            return part
    return -1


@compiled
def _payload_words(words: Ints, base: int, cell: Row) -> int:
    return int(cell.width if cell.width > 0 else words[base + cell.data])


@compiled
def _write(blob: Bytes, at: int, value: int, size: int) -> None:
    for byte in range(size):
        blob[at + byte] = (value >> (8 * byte)) & 0xFF


@compiled
def _read(blob: Bytes, at: int, size: int) -> int:
    value = np.uint64(0)
    for byte in range(size):
        value |= np.uint64(blob[at + byte]) << np.uint64(8 * byte)
    return int(np.int64(value))
