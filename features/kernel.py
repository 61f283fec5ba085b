"""The kernel: walks a batch in order, writes each event's features as of that event, then adds the event to the state.

Label rows stand between the events, in one order with them; they only change the state of the windows over labels.

One compiled function serves the stream, the backfill and the replay. What it does is said in `features/plan.py`; where
the state stands in memory in `features/layout.py`; `features/oracle.py` says the same a second time, by brute force.

Sums are kept as two floats, the sum and what rounding took from it (Knuth's two-sum), and a tile's squared deviations
are taken from a mean of twice the usual precision (Welford 1962, merged as in Chan, Golub and LeVeque 1979). With plain
floats the standard deviation of values near 10^9 that differ by 0.001 has four right digits; with these it has all.
Windows over labels keep the sum of squares instead, in twice the usual precision: of a deviation it could not be said what
remains of it when a correction takes a value out again.

The file is long because it is one piece of machine code: see `features/compiled.py`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from features.compiled import compiled
from features.layout import NEVER, Table, Tables
from features.memory import Batch, ChangeLog, LabelBatch, Memory, Results
from features.plan import Aggregate, Floats, GroupKind, Hashes, Ints, PointKind

# Numba knows plain numbers best.
_NEVER: Final = NEVER
_COUNT, _MOMENTS, _DISTINCT = int(GroupKind.COUNT), int(GroupKind.MOMENTS), int(GroupKind.DISTINCT)
_LAST, _SEEN = int(PointKind.LAST), int(PointKind.SEEN)
_READ_COUNT, _READ_SUM, _READ_MEAN = int(Aggregate.COUNT), int(Aggregate.SUM), int(Aggregate.MEAN)
_READ_STD, _READ_MIN = int(Aggregate.STD), int(Aggregate.MIN)
_READ_LAST, _READ_EWM = int(Aggregate.LAST), int(Aggregate.EWM)

# Greater magnitudes (and infinities) are taken for missing: their squares would overflow and poison a window for as
# long as the tile lives.
_LARGEST: Final = 1e150
_SPLIT: Final = 134_217_729.0  # 2^27 + 1: cuts a float into two halves whose products are exact (Dekker 1971)
_HASH_UNIT: Final = 2.0**-64  # turns a hash into a number of [0, 1)


@compiled
def update(
    memory: Memory, tables: Tables, batch: Batch, labels: LabelBatch, results: Results, log: ChangeLog
) -> None:
    """Work through a batch, event after event, and before each event the label rows that stand before it."""
    # Functions below are given plain arrays: handing on a tuple would count references to each array, at every call.
    words, numbers, hashes, entity_of_slot, scratch = memory
    stride, groups, label_groups, known, _, points, group_reads, point_reads, defaults = tables
    slots, times_us, inputs, hashed = batch
    features, age_s, dropped, late = results
    counts, slot_of_entity, newest_rows, marks, changed = log
    before_event, label = labels.before, 0
    for row in range(len(slots)):
        while label < len(before_event) and before_event[label] <= row:
            _know(memory, tables, labels, label, log)
            label += 1
        slot, time_us = slots[row], times_us[row]
        features[row, :] = defaults
        age_s[row], dropped[row], late[row] = np.nan, 0, False
        if slot < 0:
            continue
        base = slot * stride
        newest_us = words[base]
        latest_us = max(newest_us, time_us)
        if newest_us != _NEVER:
            age_s[row] = (time_us - newest_us) / 1e6
            late[row] = time_us < newest_us
            for g in range(len(groups)):
                if groups[g].kind == _DISTINCT:
                    _read_distinct(
                        words,
                        hashes,
                        scratch,
                        base,
                        groups[g],
                        group_reads,
                        time_us,
                        latest_us,
                        features,
                        row,
                    )
                else:
                    _read_tiles(
                        words, numbers, base, groups[g], group_reads, time_us, latest_us, features, row
                    )
            _read_points(words, numbers, base, points, point_reads, time_us, features, row)
        for g in range(len(label_groups)):
            known_us = words[base + known]
            _read_sums(
                words,
                numbers,
                base,
                label_groups[g],
                group_reads,
                time_us,
                latest_us,
                known_us,
                features,
                row,
            )

        entity = entity_of_slot[slot] - 1
        if entity < 0:
            entity = counts[0]
            counts[0] += 1
            entity_of_slot[slot], slot_of_entity[entity], newest_rows[entity] = entity + 1, slot, -1
        if time_us >= newest_us:
            words[base] = time_us
            newest_rows[entity] = row
            _mark(counts, marks, changed, entity, 0, _NEVER)
        for g in range(len(groups)):
            group = groups[g]
            if group.kind == _DISTINCT:
                present = hashed[row, group.column] != 0
            else:
                present = abs(inputs[row, group.column]) <= _LARGEST  # False for NaN
            if not present:
                continue
            tile = time_us // group.tile_us
            if tile <= latest_us // group.tile_us - group.ring:
                dropped[row] += 1
                continue
            position = tile % group.ring
            at = base + group.data + position * group.width
            before = words[base + group.tiles + position]
            if before != tile:
                _clear(words, numbers, at, group.kind)
                words[base + group.tiles + position] = tile
            if group.kind == _DISTINCT:
                has_changed = _add_hash(words, hashes, at, group.bound + 1, hashed[row, group.column])
            else:
                has_changed = _add_number(numbers, at, group.kind, inputs[row, group.column])
            if has_changed:
                _mark(counts, marks, changed, entity, group.cell + position, before)
        for p in range(len(points)):
            point, value = points[p], inputs[row, points[p].column]
            if not abs(value) <= _LARGEST:
                continue
            at = base + point.data
            if words[at] != _NEVER and time_us < words[at] - point.within_us:
                dropped[row] += 1
            elif _add_to_point(words, numbers, at, point, time_us, value):
                _mark(counts, marks, changed, entity, point.cell, _NEVER)
    while label < len(before_event):
        _know(memory, tables, labels, label, log)
        label += 1
    for entity in range(counts[0]):
        entity_of_slot[slot_of_entity[entity]] = 0


@compiled
def _know(memory: Memory, tables: Tables, labels: LabelBatch, row: int, log: ChangeLog) -> None:
    """Take a label row: what it replaces goes out of its tile, while that lives; what it says goes into its own."""
    words, numbers, _, entity_of_slot, _ = memory
    slots, _, known_us, values, replaced_us, replaced, dropped = labels
    counts, slot_of_entity, newest_rows, marks, changed = log
    slot, time_us = slots[row], known_us[row]
    base, known = slot * tables.words, slot * tables.words + tables.known
    entity = entity_of_slot[slot] - 1
    if entity < 0:
        entity = counts[0]
        counts[0] += 1
        entity_of_slot[slot], slot_of_entity[entity], newest_rows[entity] = entity + 1, slot, -1
    says = False
    for g in range(len(tables.label_groups)):
        says |= abs(values[row, tables.label_groups[g].column]) <= _LARGEST
    if says and time_us > words[known]:  # that a label has no value tells nothing of the time either
        words[known] = time_us
        _mark(counts, marks, changed, entity, tables.known_cell, _NEVER)
    for g in range(len(tables.label_groups)):
        group = tables.label_groups[g]
        gone, value = replaced[row, group.column], values[row, group.column]
        if replaced_us[row] != _NEVER and abs(gone) <= _LARGEST:
            tile = replaced_us[row] // group.tile_us
            position = tile % group.ring
            if words[base + group.tiles + position] == tile:
                _add_to_sums(numbers, base + group.data + position * group.width, gone, -1.0)
                _mark(counts, marks, changed, entity, group.cell + position, tile)
        if not abs(value) <= _LARGEST:
            continue
        tile = time_us // group.tile_us
        if tile <= words[known] // group.tile_us - group.ring:
            dropped[0] += 1
            continue
        position = tile % group.ring
        at = base + group.data + position * group.width
        before = words[base + group.tiles + position]
        if before != tile:
            for word in range(at, at + group.width):
                numbers[word] = 0.0
            words[base + group.tiles + position] = tile
        _add_to_sums(numbers, at, value, 1.0)
        _mark(counts, marks, changed, entity, group.cell + position, before)


@compiled
def _mark(counts: Ints, marks: Hashes, changed: Ints, entity: int, cell: int, before: int) -> None:
    """Note that a cell of an entity has changed, and which tile stood in it before the batch."""
    if marks.shape[1] == 0:
        return
    word, bit = cell >> 6, np.uint64(1) << np.uint64(cell & 63)
    if marks[entity, word] & bit:
        return
    marks[entity, word] |= bit
    change = counts[1]
    changed[change, 0], changed[change, 1], changed[change, 2] = entity, cell, before
    counts[1] = change + 1


@compiled
def _read_tiles(
    words: Ints,
    numbers: Floats,
    base: int,
    group: Any,
    reads: Table,
    time_us: int,
    latest_us: int,
    features: Floats,
    row: int,
) -> None:
    """Sum the ring once, from the event's tile back, and write each window where it ends: narrow ones lie in wide ones."""
    tiles, data = base + group.tiles, base + group.data
    tile, newest = time_us // group.tile_us, latest_us // group.tile_us
    part_us = latest_us - newest * group.tile_us
    position = tile % group.ring
    count, total, rest, squares, low, high = 0.0, 0.0, 0.0, 0.0, math.inf, -math.inf
    for r in range(group.reads, group.reads_end):
        read = reads[r]
        first = newest - read.whole_tiles - (1 if part_us < read.part_us else 0)
        while tile >= first:
            if words[tiles + position] == tile:
                at = data + position * group.width
                if group.kind == _COUNT:
                    count += numbers[at]
                elif group.kind == _MOMENTS:
                    n = numbers[at]
                    if group.squares:
                        squares += numbers[at + 3]
                        if count > 0.0:
                            apart = _difference(n, numbers[at + 1], numbers[at + 2], count, total, rest)
                            squares += apart * apart * (n * count / (n + count))
                    count += n
                    total, rest = _sum(total, rest, numbers[at + 1], numbers[at + 2])
                else:
                    count = 1.0
                    low, high = min(low, numbers[at]), max(high, numbers[at + 1])
            tile -= 1
            position = position - 1 if position > 0 else group.ring - 1
        if count == 0.0:
            continue
        if read.aggregate == _READ_COUNT:
            features[row, read.column] = count
        elif read.aggregate == _READ_SUM:
            features[row, read.column] = total
        elif read.aggregate == _READ_MEAN:
            features[row, read.column] = total / count
        elif read.aggregate == _READ_STD:
            if count > 1.0:
                features[row, read.column] = math.sqrt(squares / (count - 1.0))
        else:
            features[row, read.column] = low if read.aggregate == _READ_MIN else high


