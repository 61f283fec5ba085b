# ruff: noqa: SLF001, FBT001  # River has no door to what its splitters keep; a pickle hands arguments on by place
"""What the leaves of River's trees keep of every feature, in few bytes: numbers in arrays instead of objects in objects.

A leaf has a splitter for each feature, and a splitter some objects for each class (or slot) of which a pickle writes every
attribute. As arrays a tree of 40 features is a third as long and written in a fraction of the time. And equal trees are
equal bytes: a pickle writes an object that stands in two places once, and another one that merely equals it twice.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from typing import Any

from river.proba import Gaussian
from river.stats import Mean, Var
from river.tree.splitter import GaussianSplitter, QOSplitter
from river.tree.splitter.qo_splitter import Slot


def reduced(splitter: object) -> Any:
    """What `pickle.Pickler.reducer_override` answers for a splitter of these two kinds; NotImplemented for all else."""
    if type(splitter) is GaussianSplitter:
        return _gaussian_splitter, _of_gaussians(splitter)
    if type(splitter) is QOSplitter and _is_plain(splitter):
        return _quantised_splitter, _of_slots(splitter)
    return NotImplemented


def _of_gaussians(splitter: Any) -> tuple[Any, ...]:
    classes = splitter._att_dist_per_class
    least, most = splitter._min_per_class, splitter._max_per_class
    rows = ((*_of_variance(gaussian._var), least[name], most[name]) for name, gaussian in classes.items())
    return splitter.n_splits, tuple(classes), _packed(rows)


def _gaussian_splitter(n_splits: int, names: tuple[Any, ...], packed: bytes) -> Any:
    made: Any = GaussianSplitter(n_splits)
    for name, (rows, mean, squares, least, most) in zip(names, _rows(packed, 5), strict=True):
        gaussian: Any = object.__new__(Gaussian)
        gaussian.seed, gaussian._rng = None, random.Random(0)  # it only draws samples for people
        gaussian._var = _variance(rows, mean, squares)
        made._att_dist_per_class[name] = gaussian
        made._min_per_class[name], made._max_per_class[name] = least, most
    return made


def _is_plain(splitter: Any) -> bool:
    """One target, as everywhere here: River keeps those of several in dictionaries."""
    return all(slot.is_single_target for slot in splitter._quantizer.hash.values())


def _of_slots(splitter: Any) -> tuple[Any, ...]:
    slots = splitter._quantizer.hash
    rows = ((slot.x_stats.n, slot.x_stats._mean, *_of_variance(slot.y_stats)) for slot in slots.values())
    return splitter.radius, splitter.allow_multiway_splits, tuple(slots), _packed(rows)


def _quantised_splitter(radius: float, multiway: bool, places: tuple[int, ...], packed: bytes) -> Any:
    made: Any = QOSplitter(radius, multiway)
    for place, (rows, mean, *target) in zip(places, _rows(packed, 5), strict=True):
        slot: Any = Slot(0.0, 0.0, 1.0)
        slot.x_stats, slot.y_stats = _mean(rows, mean), _variance(*target)
        made._quantizer.hash[place] = slot
    return made


def _of_variance(variance: Any) -> tuple[float, float, float]:
    return variance.mean.n, variance.mean._mean, variance._S


def _variance(rows: float, mean: float, squares: float) -> Any:
    made: Any = Var()
    made.mean, made._S = _mean(rows, mean), squares
    return made


def _mean(rows: float, mean: float) -> Any:
    made: Any = Mean()
    made.n, made._mean = rows, mean
    return made


def _packed(rows: Iterable[Iterable[float]]) -> bytes:
    numbers = array("d")
    for row in rows:
        numbers.extend(row)
    return numbers.tobytes()


def _rows(packed: bytes, width: int) -> Iterable[tuple[float, ...]]:
    numbers = array("d")
    numbers.frombytes(packed)
    return zip(*[iter(numbers)] * width, strict=True)
