"""Kills workers at random moments while events flow, on a real Kafka and Redis, and looks for what was lost or doubled.

Two workers share the payments pipeline (`benchmarks/card_pipeline.py`). A sender feeds events at a steady rate, some of
them twice. At random moments one of the workers is killed (SIGKILL), another model is promoted, and a supervisor starts
the worker again. At the end everything in the topics is compared with what the recorded order of the hop topics
prescribes (`benchmarks/recorded_run.py`). All of `lost`, `double` and `predictions_differing` must be 0.

examples:
  python -m benchmarks.chaos --kills 6 --events 30000
  python -m benchmarks.chaos --kills 50 --events 1000000 --json > chaos.json
  python -m benchmarks.chaos --kills 6 --events 30000 --seed 8
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.card_payments import PIPELINE_FILE, save_model
from benchmarks.card_pipeline import CARDS
from benchmarks.chaos_traffic import Answered, Sender
from benchmarks.chaos_workers import Recovery, Supervised
from benchmarks.machine import machine
from benchmarks.recorded_run import Finished, check
from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from models.model_store import ModelStore
from streams.entity_batch import stage_plans
from streams.settings import Settings
from streams.topics import PipelineTopics, TopicAdmin, pipeline_topics

# The shortest that Kafka's brokers allow by default, so that the group notices a death as soon as it can.
SESSION_S = 6.0
# Without a new answer for so long something is lost for good.
PATIENCE_S = 120.0
TOLD_EVERY_S = 5.0
TRAINING_EVENTS = (20_000, 15_000)  # of the two models that take turns
# Entities that brute force looks at; a terminal has ten times as many events as a card.
SAMPLED = {"card": [f"c{number:07d}" for number in range(0, 20_000, 67)]}
SAMPLED["terminal"] = [f"t{number:06d}" for number in range(0, 2_000, 101)]
WRONG = (
    "lost",
    "double",
    "predictions_differing",
    "scores_differing",
    "beyond_oracle",
    "ended_by_themselves",
)


@dataclass(frozen=True)
class Plan:
    """What is asked for; `rate` in events a second."""

    kills: int
    events: int
    rate: float
    seed: int
    workers: int
    partitions: int


@dataclass(frozen=True)
class Surroundings:
    """The servers and models of a run, and where logs go."""

    settings: Settings
    topics: PipelineTopics
    models: ModelStore
    versions: list[str]
    folder: Path


def run(plan: Plan) -> dict[str, Any]:
    """Everything; the figures."""
    started = time.monotonic()
    with ExitStack() as down:
        around = _surroundings(plan, down)
        recovery = Recovery()
        with Supervised(PIPELINE_FILE, around.settings, around.folder, plan.workers) as workers:
            workers.wait_until_ready(plan.partitions * (1 + len(around.topics.hops)))
            chaos_s = _feed_and_kill(plan, around, workers, recovery)
        told = time.monotonic()
        finished = Finished(CARDS, around.topics, around.settings.brokers, around.models, SAMPLED)
        verdict = check(finished, lambda what: _say(f"checking {what}"))
    return {
        "kills": plan.kills,
        **asdict(verdict),
        **_recovery(recovery),
        "ended_by_themselves": workers.ended_by_themselves,
        "sent_events": plan.events,
        "events_per_second": round(plan.events / chaos_s, 1),
        "chaos_seconds": round(chaos_s, 1),
        "check_seconds": round(time.monotonic() - told, 1),
        "seconds": round(time.monotonic() - started, 1),
        "session_timeout_s": SESSION_S,
        **{name: value for name, value in asdict(plan).items() if name not in ("kills", "events")},
        "machine": machine(["driftwood", "confluent-kafka", "redis"]),
    }


def _surroundings(plan: Plan, down: ExitStack) -> Surroundings:
    folder = Path(down.enter_context(tempfile.TemporaryDirectory(prefix="driftwood-chaos-")))
    kafka = down.enter_context(RealKafka().start(folder / "kafka"))
    redis = down.enter_context(EmbeddedRedis().start(folder / "redis"))
    settings = Settings(
        brokers=kafka.address,
        redis_url=redis.url,
        partitions=plan.partitions,
        models_dir=folder / "models",
        session_timeout=timedelta(seconds=SESSION_S),
    )
    topics = pipeline_topics(CARDS.name, [plan.entity for plan in stage_plans(CARDS.feature_set)], settings)
    TopicAdmin(settings).create(topics)
    _say("training two models")
    versions = [save_model(folder / "models", events) for events in TRAINING_EVENTS]
    return Surroundings(settings, topics, ModelStore(folder / "models"), versions, folder)


def _feed_and_kill(plan: Plan, around: Surroundings, workers: Supervised, recovery: Recovery) -> float:
    """Until all events are sent, all kills done, and every event answered or given up; how many seconds that took."""
    random = np.random.default_rng([plan.seed, 1])
    moments = sorted(random.integers(0, plan.events, plan.kills).tolist())
    brokers, topics, started = around.settings.brokers, around.topics, time.monotonic()
    last = list(topics.hops.values())[-1].name
    with (
        Sender(brokers, topics.events, plan.events, plan.rate, plan.seed) as sender,
        Answered(
            brokers,
            topics.predictions,
            plan.events,
            lambda number: recovery.answered(int(sender.terminal_partitions[number]), time.monotonic()),
        ) as answered,
    ):
        watch = _Watch(plan.kills)
        while answered.count < plan.events and watch.goes_on(answered.count):
            sender.check()
            answered.check()
            workers.tend()
            watch.tell(sender.sent, answered.count, len(moments))
            if moments and sender.sent > moments[0]:
                del moments[0]
                victim = int(random.integers(plan.workers))
                owned = {partition for topic, partition in workers.owned(victim) if topic == last}
                recovery.killed(owned, time.monotonic())
                workers.kill(victim)
                around.models.promote(CARDS.name, around.versions[len(moments) % 2])
            time.sleep(0.01)
        return time.monotonic() - started


class _Watch:
    """Tells how it goes, and when to give up."""

    def __init__(self, kills: int) -> None:
        self._kills = kills
        self._told = self._moved = time.monotonic()
        self._answered = -1

    def goes_on(self, answered: int) -> bool:
        """Whether an answer came within the last PATIENCE_S."""
        now = time.monotonic()
        if answered != self._answered:
            self._answered, self._moved = answered, now
        return now - self._moved < PATIENCE_S

    def tell(self, sent: int, answered: int, to_come: int) -> None:
        """A line every TOLD_EVERY_S."""
        if time.monotonic() - self._told > TOLD_EVERY_S:
            self._told = time.monotonic()
            _say(
                f"{sent:,} events sent, {answered:,} answered, {self._kills - to_come} of {self._kills} kills"
            )


def _recovery(recovery: Recovery) -> dict[str, Any]:
    """Seconds from a kill to the first new prediction of a partition that the killed worker owned; null: none was."""

    def of(seconds: list[float], percent: float) -> float | None:
        return round(float(np.percentile(seconds, percent)), 2) if seconds else None

    return {
        "recoveries": len(recovery.seconds),
        "recovery_seconds_p50": of(recovery.seconds, 50),
        "recovery_seconds_p95": of(recovery.seconds, 95),
        "recovery_seconds_max": of(recovery.seconds, 100),
        # Where nobody else was killed before it was over.
        "undisturbed_recoveries": len(recovery.undisturbed),
        "undisturbed_recovery_seconds_p50": of(recovery.undisturbed, 50),
        "undisturbed_recovery_seconds_p95": of(recovery.undisturbed, 95),
    }


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Parse, run, print; exit code 1 when anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs at random moments (%(default)s)")
    parser.add_argument("--events", type=int, default=1_000_000, help="events that are sent (%(default)s)")
    parser.add_argument("--rate", type=float, default=2_000.0, help="of them a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=20130401, help="of events and moments (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="under the supervisor (%(default)s)")
    parser.add_argument("--partitions", type=int, default=4, help="of each topic (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = vars(parser.parse_args())
    as_json = asked.pop("json")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers end with it
    _say(f"seed {asked['seed']}")
    figures = run(Plan(**asked))
    if as_json:
        json.dump(figures, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        for name, value in figures.items():
            print(f"{name:22} {value}")
    sys.exit(1 if any(figures[name] for name in WRONG) else 0)


if __name__ == "__main__":
    main()
