"""Which snapshots stay: all of the last minute, then fewer and fewer, so that an operator can go back to yesterday's learner.

    age          up to a minute    an hour          a day          thirty days
    kept         all               one a minute     one an hour    one a day

Of each minute, hour and day of the clock it is the oldest that stays. Where these are more than `most_bytes`, the one goes
that is missed least: whose neighbours are nearest to each other, beside its age. So large snapshots reach back as far, with
wider gaps. Never dropped: the newest `fewest`, and those that a pin names, for a batch that is repeated must find them.

features/redis_scripts/publish.lua does the same in Redis.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

DAY_S = 86_400


class Kept(NamedTuple):
    """How many snapshots stay: `most_bytes` of them, and `most` in number; all for `all_s`, then by `steps`.

    A step (age, unit): of snapshots up to this age one a unit stays, both in seconds. What is older than the last goes.
    """

    most_bytes: int = 256 << 20
    fewest: int = 2
    # For clocks that stand still or jump: by the ladder there are some 200.
    most: int = 1_024
    all_s: int = 60
    steps: tuple[tuple[int, int], ...] = ((3_600, 60), (DAY_S, 3_600), (30 * DAY_S, DAY_S))


class Standing(NamedTuple):
    """A snapshot that is there: its version, its bytes, and when it was made, in seconds."""

    version: int
    nbytes: int
    at_s: int


def dropped(standing: Sequence[Standing], now_s: int, pinned: Collection[int], kept: Kept) -> list[Standing]:
    """What goes, when the newest of these (they stand in the order of their versions) was made now.

    Example: seven in one minute, two hours ago, and one of now.

        >>> hour_ago = [Standing(version, 1, version) for version in range(7)]
        >>> [one.version for one in dropped([*hour_ago, Standing(9, 1, 7_200)], 7_200, {3}, Kept(fewest=1))]
        [1, 2, 4, 5, 6]
    """
    staying, gone = _thinned(standing, now_s, pinned, kept)
    size = sum(one.nbytes for one in staying)
    while size > kept.most_bytes or len(staying) > kept.most:
        place = _least(staying, now_s, pinned, kept.fewest)
        if place is None:
            break
        gone.append(staying.pop(place))
        size -= gone[-1].nbytes
    return gone


def _thinned(
    standing: Sequence[Standing], now_s: int, pinned: Collection[int], kept: Kept
) -> tuple[list[Standing], list[Standing]]:
    staying: list[Standing] = []
    gone: list[Standing] = []
    for place, one in enumerate(standing):
        free = place < len(standing) - kept.fewest and one.version not in pinned
        spare = free and _is_spare(one, staying[-1] if staying else None, now_s, kept)
        (gone if spare else staying).append(one)
    return staying, gone


def _is_spare(one: Standing, before: Standing | None, now_s: int, kept: Kept) -> bool:
    """Whether it is too old, or another stands for its minute, hour or day."""
    age_s = now_s - one.at_s
    if age_s < kept.all_s:
        return False
    unit_s = next((unit for oldest, unit in kept.steps if age_s < oldest), None)
    return unit_s is None or (before is not None and before.at_s // unit_s == one.at_s // unit_s)


def _least(standing: Sequence[Standing], now_s: int, pinned: Collection[int], fewest: int) -> int | None:
    """The place of the one that is missed least; None: all that are left must stay."""
    free = [at for at in range(len(standing) - fewest) if standing[at].version not in pinned]

    def missed(at: int) -> float:
        if at == 0:
            return math.inf
        return (standing[at + 1].at_s - standing[at - 1].at_s) / max(now_s - standing[at].at_s, 1)

    return min(free, key=missed, default=None)
