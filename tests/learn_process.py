"""The process of the learn road as an operator runs it, for tests: as `tests/worker_process.py` has the worker.

Run as a script this file IS the process: it says on stdout, as one JSON line, that it has joined its group.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

from tests.worker_process import WorkerProcess, end_with_stdin


class LearnProcess(WorkerProcess):
    """`driftwood learn` on a pipeline file."""

    program: ClassVar[Path] = Path(__file__)


def main() -> None:
    """Be the process."""
    from driftwood.logs import set_up_logging
    from features.errors import DriftwoodError
    from models.loading import load_pipeline
    from offline.prediction_archive import archive_of
    from streams.learn_run import run_learner
    from streams.run import Started
    from streams.settings_sources import load_settings

    def say(started: Started) -> None:
        print(json.dumps(asdict(started)), flush=True)

    threading.Thread(target=end_with_stdin, daemon=True).start()
    try:
        settings = load_settings()
        set_up_logging(settings)
        pipeline = load_pipeline(sys.argv[1])
        run_learner(pipeline, settings, say, archive=archive_of(pipeline, settings))
    except DriftwoodError as error:
        print(f"driftwood: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
