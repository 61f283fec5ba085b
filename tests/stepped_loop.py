"""An event loop that stands still: a test runs what is ready, and says when time passes."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Impatient(selectors.SelectSelector):
    """Never sleeps: what a timer waits for comes when the test says so."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)


class SteppedLoop(asyncio.SelectorEventLoop):
    """Runs tasks until each of them waits for something that the test has to bring about; the order is always the same.

    Example:
        >>> loop, done = SteppedLoop(), []
        >>> async def sleeper() -> None:
        ...     await asyncio.sleep(60)
        ...     done.append("awake")
        >>> task = loop.create_task(sleeper())
        >>> loop.settle()
        >>> done
        []
        >>> loop.advance(60)
        >>> done
        ['awake']
        >>> loop.close()
    """

    def __init__(self) -> None:
        super().__init__(_Impatient())
        self.now_s = 0.0
        self.lost: list[BaseException] = []
        """Exceptions that nobody awaited."""
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        """The loop's clock, in seconds."""
        return self.now_s

    def settle(self) -> None:
        """Run until nothing is ready."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        self._once()
        while ready:
            self._once()

    def advance(self, seconds: float) -> None:
        """Let time pass, then run what it woke."""
        self.now_s += seconds
        self.settle()

    def _once(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()

    def _keep(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.lost.append(error if isinstance(error, BaseException) else RuntimeError(context["message"]))
