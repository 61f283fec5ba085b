"""A worker as a child process, for the demo: started, watched through its metrics, and ended."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from driftwood.embedded.redis import free_port
from features.errors import OperatorError
from streams.settings import Settings, setting_names

# A first start ever compiles the kernel, which takes some 20 s on a slow machine.
READY_WITHIN_S = 120.0
LOOK_EVERY_S = 0.1
ANSWER_WITHIN_S = 2.0


class WorkerChild:
    """`driftwood run PIPELINE` under these settings, or another `command` than `run`; its log goes to `log`."""

    def __init__(self, pipeline: str, settings: Settings, log: Path, command: str = "run") -> None:
        self._port = free_port()
        self._log = log
        self._output = log.open("w")
        arguments = [sys.executable, "-m", "driftwood", command, pipeline]
        arguments += [f"--set={name}={value}" for name, value in _overrides(settings, self._port).items()]
        self._process = subprocess.Popen(arguments, stdout=self._output, stderr=subprocess.STDOUT)
        self._watched = psutil.Process(self._process.pid)

    def wait_until_ready(self, partitions: int) -> None:
        """Until so many partitions flow. Raises `OperatorError` with the end of its log when the worker ends before."""
        deadline = time.monotonic() + READY_WITHIN_S
        while self.metrics().get("driftwood_partitions", 0) < partitions:
            self.check()
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"the worker was not ready within {READY_WITHIN_S:g} s:\n{self._last_words()}"
                )
            time.sleep(LOOK_EVERY_S)

    def check(self) -> None:
        """Raises `OperatorError` with the end of its log when the worker has ended."""
        if (code := self._process.poll()) is not None:
            raise OperatorError(f"the worker ended with exit code {code}:\n{self._last_words()}")

    def metrics(self) -> dict[str, float]:
        """The sum of each metric over its labels; empty while the worker does not answer."""
        sums: dict[str, float] = {}
        for family in self.families():
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def families(self) -> Sequence[Metric]:
        """Its metrics with their labels; empty while the worker does not answer."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._port}/metrics", timeout=ANSWER_WITHIN_S
            ) as answer:
                return list(text_string_to_metric_families(answer.read().decode()))
        except OSError:
            return []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu_s(self) -> float:
        """User and system time that the worker has used, in seconds."""
        times = self._watched.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """End it, gracefully if it will."""
        self._process.terminate()
        try:
            self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-5:])


def _overrides(settings: Settings, metrics_port: int) -> dict[str, str]:
    """The settings that differ from their defaults, as the command line takes them."""
    chosen = settings.model_copy(update={"metrics_port": metrics_port})
    defaults = Settings()
    return {
        name: chosen.shown(name)
        for name in setting_names()
        if getattr(chosen, name) != getattr(defaults, name)
    }
