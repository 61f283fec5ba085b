"""A minimal archive of predictions: what the join's ledger has let go, as Parquet files, found by its place in `hop-join`.

    <folder>/<pipeline>/<partition>/<level>-<first offset>-<last offset>-<hash of the positions>.parquet

Columns: `offset`, `row` (the place), `event_id`, `time_us`, and `served`, the row as `streams/served_rows.py` packs it. A
batch of the join makes one small file (level 0); `FILES_A_LEVEL` files of a level become one of the next, so that a year
has some hundred files. A row that stands in two files, because something was killed in between, is the same in both.

Rows are dropped, when files are merged, once they are `keep_us` older than the newest: no label can ask for them any more.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.store import Position
from models.pipeline import Pipeline
from streams.served_rows import unpacked
from streams.settings import Settings

FILES_A_LEVEL = 32

# Of names: an offset has at most 19 digits.
_SUFFIX = ".parquet"

_SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("row", pa.int64()),
        ("event_id", pa.string()),
        ("time_us", pa.int64()),
        ("served", pa.binary()),
    ]
)


@dataclass(frozen=True)
class ArchiveFile:
    """One file, by its name: `first` and `last` are offsets of `hop-join`."""

    path: Path
    level: int
    first: int
    last: int

    @classmethod
    def of(cls, path: Path) -> ArchiveFile:
        """What a file's name says."""
        level, first, last, _ = path.name.removesuffix(_SUFFIX).split("-")
        return cls(path, int(level), int(first), int(last))


class PredictionArchive:
    """The archive of one pipeline, below `folder`. One process writes a partition at a time, others may read it.

    `keep_us`: for how long, in event time, rows are kept. Everything raises OSError where the disk does.
    """

    def __init__(self, folder: Path, pipeline: str, keep_us: int) -> None:
        self._folder, self._keep_us = folder / pipeline, keep_us

    def write(self, partition: int, rows: Sequence[tuple[Position, bytes]]) -> None:
        """Keep these packed rows. They are on the disk when this returns; the same ones again make the same file."""
        if not rows:
            return
        place = self._place(partition)
        place.mkdir(parents=True, exist_ok=True)
        _save(place, 0, _table(rows))
        self._merge(place)

    def read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        """The packed rows at these positions, as far as they are there."""
        try:
            return self._read(partition, positions)
        except (
            FileNotFoundError
        ):  # merged away since its name was read; what took its place has a name by now
            return self._read(partition, positions)

    def _read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        wanted = set(positions)
        found: dict[Position, bytes] = {}
        for file in _files(self._place(partition)):
            offsets = {at.offset for at in wanted if file.first <= at.offset <= file.last}
            if offsets:
                table = pq.read_table(file.path, filters=[("offset", "in", offsets)])
                found.update((at, row) for at, row in _rows(table) if at in wanted)
        return found

    def _merge(self, place: Path) -> None:
        level = 0
        while len(files := [file for file in _files(place) if file.level == level]) >= FILES_A_LEVEL:
            level += 1
            _save(place, level, self._kept(pa.concat_tables([pq.read_table(file.path) for file in files])))
            for file in files:
                file.path.unlink(missing_ok=True)

    def _kept(self, table: pa.Table) -> pa.Table:
        """Without what is too old, each row once, in the order of positions."""
        oldest_us = pc.max(table["time_us"]).as_py() - self._keep_us
        table = table.filter(pc.greater_equal(table["time_us"], oldest_us))
        table = table.sort_by([("offset", "ascending"), ("row", "ascending")])
        places = list(zip(table["offset"].to_pylist(), table["row"].to_pylist(), strict=True))
        firsts = [at for at, place in enumerate(places) if at == 0 or places[at - 1] != place]
        return table.take(pa.array(firsts, pa.int64()))

    def _place(self, partition: int) -> Path:
        return self._folder / str(partition)


def archive_of(pipeline: Pipeline, settings: Settings) -> PredictionArchive:
    """The archive of a pipeline, below `runs_dir`: all processes of its learn road must see the same folder.

    Rows are kept for two horizons: a partition that lags by one still finds what its labels ask for.
    """
    return PredictionArchive(settings.runs_dir / "archive", pipeline.name, 2 * pipeline.label.horizon_us)


def _files(place: Path) -> Iterator[ArchiveFile]:
    return (ArchiveFile.of(path) for path in sorted(place.glob(f"*{_SUFFIX}")))


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


def _rows(table: pa.Table) -> Iterator[tuple[Position, bytes]]:
    columns = (table[name].to_pylist() for name in ("offset", "row", "served"))
    return ((Position(offset, row), served) for offset, row, served in zip(*columns, strict=True))


def _save(place: Path, level: int, table: pa.Table) -> None:
    """Under its name only when it is whole and on the disk."""
    offsets = table["offset"].to_pylist()
    places = b"".join(map(struct.pack, ["<qq"] * len(offsets), offsets, table["row"].to_pylist()))
    name = f"{level}-{offsets[0]}-{offsets[-1]}-{hashlib.sha256(places).hexdigest()[:12]}{_SUFFIX}"
    unfinished = place / f"{name}.unfinished"
    with unfinished.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(place / name)
    folder = os.open(place, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
