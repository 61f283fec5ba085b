"""The hold-out: a share of events that consumers let through whatever the decision, so that their labels are seen.

Who blocks a payment never learns whether it was fraud. Where a random share passes, its labels stand for all: an event of
the share that would have been blocked counts 1 / share times in the evaluation, any other one once.
"""

from __future__ import annotations

from collections.abc import Iterable

import mmh3
import numpy as np
import numpy.typing as npt

# Another hash than that of partitions and of remembered ids, so that the draw does not go with them.
SEED = 0x686F6C64


def held_out(event_ids: Iterable[str], share: float) -> npt.NDArray[np.bool_]:
    """bool[n]: which events are held out. By the hash of the id alone: the same in every worker, copy and replay.

    Example:
        >>> ids = [f"p{number}" for number in range(10_000)]
        >>> int(held_out(ids, 0.01).sum()), int(held_out(ids, 0.0).sum())
        (109, 0)
    """
    drawn = np.array([mmh3.hash(name, SEED, signed=False) for name in event_ids], np.float64)
    return drawn < share * 2.0**32