@compiled
def _read_sums(
    words: Ints,
    numbers: Floats,
    base: int,
    group: Any,
    reads: Table,
    time_us: int,
    latest_us: int,
    known_us: int,
    features: Floats,
    row: int,
) -> None:
    """As `_read_tiles`, of a group over labels: what lies a ring or more before the newest label is gone."""
    tiles, data = base + group.tiles, base + group.data
    tile, newest = time_us // group.tile_us, latest_us // group.tile_us
    part_us = latest_us - newest * group.tile_us
    oldest = known_us // group.tile_us - group.ring + 1
    position = tile % group.ring
    count, total, rest, squares, squares_rest = 0.0, 0.0, 0.0, 0.0, 0.0
    for r in range(group.reads, group.reads_end):
        read = reads[r]
        first = max(newest - read.whole_tiles - (1 if part_us < read.part_us else 0), oldest)
        while tile >= first:
            if words[tiles + position] == tile:
                at = data + position * group.width
                count += numbers[at]
                total, rest = _sum(total, rest, numbers[at + 1], numbers[at + 2])
                squares, squares_rest = _sum(squares, squares_rest, numbers[at + 3], numbers[at + 4])
            tile -= 1
            position = position - 1 if position > 0 else group.ring - 1
        if count == 0.0:
            continue
        if read.aggregate == _READ_COUNT:
            features[row, read.column] = count
        elif read.aggregate == _READ_SUM:
            features[row, read.column] = total
        elif read.aggregate == _READ_MEAN:
            features[row, read.column] = total / count
        elif count > 1.0:
            apart = _squares_apart(count, total, rest, squares, squares_rest)
            features[row, read.column] = math.sqrt(max(apart, 0.0) / (count - 1.0))


