"""Durations as a pipeline writes them ("90s", "15m", "3h", "7d", "2w"), in microseconds inside."""

from __future__ import annotations

import re

from features.errors import PipelineError

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

# Units of fixed length only: a month or a year has no length of its own, and a window needs one.
UNITS_US = {"ms": 1_000, "s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": DAY_US, "w": 7 * DAY_US}

# Windows narrower than this are noise to most senders' clocks; wider ones would outlive the state's retention.
SHORTEST_WINDOW_US = MINUTE_US
LONGEST_WINDOW_US = 90 * DAY_US

SPELLING = "a duration such as '90s', '15m', '3h', '7d' or '2w'"

_DURATION = re.compile(r"([1-9][0-9]{0,8})(ms|s|m|h|d|w)")


def duration_us(text: object, place: str) -> int:
    """The microseconds of a duration; raises PipelineError for anything but a whole positive number and a unit.

    Example:
        >>> duration_us("15m", "pipeline flights, max_ahead")
        900000000
        >>> duration_us("3 months", "pipeline flights, label")
        Traceback (most recent call last):
        features.errors.PipelineError: pipeline flights, label: '3 months' is no duration; expected a duration such as '90s', '15m', '3h', '7d' or '2w' (a month has no fixed length: write days)
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        calendar = isinstance(text, str) and re.search(r"mo|y", text) is not None
        hint = " (a month has no fixed length: write days)" if calendar else ""
        raise PipelineError(place, f"{text!r} is no duration", SPELLING + hint)
    return int(match[1]) * UNITS_US[match[2]]


def window_us(text: object, place: str) -> int:
    """The microseconds of a window's width; raises PipelineError outside 1m .. 90d."""
    width = duration_us(text, place)
    if not SHORTEST_WINDOW_US <= width <= LONGEST_WINDOW_US:
        raise PipelineError(place, f"the window {text!r} is out of range", "a window from '1m' to '90d'")
    return width


def duration_text(width_us: int) -> str:
    """The shortest spelling of a duration, for tables.

    Example:
        >>> duration_text(5 * MINUTE_US), duration_text(36 * HOUR_US), duration_text(7 * DAY_US)
        ('5m', '36h', '7d')
    """
    for unit in ("d", "h", "m", "s"):
        if width_us % UNITS_US[unit] == 0:
            return f"{width_us // UNITS_US[unit]}{unit}"
    return f"{width_us // 1_000}ms"
