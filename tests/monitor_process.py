"""The monitor as an operator runs it, for tests: as `tests/worker_process.py` has the worker."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tests.worker_process import WorkerProcess, be_a_process


class MonitorProcess(WorkerProcess):
    """`driftwood monitor` on a pipeline file."""

    program: ClassVar[Path] = Path(__file__)


def main() -> None:
    """Be the process."""
    from streams.watch_run import run_monitor

    be_a_process(run_monitor)


if __name__ == "__main__":
    main()
