"""What an alert says in one sentence, and which heading of docs/operations.md says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from models.drift.signals import LEVELS, Signal

DEAD_LETTERS: Final = "dead_letters"
VOLUME: Final = "volume"

RUNBOOKS: Final[Mapping[str, str]] = {
    "outage": "drift-outage",
    DEAD_LETTERS: "drift-dead-letters",
    VOLUME: "drift-volume",
    **{level: f"drift-{level}" for level in LEVELS},
}
"""By kind; the first that an alert has is its heading: what comes first is most likely behind what follows."""

# What each level is about, where several of its subjects have moved.
_MOVED: Final[Mapping[str, str]] = {
    "outage": "no events",
    DEAD_LETTERS: "more records than usual cannot be used",
    VOLUME: "another number of events than usual",
    "data": "inputs differ from the reference",
    "prediction": "answers differ from the reference",
    "estimate": "answers are expected to be worse, before any label is known",
    "labels": "the label feed is not as usual",
    "concept": "the error on known labels has grown",
}

# Statistics whose names say too little.
_STATISTICS: Final[Mapping[str, str]] = {
    "outage": "hours without a label",
    "ks": "KS distance",
    "psi": "PSI",
    "log_ratio": "change of their logarithm",
    "missing": "change of the share that is missing",
    "outside": "change of the share out of range",
    "unseen": "change of the share never seen before",
    "largest_share": "change of the share of the largest one",
    "shift": "shift of its middle",
}


def kind(signal: Signal) -> str:
    """What a signal is about, by which titles and headings go: a level, or what befalls the feed of events.

    Example:
        >>> kind(Signal("data", "volume", "log_ratio", 0, -2.0, 1.0, 2.0)), kind(Signal("data", "amount", "ks", 0, 0.3, 0.1, 3.0))
        ('volume', 'data')
    """
    if signal.level != "data":
        return signal.level
    current = signal.evidence.current
    if signal.subject == VOLUME and current is not None and not current.count:
        return "outage"
    return signal.subject if signal.subject in (DEAD_LETTERS, VOLUME) else signal.level


def runbook(signals: Sequence[Signal]) -> str:
    """The heading for these signals, of which there is one at least."""
    return RUNBOOKS[_leading(signals)]


def title(pipeline: str, signals: Sequence[Signal]) -> str:
    """One sentence; the strongest signal comes first.

    Example:
        >>> title("shop", [Signal("data", "amount", "ks", 0, 0.3, 0.1, 3.0, segment="country=DE")])
        'shop: inputs differ from the reference: amount (country=DE), KS distance 0.3, 3.0 times its threshold'
    """
    leading, first = _leading(signals), _first(signals)
    more = len({(one.level, one.subject, one.segment) for one in signals}) - 1
    others = f"; {more} more moved with it" if more else ""
    return f"{pipeline}: {_MOVED[leading]}: {_told(first)}{others}"


def calm_title(pipeline: str, subject: str) -> str:
    """The sentence with which an alert ends.

    Example:
        >>> calm_title("shop", "amount (country=DE)")
        'shop: calm again for a whole window: amount (country=DE)'
    """
    return f"{pipeline}: calm again for a whole window: {subject}"


def subject(signals: Sequence[Signal]) -> str:
    """What the first sentence is about."""
    first = _first(signals)
    return f"{first.subject} ({first.segment})" if first.segment else first.subject


def statistic_words(statistic: str) -> str:
    """What a statistic is called among people.

    Example:
        >>> statistic_words("ks"), statistic_words("total_variation")
        ('KS distance', 'total variation')
    """
    return _STATISTICS.get(statistic, statistic.replace("_", " "))


def _told(signal: Signal) -> str:
    measured = f"{statistic_words(signal.statistic)} {signal.value:.3g}"
    return f"{subject([signal])}, {measured}, {signal.strength:.1f} times its threshold"


def _first(signals: Sequence[Signal]) -> Signal:
    leading = _leading(signals)
    return next(signal for signal in signals if kind(signal) == leading)


def _leading(signals: Sequence[Signal]) -> str:
    there = {kind(signal) for signal in signals}
    return next(one for one in RUNBOOKS if one in there)
