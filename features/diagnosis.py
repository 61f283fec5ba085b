"""Why a record cannot be used: one stable reason, the JSON path of the trouble, and a sentence for its sender.

The reasons, which consumers of dead letters may rely on:

    empty            no value at all (a tombstone, or zero bytes)
    too_large        more bytes than are taken
    not_json         not UTF-8, not JSON, or JSON that is cut off
    too_deep         JSON nested more deeply than can be read
    not_an_object    JSON, but an array, a text, a number or null
    label_in_events  a label's record where an event belongs
    missing_field    a required field is not there
    wrong_type       a field has another type than declared (null included, where it may not be null)
    bad_time         a text that is no time, or a clock time without an offset
    not_finite       NaN, Infinity, or a number too large for a float
    out_of_range     outside the declared range, choices, pattern or length, or a whole number of more than 64 bits
    key_too_long     an event id or entity key beyond 256 characters
    text_too_long    another text that a feature is made of, beyond 1,024 characters
    texts_too_long   all such texts, ids and keys together, beyond 512 KiB of JSON
    duplicate_field  a name that stands twice in the record
    unknown_field    a name that is not declared, where the setting refuses these
    time_too_early   before the pipeline's `earliest`
    time_too_late    after the year 2199
    time_ahead       further past the broker's clock than the pipeline's `max_ahead`
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from features.durations import duration_text
from features.event_times import LATEST_US
from features.feature_set import FeatureSet
from features.schema import EventSchema


class Problem(NamedTuple):
    """Why a record cannot be used."""

    reason: str
    path: str
    detail: str


_AT_PATH = re.compile(r" - at `(\$.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_KEY_TOO_LONG = re.compile(r"Expected `str.*` of length <= 256")
_TEXT_TOO_LONG = re.compile(r"Expected `str.*` of length <= 1024")


def diagnose(value: bytes, error: Exception, schema: EventSchema, label_fields: tuple[str, str]) -> Problem:
    """What is wrong with a record that msgspec refused with this error."""
    if isinstance(error, RecursionError):
        return Problem("too_deep", "$", "JSON nested too deeply to be read")
    if isinstance(error, UnicodeDecodeError):
        return Problem("not_json", "$", "the record is not UTF-8 text")
    message = str(error)
    if type(error).__name__ != "ValidationError":
        return _malformed(value, message)
    at = _AT_PATH.search(message)
    path, message = (at[1], message[: at.start()]) if at else ("$", message)
    missing = _MISSING.match(message)
    if path == "$" and not missing:
        return Problem("not_an_object", "$", f"{message}: an event is a JSON object")
    if missing and _is_label(value, schema, label_fields):
        return Problem(
            "label_in_events", "$", "this is a label's record: it belongs into the topic of labels"
        )
    if missing:
        return Problem(
            "missing_field", f"{path}.{missing[1]}", f"the required field {missing[1]!r} is not there"
        )
    return Problem(_reason(message), path, _detail(message, path, schema))


def duplicated(value: bytes) -> str | None:
    """The first name that stands twice at the top of the record, or None. (Inside other values it is not our matter.)"""
    last: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        last[:] = [name for name, _ in pairs]  # the outermost object is finished last

    try:
        # Numbers stay as they are written: Python refuses whole numbers of more than 4,300 digits.
        json.loads(value, object_pairs_hook=note, parse_int=str)
    except (ValueError, RecursionError):
        return None
    seen: set[str] = set()
    for name in last:
        if name in seen:
            return name
        seen.add(name)
    return None


def time_problem(value: object, time_us: int, stamp_ms: int, feature_set: FeatureSet) -> Problem:
    """What is wrong with an event time that lies outside the pipeline's bounds."""
    path = f"$.{feature_set.schema[feature_set.time_field].json_name}"
    if feature_set.time.wants_offset and isinstance(value, datetime) and value.tzinfo is None:
        return Problem(
            "bad_time", path, "a clock time without an offset: whose? (add Z or +02:00, or declare time_zone)"
        )
    shown = _shown_time(value, time_us)
    if time_us < feature_set.earliest_us:
        hint = _unit_hint(time_us, feature_set)
        return Problem(
            "time_too_early", path, f"{shown} is before {_text(feature_set.earliest_us)} (earliest){hint}"
        )
    if time_us > LATEST_US:
        hint = _unit_hint(time_us, feature_set)
        return Problem("time_too_late", path, f"{shown} is after {_text(LATEST_US)}{hint}")
    ahead = duration_text(feature_set.max_ahead_us)
    stamp = _text(stamp_ms * 1_000)
    return Problem(
        "time_ahead", path, f"{shown} is more than {ahead} (max_ahead) past the broker's clock ({stamp})"
    )


