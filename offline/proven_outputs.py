"""Up to where the outputs of a partition are proven to stand in the topics, so that it may be rebuilt in silence.

A record of a hop topic is *proven* when everything that it became stands downstream. Two things prove it:

* the group's committed offset: a worker marks a batch as done (step 8) after the broker has acknowledged its outputs (6);
* beyond that, the outputs themselves. Within one target partition they stand in the order of their rows, without gaps,
  since a producer keeps its order and every repetition begins at or before what stands. So the last one that stands in
  each target partition, its *reach*, tells of all before it.

docs/decisions/0013 has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from features.plan import Ints
from features.store import Position
from streams.taken import BEFORE_ALL


@dataclass(frozen=True)
class TailRecord:
    """A record at or above the committed offset. `targets` int64[rows]: the partition that each row's output is bound for.

    `targets` is None for a record that is no frame: its dead letter may not have been written. `events` are the rows'
    positions in `events`, where their outputs are predictions.
    """

    offset: int
    targets: Ints | None
    events: Sequence[str] = ()


def last_proven(tail: Iterable[TailRecord], reach: Mapping[int, Position], before: int) -> int:
    """The last record up to which all outputs stand; `before` is the one before the tail.

    Example: record 7 has rows for the partitions 0 and 1, and of it only the row for partition 0 came out.

        >>> import numpy as np
        >>> tail = [TailRecord(6, np.array([0, 1])), TailRecord(7, np.array([1, 0]))]
        >>> last_proven(tail, {0: Position(7, 1), 1: Position(6, 1)}, before=5)
        6
    """
    last = before
    for record in tail:
        if record.targets is None or not _stands(record.offset, record.targets, reach):
            break
        last = record.offset
    return last


def reach_of_predictions(tail: Iterable[TailRecord], standing: Mapping[str, object]) -> dict[int, Position]:
    """The reach in each partition of `predictions`. `standing` has the positions of the predictions that stand there."""
    reach: dict[int, Position] = {}
    for record in tail:
        for row, event in enumerate(record.events):
            if event in standing and record.targets is not None:
                reach[int(record.targets[row])] = Position(record.offset, row)
    return reach


def pins(tail: Iterable[TailRecord], standing: Mapping[str, str], after: int) -> list[tuple[int, str]]:
    """(last record, versions) of the stretches after the record `after` of which some predictions stand.

    They were made with these versions, by position in `standing`; whoever repeats the records has to use the same, so
    that copies are the same bytes.

    Example:
        >>> import numpy as np
        >>> tail = [TailRecord(n, np.array([0]), [f"e{n}"]) for n in range(5, 10)]
        >>> pins(tail, {"e5": "v1", "e6": "v1", "e8": "v2"}, after=5)
        [(6, 'v1'), (8, 'v2')]
    """
    found: list[tuple[int, str]] = []
    for record in tail:
        versions = next((standing[event] for event in record.events if event in standing), None)
        if record.offset <= after or versions is None:
            continue
        if found and found[-1][1] == versions:
            found.pop()
        found.append((record.offset, versions))
    return found


def _stands(offset: int, targets: Ints, reach: Mapping[int, Position]) -> bool:
    last_rows = {int(target): row for row, target in enumerate(targets.tolist())}
    return all(Position(offset, row) <= reach.get(target, BEFORE_ALL) for target, row in last_rows.items())
