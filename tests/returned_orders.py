"""A shop whose orders may come back: a pipeline with learners and windows over labels, its events, labels and actions.

Labels come late and in every awkward way: before their event's prediction, twice, corrected, null, after the horizon, known
before their event, for events that nobody knows or that could not be used; some are no labels at all. Of most orders none
comes: silence means no.
"""

from __future__ import annotations

import heapq
import json
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from driftwood.pipelines import topics_of
from models.loading import load_pipeline
from models.pipeline import Pipeline
from streams.settings import Settings
from streams.topics import PipelineTopics
from tests.kafka_records import Sender

PIPELINE = """
from datetime import datetime

import msgspec
from driftwood import Entity, Label, Pipeline, bounded_tree, categorical, scaled_logistic


class Order(msgspec.Struct):
    order_id: str
    placed_at: datetime
    shop: int
    amount: float
    customer: str | None = None
    country: str | None = None


customer, shop = Entity("customer"), Entity("shop")

orders = Pipeline(
    "{name}",
    event=Order,
    id="order_id",
    time="placed_at",
    earliest="2024-01-01",
    label=Label("returned", horizon="1h", when_silent=0, values=("minutes",)),
    features=[
        "amount",
        categorical("country"),
        customer.rate("returned", "1h"),
        customer.mean("minutes", "30m"),
        customer.count("1h"),
        shop.rate("returned", "1h"),
        shop.mean("amount", "1h"),
    ],
    fallback=0.2,
    online=[scaled_logistic(), bounded_tree()],
)
"""

START = datetime(2024, 5, 1, tzinfo=UTC)
MINUTE_S = 60


@dataclass(frozen=True)
class Returns:
    """The pipeline under a name of its own, so that tests share a broker."""

    path: Path
    pipeline: Pipeline

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.pipeline.name

    def topics(self, partitions: int) -> PipelineTopics:
        """Its topics."""
        return topics_of(self.pipeline, Settings(partitions=partitions))


def returns_pipeline(folder: Path) -> Returns:
    """Write the pipeline file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"returns_{uuid.uuid4().hex[:12]}"
    path = folder / f"{name}.py"
    path.write_text(PIPELINE.replace("{name}", name))
    return Returns(path, load_pipeline(str(path)))


def stamp(seconds: float) -> str:
    """So many seconds after the start, as a record writes it."""
    return (START + timedelta(seconds=seconds)).isoformat()


def stamp_of(moment: int | str) -> str:
    """The same of microseconds since the epoch, or of any other way to write it."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment).isoformat()
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)).isoformat()


def order(number: int, at_s: float, **more: Any) -> dict[str, Any]:
    """An order."""
    return {"order_id": f"o{number}", "placed_at": stamp(at_s), "shop": 1, "amount": 20.0, **more}


def label(event_id: str, known_s: float, returned: Any = 1, **more: Any) -> dict[str, Any]:
    """A label."""
    return {"event_id": event_id, "returned": returned, "known_at": stamp(known_s), "minutes": 5.0, **more}


@dataclass
class Sent:
    """What was sent and can be used: order ids; labels by event id and time, as often as they were sent; actions."""

    orders: set[str] = field(default_factory=set)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    actions: int = 0


