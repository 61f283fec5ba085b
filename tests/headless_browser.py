"""A Chromium without a window, spoken to over a pipe: what it shows, fetches and complains about."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
END = b"\0"
SWITCHES = (
    "--headless",
    "--no-sandbox",  # it opens one file that the test has just written
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)

# It reads its file descriptor 3 and writes 4; both pipes are moved out of the way first.
BECOME = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found_browser() -> str | None:
    """The first one on PATH."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of a Chromium. `events` has everything that it told by itself, in its order."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._unread, self._calls = write, read, b"", 0
        self.events: list[dict[str, Any]] = []
        page = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for part in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{part}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of the page to a method of the DevTools protocol."""
        return self._call(method, self._session, **parameters)

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file at this size of the window, and wait until it is there with its pictures."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        seen = len(self.events)
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events[seen:]):
            self._hear()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def told(self, method: str) -> list[dict[str, Any]]:
        """The events of this method."""
        return [event["params"] for event in self.events if event["method"] == method]

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + END)
        while True:
            answer = self._hear()
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def _hear(self) -> dict[str, Any]:
        while END not in self._unread:
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._unread += more
        text, _, self._unread = self._unread.partition(END)
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    to_browser, from_test = os.pipe()
    to_test, from_browser = os.pipe()
    pipes = (str(to_browser), str(from_browser))
    started = subprocess.Popen(
        [sys.executable, "-c", BECOME, *pipes, program, *SWITCHES, f"--user-data-dir={profile}"],
        pass_fds=(to_browser, from_browser),
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(from_test, to_test)
    finally:
        started.terminate()
        started.wait()
        os.close(from_test)
        os.close(to_test)
