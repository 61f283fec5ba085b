"""A minimal archive of predictions: what the join's ledger has let go, as Parquet files, found by its place in `hop-join`.

    <folder>/<pipeline>/<partition>/<level>-<first offset>-<last offset>-<hash of the positions>.parquet

Columns: `offset`, `row` (the place), `event_id`, `time_us`, and `served`, the row as `streams/served_rows.py` packs it. A
batch of the join makes one small file (level 0); `FILES_A_LEVEL` files of a level become one of the next, until a file has
`FULL_ROWS` rows and is merged no more: so merging takes little memory, and ninety days of ten events a second are some
1,200 files. A row that stands in two files, because something was killed in between, is the same in both.

A read opens the files in whose range of offsets something is asked for, by their names, and of these the row groups, by
their footers, which are remembered. Rows go, when files are merged, once the ledger has settled everything of their time, and
full files when that is so of all their rows: nobody asks for them any more. How long that takes the ledger says, no clock:
where labels are missing for weeks, what waits for them is kept as long. So there are about as many rows as the ledger may
have, and a full file more.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.plan import Ints
from features.store import Position
from models.pipeline import Pipeline
from streams.served_rows import unpacked
from streams.settings import Settings

FILES_A_LEVEL = 32

# Of a file that is merged no more: some 30 MB in memory, and thrice that while it is made.
FULL_ROWS = 65_536

# Rows that are unpacked for one that is asked for: some 100 KB. A full file has as many groups, some 40 KB of footer.
GROUP_ROWS = 256

# Footers that are remembered, some 60 KB each: those of labels that come a week late, at a hundred events a second.
FOOTERS = 1_024

# How often a read begins anew because files were merged away under it. Each time at least one file has gone, and a merge
# deletes `FILES_A_LEVEL` on each of few levels: so this ends only what would never end.
LISTINGS = 8 * FILES_A_LEVEL

# Of names: an offset has at most 19 digits.
_SUFFIX = ".parquet"
_FULL = 9  # the level of full files

_SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("row", pa.int64()),
        ("event_id", pa.string()),
        ("time_us", pa.int64()),
        ("served", pa.binary()),
    ]
)


@dataclass(frozen=True, order=True)
class ArchiveFile:
    """One file, by its name: `first` and `last` are offsets of `hop-join`."""

    first: int
    last: int
    level: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> ArchiveFile:
        """What a file's name says."""
        level, first, last, _ = path.name.removesuffix(_SUFFIX).split("-")
        return cls(int(first), int(last), int(level), path)


@dataclass(frozen=True)
class Footer:
    """What the end of a file says: `firsts` and `lasts` are the offsets of each of its row groups."""

    metadata: Any
    firsts: Ints
    lasts: Ints
    newest_us: int

    @classmethod
    def of(cls, path: Path) -> Footer:
        """Read it."""
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        offsets = [group.column(0).statistics for group in groups]
        return cls(
            metadata,
            np.array([known.min for known in offsets], np.int64),
            np.array([known.max for known in offsets], np.int64),
            max(group.column(3).statistics.max for group in groups),
        )

    def groups(self, offsets: Ints) -> list[int]:
        """The row groups in which one of these sorted offsets may stand."""
        begin, end = np.searchsorted(offsets, self.firsts), np.searchsorted(offsets, self.lasts, "right")
        found: list[int] = np.flatnonzero(end > begin).tolist()
        return found


@dataclass
class _Footers:
    """The footers of the files that were asked last: files never change."""

    known: OrderedDict[Path, Footer] = field(default_factory=OrderedDict)

    def of(self, path: Path) -> Footer:
        footer = self.known.pop(path, None) or Footer.of(path)
        self.known[path] = footer
        if len(self.known) > FOOTERS:
            self.known.popitem(last=False)
        return footer


