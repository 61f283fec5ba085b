"""The pipeline that the benchmarks of the whole road run: card payments, two entities, 24 windows, LightGBM 200 x 31.

It stands alone in this file, so that `driftwood run benchmarks/card_pipeline.py` works; events and a model for it are
made by `benchmarks/card_payments.py`.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from driftwood import Entity, Label, LightGBM, Meta, Pipeline, categorical, hour_of_day, unit


class Payment(msgspec.Struct):
    """One payment, as the terminal asks whether to let it through."""

    payment_id: str
    at: datetime
    card: str
    terminal: str
    amount: Annotated[float, Meta(ge=0, le=100_000), unit("EUR")]
    channel: Literal["chip", "contactless", "online"]


card, terminal = Entity("card"), Entity("terminal")

CARDS = Pipeline(
    "cards",
    event=Payment,
    id="payment_id",
    time="at",
    decided="before the payment is authorised",
    earliest="2024-01-01",
    label=Label("fraud", horizon="7d"),
    features=[
        "amount",
        categorical("channel"),
        hour_of_day("UTC"),
        card.count("5m", "1h", "1d", "7d", "30d"),
        card.sum("amount", "1h", "1d"),
        card.mean("amount", "1d", "7d", "30d"),
        card.std("amount", "7d"),
        card.max("amount", "1d"),
        card.last("amount"),
        card.since_last(),
        card.ewm("amount", half_life="6h"),
        card.distinct("terminal", "1d", exact_to=8),
        terminal.count("5m", "1h", "1d"),
        terminal.mean("amount", "1h", "30d"),
        terminal.max("amount", "12h"),
        terminal.since_last(),
        terminal.ewm("amount", half_life="1h"),
    ],
    batch=LightGBM(rounds=200, num_leaves=31),
    fallback=0.02,
)