def _malformed(value: bytes, message: str) -> Problem:
    """JSON that msgspec cannot read. Python's reader takes NaN and Infinity, which tells these apart."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return Problem("not_json", "$", "the record is not UTF-8 text")
    odd: list[str] = []

    def note(constant: str) -> float:
        odd.append(constant)
        return math.nan

    try:
        record = json.loads(value, parse_constant=note)
    except (ValueError, RecursionError):
        return Problem("not_json", "$", message.removeprefix("JSON is malformed: "))
    if odd:
        return Problem(
            "not_finite", _path_of_nan(record), f"{odd[0]} is no JSON number; send null for a missing value"
        )
    return Problem("not_json", "$", f"{message} (half of a surrogate pair is no character)")


def _path_of_nan(record: object) -> str:
    if isinstance(record, dict):
        for name, value in record.items():
            if isinstance(value, float) and math.isnan(value):
                return f"$.{name}"
    return "$"


def _is_label(value: bytes, schema: EventSchema, label_fields: tuple[str, str]) -> bool:
    try:
        record = json.loads(value, parse_int=str)
    except (ValueError, RecursionError):
        return False
    declared = {field.json_name for field in schema.fields}
    if not isinstance(record, Mapping):
        return False
    label, known_at = label_fields
    return known_at in record and any(name in record and name not in declared for name in (label, "label"))


def _reason(message: str) -> str:
    if message.startswith("Number out of range"):
        return "not_finite"
    if message.startswith("Invalid RFC3339") or "timezone component" in message:
        return "bad_time"
    if _KEY_TOO_LONG.match(message):
        return "key_too_long"
    if _TEXT_TOO_LONG.match(message):
        return "text_too_long"
    if ", got `" in message:
        return "wrong_type"
    return "out_of_range"


def _detail(message: str, path: str, schema: EventSchema) -> str:
    """The sentence, without any value: the field may be personal."""
    field = next((field for field in schema.fields if path == f"$.{field.json_name}"), None)
    if message.startswith("Invalid enum value") and field is not None:
        return "expected one of " + ", ".join(repr(choice) for choice in field.choices)
    if message.startswith("Number out of range"):
        return "the number is too large for a 64-bit float"
    return message[0].lower() + message[1:].replace("`", "")


def _unit_hint(time_us: int, feature_set: FeatureSet) -> str:
    """Whether the number would be a plausible time in another unit."""
    scale = feature_set.time.scale_us
    if not scale:
        return ""
    for name, other in (("seconds", 1_000_000), ("milliseconds", 1_000), ("microseconds", 1)):
        if other != scale and feature_set.earliest_us <= time_us // scale * other <= LATEST_US:
            return f": these look like {name}"
    return ""


def _shown_time(value: object, time_us: int) -> str:
    """As it was sent, and in UTC where that is another text: numbers and clock times do not compare by eye."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat()
    sent = value.isoformat() if isinstance(value, datetime) else str(value)
    try:
        return f"{sent} ({_text(time_us)})"
    except OverflowError:  # outside the years 1 to 9999
        return sent


def _text(time_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%SZ")
