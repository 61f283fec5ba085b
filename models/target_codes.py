"""Categories as numbers for a tree: the mean target of each text so far, because a tree splits on order.

Splitting 200 texts off one by one takes 200 splits, and a tree of 64 leaves has 63. A row is encoded before its own label
is counted, so that no row sees its own label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.plan import Floats, Ints
from models.online_input import FIRST_TEXT, FURTHEST, MOST_TEXTS
from models.running_target import RunningTarget

# Rows of the overall mean that a text begins with: one with a single positive is not a certain one.
PRIOR: Final = 20.0


@dataclass(frozen=True)
class TargetCodes:
    """For C categories: `counts` and `sums` of the target, float64[C, codes]."""

    counts: Floats
    sums: Floats

    @classmethod
    def of(cls, categories: int) -> TargetCodes:
        """Nothing seen yet."""
        shape = (categories, FIRST_TEXT + MOST_TEXTS)
        return cls(np.zeros(shape), np.zeros(shape))

    def learn(self, codes: Ints, targets: Floats) -> None:
        """Adds n rows of C codes, and their targets."""
        for at in range(len(self.counts)):
            np.add.at(self.counts[at], codes[:, at], 1.0)
            np.add.at(self.sums[at], codes[:, at], targets)

    def values(self, codes: Ints, target: RunningTarget) -> Floats:
        """float64[n, C]: the smoothed mean of each code, in deviations of the target from its overall mean."""
        mean, deviation = target.scale
        smoothed = (self.sums + PRIOR * mean) / (self.counts + PRIOR)
        scaled = np.clip((smoothed - mean) / deviation, -FURTHEST, FURTHEST)
        values = np.empty(codes.shape)
        for at in range(codes.shape[1]):
            values[:, at] = scaled[at, codes[:, at]]
        return values

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For `models.snapshot.pack`."""
        return {"code counts": self.counts, "code sums": self.sums}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> TargetCodes:
        """What `arrays` was taken from."""
        return cls(arrays["code counts"].copy(), arrays["code sums"].copy())
