"""The learn road: what an outcome costs, and how soon a label is in the weights that answer.

    python -m benchmarks.learn_road                     about 3 minutes
    python -m benchmarks.learn_road --broker kafka --json

The pipeline is the shipped `payments`. `cpu_us_per_outcome` is CPU of this process, in batches of `--rows`, with the ledger
in a real Redis, after ten simulated days that do not count (`benchmarks/learn_cost.py` says why):

    labels     decoding labels, and making reports of them for the join
    join       reading reports and what was served, the ledger, making outcomes and label rows, claim and commit
    learner    reading outcomes, measuring, weighing and learning: the scaled logistic regression alone
    learner_default    the same with all learners of the pipeline

A `driftwood learn` process does all of this, and a snapshot a second (`snapshot_ms`), under one interpreter's lock. So
`outcomes_per_second` is how many outcomes of labels + join + learner go into the CPU second that a snapshot leaves;
`outcomes_per_second_default` with all learners. What consuming and producing cost in a worker comes on top: some 10 us a
label, and next to nothing for what travels in frames.

`label_to_weights_seconds` is measured live, a worker and a learner with all learners beside broker and Redis, `--rate`
events and as many labels a second: from sending a label to the first answer whose snapshot has learnt it, by the clock of
this machine and that of the broker on it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from benchmarks.learn_cost import LearnerCost, label_of, learner_cost, payments, road_cost
from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, print_steps, say, tell
from benchmarks.servers import BROKERS, servers
from driftwood.answers import Answers, Reader
from driftwood.demo_labels import OutcomeReader, label_to_weights_s
from driftwood.demo_worker import WorkerChild
from driftwood.pipelines import topics_of
from examples.payments.records import Record
from features.errors import DriftwoodError, OperatorError
from models.loading import load_pipeline
from offline.one_order import Sent
from streams.producer import partition_of
from streams.run import calm_collector
from streams.settings import Settings
from streams.topics import PipelineTopics

PIPELINE = "payments"
PACKAGES = ("driftwood", "river", "numpy", "numba", "pyarrow", "confluent-kafka", "aiokafka")

# A label follows its event by so many seconds: the answer is out by then, or the label would wait for it.
LABEL_AFTER_S = 2.0
LOOK_EVERY_S = 0.005

# How long the sender gathers. The embedded broker hands out one batch of a producer for each fetch, so of many small ones
# (1 ms: 200 a second of each topic) a reader falls further and further behind: labels waited for 30 s.
LINGER_MS = 20
TURN_S = 60.0  # for the last labels to be joined


@dataclass(frozen=True)
class Live:
    """Processes that run, and what comes out of them."""

    settings: Settings
    topics: PipelineTopics
    learners: Sequence[WorkerChild]
    answers: Answers
    outcomes: OutcomeReader


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    say(f"{asked.outcomes:,} outcomes in this process")
    calm_collector()  # as every process of driftwood does
    steps, records = road_cost(asked.outcomes, asked.rows)
    alone = learner_cost(records, asked.outcomes, "scaled_logistic")
    everyone = learner_cost(records, asked.outcomes)
    before_us = {stage: sum(row.values()) for stage, row in steps.items()}

    def a_second(learner: LearnerCost) -> int:
        return round(1e6 * learner.left / (sum(before_us.values()) + learner.outcome_us))

    found = {
        "outcomes_per_second": a_second(alone),
        "outcomes_per_second_default": a_second(everyone),
        "cpu_us_per_outcome": {
            **{stage: round(us, 1) for stage, us in before_us.items()},
            "learner": round(alone.outcome_us, 1),
            "learner_default": round(everyone.outcome_us, 1),
        },
        "snapshot_ms": round(alone.snapshot_ms, 1),
        "snapshot_mib": round(alone.snapshot_mib, 1),
        "steps_us": steps,
        "rows": asked.rows,
    }
    if asked.seconds:
        found |= live(asked.rate, asked.seconds, asked.broker)
    return {**found, "machine": machine(PACKAGES)}


def live(rate: float, seconds: float, broker: str) -> dict[str, Any]:
    """Send at a steady rate, and say when labels were in the weights. The first third does not count."""
    count = round(rate * seconds)
    events = payments(count, seed=2)
    with (
        tempfile.TemporaryDirectory(prefix="driftwood-benchmark-") as folder,
        _running(broker, Path(folder)) as now,
    ):
        say(f"{rate:g} events and labels a second, for {seconds:g} s")
        sent_ms = _send(now, events, rate)
        _wait(now, count)
        counted = {
            name: at_ms for name, at_ms in sent_ms.items() if at_ms >= min(sent_ms.values()) + seconds * 333
        }
        return {
            "label_to_weights_seconds": label_to_weights_s(now.outcomes.outcomes, counted, now.answers),
            "labels": len(counted),
            "rate": rate,
            "broker": broker,
            "latency_ms": now.answers.latency_ms(),
        }


@contextmanager
def _running(broker: str, folder: Path) -> Iterator[Live]:
    pipeline = load_pipeline(PIPELINE)
    chosen = Settings(partitions=1, models_dir=folder / "models", session_timeout=timedelta(seconds=60))
    topics = topics_of(pipeline, chosen)
    with servers(broker, folder, topics) as started:
        local = chosen.model_copy(update=started.addresses)
        with (
            WorkerChild(PIPELINE, local, folder / "worker.log") as worker,
            WorkerChild(PIPELINE, local, folder / "learner.log", command="learn") as learner,
        ):
            learner.wait_until_ready(4)  # labels, actions, hop-join, outcomes
            worker.wait_until_ready(1 + len(topics.hops))
            answers = Answers()
            Reader(local, topics.predictions, answers)
            outcomes = OutcomeReader(pipeline, local, topics.learning.outcomes, answers)
            yield Live(local, topics, (worker, learner), answers, outcomes)


def _send(now: Live, events: Sequence[Record], rate: float) -> dict[str, float]:
    """Each event at its time and its label `LABEL_AFTER_S` later; by event id when the label was sent, in ms."""
    producer = Producer({**now.settings.kafka_client(), "linger.ms": LINGER_MS, "acks": "all"})
    behind = round(rate * LABEL_AFTER_S)
    began_s, sent_ms = time.monotonic(), {}
    for number in range(len(events) + behind):
        while time.monotonic() < began_s + number / rate:
            producer.poll(0)
            time.sleep(LOOK_EVERY_S)
        if number < len(events):
            event = events[number]
            _produce(producer, now.topics.events.name, event.key, event.value)
        if number >= behind:
            event = events[number - behind]
            label = label_of(event, number, event.at_us + 1_000_000)
            sent_ms[_name(label)] = time.time() * 1e3
            _produce(producer, now.topics.learning.labels.name, label.key, label.value)
    producer.flush(TURN_S)
    return sent_ms


def _produce(producer: Producer, topic: str, key: bytes | None, value: bytes) -> None:
    producer.produce(topic, value, key, partition_of(key or value, 1))


def _name(label: Sent) -> str:
    return (label.key or b"").decode()


def _wait(now: Live, count: int) -> None:
    """Until every event is answered and every label joined."""
    until_s = time.monotonic() + TURN_S
    while len(now.answers.ids) < count or now.outcomes.outcomes.labels < count:
        for process in now.learners:
            process.check()
        now.outcomes.check()
        if time.monotonic() > until_s:
            answered, joined = len(now.answers.ids), now.outcomes.outcomes.labels
            raise OperatorError(
                f"of {count:,} events {answered:,} are answered, and {joined:,} labels joined"
            )
        time.sleep(LOOK_EVERY_S)


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    table = Table(title="The learn road", show_header=False)
    table.add_row("outcomes a second, logistic regression alone", f"{figures['outcomes_per_second']:,}")
    table.add_row("outcomes a second, all learners", f"{figures['outcomes_per_second_default']:,}")
    for name, spent in figures["cpu_us_per_outcome"].items():
        table.add_row(f"{name}: CPU, us an outcome", f"{spent:,}")
    if "label_to_weights_seconds" in figures:
        waits = figures["label_to_weights_seconds"]
        table.add_row("label to weights, s", f"p50 {waits['p50']}, p95 {waits['p95']}")
    console.print(table)
    print_steps(console, "CPU of the steps, us an outcome", figures["steps_us"])
    print_machine(console, figures["machine"])


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--outcomes", type=int, default=20_000, help="in this process (default 20,000)")
    parser.add_argument("--rows", type=int, default=500, help="of a batch (default 500)")
    parser.add_argument(
        "--rate", type=float, default=1_000.0, help="events and labels a second (default 1,000)"
    )
    parser.add_argument("--seconds", type=float, default=45.0, help="of the live part (default 45; 0: none)")
    parser.add_argument("--broker", choices=BROKERS, default="embedded")
    asked = parser.parse_args()
    try:
        figures = measured(asked)
    except DriftwoodError as error:
        say(str(error))
        sys.exit(error.exit_code)
    tell(figures, as_json=asked.json, show=show)


if __name__ == "__main__":
    main()
