"""One mini-batch of outcomes: what was served, and what became of it. One record of `outcomes` is one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import mmh3
import numpy as np
import numpy.typing as npt

from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints
from models.online_model import taken
from models.outcomes import LEARNT

Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matured:
    """n outcomes in the order of the join stage; every array has n rows.

    - `times_us`, `known_us`: event time, and when the outcome became known (a time-out: when it fell due).
    - `kinds`: the outcome's name (`models/outcomes.py`); `codes`: the label as `Label.codes` gives it, NaN for none;
      `replaced`: the code that a correction takes back, NaN for none.
    - `matrix`: the features as served; `score` float64[n] or [n, K] as served; `parts`: each model's own score, NaN in
      the rows at whose time that part did not exist.
    - `thresholds`: the decision threshold of the time, NaN without one; `propensities`: the probability with which such
      an outcome is seen at all (1 but for events that only a random hold-out let pass).
    - `champions`: the version of the champion that answered, or of the fallback; "" where nothing was served.
    """

    event_ids: Sequence[str]
    times_us: Ints
    known_us: Ints
    kinds: Sequence[str]
    codes: Floats
    replaced: Floats
    matrix: FeatureMatrix
    score: Floats
    parts: Mapping[str, Floats]
    thresholds: Floats
    propensities: Floats
    champions: Sequence[str]

    def __len__(self) -> int:
        return len(self.event_ids)

    @cached_property
    def learnt(self) -> Chosen:
        """bool[n]: the outcome is one that is learnt, and has a label."""
        kinds = np.fromiter((kind in LEARNT for kind in self.kinds), np.bool_, len(self))
        return kinds & ~np.isnan(self.codes)

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """uint64[n]: `id_hash` of each event."""
        return np.array([id_hash(event_id) for event_id in self.event_ids], np.uint64)

    @property
    def undoing(self) -> Chosen:
        """bool[n]: the outcome takes back an earlier one of its event, which had the code `replaced`."""
        return ~np.isnan(self.replaced)

    def select(self, rows: Chosen) -> Matured:
        """The rows that are chosen, in their order."""
        if rows.all():  # nearly always
            return self
        return Matured(
            [event_id for event_id, chosen in zip(self.event_ids, rows.tolist(), strict=True) if chosen],
            self.times_us[rows],
            self.known_us[rows],
            [kind for kind, chosen in zip(self.kinds, rows.tolist(), strict=True) if chosen],
            self.codes[rows],
            self.replaced[rows],
            taken(self.matrix, np.flatnonzero(rows)),
            self.score[rows],
            {name: part[rows] for name, part in self.parts.items()},
            self.thresholds[rows],
            self.propensities[rows],
            [version for version, chosen in zip(self.champions, rows.tolist(), strict=True) if chosen],
        )


def id_hash(event_id: str) -> int:
    """By which an event is found again, 64 bits; equal on every machine.

    Example:
        >>> id_hash("payment-1")
        1082971479144161972
    """
    return mmh3.hash64(event_id, signed=False)[0]