class PredictionArchive:
    """The archive of one pipeline, below `folder`. One process writes a partition at a time, others may read it.

    Everything raises OSError where the disk does.
    """

    def __init__(self, folder: Path, pipeline: str) -> None:
        self.folder = folder / pipeline
        self._footers = _Footers()

    def write(self, partition: int, rows: Sequence[tuple[Position, bytes]], open_us: int) -> None:
        """Keep these packed rows. They are on the disk when this returns; the same ones again make the same file.

        What is older than `open_us` in event time may go.
        """
        if not rows:
            return
        place = self._place(partition)
        place.mkdir(parents=True, exist_ok=True)
        _save(place, 0, _table(rows))
        self._merge(place, open_us)

    def read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        """The packed rows at these positions, as far as they are there."""
        for _ in range(LISTINGS):
            try:
                return self._read(partition, positions)
            except FileNotFoundError:
                # Merged away since its name was read. What took its place has a name by now, but the merge may still be
                # deleting others that this listing names, too.
                continue
        return self._read(partition, positions)

    def _read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        wanted = set(positions)
        offsets = np.array(sorted({at.offset for at in wanted}), np.int64)
        found: dict[Position, bytes] = {}
        for file in _files(self._place(partition)):
            begin, end = np.searchsorted(offsets, file.first), np.searchsorted(offsets, file.last, "right")
            if end > begin:
                rows = self._rows(file.path, offsets[begin:end])
                found.update((at, row) for at, row in rows if at in wanted)
        return found

    def _rows(self, path: Path, offsets: Ints) -> Iterator[tuple[Position, bytes]]:
        """The rows of a file that stand at these offsets."""
        footer = self._footers.of(path)
        groups = footer.groups(offsets)
        if not groups:
            return
        with pq.ParquetFile(path, metadata=footer.metadata) as file:
            table = file.read_row_groups(groups, ["offset", "row", "served"], use_threads=False)
        rows = np.flatnonzero(np.isin(table["offset"].to_numpy(), offsets))
        places = (table[name].to_numpy()[rows].tolist() for name in ("offset", "row"))
        served = table["served"].combine_chunks()
        for at, offset, row in zip(rows.tolist(), *places, strict=True):
            yield Position(offset, row), served[at].as_py()

    # ---- merging

    def _merge(self, place: Path, open_us: int) -> None:
        level = 0
        while len(files := [file for file in _files(place) if file.level == level]) >= FILES_A_LEVEL:
            tables = _until_full(files)
            merged = _kept(pa.concat_tables(tables), open_us)
            level = _FULL if merged.num_rows >= FULL_ROWS else level + 1
            if merged.num_rows:
                _save(place, level, merged)
            for file in files[: len(tables)]:
                file.path.unlink(missing_ok=True)
            if level == _FULL:
                self._drop(place, open_us)
                return

    def _drop(self, place: Path, open_us: int) -> None:
        """Full files of which every row is too old."""
        for file in _files(place):
            if file.level == _FULL and self._footers.of(file.path).newest_us < open_us:
                file.path.unlink(missing_ok=True)

    def _place(self, partition: int) -> Path:
        return self.folder / str(partition)


def archive_of(pipeline: Pipeline, settings: Settings) -> PredictionArchive:
    """The archive of a pipeline, below `runs_dir`: all processes of its learn road must see the same folder."""
    return PredictionArchive(settings.runs_dir / "archive", pipeline.name)


def _files(place: Path) -> list[ArchiveFile]:
    """By their offsets."""
    return sorted(ArchiveFile.of(path) for path in place.glob(f"*{_SUFFIX}"))


def _until_full(files: Sequence[ArchiveFile]) -> list[pa.Table]:
    """The first of these files, until they fill one."""
    tables: list[pa.Table] = []
    while len(tables) < len(files) and sum(table.num_rows for table in tables) < FULL_ROWS:
        tables.append(pq.read_table(files[len(tables)].path, use_threads=False))
    return tables


def _kept(table: pa.Table, open_us: int) -> pa.Table:
    """Without what is too old, each row once, in the order of positions."""
    table = table.filter(pc.greater_equal(table["time_us"], open_us))
    table = table.sort_by([("offset", "ascending"), ("row", "ascending")])
    offsets, rows = table["offset"].to_numpy(), table["row"].to_numpy()
    first = np.ones(len(offsets), bool)
    first[1:] = (np.diff(offsets) != 0) | (np.diff(rows) != 0)
    return table.filter(pa.array(first))


def _table(rows: Sequence[tuple[Position, bytes]]) -> pa.Table:
    ordered = sorted(rows)
    served = [unpacked(row) for _, row in ordered]
    columns = [
        [at.offset for at, _ in ordered],
        [at.row for at, _ in ordered],
        [row.event_id for row in served],
        [row.time_us for row in served],
        [row for _, row in ordered],
    ]
    return pa.table(columns, schema=_SCHEMA)


def _save(place: Path, level: int, table: pa.Table) -> None:
    """Under its name only when it is whole and on the disk."""
    offsets = table["offset"].to_pylist()
    places = b"".join(map(struct.pack, ["<qq"] * len(offsets), offsets, table["row"].to_pylist()))
    name = f"{level}-{offsets[0]}-{offsets[-1]}-{hashlib.sha256(places).hexdigest()[:12]}{_SUFFIX}"
    unfinished = place / f"{name}.unfinished"
    with unfinished.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=GROUP_ROWS)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(place / name)
    folder = os.open(place, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
