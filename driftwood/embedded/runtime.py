"""Broker and Redis together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from driftwood.embedded.broker import EmbeddedBroker
from driftwood.embedded.redis import EmbeddedRedis


class Runtime:
    """An embedded broker and an embedded Redis, started and ended together.

    >>> with Runtime().start({"events": 4}) as runtime:
    ...     sorted(runtime.broker.topics.items()), runtime.redis_url.startswith("redis://")
    ([('events', 4)], True)
    """

    def __init__(self) -> None:
        self.broker = EmbeddedBroker()
        self.redis = EmbeddedRedis()

    def start(self, topics: Mapping[str, int] | None = None, data_dir: Path | None = None) -> Self:
        """Start both; `topics` (name to partitions) are created, Redis keeps its data in `data_dir` when it is given.

        Raises:
            OperatorError: one of them did not start; then neither is left running.
        """
        with ExitStack() as started:
            started.callback(self.stop)
            self.broker.start(topics)
            self.redis.start(data_dir)
            started.pop_all()
        return self

    @property
    def broker_address(self) -> str:
        """`host:port` of the broker."""
        return self.broker.address

    @property
    def redis_url(self) -> str:
        """URL of the Redis."""
        return self.redis.url

    def stop(self) -> None:
        """End both. A second call does nothing."""
        self.broker.stop()
        self.redis.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
