"""What labels were like lately: counts by steps of time, the newest of them as a window, older ones as blocks of that length.

    |-- block --|-- block --| … |-- block --|--- window, step by step ---| now
      at most BLOCKS of them: the reference      what is compared with it

Everything is a count by name and can be added. What is longer ago than the blocks is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from features.durations import DAY_US

# Four weeks of days: each day of the week four times.
BLOCKS: Final = 28
MOST_STEPS: Final = 24

NEVER_US: Final = -(2**62)

Counts = Counter[str]


class LabelHistory:
    """Counts of one time line: known times of labels, or event times of cohorts.

    A window has a day at least, so that hours of the day are all in it. `held` is the name of a count: steps in which it is
    not 0 are left out of blocks.

    Example:
        >>> history = LabelHistory(DAY_US, 3_600_000_000)
        >>> [history.add(hour * 3_600_000_000, {"labels": 2}) for hour in range(25)].count(True)
        24
        >>> history.window()["labels"], len(history.blocks)
        (48, 0)
    """

    def __init__(self, window_us: int, slice_us: int) -> None:
        window_us = max(window_us, DAY_US)
        self.step_us = -(-window_us // MOST_STEPS // slice_us) * slice_us  # whole slices
        self.steps = -(-window_us // self.step_us)
        self.window_us = self.step_us * self.steps
        self.now_us = NEVER_US  # the beginning of the step that is counted
        self._step: Counts = Counter()
        self._steps: list[Counts] = []
        self._whole: Counts | None = None  # the sum of all steps, once it was asked for
        self.blocks: list[tuple[int, Counts]] = []

    def add(self, time_us: int, counts: Mapping[str, int]) -> bool:
        """Count what belongs to this time. True: it ended a step, so that `window` is another one. What is older is left out."""
        start_us = time_us // self.step_us * self.step_us
        ended = self._go_on_to(start_us)
        if start_us == self.now_us:
            for name, count in counts.items():
                self._step[name] += count
        return ended

    def window(self, since_us: int = NEVER_US) -> Counts:
        """What was counted in the last full steps, a window of them at most, of those that began at `since_us` or later."""
        first_us = self.now_us - len(self._steps) * self.step_us
        if since_us > first_us:
            return self._sum(first_us + place * self.step_us >= since_us for place in range(len(self._steps)))
        if self._whole is None:
            self._whole = self._sum([True] * len(self._steps))
        return self._whole

    def counted_before(self, name: str) -> int:
        """How many of one name all blocks have."""
        return sum(counts[name] for _, counts in self.blocks)

    def before(self, until_us: int) -> Counts:
        """Everything remembered that ended before this time."""
        found: Counts = Counter()
        for start_us, counts in self.blocks:
            if start_us + self.window_us <= until_us:
                found.update(counts)
        first = self.now_us - len(self._steps) * self.step_us
        found.update(
            self._sum(first + (place + 1) * self.step_us <= until_us for place in range(len(self._steps)))
        )
        return found

    @property
    def complete(self) -> bool:
        """Whether a whole window was counted."""
        return len(self._steps) == self.steps

    def _sum(self, chosen: Iterable[bool]) -> Counts:
        found: Counts = Counter()
        for counts, one in zip(self._steps, chosen, strict=True):
            if one:
                found.update(counts)
        return found

    def _go_on_to(self, start_us: int) -> bool:
        if start_us <= self.now_us:
            return False
        if self.now_us == NEVER_US or start_us - self.now_us > BLOCKS * self.window_us:
            self.now_us, self._step, self._steps, self.blocks = start_us, Counter(), [], []
            self._whole = None
            return False
        while self.now_us < start_us:
            self._end_step()
        return True

    def _end_step(self) -> None:
        """A step leaves the window into the block that it belongs to."""
        self._steps.append(self._step)
        self._whole = None
        self._step, self.now_us = Counter(), self.now_us + self.step_us
        if len(self._steps) <= self.steps:
            return
        left_us = self.now_us - (self.steps + 1) * self.step_us
        block_us = left_us // self.window_us * self.window_us
        if not self.blocks or self.blocks[-1][0] != block_us:
            self.blocks.append((block_us, Counter()))
            del self.blocks[:-BLOCKS]
        self.blocks[-1][1].update(self._steps.pop(0))
        self.blocks[-1][1][STEPS_COUNTED] += 1

    def full_blocks(self) -> list[tuple[int, Counts]]:
        """The blocks of which every step was counted."""
        return [(start_us, counts) for start_us, counts in self.blocks if counts[STEPS_COUNTED] == self.steps]

    def state(self) -> list[Any]:
        """Everything, for a snapshot."""
        return [
            self.now_us,
            _plain(self._step),
            [_plain(one) for one in self._steps],
            [[start_us, _plain(counts)] for start_us, counts in self.blocks],
        ]

    def restore(self, state: list[Any]) -> None:
        """Go on from a state that `state` gave."""
        self.now_us, self._whole = state[0], None
        self._step, self._steps = Counter(state[1]), [Counter(one) for one in state[2]]
        self.blocks = [(start_us, Counter(counts)) for start_us, counts in state[3]]


STEPS_COUNTED: Final = "steps"


def _plain(counts: Counts) -> dict[str, int]:
    return dict(sorted(counts.items()))
