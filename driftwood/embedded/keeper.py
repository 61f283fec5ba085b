"""Run one server so that it never outlives the process that asked for it.

    parent ──stdin (kept open)──> keeper ──starts, waits for──> server

A server that is left behind keeps its port, its data and its memory, and the next start fails in a way that nobody
understands. So the parent keeps the write end of a pipe and never writes to it. When the parent ends, however it ends
(also by SIGKILL), the kernel closes that end, the keeper reads end-of-file and stops the server: SIGTERM first, SIGKILL
after the grace period. On Linux the server also dies when the keeper is killed.

The keeper runs as a script, `python -I keeper.py`, with the standard library alone: it starts in a few milliseconds and
cannot be broken by what else is installed. The first line on its stdout is one JSON document: `{"pid": …}` of the
server, or `{"error": …}`.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when the thread that forked it has ended
LOCK_WAIT_S = (
    20.0  # a server that is just being stopped keeps its data folder for as long as its grace period
)


def main() -> int:
    """Start the server named on the command line, and end it when stdin closes; returns the server's exit status."""
    arguments = _arguments()
    try:
        lock = _lock(arguments.lock) if arguments.lock else None
        server = _start(arguments.command, lock)
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"pid": server.pid}), flush=True)
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.terminate())
    threading.Thread(target=_stop_when_parent_ends, args=(server, arguments.grace), daemon=True).start()
    return server.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run a server that ends with the process holding this one's stdin."
    )
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--lock", type=Path, help="file that only one server may hold at a time")
    parser.add_argument("command", nargs="+", help="the server and its arguments")
    return parser.parse_args()


def _lock(path: Path) -> int:
    """Take the lock file; the server inherits it, so it is held until the SERVER has ended, not just the keeper."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(f"another server still holds {path} after {LOCK_WAIT_S:.0f} s") from None
            time.sleep(0.05)


def _start(command: list[str], lock: int | None) -> subprocess.Popen[bytes]:
    # stdout must go elsewhere: ours speaks JSON to the parent. stderr is the log file that the parent chose.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        pass_fds=() if lock is None else (lock,),
        # No thread has been started yet, so nothing can deadlock between fork and exec.
        preexec_fn=_die_with_keeper if sys.platform == "linux" else None,  # noqa: PLW1509
    )


def _die_with_keeper() -> None:
    # The main thread forks and lives as long as the keeper, so "the thread that forked" is the keeper itself.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop_when_parent_ends(server: subprocess.Popen[bytes], grace_s: float) -> None:
    while sys.stdin.buffer.read(1):
        pass
    server.terminate()
    try:
        server.wait(grace_s)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