class Shop:
    """Sends orders, a few at a time, and what becomes of them when it is time; each to any partition."""

    def __init__(self, address: str, name: str, partitions: int, seed: int) -> None:
        self._random, self._partitions = np.random.default_rng(seed), partitions
        self._senders = {kind: Sender(address, f"{name}.{kind}") for kind in ("events", "labels", "actions")}
        self._now_s, self._count, self._ticket = 0.0, 0, 0
        self._due: list[tuple[float, int, str, dict[str, Any]]] = []
        self.sent = Sent()

    def send(self, count: int) -> None:
        """So many more orders, and what is due by then."""
        for _ in range(count):
            # No two times are the same: an event's id and the time of a label tell which label it is.
            self._now_s += (
                float(self._random.choice([0.0, 5.0, 20.0, 55.0])) + self._random.integers(1, 999) / 1e6
            )
            self._order()
            while self._due and self._due[0][0] <= self._now_s:
                _, _, kind, document = heapq.heappop(self._due)
                self._report(kind, document)
            self._produce("labels", self._junk()) if self._chance(0.02) else None
        for sender in self._senders.values():
            sender.flush()

    def _order(self) -> None:
        self._count += 1
        late_s = float(self._random.integers(0, 40)) * MINUTE_S if self._chance(0.05) else 0.0
        number, at_s = self._count, self._now_s - late_s
        made = order(
            number,
            at_s,
            shop=int(self._random.integers(1, 5)),
            amount=round(float(self._random.gamma(2.0, 30.0)), 2),
            customer=[None, *"abcdef"][self._random.integers(7)],
            country=["DE", "FR", None][self._random.integers(3)],
        )
        broken = self._chance(0.02)
        self._fate(f"o{number}", at_s)
        self._produce("events", {**made, "amount": "much"} if broken else made)
        if not broken:
            self.sent.orders.add(f"o{number}")
            self._produce("events", made) if self._chance(0.04) else None  # it is sent twice

    def _fate(self, event_id: str, at_s: float) -> None:
        random = self._random
        if self._chance(0.08):
            self._later(
                "actions", at_s + 60, event_id, {"action": ["blocked", "reviewed"][random.integers(2)]}
            )
        if not self._chance(0.45):
            return
        known_s = at_s + random.integers(0, 58 * MINUTE_S)
        returned = [0, 1, 1, None][random.integers(4)]
        self._later("labels", known_s, event_id, {"returned": returned})
        if self._chance(0.2):  # contradicted, or said again
            again = returned if self._chance(0.4) else [0, 1, None][random.integers(3)]
            self._later("labels", known_s + random.integers(1, 9 * MINUTE_S), event_id, {"returned": again})
        if self._chance(0.05):
            self._later("labels", at_s + 70 * MINUTE_S, event_id, {})
        if self._chance(0.05):
            self._later("labels", at_s - 5 * MINUTE_S, event_id, {}, known_early=True)
        if self._chance(0.05):
            self._later("labels", known_s, f"nobody-{event_id}", {})
        if self._chance(0.05):  # before the event is sent
            self._report("labels", self._document("labels", at_s + 1, event_id, {"returned": 1}))

    def _later(
        self, kind: str, at_s: float, event_id: str, more: Mapping[str, Any], *, known_early: bool = False
    ) -> None:
        self._ticket += 1
        due_s = self._now_s + 1 if known_early else at_s
        heapq.heappush(self._due, (due_s, self._ticket, kind, self._document(kind, at_s, event_id, more)))

    def _document(self, kind: str, at_s: float, event_id: str, more: Mapping[str, Any]) -> dict[str, Any]:
        at_s += int(self._random.integers(1, 999_999)) / 1e6
        if kind == "actions":
            return {"event_id": event_id, "at": stamp(at_s), **more}
        return {**label(event_id, at_s), "minutes": float(self._random.integers(0, 3)), **more}

    def _report(self, kind: str, document: dict[str, Any]) -> None:
        times = 2 if self._chance(0.03) else 1  # its producer sends it again
        for _ in range(times):
            self._produce(kind, document)
        if kind == "labels":
            self.sent.labels[document["event_id"], stamp_of(document["known_at"])] += times
        else:
            self.sent.actions += times

    def _junk(self) -> dict[str, Any]:
        """No label: of the wrong type, from the future, or without what a label says."""
        wrong: list[dict[str, Any]] = [
            label(f"o{self._count}", self._now_s, returned="perhaps"),
            {**label(f"o{self._count}", self._now_s), "known_at": "2150-01-01T00:00:00Z"},
            {"event_id": f"o{self._count}"},
        ]
        return wrong[self._random.integers(3)]

    def _produce(self, kind: str, document: Mapping[str, Any]) -> None:
        partition = int(self._random.integers(self._partitions))
        self._senders[kind].produce(partition, json.dumps(document).encode())

    def _chance(self, share: float) -> bool:
        return bool(self._random.random() < share)
