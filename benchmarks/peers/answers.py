"""What was answered, read back from the predictions topic, and how far two programs agree."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from benchmarks.peers.job import FEATURES
from benchmarks.servers import LogEnds
from features.errors import OperatorError
from features.plan import Floats
from streams.topics import Topic

TOLERANCE = (
    1e-6  # of the larger of 1 and the value: sums that are taken in another order differ in their last digits
)
ESTIMATED_FROM = 8  # the pipeline counts distinct terminals exactly up to here; beyond, driftwood estimates
READ_WITHIN_S = 120.0

CHANNEL, DISTINCT = FEATURES.index("channel"), FEATURES.index("card_terminal_distinct_1d")


class _Answer(msgspec.Struct):
    event_id: str
    score: float
    features: dict[str, float | str | None]


Answers = dict[str, Floats]
"""By event id: float64[features + 1], the score last; the channel is 0 where it was told right."""


class Agreement(NamedTuple):
    """`features` and `predictions` are shares of the `compared` events: every feature alike; those and the score alike.

    `left_out` events have more distinct terminals than driftwood counts exactly. `late` is not left out.
    """

    compared: int
    left_out: int
    features: float
    predictions: float
    differing: dict[str, int]


def read_answers(brokers: str, topic: Topic) -> Answers:
    """The first answer to each event of a topic."""
    wanted = LogEnds(brokers, topic).total()
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "benchmark", "enable.auto.commit": False})
    consumer.assign(
        [TopicPartition(topic.name, number, OFFSET_BEGINNING) for number in range(topic.partitions)]
    )
    decode = msgspec.json.Decoder(_Answer).decode
    rows: dict[str, Floats] = {}
    deadline = time.monotonic() + READ_WITHIN_S
    try:
        while wanted > 0:
            if time.monotonic() > deadline:
                raise OperatorError(f"{topic.name}: {wanted:,} predictions could not be read back")
            for message in consumer.consume(10_000, timeout=1.0):
                if message.error():
                    raise KafkaException(message.error())
                answer = decode(message.value() or b"")
                rows.setdefault(answer.event_id, _row(answer))
                wanted -= 1
    finally:
        consumer.close()
    return rows


def agreement(ours: Answers, theirs: Answers) -> Agreement:
    """How far they agree on the events that both answered."""
    both = [event for event in theirs if event in ours]
    a = np.array([ours[event] for event in both])
    b = np.array([theirs[event] for event in both])
    compared = b[:, DISTINCT] <= ESTIMATED_FROM
    alike = _alike(a[compared], b[compared])
    names = (*FEATURES, "score")
    differing = {name: int(count) for name, count in zip(names, (~alike).sum(axis=0), strict=True) if count}
    features = _share(alike[:, :-1].all(axis=1))
    return Agreement(
        int(compared.sum()), int((~compared).sum()), features, _share(alike.all(axis=1)), differing
    )


def _row(answer: _Answer) -> Floats:
    values = [math.nan if value is None else value for value in (answer.features[name] for name in FEATURES)]
    values[CHANNEL] = 0.0  # a text that is copied; the score says whether its code was right
    return np.array([*values, answer.score], np.float64)


def _alike(a: Floats, b: Floats) -> npt.NDArray[np.bool_]:
    return np.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _share(alike: Any) -> float:
    return round(float(alike.mean()), 6) if len(alike) else 0.0
