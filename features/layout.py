"""Where the state of an entity stands in memory: an `EntityPlan` turned into flat tables that the kernel can walk.

The state of one entity is a row of 64-bit words:

    word 0                    newest event time, NEVER when the entity was not seen
    for each window group     `ring` tile numbers (NEVER = empty), then `ring` payloads of `width` words
    for each point            its time (NEVER = empty), then what else it holds
    with windows over labels  newest time at which a label became known, NEVER when none did

A word is an int64 (times, tile numbers), a float64 or a uint64 (hashes): three views of the same memory. What can
change, and therefore be written to the store, on its own is a **cell**: cell 0 is the newest event time, each tile of
each ring is one, each point is one, and so is the newest time of a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import DeveloperError
from features.plan import Aggregate, EntityPlan, Floats, GroupKind, Output, Point, PointKind, WindowGroup

NEVER: Final = -(2**63)  # no tile and no time: INT64_MIN, in memory and in packed changes
MOST_DISTINCT: Final = 8_190  # a packed tile's length is 16 bits, so it holds at most 8,191 hashes of 8 bytes
KNOWN_IDENTITY: Final = 0xFFFF_FFFF  # of the cell with the newest time of a label
KEY_BYTES: Final = (
    250  # of memory for a key of 40 characters: its string, and its places in a dictionary and a list
)
STORED_FIELD_BYTES: Final = (
    88  # of Redis for a field of a hash beside its value: entry, bucket, 12 bytes of name
)

Table = npt.NDArray[Any]  # structured; all fields are int64, which spares Numba any conversion
Row = Any  # one row of a table, with its fields as attributes, as Numba has it and NumPy's types do not


def _table(*fields: str) -> np.dtype[Any]:
    return np.dtype([(field, np.int64) for field in fields], align=True)


GROUPS: Final = _table(
    "kind",
    "column",
    "tile_us",
    "ring",
    "tiles",
    "data",
    "width",
    "bound",
    "squares",
    "cell",
    "reads",
    "reads_end",
)
POINTS: Final = _table("kind", "column", "within_us", "half_life_us", "data", "cell")
# A window of `whole_tiles` tiles and `part_us` microseconds (of a point: `within_us`), written to output `column`.
READS: Final = _table("aggregate", "column", "source", "whole_tiles", "part_us", "within_us")
# How a stored record finds its cell (`parts`, by identity), and a cell its record (`cells`).
PARTS: Final = _table("identity", "ring", "cell")
CELLS: Final = _table("identity", "tile", "data", "width", "bound")

POINT_WORDS: Final = {PointKind.LAST: 2, PointKind.SEEN: 1, PointKind.DECAYED: 3}
FROM_GROUP: Final = {
    GroupKind.COUNT: (Aggregate.COUNT,),
    GroupKind.MOMENTS: (Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD),
    GroupKind.EXTREMES: (Aggregate.MIN, Aggregate.MAX),
    GroupKind.DISTINCT: (Aggregate.DISTINCT,),
    GroupKind.SUMS: (Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD),
}
FROM_POINT: Final = {
    PointKind.LAST: (Aggregate.LAST, Aggregate.SINCE_LAST),
    PointKind.SEEN: (Aggregate.SINCE_LAST,),
    PointKind.DECAYED: (Aggregate.EWM, Aggregate.SINCE_LAST),
}
OF_POINTS: Final = (Aggregate.LAST, Aggregate.SINCE_LAST, Aggregate.EWM)


class Tables(NamedTuple):
    """What the kernel reads of a plan. `defaults` is float64[outputs]; `words` the length of an entity's row.

    `groups` are those over events, `label_groups` those over labels; `known` is the word with the newest time of a label
    and `known_cell` its cell, -1 without windows over labels.
    """

    words: int
    groups: Table
    label_groups: Table
    known: int
    known_cell: int
    points: Table
    group_reads: (
        Table  # by group, narrow windows first: the kernel sums each ring once, from its newest tile back
    )
    point_reads: Table
    defaults: Floats


@dataclass(frozen=True)
class Layout:
    """Everything that is known about the memory of a plan's entities. `empty` is the row of an unseen entity."""

    tables: Tables
    parts: Table
    cells: Table
    empty: npt.NDArray[np.int64]
    most_hashes: int  # of any tile, for the kernel's scratch memory


