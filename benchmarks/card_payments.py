"""Payments for `benchmarks/card_pipeline.py`, and a model trained on some of them. Equal arguments give equal bytes.

>>> records(payments(3, cards=2, terminals=1))[0]
(b'c0000000', b'{"payment_id":"p000000000","at":"2024-05-01T00:25:56.923817Z","card":"c0000000",...}')
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.card_pipeline import CARDS
from features.plan import Floats, Ints
from models.model_store import ModelStore
from offline.train import train

PIPELINE_FILE = Path(__file__).with_name("card_pipeline.py")

START_US = 1_714_521_600_000_000  # 2024-05-01T00:00:00Z
DAY_US = 86_400_000_000

# Event time passes as it does where each card pays four times a day. Faster payments of a card would share tiles, which
# is cheaper than life.
PAYMENTS_A_DAY = 4.0

# One payment in a hundred is late, by up to ten minutes: a terminal that was off line.
LATE_SHARE, LATEST_US = 0.01, 600_000_000

CHANNELS = ("chip", "contactless", "online")

TRAINING_EVENTS = 60_000
# Of the training events, so that trained models see entities with a past: some 20 payments each.
TRAINING_CARDS, TRAINING_TERMINALS = 3_000, 300


class Payments(NamedTuple):
    """n payments in the order of their arrival; entities are numbers below `cards` and `terminals`."""

    numbers: Ints
    times_us: Ints
    cards: Ints
    terminals: Ints
    amounts: Floats
    channels: Ints


def payments(
    count: int,
    *,
    cards: int = 20_000,
    terminals: int = 2_000,
    skew: float = 0.0,
    seed: int = 1,
    first: int = 0,
) -> Payments:
    """`count` payments, from the one numbered `first` on; the same numbers never have the same id twice.

    `skew` 0: all entities are equally busy; above, the k-th busiest has a share in proportion to k ** -skew (Zipf's law;
    1.0 is usual for words and cities).
    """
    random = np.random.default_rng([seed, first])
    card = _chosen(random, count, cards, skew)
    terminal = _chosen(random, count, terminals, skew)
    numbers = np.arange(first, first + count, dtype=np.int64)
    step_us = DAY_US / (PAYMENTS_A_DAY * cards)
    times_us = START_US + ((numbers + random.random(count)) * step_us).astype(np.int64)
    late = random.random(count) < LATE_SHARE
    times_us = times_us - np.where(late, random.integers(0, LATEST_US, count), 0)
    usual = 3.0 + (card % 97) / 97.0  # of each card, as a logarithm: 20 to 55 EUR
    amounts = np.round(random.lognormal(usual, 0.8), 2).clip(0.01, 100_000.0)
    return Payments(numbers, times_us, card, terminal, amounts, random.integers(0, len(CHANNELS), count))


def records(made: Payments) -> list[tuple[bytes, bytes]]:
    """(key, JSON) of each payment; the key is the card, the pipeline's first entity."""
    texts = np.datetime_as_string(made.times_us.astype("datetime64[us]"), unit="us", timezone="UTC").tolist()
    channels = [name.encode() for name in CHANNELS]
    columns = zip(
        made.numbers.tolist(),
        texts,
        made.cards.tolist(),
        made.terminals.tolist(),
        made.amounts.tolist(),
        made.channels.tolist(),
        strict=True,
    )
    return [
        (b"c%07d" % card, _json(number, text.encode(), card, terminal, amount, channels[channel]))
        for number, text, card, terminal, amount, channel in columns
    ]


def _json(number: int, text: bytes, card: int, terminal: int, amount: float, channel: bytes) -> bytes:
    return (
        b'{"payment_id":"p%09d","at":"%s","card":"c%07d","terminal":"t%06d","amount":%.2f,"channel":"%s"}'
        % (number, text, card, terminal, amount, channel)
    )


def table(made: Payments, seed: int = 1) -> pa.Table:
    """The payments as training reads them, with the label `fraud` in a column of its own."""
    fraud = np.random.default_rng(seed).random(len(made.numbers)) < _fraud_shares(made)
    texts: Sequence[str] = np.array(CHANNELS)[made.channels].tolist()
    return pa.table(
        {
            "payment_id": [f"p{number:09d}" for number in made.numbers.tolist()],
            "at": pa.array(made.times_us, pa.timestamp("us", "UTC")),
            "card": [f"c{card:07d}" for card in made.cards.tolist()],
            "terminal": [f"t{terminal:06d}" for terminal in made.terminals.tolist()],
            "amount": made.amounts,
            "channel": texts,
            "fraud": fraud.astype(np.int8),
        }
    )


def save_model(folder: Path, events: int = TRAINING_EVENTS) -> str:
    """Train on so many payments, save the model into the store at `folder`, and make it the champion; its version.

    Takes about 3 s for the default number of events. Fewer give smaller trees, which answer faster.
    """
    made = payments(events, cards=TRAINING_CARDS, terminals=TRAINING_TERMINALS, seed=7)
    store = ModelStore(folder)
    report = train(CARDS, table(made), store=store, label_gap_us=0)
    store.promote(CARDS.name, report.version)
    return report.version


def _chosen(random: np.random.Generator, count: int, entities: int, skew: float) -> Ints:
    if not skew:
        return random.integers(0, entities, count)
    shares = np.arange(1, entities + 1, dtype=np.float64) ** -skew
    return np.searchsorted(np.cumsum(shares / shares.sum()), random.random(count)).astype(np.int64)


def _fraud_shares(made: Payments) -> Floats:
    """float64[n]: one terminal in 29 is bad for three days at a time, and large payments on line are riskier."""
    days = (made.times_us - START_US) // (3 * DAY_US)
    bad = (made.terminals + 7 * days) % 29 == 0
    dear = np.log1p(made.amounts) / 10.0
    shares: Floats = np.where(bad, 0.5, 0.01) + 0.1 * dear * (made.channels == CHANNELS.index("online"))
    return shares