@compiled
def _read_distinct(
    words: Ints,
    hashes: Hashes,
    union: Hashes,
    base: int,
    group: Any,
    reads: Table,
    time_us: int,
    latest_us: int,
    features: Floats,
    row: int,
) -> None:
    """The smallest distinct hashes of the union, as in `_read_tiles`; beyond `bound` their spacing tells how many."""
    tiles, data, kept = base + group.tiles, base + group.data, group.bound + 1
    tile, newest = time_us // group.tile_us, latest_us // group.tile_us
    part_us = latest_us - newest * group.tile_us
    position, size = tile % group.ring, 0
    for r in range(group.reads, group.reads_end):
        read = reads[r]
        first = newest - read.whole_tiles - (1 if part_us < read.part_us else 0)
        while tile >= first:
            if words[tiles + position] == tile:
                at = data + position * group.width
                for i in range(at + 1, at + 1 + words[at]):
                    if size == kept and hashes[i] >= union[kept - 1]:
                        break  # those that follow are greater still
                    size = _insert(union, 0, size, kept, hashes[i])
            tile -= 1
            position = position - 1 if position > 0 else group.ring - 1
        if size > group.bound:
            features[row, read.column] = group.bound / (float(union[kept - 1]) * _HASH_UNIT)
        elif size > 0:
            features[row, read.column] = size


