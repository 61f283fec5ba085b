"""The page of the drift report: the template, and how figures are written in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from driftwood.drift_compared import Pair, number
from driftwood.drift_pictures import Picture
from models.drift.alert import moment
from models.drift.signals import CLEARS, RAISES, Level, Signal
from models.drift.titles import statistic_words

TEMPLATE: Final = "drift_page.html"

LEVELS: Final[Mapping[Level, tuple[str, str]]] = {
    "data": ("What comes in", "features, raw fields, volume and dead letters, against the reference"),
    "prediction": ("What is answered", "scores and the share of decisions, against the reference"),
    "estimate": ("How good that should be", "expected from the scores alone, before any label is known"),
    "labels": ("The label feed", "how many labels come, how late, of which class, for which ids"),
    "concept": ("How good it was", "the loss of what was served, on the labels that came"),
}
"""Of each level its name for people, and what it watches."""

FIGURES: Final[tuple[Level, ...]] = ("estimate", "concept")
"""Levels whose evidence are losses and the like, no shares."""

# Of a category with many values.
MOST_SHARES: Final = 5

DAY_S: Final = 86_400


def rendered(**figures: Any) -> str:
    """The page with these figures; it holds everything that it shows."""
    environment = Environment(
        loader=PackageLoader("driftwood", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "when": when,
        "percent": percent,
        "change": change,
        "number": number,
        "embedded": embedded,
        "statistic": lambda signal: statistic_words(signal.statistic),
        "lasted": lasted,
        "changes": changes,
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    return environment.get_template(TEMPLATE).render(levels=LEVELS, raises=RAISES, clears=CLEARS, **figures)


def when(time: int | str) -> str:
    """An event time, to the minute.

    Example:
        >>> when("2013-05-01T14:30:00Z"), when(1_367_366_400_000_000)
        ('2013-05-01 14:30', '2013-05-01 00:00')
    """
    text = time if isinstance(time, str) else moment(time)
    return text[:16].replace("T", " ")


def lasted(span_us: int) -> str:
    """A length of time, as people say it.

    Example:
        >>> lasted(5 * 3_600_000_000), lasted(6 * 86_400_000_000 + 1), lasted(90_000_000)
        ('5 hours', '6 days', '2 minutes')
    """
    seconds = span_us / 1e6
    for size, unit in ((DAY_S, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 1.5 * size or size == 60:
            count = round(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return ""


def percent(share: float) -> str:
    """
    Example:
        >>> percent(0.3), percent(0.0004), percent(0.0)
        ('30 %', '0.04 %', '0 %')
    """
    return f"{number(100 * share)} %"


def change(pair: Pair) -> str:
    """Shares before and now, as one text.

    Example:
        >>> change((0.02, 0.3)), change((0.02, 0.02))
        ('2 % → 30 %', '2 %')
    """
    before, now = map(percent, pair)
    return before if before == now else f"{before} → {now}"


def changes(signal: Signal) -> list[str]:
    """What changed, as texts: the shares that did, and the median.

    Example:
        >>> from models.drift.signals import Evidence
        >>> seen = Evidence(shares={"missing": (0.02, 0.3), "outside": (0.0, 0.0)}, quantiles={"0.5": (33.0, 43.0)})
        >>> changes(Signal("data", "amount", "ks", 0, 0.3, 0.1, 3.0, evidence=seen))
        ['missing 2 % → 30 %', 'median 33 → 43']
    """
    evidence = signal.evidence
    written = number if signal.level in FIGURES else percent
    shares = {name.replace("_", " "): list(map(written, pair)) for name, pair in evidence.shares.items()}
    found = [f"{name} {' → '.join(pair)}" for name, pair in shares.items() if len(set(pair)) > 1]
    medians = [number(value) for value in evidence.quantiles.get("0.5", ())]
    return found[:MOST_SHARES] + ([f"median {' → '.join(medians)}"] if len(set(medians)) > 1 else [])


def embedded(picture: Picture) -> str:
    """The picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()
