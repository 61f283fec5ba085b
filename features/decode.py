"""From the bytes of raw events to columns. A record becomes exactly one row, or exactly one dead record; nothing raises.

The ordinary road costs one pass of msgspec over each record and one pass over each column. Only a record that fails
there is looked at by itself (`features/diagnosis.py`), and only where the number of keys does not add up are its names
read: for fields nobody declared, and for names that stand twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from operator import attrgetter, is_, sub
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from features.diagnosis import Problem, diagnose, duplicated, time_problem
from features.event_times import LATEST_US, seconds
from features.feature_set import FeatureSet
from features.plan import Floats, Ints
from features.rows import Rows
from features.schema import Field

Record = tuple[bytes | None, int]
"""The value of a record (None: a tombstone) and its broker timestamp in milliseconds (0 or less: it has none)."""

# Of an event id or an entity key, in characters. Ids and keys are kept in Redis; no id scheme in use is longer, and a
# longer one is a field mix-up.
MAX_KEY_CHARS = 256

# Of any other text that a feature is made of, in characters. It travels with the event and stands in the prediction, where
# a megabyte of it would be more than a broker takes; a longer one is no category.
MAX_TEXT_CHARS = 1_024

# Of all texts of an event that travel with it (id, keys, texts that features are made of), in bytes of JSON. A frame of one
# row holds them, and so does the prediction: both have to stay below the megabyte that brokers take by default. It takes
# more than eighty long texts to come here.
MAX_TEXTS_BYTES = 512 * 1024

# Whole numbers are 64 bit from end to end; a longer one would lose its last digits without a word.
MAX_INTEGER = 2**63 - 1

# Bytes of one record. Above Kafka's own default limit (1 MiB) nothing ordinary arrives.
MAX_RECORD_BYTES = 1_048_576

# Names of undeclared fields counted by name in one batch; the others are counted under OTHER_NAMES. A sender that
# makes up names must not fill the memory of the metrics.
MAX_UNKNOWN_NAMES = 100
MAX_NAME_CHARS = 64
OTHER_NAMES = "(others)"


@dataclass(frozen=True)
class DeadRecord:
    """A record that cannot be used. `reason` is one stable word, `path` the JSON path, `detail` a sentence about it."""

    index: int  # which of the records
    reason: str
    path: str
    detail: str


@dataclass(frozen=True)
class Decoded:
    """What became of n records: `rows` keep their order, `index` int64[len(rows)] says which record each row is."""

    rows: Rows
    index: Ints
    dead: Sequence[DeadRecord]  # by index
    unknown_fields: Counter[str] = field(default_factory=Counter)


class Decoder:
    """Decodes the events of one pipeline. Holds no state between calls.

    `unknown_fields`: "count" accepts and counts them, "dead-letter" refuses the record. `max_bytes` is the greatest
    record accepted.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        unknown_fields: Literal["count", "dead-letter"] = "count",
        max_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.feature_set = feature_set
        self.refuses_unknown = unknown_fields == "dead-letter"
        self.max_bytes = max_bytes
        self.schema = feature_set.schema
        keys = {key for plan in feature_set.entities for key in plan.keys} | {feature_set.id_field}
        struct = _decoding_struct(feature_set, keys)
        self._json = msgspec.json.Decoder(struct)
        self._known = {item.json_name for item in self.schema.fields}

    def decode(self, records: Sequence[Record]) -> Decoded:
        """Decode a batch. Never raises for what a record holds."""
        batch = self._parse(records)
        unknown: Counter[str] = Counter()
        self._check_names(batch, unknown)
        times_us = self._check_times(batch, records)
        batch.dead.sort(key=attrgetter("index"))
        return Decoded(self._rows(batch, times_us), np.array(batch.index, np.int64), batch.dead, unknown)

    # ---- records to events

    def _parse(self, records: Sequence[Record]) -> _Batch:
        values = [value for value, _ in records]
        try:
            # All at once: where one fails, they are taken one by one below.
            if max(map(len, values), default=0) <= min(self.max_bytes, MAX_TEXTS_BYTES):  # type: ignore[arg-type]  # None raises TypeError
                decode = self._json.decode
                batch = _Batch([decode(value) for value in values], list(range(len(values))), values, [])  # type: ignore[arg-type]  # likewise
                if batch.joined.isascii():
                    return batch
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            pass
        batch = _Batch([], [], [], [])
        for at, value in enumerate(values):
            event = self._parse_one(value)
            if isinstance(event, Problem):
                batch.dead.append(DeadRecord(at, *event))
            else:
                batch.add(event, at, value)
        return batch

    def _parse_one(self, value: bytes | None) -> Any:
        """The event, or the Problem that it has."""
        if not value:
            return Problem("empty", "$", "the record has no value")
        if len(value) > self.max_bytes:
            return Problem("too_large", "$", f"{len(value):,} bytes, at most {self.max_bytes:,} are taken")
        try:
            event = self._json.decode(value)
            value.decode()  # msgspec checks the fields it keeps; the rest of the record has to be UTF-8 as well
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return diagnose(value, error, self.schema, self.feature_set.label_fields)
        return self._travels(event) if len(value) > MAX_TEXTS_BYTES else event

    def _travels(self, event: Any) -> Any:
        """The event, or a Problem where its texts are too much for a frame; only of a larger record can they be."""
        names = {self.feature_set.id_field, *self.feature_set.layout.texts}
        texts = [getattr(event, name) for name in names]
        size = sum(len(msgspec.json.encode(text)) for text in texts if isinstance(text, str))
        if size <= MAX_TEXTS_BYTES:
            return event
        detail = f"keys and texts that features are made of have {size:,} bytes, at most {MAX_TEXTS_BYTES:,} are taken"
        return Problem("texts_too_long", "$", detail)

    # ---- names

    def _check_names(self, batch: _Batch, unknown: Counter[str]) -> None:
        """Find fields that nobody declared and names that stand twice.

        In JSON without white space before a colon, `":` stands after every name, and elsewhere only inside a text
        (as `\\":`), which adds to the count. So a count equal to the number of declared fields present proves that
        there is nothing else; it is taken for the whole batch first, because no record can make up for another.
        """
        expected = self._names_expected(batch)
        plain = _plain(batch.joined)
        if plain and batch.joined.count(b'":') == sum(expected):
            return
        refused: set[int] = set()
        for at, (value, names) in enumerate(zip(batch.values, expected, strict=True)):
            count = (
                value.count(b'":') if plain or _plain(value) else -1
            )  # -1: only reading the names can tell
            if count == names:
                continue
            problem = self._name_problem(value, count, unknown)
            if problem is not None:
                batch.dead.append(DeadRecord(batch.index[at], *problem))
                refused.add(at)
        batch.drop(refused)

    def _names_expected(self, batch: _Batch) -> list[int]:
        """How many declared fields each event brings along."""
        expected = [len(self.schema.fields)] * len(batch.events)
        for item in self.schema.fields:
            if item.required:
                continue
            absent = list(map(is_, batch.column(item.name), repeat(msgspec.UNSET)))
            if any(absent):
                expected = list(map(sub, expected, absent))
        return expected

    def _name_problem(self, value: bytes, count: int, unknown: Counter[str]) -> Problem | None:
        parts = _RAW.decode(value)
        if count != len(parts):
            twice = duplicated(value)
            if twice is not None:
                return Problem(
                    "duplicate_field", f"$.{twice}", f"the name {twice!r} stands twice in the record"
                )
        strange = parts.keys() - self._known
        if strange and self.refuses_unknown:
            first, known = min(strange), ", ".join(sorted(self._known))
            return Problem(
                "unknown_field", f"$.{first}", f"no field of {self.schema.event} (there are: {known})"
            )
        for name in strange:
            short = name[:MAX_NAME_CHARS]
            unknown[short if short in unknown or len(unknown) < MAX_UNKNOWN_NAMES else OTHER_NAMES] += 1
        return None

    # ---- times

    def _check_times(self, batch: _Batch, records: Sequence[Record]) -> Ints:
        """int64[n] event times of the events that are left; those out of bounds become dead records."""
        feature_set = self.feature_set
        values = batch.column(feature_set.time_field)
        times_us = feature_set.time.microseconds(values)
        stamps_ms = np.array([records[at][1] for at in batch.index], np.int64)
        latest_us = np.where(stamps_ms > 0, stamps_ms * 1_000 + feature_set.max_ahead_us, LATEST_US)
        wrong = (times_us < feature_set.earliest_us) | (times_us > np.minimum(latest_us, LATEST_US))
        if feature_set.time.wants_offset:
            wrong |= np.array([value.tzinfo is None for value in values], np.bool_)
        if not wrong.any():
            return times_us
        refused = set(np.flatnonzero(wrong).tolist())
        for at in refused:
            problem = time_problem(values[at], int(times_us[at]), int(stamps_ms[at]), feature_set)
            batch.dead.append(DeadRecord(batch.index[at], *problem))
        batch.drop(refused)
        return times_us[~wrong]

    # ---- columns

    def _rows(self, batch: _Batch, times_us: Ints) -> Rows:
        layout = self.feature_set.layout
        numbers = np.empty((len(batch.events), len(layout.numbers)), np.float64)
        for column, name in enumerate(layout.numbers):
            numbers[:, column] = self._number(self.schema[name], batch, times_us)
        texts = tuple(self._text(self.schema[name], batch) for name in layout.texts)
        ids = self._text(self.schema[self.feature_set.id_field], batch)
        return Rows(layout, ids, times_us, numbers, texts)

    def _number(self, item: Field, batch: _Batch, times_us: Ints) -> Floats:
        if item.name == self.feature_set.time_field and item.kind == "time":
            return times_us / 1e6
        values = _with_default(item, batch.column(item.name))
        if item.kind == "time":
            return seconds(values, self.feature_set.time.zone)
        return np.array(values, np.float64)  # None becomes NaN

    def _text(self, item: Field, batch: _Batch) -> pa.StringArray:
        values = _with_default(item, batch.column(item.name))
        if item.integer:
            values = [None if value is None else str(value) for value in values]
        return pa.array(values, pa.string())


