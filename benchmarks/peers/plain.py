"""The job as a plain consumer loop: confluent-kafka, a dictionary of windows for each entity, one process.

Written well: a thousand records at a time, typed JSON, one LightGBM call and one Redis command a batch, the producer's own
batching, no garbage collection of state that has no cycles. It needs no hop topic, because one process holds all cards
and all terminals.

What it leaves out, and why it is so short:

- The windows are in memory alone. After a crash they begin empty, and fill for as long as the longest of them: 30 days.
- A second process would get other partitions of `events`, keyed by card, and would know half of every terminal's past.
- Offsets are committed behind the batch: after a crash up to a batch is answered twice, and counted twice by whatever
  read it. A payment that its sender repeats is counted twice as well.
- A payment that cannot be decoded is counted and skipped; it is kept nowhere.
- Redis gets the newest features as JSON, for those who know the keys. There is no registry and no offline join.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from benchmarks.peers.job import Job, Scoring, time_us
from benchmarks.peers.windows import CARD_FEATURES, TERMINAL_FEATURES, Card, State, Terminal

BATCH = 1_000  # records at most; whatever is there is taken at once


class Payment(msgspec.Struct):
    """An event."""

    payment_id: str
    at: datetime
    card: str
    terminal: str
    amount: float
    channel: str


class Loop:
    """Everything that the loop holds."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._scoring = Scoring(job)
        self._decode = msgspec.json.Decoder(Payment).decode
        self._encode = msgspec.json.Encoder().encode
        self._card, self._terminal = Card(), Terminal()
        self._cards: dict[str, State] = {}
        self._terminals: dict[str, State] = {}
        self._redis = redis.Redis.from_url(job.redis_url)
        self._producer = Producer({"bootstrap.servers": job.brokers, "linger.ms": 5})
        self._failed: list[KafkaError] = []
        self.undecodable = 0

    def work(self, messages: Sequence[Message]) -> None:
        """Features, scores, predictions and rows of a batch, everything delivered when it returns."""
        payments = self._decoded(messages)
        if not payments:
            return
        rows: dict[str, dict[str, float]] = {}
        inputs = [self._features(payment, rows) for payment in payments]
        scores = self._scoring.scores(inputs)
        for payment, row, score in zip(payments, inputs, scores, strict=True):
            self._publish(payment, row, score)
        self._redis.mset({key: self._encode(newest) for key, newest in rows.items()})
        self._producer.flush()
        if self._failed:
            raise KafkaException(self._failed[0])

    def _decoded(self, messages: Sequence[Message]) -> list[Payment]:
        payments = []
        for message in messages:
            try:
                payments.append(self._decode(message.value() or b""))
            except msgspec.MsgspecError:
                self.undecodable += message.error() is None
        return payments

    def _features(self, payment: Payment, rows: dict[str, dict[str, float]]) -> list[float]:
        at, amount = time_us(payment.at), payment.amount
        card = self._cards.get(payment.card)
        if card is None:
            card = self._cards[payment.card] = self._card.new()
        terminal = self._terminals.get(payment.terminal)
        if terminal is None:
            terminal = self._terminals[payment.terminal] = self._terminal.new()
        of_card = self._card.take(card, at, amount, payment.terminal)
        of_terminal = self._terminal.take(terminal, at, amount)
        rows[f"card:{payment.card}"] = dict(zip(CARD_FEATURES, of_card, strict=True))
        rows[f"terminal:{payment.terminal}"] = dict(zip(TERMINAL_FEATURES, of_terminal, strict=True))
        return self._scoring.row(amount, payment.channel, at, of_card, of_terminal)

    def _publish(self, payment: Payment, row: Sequence[float], score: float) -> None:
        at: Any = payment.at  # as JSON it becomes text again
        made = self._scoring.prediction(payment.payment_id, at, payment.channel, row, score)
        value, key = self._encode(made), payment.payment_id
        self._producer.produce(self._job.predictions, value, key, on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(error)


def main() -> None:
    """Work until SIGTERM."""
    job = Job.from_arguments()
    loop = Loop(job)
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ending.append(number))
    consumer = Consumer(
        {
            "bootstrap.servers": job.brokers,
            "group.id": job.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([job.events])
    gc.disable()
    while not ending:
        messages = consumer.consume(BATCH, timeout=0.1)
        if messages:
            loop.work(messages)
            consumer.commit(asynchronous=True)
    consumer.close()


if __name__ == "__main__":
    main()
