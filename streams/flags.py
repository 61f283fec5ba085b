"""Flags of a prediction: what a consumer should know about how it came about. One bit each inside, names outside."""

from __future__ import annotations

LATE = 1 << 0
FALLBACK = 1 << 1
UNSEEN_CATEGORY = 1 << 2

NAMES: dict[int, str] = {
    LATE: "late",  # the event was too late for at least one of its windows: it was scored, but not counted there
    FALLBACK: "fallback",  # no model was in service: the declared rule or base rate answered
    UNSEEN_CATEGORY: "unseen_category",  # a category that the model never saw was scored as missing
}


def flag_names(bits: int) -> list[str]:
    """The names of the flags that are set, in order.

    Example:
        >>> flag_names(LATE | FALLBACK)
        ['late', 'fallback']
    """
    return [name for bit, name in NAMES.items() if bits & bit]
