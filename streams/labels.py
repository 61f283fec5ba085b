"""From the bytes of labels and actions to columns. A record becomes exactly one row, or exactly one dead record.

A label is a JSON object with `event_id`, the label under its name (or null: this event has none), the numbers that the
pipeline declares to come with it, and `known_at`, the moment from which on it was known (without it: the broker's time of
the record). An action has `event_id`, `action` and `at`. Times are written as the pipeline's event times are, or as RFC
3339 with an offset. Other fields are no matter of ours. What is wrong has the reasons of `features/diagnosis.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from features.decode import MAX_KEY_CHARS, DeadRecord, Record
from features.diagnosis import Problem, duplicated
from features.event_times import LATEST_US, instant_us
from features.feature_set import FeatureSet
from features.plan import Floats, Ints
from models.label import Label

EVENT_ID, KNOWN_AT = "event_id", "known_at"
ACTION, AT = "action", "at"

ACTIONS = ("passed", "reviewed", "blocked")
"""What consumers may have done upon a prediction; their places are their numbers. Only `blocked` prevents an outcome."""

BLOCKED = ACTIONS.index("blocked")

# Bytes of one record: a label is some hundred.
MAX_LABEL_BYTES = 64 * 1024

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Labels:
    """n labels. `codes` float64[n] as `Label.codes` gives them (NaN: null), `values` float64[n, len(Label.values)]."""

    event_ids: Sequence[str]
    known_us: Ints
    codes: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.event_ids)


@dataclass(frozen=True)
class Actions:
    """n actions. `actions` int64[n]: places in `ACTIONS`."""

    event_ids: Sequence[str]
    at_us: Ints
    actions: Ints

    def __len__(self) -> int:
        return len(self.event_ids)


class _BadRecordError(Exception):
    """Carries the problem out of the reading of one record."""

    def __init__(self, reason: str, path: str, detail: str) -> None:
        super().__init__(reason)
        self.problem = Problem(reason, path, detail)


class LabelDecoder:
    """Decodes the labels and actions of one pipeline. Holds no state between calls.

    Example:
        >>> from tests.shop_events import orders
        >>> pipeline = orders()
        >>> decoder = LabelDecoder(pipeline.feature_set, pipeline.label)
        >>> records = [(b'{"event_id": "o1", "returned": 1}', 1_714_521_600_000), (b'{"event_id": "o2"}', 0)]
        >>> labels, index, dead = decoder.labels(records)
        >>> labels.event_ids, labels.codes.tolist(), labels.known_us.tolist(), index
        (['o1'], [1.0], [1714521600000000], [0])
        >>> dead[0].reason, dead[0].path
        ('missing_field', '$.returned')
    """

    def __init__(self, feature_set: FeatureSet, label: Label, max_bytes: int = MAX_LABEL_BYTES) -> None:
        self._feature_set, self._label, self._max_bytes = feature_set, label, max_bytes
        self._whole_ids = feature_set.schema[feature_set.id_field].integer

    def labels(self, records: Sequence[Record]) -> tuple[Labels, list[int], list[DeadRecord]]:
        """The labels of a batch, which record each is, and the records that are none. Never raises for their content."""
        found, index, dead = _each(records, self._label_of)
        event_ids, known_us, codes, values = zip(*found, strict=True) if found else ((), (), (), ())
        width = len(self._label.values)
        columns = Labels(
            list(event_ids),
            np.array(known_us, np.int64),
            np.array(codes, np.float64),
            np.array(values, np.float64).reshape(len(found), width),
        )
        return columns, index, dead

    def actions(self, records: Sequence[Record]) -> tuple[Actions, list[int], list[DeadRecord]]:
        """Likewise of actions."""
        found, index, dead = _each(records, self._action_of)
        event_ids, at_us, actions = zip(*found, strict=True) if found else ((), (), ())
        columns = Actions(list(event_ids), np.array(at_us, np.int64), np.array(actions, np.int64))
        return columns, index, dead

    def _label_of(self, record: Record) -> tuple[str, int, float, tuple[float, ...]]:
        document = _document(record[0], self._max_bytes)
        event_id = self._event_id(document)
        name = self._label.name
        if name not in document:
            raise _BadRecordError("missing_field", f"$.{name}", f"the required field {name!r} is not there")
        code = self._code(document[name])
        values = tuple(_number(document, value) for value in self._label.values)
        if math.isnan(code):  # an event without a label has nothing that comes with one
            values = (math.nan,) * len(values)
        return event_id, self._moment(document, KNOWN_AT, record[1]), code, values

    def _action_of(self, record: Record) -> tuple[str, int, int]:
        document = _document(record[0], self._max_bytes)
        event_id = self._event_id(document)
        action = _required(document, ACTION)
        if action not in ACTIONS:
            raise _BadRecordError("out_of_range", f"$.{ACTION}", "expected one of " + ", ".join(ACTIONS))
        return event_id, self._moment(document, AT, record[1]), ACTIONS.index(action)

    def _event_id(self, document: Document) -> str:
        value, path = _required(document, EVENT_ID), f"$.{EVENT_ID}"
        if self._whole_ids and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise _BadRecordError("wrong_type", path, f"expected a text, got {_kind(value)}")
        if not value:
            raise _BadRecordError("out_of_range", path, "an event's id is not empty")
        if len(value) > MAX_KEY_CHARS:
            raise _BadRecordError(
                "key_too_long", path, f"an id of more than {MAX_KEY_CHARS} characters is no event's"
            )
        return value

    def _code(self, value: object) -> float:
        if value is None:
            return math.nan
        code = self._label.code(value)
        if code is None:
            reason = "wrong_type" if isinstance(value, list | dict) else "out_of_range"
            detail = f"expected {self._label.expected}, or null"
            raise _BadRecordError(reason, f"$.{self._label.name}", detail)
        return code

    def _moment(self, document: Document, name: str, stamp_ms: int) -> int:
        value, path = document.get(name), f"$.{name}"
        if value is None:
            if stamp_ms <= 0:
                raise _BadRecordError(
                    "missing_field", path, "neither the record nor the broker says when this was"
                )
            return stamp_ms * 1_000
        moment_us = self._microseconds(value, path)
        features = self._feature_set
        if moment_us < features.earliest_us:
            raise _BadRecordError("time_too_early", path, "this is before the pipeline's earliest")
        if moment_us > LATEST_US:
            raise _BadRecordError("time_too_late", path, "this is after the year 2199")
        if stamp_ms > 0 and moment_us > stamp_ms * 1_000 + features.max_ahead_us:
            raise _BadRecordError(
                "time_ahead", path, "this is further past the broker's clock than the pipeline's max_ahead"
            )
        return moment_us

    def _microseconds(self, value: object, path: str) -> int:
        time = self._feature_set.time
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not time.scale_us:
                raise _BadRecordError("wrong_type", path, "expected a time such as 2013-04-01T10:15:00Z")
            return int(time.microseconds([value])[0])
        if not isinstance(value, str):
            raise _BadRecordError("wrong_type", path, f"expected a time, got {_kind(value)}")
        moment = _clock_time(value, path)
        if moment.tzinfo is None and time.zone is None and not time.dates:
            raise _BadRecordError(
                "bad_time", path, "a clock time without an offset: whose? (add Z or +02:00)"
            )
        return instant_us(moment, time.zone)


def _each(
    records: Sequence[Record], read: Callable[[Record], Any]
) -> tuple[list[Any], list[int], list[DeadRecord]]:
    found: list[Any] = []
    index: list[int] = []
    dead: list[DeadRecord] = []
    for at, record in enumerate(records):
        try:
            found.append(read(record))
            index.append(at)
        except _BadRecordError as bad:
            dead.append(DeadRecord(at, *bad.problem))
    return found, index, dead


def _document(value: bytes | None, max_bytes: int) -> Document:
    if not value:
        raise _BadRecordError("empty", "$", "the record has no value")
    if len(value) > max_bytes:
        raise _BadRecordError("too_large", "$", f"{len(value):,} bytes, at most {max_bytes:,} are taken")
    try:
        document = _JSON.decode(value)
        value.decode()
    except RecursionError as error:
        raise _BadRecordError("too_deep", "$", "JSON nested too deeply to be read") from error
    except (msgspec.MsgspecError, ValueError) as error:
        detail = str(error).removeprefix("JSON is malformed: ")
        raise _BadRecordError("not_json", "$", detail) from error
    if not isinstance(document, dict):
        raise _BadRecordError("not_an_object", "$", f"{_kind(document)}, where an object belongs")
    # A name stands before every `":`; of one that stands twice the decoder would keep the last value without a word.
    twice = duplicated(value) if value.count(b'":') != len(document) else None
    if twice is not None:
        raise _BadRecordError(
            "duplicate_field", f"$.{twice}", f"the name {twice!r} stands twice in the record"
        )
    return document


_JSON = msgspec.json.Decoder()


def _required(document: Document, name: str) -> Any:
    if name not in document:
        raise _BadRecordError("missing_field", f"$.{name}", f"the required field {name!r} is not there")
    return document[name]


def _number(document: Document, name: str) -> float:
    value = document.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _BadRecordError("wrong_type", f"$.{name}", f"expected a number or null, got {_kind(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise _BadRecordError(
            "not_finite", f"$.{name}", "the number is too large for a 64-bit float"
        ) from error


def _clock_time(value: str, path: str) -> datetime:
    try:
        return datetime.fromisoformat(value)  # a day alone is midnight
    except ValueError as error:
        raise _BadRecordError("bad_time", path, "expected a time such as 2013-04-01T10:15:00Z") from error


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "a text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), "another type")
