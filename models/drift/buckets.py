"""Buckets: whole numbers that stand for values, the same on every machine, so that counts of them can be added exactly.

A number's bucket follows its order of magnitude, as in DDSketch (Masson, Rim, Lee: DDSketch, VLDB 2019): two numbers of one
bucket differ by 2 % at most, whatever their size, and nothing about the data has to be known before. Buckets stand in the
order of their values. A probability is taken by its logit, so that 0.001 and 0.002 differ, and 0.998 and 0.999 as well. A
category's bucket is a hash: 1,024 of them, however many categories there are.
"""

from __future__ import annotations

from typing import Final

import mmh3
import numpy as np
import pyarrow as pa

from features.plan import Floats, Ints
from models.drift.columns import ColumnKind

MISSING: Final = 0
BELOW: Final = 1
"""Minus infinity, of a number."""
_FIRST: Final = 2

# Two values of a bucket differ by 2 %: a mean is off by 1 % at most, and thirty features of a thousand rows take some 100 KB.
GAMMA: Final = 1.02
# What is nearer to zero is zero, what is further away is counted at the edge: money, counts, seconds and ratios all fit.
SMALLEST: Final = 1e-9
LARGEST: Final = 1e15
_STEPS: Final = int(np.ceil(np.log(LARGEST / SMALLEST) / np.log(GAMMA)))
_ZERO: Final = _FIRST + _STEPS
ABOVE: Final = _ZERO + _STEPS + 1
"""Infinity, of a number."""

# Of probabilities: logits from -15 to 15, that is 3e-7 to 1 - 3e-7, in steps of a twentieth.
_LOGIT_END: Final = 15.0
_LOGIT_STEP: Final = 0.05
_LOGITS: Final = round(2 * _LOGIT_END / _LOGIT_STEP)

CATEGORIES: Final = 1_024
"""Buckets of categories: 1 to 1,024. Among fifty categories one in twenty shares its bucket with another."""

WIDTHS: Final[dict[ColumnKind, int]] = {
    "number": ABOVE + 1,
    "probability": _FIRST + _LOGITS + 1,
    "category": CATEGORIES + 1,
}
"""How many buckets there are of each kind."""


def number_buckets(values: Floats) -> Ints:
    """int64 of the same shape; NaN is `MISSING`.

    Example:
        >>> found = number_buckets(np.array([np.nan, -3.0, 0.0, 99.0, 100.0, np.inf]))
        >>> found[0] == MISSING, found[-1] == ABOVE, (np.diff(found) >= 0).all()
        (np.True_, np.True_, np.True_)
    """
    sizes = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.ceil(np.log(sizes / SMALLEST) * (1 / np.log(GAMMA)))
    steps = np.clip(np.where(sizes > SMALLEST, steps, 0.0), 0, _STEPS)
    found = _ZERO + np.copysign(steps, values)
    found = np.where(np.isinf(values), np.where(values > 0, ABOVE, BELOW), found)
    buckets: Ints = np.where(np.isnan(values), MISSING, found).astype(np.int64)
    return buckets


def probability_buckets(values: Floats) -> Ints:
    """int64 of the same shape; NaN is `MISSING`, what is outside of 0 to 1 is counted at the edge.

    Example:
        >>> bucket_values("probability", probability_buckets(np.array([0.008, 0.5]))).round(3).tolist()
        [0.008, 0.5]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(values / (1 - values))
    # Outside of 0 to 1 there is no logit.
    logits = np.where(values <= 0, -_LOGIT_END, np.where(values >= 1, _LOGIT_END, logits))
    steps = np.rint((np.clip(logits, -_LOGIT_END, _LOGIT_END) + _LOGIT_END) / _LOGIT_STEP)
    buckets: Ints = np.where(np.isnan(values), MISSING, _FIRST + steps).astype(np.int64)
    return buckets


def category_buckets(texts: pa.StringArray, *, named: bool = True) -> tuple[Ints, dict[int, str]]:
    """int64[n] (null is `MISSING`), and of each bucket that occurs a category in it: of several the first of the alphabet.

    Without `named` no names.

    Example:
        >>> buckets, names = category_buckets(pa.array(["DE", None, "DE"]))
        >>> buckets[0] == buckets[2], buckets[1] == MISSING, [*names.values()]
        (np.True_, np.True_, ['DE'])
    """
    coded = texts.dictionary_encode()
    known = coded.dictionary.to_pylist()
    hashes = np.array([MISSING, *map(category_bucket, known)], np.int64)
    places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    names: dict[int, str] = {}
    for bucket, name in zip(hashes[1:].tolist(), known, strict=True) if named else ():
        names[bucket] = min(names.get(bucket, name), name)
    buckets: Ints = hashes[places + 1]
    return buckets, names


def category_bucket(name: str) -> int:
    """The bucket of one category."""
    return 1 + mmh3.hash(name, signed=False) % CATEGORIES


def bucket_values(kind: ColumnKind, buckets: Ints) -> Floats:
    """A value for each bucket, in its middle; NaN for `MISSING`. Raises KeyError for categories, which have none.

    Example:
        >>> bucket_values("number", number_buckets(np.array([-250.0, 0.0, 3.0]))).round(0).tolist()
        [-251.0, 0.0, 3.0]
    """
    found = {"number": _number_values, "probability": _probability_values}[kind](buckets)
    values: Floats = np.where(buckets == MISSING, np.nan, found)
    return values


def _number_values(buckets: Ints) -> Floats:
    steps = buckets - _ZERO
    # The middle of (SMALLEST * GAMMA^(k-1), SMALLEST * GAMMA^k] by ratio.
    sizes = SMALLEST * GAMMA ** (np.abs(steps) - 0.5)
    values = np.where(steps == 0, 0.0, np.sign(steps) * sizes)
    infinite: Floats = np.where(buckets == ABOVE, np.inf, np.where(buckets == BELOW, -np.inf, values))
    return infinite


def _probability_values(buckets: Ints) -> Floats:
    logits = (buckets - _FIRST) * _LOGIT_STEP - _LOGIT_END
    values: Floats = 1 / (1 + np.exp(-logits))
    return values
