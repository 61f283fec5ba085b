"""A worker as an operator runs it: a process of its own, with its settings in the environment, ended by signals.

Run as a script this file IS the worker: it says on stdout, as one JSON line, that it has joined its group, and ends with
the exit codes of the command line. It also ends when its stdin closes, so that none outlives the tests.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:  # what a test does not need itself, only the process imports
    from models.pipeline import Pipeline
    from streams.run import Started
    from streams.settings import Settings

ROOT = Path(__file__).parent.parent
PREFIX = "DRIFTWOOD_"
WITHIN_S = 120.0  # importing everything takes 3 s on a free core; the rest is for a machine that is busy

LOG_SHOWN = 8_000  # characters of the end of a worker's log

_numbers = itertools.count(1)


class WorkerProcess:
    """One worker. `settings` are named as in the settings module and written as a person would write them."""

    program: ClassVar[Path] = Path(__file__)

    def __init__(self, pipeline: Path, folder: Path, stages: Sequence[str] = (), **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder / f"worker-{next(_numbers)}"
        self.folder.mkdir()
        self.log = self.folder.with_suffix(".log")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environment |= {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(self.program), str(pipeline), *stages],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,
                env=environment | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self.said: dict[str, Any] = {}

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return self.log.read_text(errors="replace")

    @property
    def cpu_s(self) -> float:
        """User and system time of the process so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def started(self) -> Self:
        """Wait for its Started line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended with {self.process.wait()}:\n{self.stderr}"
        self.said = json.loads(line)
        return self

    def terminate(self) -> None:
        """SIGTERM, as a supervisor ends it."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, within_s: float = WITHIN_S) -> int:
        """SIGTERM, and the exit code."""
        self.terminate()
        return self.ended(within_s)

    def ended(self, within_s: float = WITHIN_S) -> int:
        """The exit code of a worker that ends; fails when it goes on for longer than `within_s`."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker goes on after {within_s:g} s:\n{self.stderr}") from None

    def suspend(self) -> None:
        """SIGSTOP: it does nothing until `resume`, and does not know."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; nothing happens when it has ended."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def metrics(self) -> Metrics:
        """Its metrics of this moment."""
        with urlopen(self.said["metrics_url"], timeout=60.0) as answer:
            return Metrics(answer.read().decode())


class Metrics:
    """A page of Prometheus metrics."""

    def __init__(self, page: str) -> None:
        families = list(text_string_to_metric_families(page))
        self.names = {family.name for family in families}
        self._samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Start(Protocol):
    """Starts a worker that is killed at the end of the test."""

    def __call__(self, pipeline: Path, stages: Sequence[str] = (), **settings: object) -> WorkerProcess: ...


@contextmanager
def worker_processes(folder: Path) -> Iterator[Start]:
    """For a fixture: what starts workers whose logs stand in `folder`. pytest shows the logs' ends when the test fails."""
    with ExitStack() as ending:

        def start(pipeline: Path, stages: Sequence[str] = (), **settings: object) -> WorkerProcess:
            worker = WorkerProcess(pipeline, folder, stages, **settings)
            ending.callback(lambda: print(f"{worker.log.name}:\n{worker.stderr[-LOG_SHOWN:]}"))
            ending.callback(worker.kill)
            return worker

        yield start


def until(true: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
    """Poll until it is true; fails with `what` when it is not in time."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def main() -> None:
    """Be a worker."""
    from streams.run import run_worker

    be_a_process(lambda pipeline, settings, say: run_worker(pipeline, settings, sys.argv[2:], say))


def be_a_process(work: Callable[[Pipeline, Settings, Callable[[Started], None]], None]) -> None:
    """Do this work on the pipeline file of the command line, and say on stdout that it has started; exit codes as ever."""
    from driftwood.logs import set_up_logging
    from features.errors import DriftwoodError
    from models.loading import load_pipeline
    from streams.settings_sources import load_settings

    def say(started: Started) -> None:
        print(json.dumps(asdict(started)), flush=True)

    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        settings = load_settings()
        set_up_logging(settings)
        work(load_pipeline(sys.argv[1]), settings, say)
    except DriftwoodError as error:
        print(f"driftwood: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _end_with_stdin() -> None:
    """End the process when its stdin closes: for a thread."""
    # The file itself, unbuffered: a thread that holds the lock of `sys.stdin` when the interpreter ends aborts it.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
