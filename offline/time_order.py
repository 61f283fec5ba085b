"""Merges the logs of several partitions by the broker's time, in stretches: near enough to the order they were worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from streams.batch import Record

# Stretches of different partitions may overlap by so much, in milliseconds: record by record, batches would be small.
SLICE_MS = 1_000

_Key = TypeVar("_Key")


def in_time_order(
    logs: Mapping[_Key, Iterable[Sequence[Record]]], largest: int
) -> Iterator[tuple[_Key, list[Record]]]:
    """Stretches of at most `largest` records, each of one log; of every log all, in its own order.

    A single log comes as it is read.
    """
    if len(logs) == 1:
        for key, log in logs.items():
            yield from ((key, list(records)) for records in log)
        return
    readers = {key: _Reader(chain.from_iterable(log)) for key, log in logs.items()}
    while waiting := {key: reader for key, reader in readers.items() if reader.head is not None}:
        times = sorted((reader.time_ms, at) for at, reader in enumerate(waiting.values()))
        key, first = list(waiting.items())[times[0][1]]
        until_ms = times[1][0] + SLICE_MS if len(times) > 1 else float("inf")
        yield key, first.take(until_ms, largest)


class _Reader:
    """A log with its next record in sight."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self.head = next(records, None)

    @property
    def time_ms(self) -> int:
        return 0 if self.head is None else self.head.timestamp

    def take(self, until_ms: float, largest: int) -> list[Record]:
        """The next records before this time, at least one."""
        taken: list[Record] = []
        while self.head is not None and len(taken) < largest:
            if taken and self.head.timestamp >= until_ms:
                break
            taken.append(self.head)
            self.head = next(self._records, None)
        return taken
