"""A Redis of a test's own, which it kills, stops, empties, and starts again at the same port from its append-only file."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from driftwood.embedded.redis import free_port, redis_server_path
from tests.worker_process import until


class OwnRedis:
    """A redis-server with `appendonly yes`, as production has it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis(port=self.port)
        self.start()

    def start(self) -> None:
        """Start it, from its file if there is one, and wait until it answers."""
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-percentage": 0,  # all commands stay in one file
            "logfile": self.folder / "redis.log",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen([redis_server_path(), *arguments], start_new_session=True)
        until(self._answers, "Redis answers")

    def kill(self) -> None:
        """SIGKILL; what it was told before it answered stands in its file."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP: it takes connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> Path:
        """The commands since its first start."""
        (found,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return found

    def cut(self, commands: int, keep: int) -> int:
        """Take the last commands out of its file, but none of the first `keep` bytes; how many were taken."""
        data = self.log.read_bytes()
        ends = [end for end in command_ends(data) if end >= keep]
        taken = min(commands, len(ends) - 1)
        self.log.write_bytes(data[: ends[-1 - taken]])
        return taken

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:  # not there yet, or still reading its file
            return False


def command_ends(data: bytes) -> list[int]:
    """Where each command of an append-only file ends: `*<n>`, then n times `$<length>` and so many bytes.

    Example:
        >>> command_ends(b"*1\\r\\n$4\\r\\nPING\\r\\n*1\\r\\n$4\\r\\nEXEC\\r\\n")
        [14, 28]
    """
    ends, at = [], 0
    while at < len(data):
        line = data.index(b"\r\n", at)
        count, at = int(data[at + 1 : line]), line + 2
        for _ in range(count):
            line = data.index(b"\r\n", at)
            at = line + 2 + int(data[at + 1 : line]) + 2
        ends.append(at)
    return ends


@contextmanager
def own_redis(folder: Path) -> Iterator[OwnRedis]:
    """For a fixture: a Redis that is killed at the end."""
    server = OwnRedis(folder)
    try:
        yield server
    finally:
        server.client.close()
        server.kill()
