"""The process of the learn road as an operator runs it, for tests: as `tests/worker_process.py` has the worker.

Run as a script this file IS the process: it says on stdout, as one JSON line, that it has joined its group.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tests.worker_process import WorkerProcess, be_a_process


class LearnProcess(WorkerProcess):
    """`driftwood learn` on a pipeline file."""

    program: ClassVar[Path] = Path(__file__)


def main() -> None:
    """Be the process."""
    from offline.prediction_archive import archive_of
    from streams.learn_run import run_learner

    be_a_process(
        lambda pipeline, settings, say: run_learner(
            pipeline, settings, say, archive=archive_of(pipeline, settings)
        )
    )


if __name__ == "__main__":
    main()
