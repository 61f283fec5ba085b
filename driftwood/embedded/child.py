"""A child process that answers on its stdout with one JSON line at a time, and ends when its stdin closes."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from features.errors import OperatorError

KEEPER = Path(__file__).with_name("keeper.py")
LOG_LINES_SHOWN = 15  # of a server's log, in an error: the cause is nearly always among its last lines


class Child:
    """One child process, its JSON answers and its log.

    The child runs in a session of its own: Ctrl-C in a terminal goes to every process of the foreground group, and a
    broker that ended at once would leave the workers nothing to finish their batch against.

    Raises:
        OperatorError: the program cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        try:
            with log.open("ab") as stderr:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,
                )
        except OSError as error:
            raise OperatorError(
                f"{name} could not be started: {error}. Command: {' '.join(command)}"
            ) from error

    @property
    def pid(self) -> int:
        """Process id of this child."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child has not ended yet."""
        return self._process.poll() is None

    def answer(self, within_s: float) -> dict[str, Any]:
        """The child's next JSON line.

        Raises:
            OperatorError: the child ended, did not answer in time, or answered with `{"error": …}`.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        if not ready:
            raise self.failure(f"did not answer within {within_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise self.failure(f"ended with exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self.failure(f"answered: {answer['error']}")
        return answer

    def ask(self, question: dict[str, Any], within_s: float) -> dict[str, Any]:
        """Send one JSON line and wait for the answer; raises as `answer` does."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure(f"ended with exit status {self._process.wait()}") from None
        return self.answer(within_s)

    def stop(self, within_s: float) -> None:
        """Close the child's stdin, which tells it to end, and wait; killed when it has not ended in time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # a line that an ended child never read was still in the buffer
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def failure(self, what: str) -> OperatorError:
        """The error to raise when `what` went wrong with this child, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        if not lines:
            return OperatorError(f"{self.name} {what}; its log {self.log} is empty.")
        shown = "\n  ".join(lines[-LOG_LINES_SHOWN:])
        return OperatorError(f"{self.name} {what}. The end of its log {self.log}:\n  {shown}")


class KeptServer(Child):
    """A server under a keeper (see keeper.py): it ends with this process, however this process ends.

    `grace_s` is the time between SIGTERM and SIGKILL. With `lock`, a second server over the same file waits for the
    first one to end, and is refused when it does not.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, grace_s: float, lock: Path | None = None
    ) -> None:
        locking = ["--lock", str(lock)] if lock else []
        keeper = [sys.executable, "-I", str(KEEPER), "--grace", str(grace_s), *locking, "--", *command]
        super().__init__(name, keeper, log)
        self._grace_s = grace_s
        try:
            self.server_pid: int = self.answer(within_s=30.0 + grace_s)["pid"]
        except OperatorError:
            self.stop(within_s=1.0)
            raise

    def stop(self, within_s: float | None = None) -> None:
        """End the server and wait for it; with nothing given, a little longer than its grace period."""
        super().stop(self._grace_s + 5.0 if within_s is None else within_s)


def wait_until(ready: Callable[[], bool], child: Child, within_s: float) -> None:
    """Poll `ready()` until it is true.

    Raises:
        OperatorError: the child ended, or was not ready in time.
    """
    deadline = time.monotonic() + within_s
    while not ready():
        if not child.running:
            raise child.failure("ended while it was starting")
        if time.monotonic() > deadline:
            raise child.failure(f"was not ready after {within_s:g} s")
        time.sleep(0.02)
