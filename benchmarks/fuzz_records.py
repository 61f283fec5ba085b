"""Records that a sender should not send, and some that it should; and a judge of which is which.

The judge is Python's own `json` and the rules of docs/recipes/pipeline.md in plain `if`s: nothing of the product.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from driftwood import Entity, Label, Pipeline, categorical, expression, hour_of_day, known_later, personal

EARLIEST_MS = 946_684_800_000  # 2000-01-01, the default of `earliest`
AHEAD_MS = 3_600_000  # the default of `max_ahead`
MAX_BYTES = 16_384


class Payment(msgspec.Struct):
    """The event that is fuzzed: a field of every kind."""

    id: str
    at: int
    card: Annotated[str | None, personal]
    amount: Annotated[float, Meta(ge=0, le=1e6)]
    online: bool
    balance: float | None = None
    items: int | None = None
    kind: Literal["in", "out"] | None = None
    paid_at: datetime | None = None
    note: str | None = None
    refunded: Annotated[bool, known_later] = False


card, kind = Entity("card"), Entity("kind")
PAYMENTS = Pipeline(
    "fuzzed",
    event=Payment,
    id="id",
    time="at",
    time_unit="ms",
    features=[
        "amount",
        "balance",
        categorical("note"),
        hour_of_day(of="paid_at"),
        card.count("1h", "1d"),
        card.mean("balance", "1h"),
        card.distinct("note", "1h"),
        kind.sum("amount * items", "2h", name="kind_turnover"),
        kind.last("balance"),
        expression("share", "amount / kind_turnover_2h"),
    ],
    label=Label("fraud"),
    fallback="amount / 1000000",
)

# ---- the judge

# An offset may also stand without its colon (ISO 8601's basic form): it says the same moment.
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)


def is_good(value: bytes | None, timestamp_ms: int) -> bool:
    """Whether the rules accept a record that the broker stamped so."""
    if not value or len(value) > MAX_BYTES:
        return False
    try:
        record, names = _read(value.decode())
        return (
            isinstance(record, dict)
            and len(names) == len(set(names))
            and all(name in record for name in ("id", "at", "card", "amount", "online"))
            and record["at"] <= timestamp_ms + AHEAD_MS
            and all(_fits(name, given) for name, given in record.items())
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False


def _read(text: str) -> tuple[Any, list[str]]:
    """The JSON value and the names of the outermost object as they stand. Refuses NaN and halves of surrogate pairs."""
    last: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        last[:] = [name for name, _ in pairs]
        # What stands under a name twice would else be lost unseen.
        return (
            {**dict(pairs), "(all)": [value for _, value in pairs]}
            if len(dict(pairs)) < len(pairs)
            else dict(pairs)
        )

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    def whole(digits: str) -> float:
        return int(digits) if len(digits) < 400 else math.inf

    record = json.loads(text, object_pairs_hook=note, parse_constant=refuse, parse_int=whole)
    json.dumps(record, ensure_ascii=False).encode()
    return record, last


def _fits(name: str, value: Any) -> bool:
    rule = _RULES.get(name)
    return rule is None or rule(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))


def _moment(value: Any) -> bool:
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        return False
    # Python before 3.13 takes fractions of up to 6 digits only; further ones are no matter of right or wrong.
    datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", value.upper()))
    return True


def _text(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) <= most


def _or_null(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


_RULES: dict[str, Callable[[Any], bool]] = {
    "id": lambda value: isinstance(value, str) and 1 <= len(value) <= 256,
    "at": lambda value: _whole(value) and value >= EARLIEST_MS,
    "card": _or_null(_text(256)),
    "amount": lambda value: _number(value) and 0 <= value <= 1e6,
    "online": lambda value: isinstance(value, bool),
    "balance": _or_null(_number),
    "items": _or_null(_whole),
    "kind": _or_null(lambda value: value in ("in", "out")),
    "paid_at": _or_null(_moment),
    "note": _or_null(_text(1_024)),
    "refunded": lambda value: isinstance(value, bool),
}

# ---- the records


class Fuzzed(NamedTuple):
    """A record for `events`."""

    value: bytes | None
    timestamp_ms: int


_NAMES = [*_RULES, "new", "x y", "fraud", "known_at", "", "é🚕", "N" * 100]

# Values as they would stand in the record: what JSON has, what it has not, and what it has but nobody means.
_TOKENS = [
    *("null", "true", "false", "0", "-0", "-1", "3.5", "1e5", "1E-400", "1e999", "-1e999", "NaN", "Infinity", "-Infinity"),
    *("01", "+1", ".5", "1.", "0x10", "1_000", "1e", "--1", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775809", "9" * 40, "9" * 350, "9" * 5_000, "1000000.0000001", "0.1e7", "4.9e-324", "1.7e308"),
    *('""', '"x"', '"12"', '"in"', '"IN"', '"NaN"', '"\\u0000"', '"\\ud83d\\ude95"', '"\\ud800"', '"\\udc00x"', '"a\\":b"'),
    *('"tab\there"', '"\x7f"', '"é🚕"', '"\\x41"', '"unfinished', "'single'", "[]", "{}", "[1,2]", '{"id":"1"}', "[[[]]]"),
    *('{"a":1,"a":2}', '"2024-01-01"', '"2024-01-01T00:00:00"', '"2024-01-01T00:00:00Z"', '"2024-02-30T00:00:00Z"'),
    *('"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"2024-01-01T24:00:00Z"', '"2024-01-01T00:00:00+5"'),
    *("1700000000", "1700000000000", "1700000000000000", "1.7e12", "1700000000000.0", "4102444800000", "253402300799000"),
    *("946684800000", "946684799999", "[" * 300 + "]" * 300, "[" * 4_000, "[" * 4_000 + "]" * 4_000, "undefined", "None"),
]  # fmt: skip
_FRAGMENTS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\n",
    b"\\",
    b"\\u0061",
    b"\\ud800",
    b"\xff",
    b"\xc3\xa9",
]
_FRAGMENTS += [
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x00",
    b"null",
    b"NaN",
    b"1e999",
    b"-",
    b"9" * 25,
    b'"at" :1',
    b"//",
    b"e",
]
_SEPARATORS = [(",", ":"), (", ", ": "), (",", " : "), (" ,\r\n", "\t:\t")]


def fuzzed(source: random.Random, number: int) -> Fuzzed:
    """The record number `number`: a third are as they should be, the others damaged in one way or several."""
    timestamp_ms = 1_700_000_000_000 + 200 * number + source.randrange(200)
    way = source.random()
    if way < 0.03:
        return Fuzzed(
            source.choice([None, b"", b" ", b"\n", source.randbytes(source.randrange(1, 200))]), timestamp_ms
        )
    if way < 0.06:
        return Fuzzed(_any_json(source, 3).encode(errors="surrogatepass"), timestamp_ms)
    if way < 0.07:
        return Fuzzed(_label(source), timestamp_ms)
    fields = _payment(source, number, timestamp_ms)
    if way < 0.45:
        return Fuzzed(_written(source, fields), timestamp_ms)
    for _ in range(source.choice([1, 1, 1, 2, 4])):
        _spoil(source, fields, timestamp_ms)
    value = _written(source, fields)
    for _ in range(source.choice([0, 0, 0, 1, 3]) if way < 0.8 else source.randrange(1, 6)):
        at, length = source.randrange(len(value)), source.randrange(4)
        new = source.choice([b"", source.choice(_FRAGMENTS), bytes([source.randrange(256)])])
        value = (value[:at] + new + value[at + length :]) or b"{"
    return Fuzzed(value, timestamp_ms)


def _payment(source: random.Random, number: int, timestamp_ms: int) -> list[tuple[str, str]]:
    again = number - source.randrange(1, 500) if source.random() < 0.02 else number
    at = timestamp_ms - source.choice([0, 1, 1_000, 60_000, 7_200_000, -3_500_000])
    fields = {
        "id": f'"p{again}"',
        "at": str(at),
        "card": source.choice(["null", f'"c{source.randrange(2_000)}"']),
        "amount": repr(round(source.uniform(0, 1e6), source.randrange(5))),
        "online": source.choice(["true", "false"]),
        "balance": source.choice(["null", "0.0", repr(source.gauss(0, 1e9))]),
        "items": source.choice(["null", str(source.randrange(100))]),
        "kind": source.choice(["null", '"in"', '"out"']),
        "paid_at": source.choice(["null", '"2023-11-14T22:13:20.5+05:45"', '"2023-11-14t22:13:20z"']),
        "note": source.choice(["null", '"gift"', '"für dich 🎁"', '"a\\tb"']),
        "refunded": "false",
    }
    items = list(fields.items())
    items = items[:5] + source.sample(items[5:], source.randrange(7))
    if source.random() < 0.5:
        source.shuffle(items)
    return items


def _spoil(source: random.Random, fields: list[tuple[str, str]], timestamp_ms: int) -> None:
    at = source.randrange(len(fields)) if fields else -1
    way = source.random()
    if way < 0.12 and at >= 0:
        del fields[at]
    elif way < 0.22 and at >= 0:
        fields.append((fields[at][0], source.choice([fields[at][1], source.choice(_TOKENS)])))
    elif way < 0.32:
        fields.append((source.choice(_NAMES), _any_json(source, 3)))
    elif way < 0.37:
        length = source.choice([256, 257, 1_024, 1_025, 5_000, MAX_BYTES, 40_000])
        fields.append((source.choice(["note", "card", "id", "new"]), f'"{source.choice("xé") * length}"'))
    elif way < 0.45:
        moved = timestamp_ms + source.choice([3_599_999, 3_600_000, 3_600_001, 10**12, -(10**12), 0])
        fields[:] = [(name, str(moved) if name == "at" else token) for name, token in fields]
    elif at >= 0:
        fields[at] = (fields[at][0], source.choice(_TOKENS))


def _any_json(source: random.Random, depth: int) -> str:
    way = source.random() if depth else 0.0
    if way < 0.6:
        return source.choice(_TOKENS)
    parts = [_any_json(source, depth - 1) for _ in range(source.randrange(5))]
    if way < 0.8:
        return "[" + ",".join(parts) + "]"
    return "{" + ",".join(f'"{source.choice(_NAMES)}":{part}' for part in parts) + "}"


def _label(source: random.Random) -> bytes:
    record = {
        "id": f"p{source.randrange(10**6)}",
        "fraud": source.choice([0, 1, True]),
        "known_at": "2024-01-01T00:00:00Z",
    }
    return json.dumps(record).encode()


def _written(source: random.Random, fields: list[tuple[str, str]]) -> bytes:
    between, after = source.choice(_SEPARATORS)
    text = between.join(f'"{name}"{after}{token}' for name, token in fields)
    return ("{" + text + "}").encode(errors="surrogatepass")
