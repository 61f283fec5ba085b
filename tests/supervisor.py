"""What keeps a worker running in production: it starts another one whenever one has ended, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from tests.worker_process import WorkerProcess


class Supervisor:
    """Starts `worker` again and again, until the context ends; `ended` has those that did, oldest first."""

    def __init__(self, worker: Callable[[], WorkerProcess]) -> None:
        self._worker, self._over = worker, threading.Event()
        self.ended: list[WorkerProcess] = []
        self.running = worker()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while True:
            self.running.process.wait()
            self.ended.append(self.running)
            if self._over.wait(0.5):
                return
            self.running = self._worker()

    @property
    def workers(self) -> list[WorkerProcess]:
        """All that there were, and the one that runs."""
        return [*self.ended, self.running]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.running.terminate()
        self._thread.join()


def last_words(worker: WorkerProcess) -> str:
    """The last line of a worker that has ended."""
    return worker.stderr.strip().splitlines()[-1]