@compiled
def _read_points(
    words: Ints,
    numbers: Floats,
    base: int,
    points: Table,
    reads: Table,
    time_us: int,
    features: Floats,
    row: int,
) -> None:
    for r in range(len(reads)):
        read = reads[r]
        at = base + points[read.source].data
        gap_us = time_us - words[at]
        if words[at] == _NEVER or gap_us > read.within_us:
            continue
        if read.aggregate == _READ_EWM:
            features[row, read.column] = numbers[at + 1] / numbers[at + 2]
        elif gap_us >= 0:
            features[row, read.column] = numbers[at + 1] if read.aggregate == _READ_LAST else gap_us / 1e6


@compiled
def _clear(words: Ints, numbers: Floats, at: int, kind: int) -> None:
    """Begin a tile: no rows. Whatever is added next changes it."""
    if kind == _DISTINCT:
        words[at] = 0
    elif kind == _COUNT:
        numbers[at] = 0.0
    elif kind == _MOMENTS:
        numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3] = 0.0, 0.0, 0.0, 0.0
    else:
        numbers[at], numbers[at + 1] = math.inf, -math.inf


@compiled
def _add_number(numbers: Floats, at: int, kind: int, x: float) -> bool:
    if kind == _COUNT:
        numbers[at] += 1.0
        return True
    if kind == _MOMENTS:
        n = numbers[at]
        if n > 0.0:
            apart = _difference(1.0, x, 0.0, n, numbers[at + 1], numbers[at + 2])
            numbers[at + 3] += apart * apart * (n / (n + 1.0))
        numbers[at] = n + 1.0
        numbers[at + 1], numbers[at + 2] = _sum(numbers[at + 1], numbers[at + 2], x, 0.0)
        return True
    low, high = x < numbers[at], x > numbers[at + 1]
    if low:
        numbers[at] = x
    if high:
        numbers[at + 1] = x
    return bool(low or high)


@compiled
def _add_to_sums(numbers: Floats, at: int, x: float, sign: float) -> None:
    """Count a value in (sign 1) or out (-1). A tile without values is exactly empty, whatever went through it."""
    n = numbers[at] + sign
    if n <= 0.0:
        for word in range(at, at + 5):
            numbers[word] = 0.0
        return
    square, square_rest = _product(x, x)
    numbers[at] = n
    numbers[at + 1], numbers[at + 2] = _sum(numbers[at + 1], numbers[at + 2], sign * x, 0.0)
    numbers[at + 3], numbers[at + 4] = _sum(
        numbers[at + 3], numbers[at + 4], sign * square, sign * square_rest
    )