def layout_of(plan: EntityPlan) -> Layout:
    """Lay out the state of a plan's entity. Raises `DeveloperError` where the plan contradicts itself."""
    _check_identities(plan)
    _check_label_groups(plan)
    for output in plan.outputs:
        _check_output(plan, output)
    groups, points = np.zeros(len(plan.groups), GROUPS), np.zeros(len(plan.points), POINTS)
    parts, cells = [(0, 1, 0)], [(0, -1, 0, 1, 0)]
    words = 1
    for index, group in enumerate(plan.groups):
        words = _add_group(plan, index, words, groups[index], parts, cells)
        _check_ring(plan, index, group)
    for point, row in zip(plan.points, points, strict=True):
        row["kind"], row["column"], row["within_us"] = point.kind, point.column, point.within_us
        row["half_life_us"], row["data"], row["cell"] = point.half_life_us, words, len(cells)
        parts.append((point.identity, 1, len(cells)))
        cells.append((point.identity, -1, words, POINT_WORDS[point.kind], 0))
        words += POINT_WORDS[point.kind]
    known, known_cell = (words, len(cells)) if plan.label_inputs else (-1, -1)
    if plan.label_inputs:
        parts.append((KNOWN_IDENTITY, 1, len(cells)))
        cells.append((KNOWN_IDENTITY, -1, words, 1, 0))
        words += 1
    group_reads, point_reads = _group_reads(plan, groups), _point_reads(plan)
    defaults = np.array([output.default for output in plan.outputs], np.float64)
    over_labels = groups["kind"] == GroupKind.SUMS
    tables = Tables(
        words,
        groups[~over_labels],
        groups[over_labels],
        known,
        known_cell,
        points,
        group_reads,
        point_reads,
        defaults,
    )
    most_hashes = max((width(group) - 1 for group in plan.groups), default=0)
    return Layout(
        tables,
        np.array(parts, PARTS),
        np.array(cells, CELLS),
        _empty(tables, groups, points),
        most_hashes,
    )


def bytes_per_entity(plan: EntityPlan) -> int:
    """Memory of one entity in the hot set, in bytes: its row, its bookkeeping, and a key of 40 characters."""
    return layout_of(plan).tables.words * 8 + 8 + 4 + KEY_BYTES


def stored_bytes_per_entity(plan: EntityPlan) -> int:
    """The most that Redis keeps of one entity, in bytes: every tile of every ring filled, and a key of 40 characters."""
    payload = sum(
        8 * (int(cell["width"]) or int(cell["bound"]) + 1) + STORED_FIELD_BYTES
        for cell in layout_of(plan).cells
    )
    return payload + KEY_BYTES


def width(group: WindowGroup) -> int:
    """Words of a tile's payload; of a DISTINCT tile: the number of its hashes, then room for `bound` + 1 of them."""
    widths = {
        GroupKind.COUNT: 1,
        GroupKind.MOMENTS: 4,
        GroupKind.EXTREMES: 2,
        GroupKind.DISTINCT: group.bound + 2,
        GroupKind.SUMS: 5,
    }
    return widths[group.kind]


def _add_group(
    plan: EntityPlan,
    index: int,
    words: int,
    row: Any,
    parts: list[tuple[int, int, int]],
    cells: list[tuple[int, int, int, int, int]],
) -> int:
    group, tile_words = plan.groups[index], width(plan.groups[index])
    data = words + group.ring
    distinct = group.kind is GroupKind.DISTINCT
    row["kind"], row["column"], row["tile_us"], row["ring"] = (
        group.kind,
        group.column,
        group.tile_us,
        group.ring,
    )
    row["tiles"], row["data"], row["width"], row["bound"] = words, data, tile_words, group.bound
    row["squares"] = any(output.aggregate is Aggregate.STD for output in _outputs_of(plan, index))
    row["cell"] = len(cells)
    parts.append((group.identity, group.ring, len(cells)))
    for position in range(group.ring):
        stored = 0 if distinct else tile_words  # 0: as many hashes as the tile holds
        cells.append((group.identity, words + position, data + position * tile_words, stored, group.bound))
    return data + group.ring * tile_words