@dataclass
class _Batch:
    """The records that became events so far: event, index among the records and bytes, side by side."""

    events: list[Any]
    index: list[int]
    values: list[Any]
    dead: list[DeadRecord]
    columns: dict[str, list[Any]] = field(default_factory=dict)

    @cached_property
    def joined(self) -> bytes:
        """All bytes in a row, for questions whose answer is nearly always no. Never for reading JSON."""
        return b",".join(self.values)

    def add(self, event: Any, index: int, value: bytes | None) -> None:
        self.events.append(event)
        self.index.append(index)
        self.values.append(value)

    def drop(self, refused: Collection[int]) -> None:
        if not refused:
            return
        kept = [at for at in range(len(self.events)) if at not in refused]
        for rows in (self.events, self.index, self.values, *self.columns.values()):
            rows[:] = [rows[at] for at in kept]

    def column(self, name: str) -> list[Any]:
        """The values of a field, UNSET where it was left out."""
        if name not in self.columns:
            self.columns[name] = list(map(attrgetter(name), self.events))
        return self.columns[name]


def _with_default(item: Field, values: list[Any]) -> list[Any]:
    if item.required:
        return values
    default, unset = item.default, msgspec.UNSET
    return [default if value is unset else value for value in values]


_RAW: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _plain(value: bytes) -> bool:
    """Whether no white space can stand before a colon."""
    white = b"\n" in value or b"\t" in value or b"\r" in value
    return not white and (
        b" " not in value or b" :" not in value
    )  # one byte is found ten times faster than two