@compiled
def _add_hash(words: Ints, hashes: Hashes, at: int, kept: int, value: Any) -> bool:
    length = words[at]
    if length == kept and value >= hashes[at + kept]:
        return False
    last = hashes[at + kept]
    words[at] = _insert(hashes, at + 1, length, kept, value)
    return bool(words[at] > length or hashes[at + kept] != last)


@compiled
def _insert(hashes: Hashes, at: int, length: int, kept: int, value: Any) -> int:
    """Put a value into the ascending `length` hashes from `at` on, unless it is there; return how many there are then.

    At most `kept` stay: of a full list, which the caller gives only smaller values, the greatest goes.
    """
    low, high = 0, length
    while low < high:
        middle = (low + high) >> 1
        if hashes[at + middle] < value:
            low = middle + 1
        else:
            high = middle
    if low < length and hashes[at + low] == value:
        return length
    length = min(length + 1, kept)
    for i in range(at + length - 1, at + low, -1):
        hashes[i] = hashes[i - 1]
    hashes[at + low] = value
    return length


@compiled
def _add_to_point(words: Ints, numbers: Floats, at: int, point: Any, time_us: int, value: float) -> bool:
    newest_us = words[at]
    fresh = newest_us == _NEVER or time_us - newest_us > point.within_us
    words[at] = time_us if fresh else max(time_us, newest_us)
    if point.kind == _SEEN:
        return bool(words[at] != newest_us)
    if point.kind == _LAST:
        if words[at] == time_us:
            numbers[at + 1] = value
        return bool(words[at] == time_us)
    weight = 1.0
    if fresh:
        numbers[at + 1], numbers[at + 2] = 0.0, 0.0
    elif time_us >= newest_us:
        fade = 2.0 ** (-(time_us - newest_us) / point.half_life_us)
        numbers[at + 1] *= fade
        numbers[at + 2] *= fade
    else:
        weight = 2.0 ** (-(newest_us - time_us) / point.half_life_us)
    numbers[at + 1] += weight * value
    numbers[at + 2] += weight
    return True


@compiled
def _sum(a: float, a_rest: float, b: float, b_rest: float) -> tuple[float, float]:
    """Two sums into one, each with what rounding took from it (two-sum, then renormalised)."""
    total = a + b
    b_part = total - a
    rest = (a - (total - b_part)) + (b - b_part) + (a_rest + b_rest)
    rounded = total + rest
    return rounded, rest - (rounded - total)


@compiled
def _product(a: float, b: float) -> tuple[float, float]:
    """a * b, and what rounding took from it (Dekker 1971)."""
    scaled_a, scaled_b = _SPLIT * a, _SPLIT * b
    upper_a, upper_b = scaled_a - (scaled_a - a), scaled_b - (scaled_b - b)
    lower_a, lower_b = a - upper_a, b - upper_b
    product = a * b
    return product, lower_a * lower_b - (
        ((product - upper_a * upper_b) - lower_a * upper_b) - upper_a * lower_b
    )


@compiled
def _squares_apart(n: float, total: float, rest: float, squares: float, squares_rest: float) -> float:
    """The sum of squared deviations from the mean: squares - total² / n, each in twice the usual precision."""
    product, product_rest = _product(total, total)
    product_rest += 2.0 * total * rest
    mean = product / n
    back, back_rest = _product(mean, n)
    mean_rest = (((product - back) - back_rest) + product_rest) / n
    apart, apart_rest = _sum(squares, squares_rest, -mean, -mean_rest)
    return apart + apart_rest


@compiled
def _difference(n: float, a: float, a_rest: float, m: float, b: float, b_rest: float) -> float:
    """a / n - b / m, right in all digits also where the two means agree in most of theirs."""
    a_mean, b_mean = a / n, b / m
    return (a_mean - b_mean) + (_after_division(n, a, a_rest, a_mean) - _after_division(m, b, b_rest, b_mean))


@compiled
def _after_division(n: float, total: float, rest: float, mean: float) -> float:
    """What `mean`, the rounded total / n, lacks: the remainder is exact while n < 2^26."""
    if n == 1.0:
        return rest
    scaled = _SPLIT * mean
    upper = scaled - (scaled - mean)
    return (((total - upper * n) - (mean - upper) * n) + rest) / n