def _outputs_of(plan: EntityPlan, group: int) -> list[Output]:
    return [output for output in plan.outputs if output.aggregate not in OF_POINTS and output.source == group]


def _group_reads(plan: EntityPlan, groups: Table) -> Table:
    chosen = [i for i, output in enumerate(plan.outputs) if output.aggregate not in OF_POINTS]
    chosen.sort(key=lambda i: (plan.outputs[i].source, plan.outputs[i].window_us))
    reads = np.zeros(len(chosen), READS)
    for read, column in zip(reads, chosen, strict=True):
        output = plan.outputs[column]
        read["aggregate"], read["column"], read["source"] = output.aggregate, column, output.source
        read["whole_tiles"], read["part_us"] = divmod(output.window_us, plan.groups[output.source].tile_us)
    groups["reads"] = np.searchsorted(reads["source"], np.arange(len(groups)), "left")
    groups["reads_end"] = np.searchsorted(reads["source"], np.arange(len(groups)), "right")
    return reads


def _point_reads(plan: EntityPlan) -> Table:
    chosen = [i for i, output in enumerate(plan.outputs) if output.aggregate in OF_POINTS]
    reads = np.zeros(len(chosen), READS)
    for read, column in zip(reads, chosen, strict=True):
        output = plan.outputs[column]
        read["aggregate"], read["column"], read["source"] = output.aggregate, column, output.source
        read["within_us"] = within_us(plan.points[output.source], output)
    return reads


def within_us(point: Point, output: Output) -> int:
    """How old a point may be for this output: the point's own limit, or the output's window when that is narrower."""
    return min(point.within_us, output.window_us) if output.window_us > 0 else point.within_us


def _empty(tables: Tables, groups: Table, points: Table) -> npt.NDArray[np.int64]:
    row = np.zeros(tables.words, np.int64)
    row[0] = NEVER
    if tables.known >= 0:
        row[tables.known] = NEVER
    for group in groups:
        row[group["tiles"] : group["tiles"] + group["ring"]] = NEVER
    row[points["data"]] = NEVER
    return row


def _check_identities(plan: EntityPlan) -> None:
    identities = [group.identity for group in plan.groups] + [point.identity for point in plan.points]
    if len(set(identities)) < len(identities) or not all(0 < identity < 2**32 for identity in identities):
        raise DeveloperError(
            f"entity {plan.entity}: identities {identities} must differ and lie in 1 .. 2^32 - 1"
        )


def _check_label_groups(plan: EntityPlan) -> None:
    columns = [group.column for group in plan.groups if group.kind is GroupKind.SUMS]
    if not all(0 <= column < len(plan.label_inputs) for column in columns):
        raise DeveloperError(f"entity {plan.entity}: windows over labels need more than {plan.label_inputs}")


def _check_output(plan: EntityPlan, output: Output) -> None:
    of_points = output.aggregate in OF_POINTS
    there = len(plan.points) if of_points else len(plan.groups)
    if not 0 <= output.source < there:
        raise DeveloperError(
            f"feature {output.name}: source {output.source}, but there are {there} to read from"
        )
    point_kind = plan.points[output.source].kind if of_points else None
    readable = FROM_GROUP[plan.groups[output.source].kind] if point_kind is None else FROM_POINT[point_kind]
    if output.aggregate not in readable:
        raise DeveloperError(
            f"feature {output.name}: {output.aggregate.name} cannot be read from source {output.source}"
        )


def _check_ring(plan: EntityPlan, index: int, group: WindowGroup) -> None:
    needed = max(
        (-(-output.window_us // group.tile_us) + 1 for output in _outputs_of(plan, index)), default=1
    )
    if group.ring < needed:
        raise DeveloperError(
            f"entity {plan.entity}: group {index} needs a ring of {needed} tiles, not {group.ring}"
        )
    if group.kind is GroupKind.DISTINCT and not 1 <= group.bound <= MOST_DISTINCT:
        raise DeveloperError(
            f"entity {plan.entity}: distinct is exact up to 1 .. {MOST_DISTINCT}, not {group.bound}"
        )
