"""Late rows and dead letters, compared with the windows before: a reference made of stored events has seen neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from models.drift.signals import Evidence, Signal, Window

# A share of all rows that is worth an alert whatever came before: one in a hundred.
LEAST_GROWTH: Final = 0.01
# While nothing came before: what was usual is not known, but one in ten is too much.
WITHOUT_BEFORE: Final = 0.1
# Above what chance alone makes of the share before, in standard errors.
ERRORS: Final = 6.0
FEWEST: Final = 50
# Of dead letters: reasons that are told apart.
MOST_REASONS: Final = 16

LATE: Final = "late"
DEAD_LETTERS: Final = "dead_letters"


class FeedCounts(msgspec.Struct, array_like=True, frozen=True):
    """Of one slice: its rows, rows that came too late, and dead letters by reason."""

    start_us: int
    end_us: int
    rows: int
    late: int
    dead: dict[str, int]


def feed_counts(start_us: int, end_us: int, rows: int, late: int, dead: Mapping[str, int]) -> FeedCounts:
    """The counts of a slice; of its reasons the `MOST_REASONS` with most dead letters."""
    kept = sorted(dead.items(), key=lambda one: (-one[1], one[0]))[:MOST_REASONS]
    return FeedCounts(start_us, end_us, rows, late, dict(sorted(kept)))


def feed_signals(before: Sequence[FeedCounts], now: Sequence[FeedCounts]) -> list[Signal]:
    """Both rates of the window `now`, against those of the windows `before`; nothing of fewer than `FEWEST` rows.

    Example:
        >>> now = [FeedCounts(0, 1, 950, 0, {"json": 50})]
        >>> late, dead = feed_signals([FeedCounts(-1, 0, 900, 0, {})], now)
        >>> dead.subject, dead.value, round(dead.strength, 1), dead.evidence.shares
        ('dead_letters', 0.05, 5.0, {'json': (0.0, 0.05)})
    """
    return [
        *_signal(LATE, {"late": (_late(before), _late(now))}, before, now),
        *_signal(
            DEAD_LETTERS,
            {
                reason: (_dead(before, reason), _dead(now, reason))
                for reason in sorted({reason for one in now for reason in one.dead})
            },
            before,
            now,
        ),
    ]


def _late(counts: Sequence[FeedCounts]) -> int:
    return sum(one.late for one in counts)


def _dead(counts: Sequence[FeedCounts], reason: str) -> int:
    return sum(one.dead.get(reason, 0) for one in counts)


def _signal(
    subject: str,
    parts: Mapping[str, tuple[int, int]],
    before: Sequence[FeedCounts],
    now: Sequence[FeedCounts],
) -> list[Signal]:
    bad = sum(is_ for _, is_ in parts.values())
    was_bad = _late(before) if subject == LATE else sum(sum(one.dead.values()) for one in before)
    whole, was_whole = bad + sum(one.rows for one in now), was_bad + sum(one.rows for one in before)
    if whole < FEWEST:
        return []
    known = was_whole >= FEWEST
    usual = was_bad / was_whole if known else 0.0
    chance = ERRORS * float(np.sqrt(usual * (1 - usual) * (1 / whole + 1 / max(was_whole, 1))))
    growth = max(LEAST_GROWTH, chance) if known else WITHOUT_BEFORE
    value = bad / whole
    evidence = Evidence(
        Window(before[0].start_us, before[-1].end_us, was_whole) if before else None,
        Window(now[0].start_us, now[-1].end_us, whole),
        shares={
            name: (float(f"{was / max(was_whole, 1):.4g}"), float(f"{is_ / whole:.4g}"))
            for name, (was, is_) in parts.items()
        },
    )
    strength = max(value - usual, 0.0) / growth
    return [
        Signal("data", subject, "rate", now[-1].end_us, value, usual + growth, strength, evidence=evidence)
    ]
