"""A peer as a process of its own: started on a job, watched from outside, ended by SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.servers import LogEnds
from features.errors import OperatorError

ROOT = Path(__file__).parents[2]
LOOK_EVERY_S = 0.05
SILENT_S = 120.0  # nothing was answered for this long: something is wrong
END_WITHIN_S = 60.0
LINES_SHOWN = 15


@dataclass(frozen=True)
class Seen:
    """One look: how many predictions there are, and CPU seconds (user and system) by process until then."""

    at_s: float
    answers: int
    cpu_s: Mapping[str, float]


class PeerProcess:
    """`command` with the job file as its last argument; its log goes beside that file."""

    def __init__(self, command: Sequence[str], job: Path, beside: Mapping[str, int]) -> None:
        self._log = job.with_suffix(".log")
        with self._log.open("w") as output:
            # The repository's root is where `benchmarks` is found, by the environment of another interpreter too.
            self._process = subprocess.Popen(
                ["env", f"PYTHONPATH={ROOT}", *command, str(job)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=job.parent,
            )
        self._watched = {name: psutil.Process(pid) for name, pid in beside.items()}
        self._watched["worker"] = psutil.Process(self._process.pid)

    def look(self, ends: LogEnds) -> Seen:
        """Now. Raises `OperatorError` with the end of its log when the peer has ended."""
        if self._process.poll() is not None:
            raise OperatorError(f"a peer ended with {self._process.returncode}:\n{self._last_words()}")
        answers = ends.total()
        cpu_s = {name: _cpu_s(process) for name, process in self._watched.items()}
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
                what = f"nothing was answered for {SILENT_S:g} s: {known:,} of {answers:,}"
                raise OperatorError(f"{what}\n{self._last_words()}")
        return seen

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It does nothing meanwhile, and does not know."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def memory_mib(self) -> int:
        """What it has resident."""
        return int(self._watched["worker"].memory_info().rss >> 20)

    def stop(self) -> None:
        """End it, gracefully if it will."""
        self._process.terminate()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LINES_SHOWN:])


def cpu_us(before: Seen, after: Seen) -> dict[str, float]:
    """Microseconds of CPU for each prediction between two looks, by process."""
    events = after.answers - before.answers
    return {
        name: round(1e6 * (after.cpu_s[name] - spent) / events, 1) for name, spent in before.cpu_s.items()
    }


def _cpu_s(process: psutil.Process) -> float:
    every = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in every)
