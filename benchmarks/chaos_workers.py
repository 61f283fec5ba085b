"""Workers under a supervisor that starts them again, and how long it takes until their partitions are answered again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from driftwood.demo_worker import WorkerChild
from features.errors import OperatorError
from streams.settings import Settings

# What a killed worker had handed to the broker may still show within this; its partitions cannot have another owner so
# soon, as the group waits for the rest of its session (6 s at least, less a heartbeat) first.
ECHO_S = 1.0


class Supervised:
    """`count` workers of a pipeline. `tend` starts those again that have ended; `ended_by_themselves` counts them."""

    def __init__(self, pipeline: Path, settings: Settings, folder: Path, count: int) -> None:
        self._pipeline, self._settings, self._folder = pipeline, settings, folder
        self._starts = 0
        self.ended_by_themselves = 0
        self._children = [self._start() for _ in range(count)]

    def _start(self) -> WorkerChild:
        self._starts += 1
        log = self._folder / f"worker-{self._starts}.log"
        return WorkerChild(str(self._pipeline), self._settings, log)

    def wait_until_ready(self, partitions: int) -> None:
        """Until so many partitions flow in all."""
        while sum(len(self.owned(number)) for number in range(len(self._children))) < partitions:
            for child in self._children:
                child.check()

    def tend(self) -> None:
        """Start again what has ended."""
        for number, child in enumerate(self._children):
            try:
                child.check()
            except OperatorError:
                self.ended_by_themselves += 1
                self._again(number)

    def owned(self, number: int) -> set[tuple[str, int]]:
        """The partitions that flow in this worker now; empty while it starts."""
        return {
            (sample.labels["topic"], int(sample.labels["partition"]))
            for family in self._children[number].families()
            if family.name == "driftwood_waiting_records"
            for sample in family.samples
        }

    def kill(self, number: int) -> None:
        """SIGKILL, and start another in its place."""
        os.kill(self._children[number].pid, signal.SIGKILL)
        self._again(number)

    def _again(self, number: int) -> None:
        self._children[number].stop()
        self._children[number] = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.stop()


class Recovery:
    """From each kill to the first new prediction out of a partition that the killed worker owned; `seconds` has them.

    `undisturbed` has those in which no other worker was killed meanwhile.

    Example:
        >>> recovery = Recovery()
        >>> recovery.killed({2, 3}, 100.0)
        >>> for partition, at in ((3, 100.2), (1, 105.0), (3, 107.5), (2, 108.0)):
        ...     recovery.answered(partition, at)
        >>> recovery.killed({1}, 110.0)
        >>> recovery.killed({2}, 112.0)
        >>> recovery.answered(1, 119.0)
        >>> recovery.answered(2, 120.0)
        >>> recovery.seconds, recovery.undisturbed
        ([7.5, 9.0, 8.0], [7.5, 8.0])
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.undisturbed: list[float] = []
        self._waiting: list[tuple[float, frozenset[int]]] = []
        self._last_kill = 0.0
        self._lock = threading.Lock()

    def killed(self, partitions: Collection[int], at: float) -> None:
        """A worker that owned these partitions of the last stage was killed at this second."""
        with self._lock:
            self._last_kill = at
            if partitions:
                self._waiting.append((at, frozenset(partitions)))

    def answered(self, partition: int, at: float) -> None:
        """A new prediction came out of this partition at this second."""
        if not self._waiting:
            return
        with self._lock:
            over = [one for one in self._waiting if partition in one[1] and at > one[0] + ECHO_S]
            self.seconds += [at - since for since, _ in over]
            self.undisturbed += [at - since for since, _ in over if since == self._last_kill]
            self._waiting = [one for one in self._waiting if one not in over]
