"""A peer as a process of its own: started on a job, watched from outside, ended by SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.servers import LogEnds
from driftwood.embedded.child import KeptServer

ROOT = Path(__file__).parents[2]
LOOK_EVERY_S = 0.05
SILENT_S = 120.0  # nothing was answered for this long: something is wrong
END_WITHIN_S = 60.0


@dataclass(frozen=True)
class Seen:
    """One look: how many predictions there are, and CPU seconds (user and system) by process until then."""

    at_s: float
    answers: int
    cpu_s: Mapping[str, float]


class PeerProcess:
    """`command` with the job file as its last argument; its log goes beside that file. It ends with this process."""

    def __init__(self, name: str, command: Sequence[str], job: Path, beside: Mapping[str, int]) -> None:
        # The repository's root is where `benchmarks` is found, by the environment of another interpreter too.
        found = ["env", f"PYTHONPATH={ROOT}", *command, str(job)]
        self._kept = KeptServer(name, found, job.with_suffix(".log"), grace_s=END_WITHIN_S)
        watched = {**beside, "worker": self._kept.server_pid}
        self._watched = {process: psutil.Process(pid) for process, pid in watched.items()}

    def look(self, ends: LogEnds) -> Seen:
        """Now. Raises `OperatorError` with the end of its log when the peer has ended."""
        if not self._kept.running:
            raise self._kept.failure("ended")
        answers = ends.total()
        cpu_s = {name: sum(process.cpu_times()[:2]) for name, process in self._watched.items()}
        return Seen(time.monotonic(), answers, cpu_s)

    def answered(self, ends: LogEnds, answers: int) -> Seen:
        """The first look that finds so many predictions."""
        seen = self.look(ends)
        known, since = seen.answers, seen.at_s
        while seen.answers < answers:
            time.sleep(LOOK_EVERY_S)
            seen = self.look(ends)
            if seen.answers > known:
                known, since = seen.answers, seen.at_s
            elif seen.at_s - since > SILENT_S:
                raise self._kept.failure(f"answered nothing for {SILENT_S:g} s: {known:,} of {answers:,}")
        return seen

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It does nothing meanwhile, and does not know."""
        self._watched["worker"].suspend()
        try:
            yield
        finally:
            self._watched["worker"].resume()

    def memory_mib(self) -> int:
        """What it has resident."""
        return int(self._watched["worker"].memory_info().rss >> 20)

    def stop(self) -> None:
        """End it by SIGTERM, gracefully if it will."""
        self._kept.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def cpu_us(before: Seen, after: Seen) -> dict[str, float]:
    """Microseconds of CPU for each prediction between two looks, by process."""
    events = after.answers - before.answers
    return {
        name: round(1e6 * (after.cpu_s[name] - spent) / events, 1) for name, spent in before.cpu_s.items()
    }
