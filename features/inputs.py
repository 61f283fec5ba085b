"""The input columns of an entity's windows, worked out from a batch of events."""

from __future__ import annotations

from functools import lru_cache

import mmh3
import numpy as np
import pyarrow as pa

from features.expressions import Expression, parse_expression
from features.plan import EntityPlan, Floats, Hashes, Input
from features.rows import RowLayout, Rows
from features.schema import Kind


def entity_inputs(plan: EntityPlan, rows: Rows) -> tuple[Floats, Hashes]:
    """(float64[n, len(plan.inputs)], uint64[n, len(plan.hashed)]) for n events.

    A null value or a condition that does not hold is NaN among the numbers and 0 among the hashes.
    """
    numbers = np.empty((len(rows), len(plan.inputs)), np.float64)
    for column, given in enumerate(plan.inputs):
        numbers[:, column] = _numbers(given, rows)
    hashes = np.empty((len(rows), len(plan.hashed)), np.uint64)
    for column, given in enumerate(plan.hashed):
        hashes[:, column] = _hashes(given, rows)
    return numbers, hashes


def hash_texts(texts: pa.StringArray) -> Hashes:
    """uint64[n]: MurmurHash3 of the UTF-8 bytes, equal on every machine; 0 for null.

    Example:
        >>> hash_texts(pa.array(["JFK", None, "JFK"])).tolist()
        [7425777529508795112, 0, 7425777529508795112]
    """
    hash64 = mmh3.hash64
    # 0 means "no value": a text that hashes to 0 (one in 2^64) counts as the one that hashes to 1.
    hashed = [0 if text is None else hash64(text, signed=False)[0] or 1 for text in texts.to_pylist()]
    return np.array(hashed, np.uint64)


def hash_numbers(numbers: Floats) -> Hashes:
    """uint64[n]: the bits of each number, mixed (the finaliser of MurmurHash3); 0 for NaN. -0.0 is 0.0."""
    # The constant (2^64 over the golden ratio) keeps 0.0, whose bits are all zero, from hashing to 0.
    bits = (numbers + 0.0).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xFF51AFD7ED558CCD)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xC4CEB9FE1A85EC53)
    bits ^= bits >> np.uint64(33)
    bits[bits == 0] = 1
    bits[np.isnan(numbers)] = 0
    return bits


def _numbers(given: Input, rows: Rows) -> Floats:
    if given.value is None:
        values = np.ones(len(rows))
    elif given.value in rows.layout.numbers:
        values = rows.number(given.value)
    else:
        values = _parsed(given.value, rows.layout).evaluate(rows)
    return values if given.where is None else np.where(_holds(given.where, rows), values, np.nan)


def _hashes(given: Input, rows: Rows) -> Hashes:
    if given.value in rows.layout.texts:
        values = hash_texts(rows.text(str(given.value)))
    else:
        values = hash_numbers(_numbers(Input(given.value), rows))
    return values if given.where is None else np.where(_holds(given.where, rows), values, np.uint64(0))


def _holds(condition: str, rows: Rows) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    holds: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (
        _parsed(condition, rows.layout).evaluate(rows) == 1
    )
    return holds


@lru_cache(maxsize=1024)  # a pipeline has tens of expressions; parsed once, they are read for every batch
def _parsed(text: str, layout: RowLayout) -> Expression:
    # The pipeline has checked it against the schema. Here a number may serve as a condition, because the layout no
    # longer tells booleans from numbers.
    kinds: dict[str, Kind] = dict.fromkeys(layout.texts, "text")
    kinds.update(dict.fromkeys(layout.numbers, "boolean"))
    return parse_expression(text, kinds, "window input")
