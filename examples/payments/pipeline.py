"""Is this card payment fraud? Asked when the terminal asks, of every payment; answered by investigators a week later.

The windows are those of the Fraud Detection Handbook: how often and how much a customer pays, how often a terminal is
paid at, and what share of its payments turned out to be fraud, each over 1, 7 and 30 days. The shares count a payment
when its label becomes known, 7 days after it.
"""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from driftwood import (
    Blend,
    DailyCapacity,
    Entity,
    Label,
    LightGBM,
    Pipeline,
    bounded_tree,
    day_of_week,
    expression,
    hour_of_day,
    scaled_logistic,
    unit,
)


class Payment(msgspec.Struct):
    """One payment, as the terminal asks whether to let it through."""

    payment_id: str
    at: datetime
    customer: str
    terminal: str
    amount: Annotated[float, Meta(ge=0, le=100_000), unit("EUR")]


customer, terminal = Entity("customer"), Entity("terminal")

payments = Pipeline(
    "payments",
    event=Payment,
    id="payment_id",
    time="at",
    decided="before the payment is authorised",
    earliest="2024-01-01",
    # Labels take 7 days. What nobody has disputed a day after that, nobody will.
    # One in ten of those that would be blocked is let through: nobody else says what blocking prevents.
    label=Label("fraud", horizon="8d", when_silent=0, holdout=0.1),
    # So many payments a day are blocked: only the surest, as most of those who are refused are customers.
    decide=DailyCapacity(10),
    features=[
        "amount",
        hour_of_day("UTC"),
        day_of_week("UTC"),
        customer.count("1d", "7d", "30d"),
        customer.mean("amount", "1d", "7d", "30d"),
        expression("amount_to_usual", "amount / customer_amount_mean_30d"),
        terminal.count("1d", "7d", "30d"),
        terminal.rate("fraud", "1d", "7d", "30d"),
        # Nothing new for trees. A linear learner sees small amounts, bursts and first frauds by these.
        expression("night", "hour_of_day < 6"),
        expression("amount_log", "log(amount)"),
        expression("amount_to_usual_log", "log(amount_to_usual)"),
        expression("burst", "customer_count_1d / (customer_count_30d + 1)"),
        expression("terminal_fraud_rate_root", "sqrt(terminal_fraud_rate_7d)"),
    ],
    batch=LightGBM(rounds=100, num_leaves=15, min_data_in_leaf=50),
    # A new kind of fraud is one that LightGBM has never seen: the first learner corrects it. In the second gradients are
    # small, as one payment in 120 is fraud: its steps are larger than usual.
    online=[
        scaled_logistic("residual", learning_rate=0.05, over_champion=True),
        scaled_logistic(learning_rate=0.5),
        bounded_tree(),
    ],
    # Labels come after exactly 7 days. Fraud comes in bursts, and a payment that is none says nearly nothing: weights are
    # shared slowly, or every quiet hour would take back what a night of fraud has shown, and leave the tree a twentieth.
    blend=Blend(rate=0.02, share=0.00001, floor=0.05, mature_after="7d"),
    fallback=0.008,
)
