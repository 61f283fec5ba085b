"""The mean and deviation of a regression's target so far: a learner's steps must not depend on its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.plan import Floats
from models.online_input import FURTHEST, MEMORY, ROUNDING


@dataclass
class RunningTarget:
    """Chan's running mean and squared deviations, forgetting as `OnlineInput` does.

    Example:
        >>> target = RunningTarget()
        >>> target.learn(np.array([10.0, 30.0]))
        >>> target.scaled(np.array([30.0])).tolist(), target.scale
        ([1.0], (20.0, 10.0))
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def learn(self, values: Floats) -> None:
        """n > 0 finite values."""
        added, mean = float(len(values)), float(values.mean())
        apart, total = mean - self.mean, self.count + added
        self.squares += float(((values - mean) ** 2).sum()) + apart * apart * self.count * added / total
        self.mean += apart * added / total
        self.squares *= min(MEMORY / total, 1.0)
        self.count = min(total, MEMORY)

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and deviation; the deviation is 1 while all values are alike."""
        deviation = math.sqrt(self.squares / max(self.count, 1.0))
        return self.mean, deviation if deviation > ROUNDING * abs(self.mean) else 1.0

    @property
    def reach(self) -> float:
        """Root of the mean square: how far the values lie from 0; 1 while all are 0."""
        reach = math.sqrt(self.squares / max(self.count, 1.0) + self.mean * self.mean)
        return reach if reach > 0 else 1.0

    def scaled(self, values: Floats) -> Floats:
        """Cut to ±10 deviations: one delay of a week must not outweigh a month of ordinary ones."""
        mean, deviation = self.scale
        return np.clip((values - mean) / deviation, -FURTHEST, FURTHEST)

    def state(self) -> list[float]:
        """Plain numbers, for `restored`."""
        return [self.count, self.mean, self.squares]

    @classmethod
    def restored(cls, state: Sequence[float]) -> RunningTarget:
        """What `state` was taken from."""
        return cls(*(float(value) for value in state))
