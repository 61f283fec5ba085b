"""The watch over the label feed: how many labels come, of which class, for how many unknown ids; and whether it is stalled.

Hours are counted by the times at which labels became known, not by a clock, so equal outcomes give equal figures wherever a
restart cuts between them. That no label comes at all cannot be seen here: the join says it (`hear`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from features.plan import Floats, Ints
from models.label import Label
from models.matured import Matured
from models.outcomes import CORRECTED, DUPLICATE, LATE, MATCHED, UNKNOWN

# A week: what is usual at this hour of the day and of the week is in it. 1.3 KB a column in each snapshot.
HOURS: Final = 168
HOUR_US: Final = 3_600_000_000

NO_HOUR: Final = -(2**40)

# Columns behind those of the classes: labels that say nothing of a class (late, duplicates), and those of unknown ids. Each
# label is counted where it ends: one that waits for its event (`early`) when that comes, in the hour in which it became
# known; when the horizon has passed without one, in the newest hour.
_OTHERS, _UNKNOWN = -2, -1
_CODED: Final = 0
_COLUMNS: Final = {MATCHED: _CODED, CORRECTED: _CODED, LATE: _OTHERS, DUPLICATE: _OTHERS, UNKNOWN: _UNKNOWN}
_NO_LABEL: Final = -3


class LabelFeed:
    """Counts of the last `HOURS` hours by class, and the partitions of the join whose labels are stalled.

    Example:
        >>> feed = LabelFeed(Label("late"))
        >>> feed.hear("0", 1_700_000_000_000); feed.frozen
        'label feed stalled since 2023-11-14T22:13:20Z'
        >>> feed.hear("0", None); feed.frozen
    """

    def __init__(self, label: Label) -> None:
        self._names = _class_names(label)
        self._classes = max(len(self._names), 1)
        self._counts: Ints = np.zeros((HOURS, self._classes + 2), np.int64)
        self._first = self._newest = NO_HOUR
        self._stalled: dict[str, int] = {}

    def step(self, batch: Matured) -> None:
        """Count the labels of one record of outcomes."""
        columns = np.fromiter((_COLUMNS.get(kind, _NO_LABEL) for kind in batch.kinds), np.int64, len(batch))
        came = columns != _NO_LABEL
        if not came.any():
            return
        columns, hours = columns[came], batch.known_us[came] // HOUR_US
        # That nobody knows an id turns out one horizon later, which may be longer than all hours that are counted.
        newest = np.maximum(np.maximum.accumulate(hours), self._newest)
        hours = np.where(columns == _UNKNOWN, newest, hours)
        coded = columns == _CODED
        columns[coded] = self._places(batch.codes[came][coded])
        self._go_on_to(int(hours.min()), int(hours.max()))
        alive = hours > self._newest - HOURS
        np.add.at(self._counts, (hours[alive] % HOURS, columns[alive]), 1)

    def hear(self, partition: str, stalled_since_ms: int | None) -> None:
        """What the join says of one of its partitions: stalled since this wall clock, or (None) not any more."""
        if stalled_since_ms is None:
            self._stalled.pop(partition, None)
        else:
            self._stalled[partition] = stalled_since_ms

    @property
    def stalled_since_ms(self) -> int | None:
        """Since when labels are missing somewhere, wall clock in milliseconds; None while they flow."""
        return min(self._stalled.values(), default=None)

    @property
    def frozen(self) -> str | None:
        """Why learning is frozen, in words; None: it is not."""
        since_ms = self.stalled_since_ms
        return None if since_ms is None else f"label feed stalled since {_utc(since_ms)}"

    def figures(self) -> dict[str, Any]:
        """`now`: in the newest full hour; `usual`: in the mean hour, and the share, of up to a week before now.

        `class_share` has the positives of a binary label under the label's name, every class of several; what is not known
        yet (no full hour, no label in it) is left out.
        """
        full = self._full_hours()
        rows = {"now": full[-1:], "usual": full}
        labels = {when: float(counts.sum()) / len(counts) for when, counts in rows.items() if len(counts)}
        shares = {when: _shares(counts) for when, counts in rows.items() if counts.sum()}
        known = {when: _shares(counts[:, : self._classes]) for when, counts in rows.items()}
        return {
            "labels_per_hour": labels,
            "class_share": {
                name: {when: share[code] for when, share in known.items() if len(share)}
                for code, name in enumerate(self._names)
                if name
            },
            "unknown_share": {when: share[_UNKNOWN] for when, share in shares.items()},
            "stalled_since_ms": self.stalled_since_ms,
        }

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {
            "counts": self._counts,
            "first": self._first,
            "newest": self._newest,
            "stalled": dict(sorted(self._stalled.items())),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self._counts = state["counts"]
        self._first, self._newest = state["first"], state["newest"]
        self._stalled = dict(state["stalled"])

    def _places(self, codes: Floats) -> Ints:
        """The column of each code; of a regression there is one. A label that was taken back (NaN) says nothing."""
        taken_back = np.isnan(codes)
        places = np.where(taken_back, _OTHERS, codes if self._names else 0.0)
        return places.astype(np.int64)

    def _go_on_to(self, oldest: int, newest: int) -> None:
        """Forget the hours that lie a week before the newest."""
        if self._newest == NO_HOUR:
            self._first = self._newest = newest
        for hour in range(max(self._newest, newest - HOURS) + 1, newest + 1):
            self._counts[hour % HOURS] = 0
        self._newest = max(self._newest, newest)
        self._first = max(min(self._first, oldest), self._newest - HOURS + 1)

    def _full_hours(self) -> Ints:
        """Counts of the hours before the newest, which is not over, oldest first."""
        hours = np.arange(self._first, self._newest)
        return self._counts[hours % HOURS]


def _class_names(label: Label) -> tuple[str, ...]:
    """By code the name under which a class is shown, "" for one that is not; none of a regression."""
    if label.kind == "regression":
        return ()
    return ("", label.name) if label.kind == "binary" else tuple(str(value) for value in label.classes)


def _shares(counts: Ints) -> list[float]:
    """The share of each column in all rows together; nothing where all is 0."""
    sums: Floats = counts.sum(axis=0).astype(np.float64)
    found: list[float] = (sums / sums.sum()).tolist() if sums.any() else []
    return found


def _utc(wall_ms: int) -> str:
    return np.datetime_as_string(np.datetime64(wall_ms // 1_000, "s"), timezone="UTC")
