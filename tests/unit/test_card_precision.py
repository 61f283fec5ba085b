"""Card precision@k a day, against the definition written out card by card."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.durations import DAY_US
from models.card_precision import card_precision

ROWS = st.lists(
    st.tuples(
        st.integers(0, 4),  # day
        st.sampled_from("abcdefg"),
        st.sampled_from([0.0, 1.0, math.nan]),
        st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),  # few, so that many are equal
    ),
    max_size=60,
)


def by_hand(rows, k, once_found):
    """{day: (precision, possible)}, one card after the other."""
    found: set[str] = set()
    figures = {}
    labelled = [row for row in rows if not math.isnan(row[2])]
    for day in sorted({row[0] for row in labelled}):
        today = [row for row in labelled if row[0] == day and row[1] not in found]
        cards = sorted({row[1] for row in today})
        best = {card: max(score for _, c, _, score in today if c == card) for card in cards}
        bad = {card for _, card, code, _ in today if code == 1.0}
        looked_at = sorted(cards, key=lambda card: (-best[card], card))[:k]
        room = max(len(looked_at), 1)
        hits = [card for card in looked_at if card in bad]
        figures[day] = (len(hits) / room, min(len(bad), room) / room)
        if once_found:
            found |= set(hits)
    return figures


@given(rows=ROWS, k=st.integers(1, 5), once_found=st.booleans())
def test_card_precision_is_what_counting_by_hand_gives(rows, k, once_found):
    days, cards, codes, scores = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    )
    times_us = np.array(days, np.int64) * DAY_US + 5
    result = card_precision(times_us, cards, np.array(codes), np.array(scores), k, once_found=once_found)
    expected = by_hand(rows, k, once_found)
    assert result.days.tolist() == list(expected)
    np.testing.assert_allclose(result.precision, [figures[0] for figures in expected.values()])
    np.testing.assert_allclose(result.possible, [figures[1] for figures in expected.values()])


@pytest.mark.parametrize("once_found", [False, True])
def test_card_precision_at_100_of_a_busy_month_is_what_counting_by_hand_gives(once_found):
    draw = np.random.default_rng(3)
    count = 12_000
    days = np.sort(draw.integers(0, 10, count))
    cards = draw.integers(0, 600, count)
    codes = (draw.random(count) < 0.03).astype(float)
    scores = np.round(0.4 * codes + draw.random(count), 2)
    names = [f"c{card:03d}" for card in cards]
    rows = list(zip(days.tolist(), names, codes.tolist(), scores.tolist(), strict=True))
    result = card_precision(days * DAY_US, names, codes, scores, 100, once_found=once_found)
    expected = by_hand(rows, 100, once_found)
    np.testing.assert_allclose(result.precision, [figures[0] for figures in expected.values()])
    assert 0.1 < result.mean < 0.9
    assert (result.precision <= result.possible).all()


def test_a_card_counts_once_a_day_however_often_it_pays():
    codes, scores = np.array([1.0, 1.0, 0.0]), np.array([0.9, 0.8, 0.7])
    assert card_precision(np.arange(3), ["a", "a", "b"], codes, scores, k=2).mean == 0.5


def test_without_payments_there_is_no_mean():
    nothing = np.zeros(0)
    assert math.isnan(card_precision(np.zeros(0, np.int64), [], nothing, nothing).mean)


def test_a_k_below_1_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        card_precision(np.zeros(1, np.int64), ["a"], np.zeros(1), np.zeros(1), k=0)
