"""Payments at a steady rate from a process of its own, whatever becomes of them (an open loop).

    python -m benchmarks.paced_sender --brokers 127.0.0.1:9092 --rate 1000 --seconds 45

Everything is made before the first is sent; then, at each line on stdin, `--seconds` of it go out. An event is sent
within `TICK_S` of its moment; when this process was kept waiting it catches up, and says by how much it was behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from confluent_kafka import Producer

from benchmarks.card_payments import payments, records
from benchmarks.card_pipeline import CARDS
from driftwood.pipelines import topics_of
from streams.producer import partition_of
from streams.settings import Settings

# Some producers together send a few events in every such moment; one request each would make the broker the bottleneck.
TICK_S = 0.005


def main() -> None:
    """Make the payments, wait for a line, send."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--terminals", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first payment")
    asked = parser.parse_args()
    count = round(asked.rate * asked.seconds)
    made = records(payments(count, cards=asked.cards, terminals=asked.terminals, first=asked.first))
    topic = topics_of(CARDS, Settings(partitions=asked.partitions)).events.name
    producer = Producer({"bootstrap.servers": asked.brokers, "linger.ms": 0, "acks": "1"})
    producer.list_topics(topic)  # connects, so that the first event does not
    _answer({"ready": count})
    sys.stdin.readline()
    behind_s = _send(producer, topic, asked.partitions, made, asked.rate)
    producer.flush()
    _answer({"sent": count, "most_behind_ms": round(1e3 * behind_s, 1)})


def _send(
    producer: Producer, topic: str, partitions: int, made: Sequence[tuple[bytes, bytes]], rate: float
) -> float:
    """Send all at this rate; by how many seconds the latest was behind its moment."""
    started, sent, behind_s = time.monotonic(), 0, 0.0
    while sent < len(made):
        now_s = time.monotonic() - started
        due = min(int(now_s * rate) + 1, len(made))
        if due > sent:
            behind_s = max(behind_s, now_s - sent / rate)
        for key, value in made[sent:due]:
            producer.produce(topic, value, key, partition_of(key, partitions))
        sent = max(sent, due)
        producer.poll(0)
        time.sleep(TICK_S)
    return behind_s


def _answer(said: dict[str, object]) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
