"""Files of events as the records that a producer would send: `driftwood produce` sends them, training decodes them.

A file's row and its record hold the same values, so history is judged and converted by the very decoder of the stream:

    Parquet column                            in the record
    null, NaN                                 null (left out where the field has a default and may not be null)
    timestamp with a time zone                "2013-04-01T10:15:00.000000Z"
    timestamp without one                     "2013-04-01T10:15:00.000000": a clock time, see the pipeline's time_zone
    whole numbers stored as floats            1, where the field is an int (a column with nulls, written by pandas)
    decimal                                   a number
    a field tagged known_later                left out, where it may be: nobody knows it at the moment of decision
    a column that is no field of the event    left out, and named

JSON Lines are taken as they are, line by line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TypeAlias, TypeGuard

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import DeveloperError
from features.feature_set import FeatureSet
from features.schema import Field, nearest

Source: TypeAlias = pa.Table | pd.DataFrame | Path | str | Sequence[Path | str]
"""A table in memory, a Parquet (.parquet, .pq) or JSON Lines (.jsonl, .ndjson) file, a folder of them, or a list."""

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson")

# Rows read at a time: some 30 MB of Python values while they are turned into records.
CHUNK_ROWS = 65_536

# JSON has no infinity. This number is too large for a float, which is what the decoder says of it.
_INFINITY = {float("inf"): msgspec.Raw(b"1e999"), float("-inf"): msgspec.Raw(b"-1e999")}


def event_records(table: pa.Table | pa.RecordBatch, feature_set: FeatureSet) -> Iterator[bytes]:
    """One JSON record for each row, in the table's order; columns are found by the fields' JSON names.

    Example:
        >>> from models.loading import load_pipeline
        >>> table = pa.table({"flight_id": ["f1"], "origin": ["JFK"], "seats": [float("nan")], "delay": [12]})
        >>> list(event_records(table, load_pipeline("flights").feature_set))
        [b'{"flight_id":"f1","origin":"JFK","seats":null}']
    """
    chosen = [field for field in feature_set.schema.fields if _is_sent(field, table.schema.names)]
    columns = [_values(table.column(field.json_name), field) for field in chosen]
    names = [field.json_name for field in chosen]
    omit = [
        name for field, name in zip(chosen, names, strict=True) if not field.required and not field.nullable
    ]
    encode = msgspec.json.Encoder().encode
    for row in zip(*columns, strict=True):
        record = dict(zip(names, row, strict=True))
        for name in omit:
            if record[name] is None:
                del record[name]
        yield encode(record)


def read_records(source: Source, feature_set: FeatureSet, rows: int = CHUNK_ROWS) -> Iterator[list[bytes]]:
    """The records of all files, in the order of the files and of their rows, at most `rows` at a time.

    Raises DeveloperError for a missing or unreadable file, another kind of file, or one that lacks a required column.
    """
    for part in parts_of(source):
        if is_lines(part):
            yield from _line_chunks(part, rows)
        else:
            for batch in _batches(part, rows, feature_set):
                yield list(event_records(batch, feature_set))


def ignored_columns(source: Source, feature_set: FeatureSet) -> tuple[str, ...]:
    """Columns of Parquet files and tables that are no fields of the event, by name."""
    known = {field.json_name for field in feature_set.schema.fields}
    tables = [part for part in parts_of(source) if not is_lines(part)]
    return tuple(sorted({name for part in tables for name in schema_of(part).names} - known))


def count_rows(source: Source) -> int | None:
    """How many rows there are, where that is known without reading them (None with JSON Lines among the files)."""
    rows = 0
    for part in parts_of(source):
        if is_lines(part):
            return None
        rows += part.num_rows if isinstance(part, pa.Table) else _metadata(part).num_rows
    return rows


# ---- files


def parts_of(source: Source) -> list[pa.Table | Path]:
    """The tables and files that a source stands for, in order; raises DeveloperError for what cannot be one."""
    if isinstance(source, pd.DataFrame):
        return [pa.Table.from_pandas(source, preserve_index=False)]
    if isinstance(source, pa.Table):
        return [source]
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    files = [file for path in paths for file in _files(path)]
    for file in files:
        if file.suffix not in PARQUET + JSON_LINES:
            raise DeveloperError(
                f"{file} is neither Parquet (.parquet) nor JSON Lines (.jsonl); convert it to one of them"
            )
    return list(files)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in PARQUET + JSON_LINES)
        if not files:
            raise DeveloperError(f"the folder {path} holds no .parquet and no .jsonl file")
        return files
    if not path.exists():
        raise DeveloperError(
            f"{path} does not exist; expected a Parquet or JSON Lines file, or a folder of them"
        )
    return [path]


def is_lines(part: pa.Table | Path) -> TypeGuard[Path]:
    """Whether it is a JSON Lines file."""
    return isinstance(part, Path) and part.suffix in JSON_LINES


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, text) of the lines of a file that are not empty, counted from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if record := line.strip():
                yield number, record


def _line_chunks(path: Path, rows: int) -> Iterator[list[bytes]]:
    lines = (record for _, record in lines_of(path))
    while chunk := list(itertools.islice(lines, rows)):
        yield chunk


def schema_of(part: pa.Table | Path) -> pa.Schema:
    """The schema of a table or a Parquet file."""
    return part.schema if isinstance(part, pa.Table) else _metadata(part).schema.to_arrow_schema()


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DeveloperError:
    return DeveloperError(f"{path} cannot be read as Parquet ({error})")


def _batches(part: pa.Table | Path, rows: int, feature_set: FeatureSet) -> Iterator[pa.RecordBatch]:
    have = schema_of(part).names
    for field in feature_set.schema.fields:
        if field.required and field.json_name not in have:
            wanted = f"the column {field.json_name!r} of {feature_set.schema.event}"
            found = nearest(field.json_name, have)
            raise DeveloperError(f"{name_of(part)} lacks {wanted}; expected {found}")
    columns = [field.json_name for field in feature_set.schema.fields if _is_sent(field, have)]
    if isinstance(part, pa.Table):
        yield from part.select(columns).to_batches(max_chunksize=rows)
        return
    try:
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from error


def name_of(part: pa.Table | Path) -> str:
    """What it is called in messages."""
    return "the table" if isinstance(part, pa.Table) else str(part)


def _is_sent(field: Field, columns: Sequence[str]) -> bool:
    return field.json_name in columns and (field.required or not field.known_later)


# ---- values


def _values(column: pa.Array | pa.ChunkedArray, field: Field) -> list[object]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.cast(kind.value_type), field)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if pa.types.is_timestamp(kind):
        return _moments(column, "Z" if kind.tz is not None else "", field)
    if pa.types.is_date(kind):
        return _moments(column.cast(pa.timestamp("us")), "", field)
    if pa.types.is_floating(column.type):
        return _floats(column, field)
    values: list[object] = column.to_pylist()
    return values


def _moments(column: pa.Array | pa.ChunkedArray, suffix: str, field: Field) -> list[object]:
    # Anything finer than a microsecond is cut off, as a sender's own clock library would.
    moments = column.cast(pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    day = field.type is date
    texts = np.datetime_as_string(moments, unit="D" if day else "us").tolist()
    zone = "" if day else suffix
    return [None if missing else text + zone for text, missing in zip(texts, np.isnat(moments), strict=True)]


def _floats(column: pa.Array | pa.ChunkedArray, field: Field) -> list[object]:
    numbers = column.cast(pa.float64())
    values: list[object] = pc.if_else(pc.is_nan(numbers), None, numbers).to_pylist()
    if not pc.all(pc.is_finite(numbers), min_count=0).as_py():
        values = [_INFINITY.get(value, value) for value in values]  # type: ignore[call-overload]
    if field.integer:
        return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    return values
