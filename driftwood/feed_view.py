"""The label feed as a person reads it in `driftwood models`: how much came, how late, of which class, for whom nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def feed_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """One line about the labels that come, and one more while learning is frozen.

    Example:
        >>> feed = {"labels_per_hour": {"now": 12.0, "usual": 10.5}, "class_share": {"late": {"usual": 0.21}},
        ...         "unknown_share": {"now": 0.0, "usual": 0.001}, "stalled_since_ms": None}
        >>> print(*feed_lines({"label_feed": feed, "label_delay_s": {"p50": 5400.0}, "frozen": None}))
        Labels: 12 in the newest full hour of their times (usually 10.5); p50 1.5 h after their events; late: usually 21.0 %; unknown ids 0.0 % (usually 0.1 %).
    """
    feed, delays = figures["label_feed"], figures["label_delay_s"]
    parts = [
        _hours(feed["labels_per_hour"]),
        ", ".join(f"{name} {duration(seconds)}" for name, seconds in delays.items()),
        *(_share(name, share) for name, share in feed["class_share"].items()),
        _share("unknown ids", feed["unknown_share"]),
    ]
    parts[1] += " after their events" if parts[1] else ""
    told = "; ".join(part for part in parts if part)
    yield f"Labels: {told or 'none yet'}."
    if figures["frozen"] is not None:
        yield (
            f"Learning is frozen: {figures['frozen']}. Nobody is taken for a negative, weights and calibrator stand still "
            "(docs/operations.md#the-label-feed-is-stalled)."
        )


def _hours(labels: Mapping[str, float]) -> str:
    if "now" not in labels:
        return ""
    return f"{labels['now']:,.0f} in the newest full hour of their times (usually {_number(labels['usual'])})"


def _share(name: str, share: Mapping[str, float]) -> str:
    if "now" in share:
        return f"{name} {share['now']:.1%} (usually {share['usual']:.1%})".replace("%", " %")
    return f"{name}: usually {share['usual']:.1%}".replace("%", " %") if "usual" in share else ""


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A span of time in its largest whole unit.

    Example:
        >>> duration(5400.0), duration(8.25)
        ('1.5 h', '8.2 s')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
