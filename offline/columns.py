"""Columns of files by their names: where labels are read from. (Events are read as records, see `offline/events.py`.)

A line of a JSON Lines file that is no JSON object is left out and counted, as the stream's decoder leaves it out of the
events: a file may hold both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import DeveloperError
from features.schema import nearest
from offline.events import Source, is_lines, lines_of, name_of, parts_of, schema_of


def column_names(source: Source) -> tuple[str, ...]:
    """The columns of all files, in order of appearance. Raises DeveloperError for a missing or damaged file."""
    return tuple(dict.fromkeys(name for part in parts_of(source) for name in _names(part)))


@dataclass(frozen=True)
class Unreadable:
    """Lines that are no JSON object: how many, and the first of them ("labels.jsonl, line 18: …")."""

    count: int = 0
    first: str = ""


@dataclass(frozen=True)
class _Part:
    """The rows of one file. `numbers` are the lines that they stand in; None: they are counted from 1."""

    name: str
    columns: Mapping[str, list[object] | pa.ChunkedArray]
    rows: int
    numbers: Sequence[int] | None
    unreadable: Unreadable

    def place(self, row: int) -> str:
        return (
            f"{self.name}, row {row + 1}"
            if self.numbers is None
            else f"{self.name}, line {self.numbers[row]}"
        )


class Columns:
    """Chosen columns of all files, in memory: the rows of the first file, then those of the second, and so on."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    @property
    def unreadable(self) -> Unreadable:
        """The lines that were left out."""
        found = [part.unreadable for part in self._parts if part.unreadable.count]
        return Unreadable(sum(one.count for one in found), found[0].first) if found else Unreadable()

    def place(self, row: int) -> str:
        """Where a row stands: its file, and its line or row there, counted from 1."""
        for part in self._parts:
            if row < part.rows:
                return part.place(row)
            row -= part.rows
        raise IndexError(row)

    def values(self, name: str) -> list[object]:
        """The column as Python values, of whatever kinds."""
        columns = [part.columns[name] for part in self._parts]
        return [
            value
            for column in columns
            for value in (column if isinstance(column, list) else column.to_pylist())
        ]

    def array(self, name: str) -> pa.ChunkedArray:
        """The column as Arrow has it; raises DeveloperError where its values are of several kinds."""
        try:
            arrays = [pa.chunked_array(_arrow(part.columns[name])) for part in self._parts]
            tables = [pa.table({name: array}) for array in arrays]
            return pa.concat_tables(tables, promote_options="permissive").column(name)
        except (pa.ArrowException, OverflowError) as error:
            files = ", ".join(part.name for part in self._parts)
            raise DeveloperError(
                f"{files}: column {name!r} mixes kinds of values ({error}); expected one"
            ) from error

    def ids(self, name: str, kind: type) -> pa.ChunkedArray:
        """A column of ids as texts. Null where one is neither text nor whole number; in a JSON column that holds both,
        those of `kind` (the id field's type) are ids."""
        arrays = [pa.array([], pa.string())]
        for part in self._parts:
            column = part.columns[name]
            if isinstance(column, list):
                arrays.append(_id_texts(column, kind))
            else:
                arrays += _texts(column).chunks
        return pa.chunked_array(arrays)


def read_columns(source: Source, names: Sequence[str]) -> Columns:
    """These columns of all files; raises DeveloperError where a file lacks one. A name that a line lacks is null there."""
    return Columns([_read(part, list(names)) for part in parts_of(source)])


# ---- files


def _names(part: pa.Table | Path) -> list[str]:
    if not is_lines(part):
        names: list[str] = schema_of(part).names
        return names
    return list(
        dict.fromkeys(name for _, found in _objects(part) if isinstance(found, dict) for name in found)
    )


def _read(part: pa.Table | Path, names: list[str]) -> _Part:
    if is_lines(part):
        return _read_lines(part, names)
    _check(part, names, schema_of(part).names)
    table = part.select(names) if isinstance(part, pa.Table) else pq.read_table(part, columns=names)
    columns = {name: table.column(name) for name in names}
    return _Part(name_of(part), columns, table.num_rows, None, Unreadable())


def _read_lines(path: Path, names: list[str]) -> _Part:
    columns: dict[str, list[object]] = {name: [] for name in names}
    seen: dict[str, None] = {}
    numbers: list[int] = []
    bad, first = 0, ""
    for number, found in _objects(path):
        if isinstance(found, str):
            bad, first = bad + 1, first or f"{path}, line {number}: {found}"
            continue
        numbers.append(number)
        seen.update(dict.fromkeys(found))
        for name, values in columns.items():
            values.append(found.get(name))
    if numbers:
        _check(path, names, list(seen))
    return _Part(str(path), columns, len(numbers), numbers, Unreadable(bad, first))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, object] | str]]:
    """(line, its object) of every line that is not empty; instead of the object a text that says what is wrong with it."""
    decode = msgspec.json.Decoder(dict[str, object]).decode
    for number, record in lines_of(path):
        try:
            yield number, decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield number, str(error)
        except RecursionError:
            yield number, "it is nested too deeply"


def _check(part: pa.Table | Path, names: Sequence[str], have: Sequence[str]) -> None:
    for name in names:
        if name not in have:
            raise DeveloperError(f"{name_of(part)} has no column {name!r}; expected {nearest(name, have)}")


# ---- values


def _arrow(column: list[object] | pa.ChunkedArray) -> list[pa.Array]:
    if isinstance(column, list):
        return [pa.array(column)]
    chunks: list[pa.Array] = column.chunks or [pa.array([], column.type)]
    return chunks


def _texts(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    if pa.types.is_floating(ids.type):  # whole numbers with nulls, as pandas stores them
        ids = pc.if_else(pc.is_nan(ids), None, ids).cast(pa.int64())
    return ids.cast(pa.string())


def _id_texts(values: list[object], kind: type) -> pa.Array:
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    kinds = {type(value) for value in whole} & {str, int}
    wanted = kind if len(kinds) > 1 else next(iter(kinds), kind)
    return pa.array([str(value) if type(value) is wanted else None for value in whole], pa.string())
