"""Everything about the simulated payments that can be chosen, in one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import date

Days = float
"""Days since the start of the simulation; fractions are hours."""

SHARES = (
    "duplicates", "late", "poison", "blocked", "reviewed", "genuine_reported", "corrected", "flipped", "wave_share",
)  # fmt: skip


@dataclass(frozen=True)
class Switches:
    """One world of payments: equal switches give equal bytes, and one switch changes nothing that it does not name.

    Size: `customers` pay at `terminals` for `days` days from `start` (a day, UTC): 1.9 payments a customer and day, so
    870,000 by default. `seed` decides every draw.

    Labels:
    - `label_delay`: days from a payment to its label.
    - `label_outage`: (from, to): labels that should arrive between these times arrive after the second one, a hundred
      times as fast as usual. Their `known_at` stays: the bank knew, the line was down.
    - `genuine_reported`: the share of genuine payments that get a label 0 at all; for the others silence means no.
    - `corrected`: the share of labels that say the opposite first and are put right 12 hours later.
    - `labels_flipped`: (from, to): of the labels that become known between these times, the share `flipped` says the
      opposite and is never put right.

    Records:
    - `duplicates`: the share of events, and of labels, that are sent a second time within the hour.
    - `late`: the share of events that arrive up to `latest_minutes` after they happened.
    - `poison`: unreadable events, and unusable labels, for each good one.
    - `blocked`: the share of frauds that the bank's own controls block, and with each on average one genuine payment:
      an action `blocked` comes, and no label, as nobody disputes what was not paid. Of those blocked the share
      `reviewed` gets its label a day later from an investigator.

    Drifts:
    - `new_fraud_from`: from then on cards are tested: bursts of small payments in the small hours, anywhere.
    - `amounts_moved_from`: from then on all amounts are `amounts_moved_by` times as high, the fraudsters' too.
    - `terminal_waves`: at each of these times the share `wave_share` of all terminals is compromised at once.

    Raises ValueError for a value out of range.

    Example:
        >>> Switches(days=30, label_outage=(10, 17)).label_delay
        7.0
        >>> Switches(late=1.5)
        Traceback (most recent call last):
        ValueError: Switches(late) must be a share from 0 to 1, not 1.5
    """

    seed: int = 1
    start: str = "2024-04-01"
    days: int = 91
    customers: int = 5_000
    terminals: int = 10_000

    label_delay: Days = 7.0
    label_outage: tuple[Days, Days] | None = None
    genuine_reported: float = 1.0
    corrected: float = 0.0
    labels_flipped: tuple[Days, Days] | None = None
    flipped: float = 0.5

    duplicates: float = 0.0
    late: float = 0.0
    latest_minutes: float = 30.0
    poison: float = 0.0
    blocked: float = 0.0
    reviewed: float = 0.0

    new_fraud_from: Days | None = None
    amounts_moved_from: Days | None = None
    amounts_moved_by: float = 1.6
    terminal_waves: tuple[Days, ...] = ()
    wave_share: float = 0.01

    def __post_init__(self) -> None:
        _check("start", _is_day(self.start), "a day such as 2024-04-01", self.start)
        for name in ("days", "customers", "terminals"):
            _check(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        for name in SHARES:
            _check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1", getattr(self, name))
        for name in ("label_delay", "latest_minutes", "amounts_moved_by"):
            value = getattr(self, name)
            _check(name, math.isfinite(value) and value > 0, "above 0", value)
        for name in ("label_outage", "labels_flipped"):
            value = getattr(self, name)
            _check(name, value is None or value[0] < value[1], "(from, to) with from < to", value)

    @property
    def changed(self) -> dict[str, object]:
        """The switches that are not as by default, for titles and file stamps.

        Example:
            >>> Switches(seed=2, late=0.01).changed
            {'seed': 2, 'late': 0.01}
        """
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check(name: str, fine: bool, expected: str, value: object) -> None:  # noqa: FBT001  two callers, above
    if not fine:
        raise ValueError(f"Switches({name}) must be {expected}, not {value}")