def _decoding_struct(feature_set: FeatureSet, keys: set[str]) -> type[msgspec.Struct]:
    """The user's struct without what only Python needs, with our own bounds, and UNSET where a field is left out."""
    required: list[tuple[str, Any]] = []
    optional: list[tuple[str, Any, Any]] = []
    bounds = dict.fromkeys(feature_set.layout.texts, MAX_TEXT_CHARS) | dict.fromkeys(keys, MAX_KEY_CHARS)
    for item in feature_set.schema.fields:
        kind = _bounded(item, bounds.get(item.name), is_id=item.name == feature_set.id_field)
        if item.required:
            required.append((item.name, kind))
        else:
            optional.append((item.name, kind | msgspec.UnsetType, msgspec.UNSET))
    names = {item.name: item.json_name for item in feature_set.schema.fields}
    return msgspec.defstruct(feature_set.schema.event, [*required, *optional], rename=names, gc=False)


def _bounded(item: Field, most_chars: int | None, *, is_id: bool) -> Any:
    """The type that is decoded: the user's constraints, tightened by our own bounds."""
    limits = item.limits
    if item.type is int and not {"ge", "gt"} & set(limits):
        limits["ge"] = -MAX_INTEGER - 1
    if item.type is int and not {"le", "lt"} & set(limits):
        limits["le"] = MAX_INTEGER
    if item.type is str and most_chars is not None and not item.choices:
        limits["max_length"] = min(most_chars, limits.get("max_length", most_chars))
    if item.type is str and is_id and not item.choices:
        limits["min_length"] = max(1, limits.get("min_length", 1))
    return item.decode_type(limits)
