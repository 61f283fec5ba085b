"""Durations and sizes as settings write them: a number with its unit, never a bare number."""

from __future__ import annotations

import re
from datetime import timedelta

from features.durations import UNITS_US

UNITS_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

DURATION_SPELLING = "a duration with its unit, such as 8ms, 20s, 5m, 12h or 7d"
SIZE_SPELLING = "a size with its unit, such as 512KiB, 64MiB or 2GiB"

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(B|KiB|MiB|GiB)")


def parse_duration(text: object) -> timedelta:
    """The duration that `text` spells; raises ValueError that says how one is spelt.

    Example:
        >>> parse_duration("8ms"), parse_duration("1.5h")
        (datetime.timedelta(microseconds=8000), datetime.timedelta(seconds=5400))
        >>> parse_duration("8")
        Traceback (most recent call last):
        ValueError: a duration with its unit, such as 8ms, 20s, 5m, 12h or 7d
    """
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(DURATION_SPELLING)
    return timedelta(microseconds=round(float(match[1]) * UNITS_US[match[2]]))


def duration_text(duration: timedelta) -> str:
    """The shortest spelling of a duration.

    Example:
        >>> duration_text(timedelta(milliseconds=8)), duration_text(timedelta(hours=24)), duration_text(timedelta(0))
        ('8ms', '1d', '0s')
    """
    micros = duration // timedelta(microseconds=1)
    for unit in ("d", "h", "m", "s"):
        if micros and micros % UNITS_US[unit] == 0:
            return f"{micros // UNITS_US[unit]}{unit}"
    return f"{micros / 1000:g}ms" if micros else "0s"


def parse_size(text: object) -> int:
    """The bytes that `text` spells; raises ValueError that says how a size is spelt.

    Example:
        >>> parse_size("64MiB"), parse_size("2.5 MiB")
        (67108864, 2621440)
        >>> parse_size("64M")
        Traceback (most recent call last):
        ValueError: a size with its unit, such as 512KiB, 64MiB or 2GiB
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return (
            text  # a size in code, in bytes; the settings' sources refuse bare numbers before they come here
        )
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(SIZE_SPELLING)
    return round(float(match[1]) * UNITS_BYTES[match[2]])


def size_text(size: float) -> str:
    """The shortest exact spelling of a size, else one with three digits.

    Example:
        >>> size_text(64 << 20), size_text(2621440), size_text(1500)
        ('64MiB', '2.5MiB', '1.46KiB')
    """
    for unit in ("GiB", "MiB", "KiB"):
        if abs(size) >= UNITS_BYTES[unit]:
            return f"{size / UNITS_BYTES[unit]:.3g}{unit}"
    return f"{size:g}B"
