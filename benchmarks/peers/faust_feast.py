"""The job in Faust and Feast, as their documentation teaches it and as far as it can be tuned without leaving it.

    events (keyed by card) -> agent `cards` -> hop (keyed by terminal) -> agent `terminals` -> predictions

Two agents, because a terminal's payments come from all partitions of `events`: the hop is what Faust calls repartitioning.
Written well: `take()` batches, uvloop, typed JSON, deep buffers, one LightGBM call, one `write_to_online_store` and one
state write a batch, sends awaited together. The windows stand in Redis, read once and then kept in memory, because a Faust
table costs more (a changelog record for each of its writes, 185 µs), and loses count at a crash as well.

What it leaves out:

- State and offsets are not tied together. After a crash the batches since the last commit (some seconds) are read again,
  and counted again: windows are too high until they have passed, and predictions stand twice, with other features.
- After a rebalance a worker that was away may still write the windows of entities that another one has taken over.
- A payment that its sender repeats is counted twice.
- A payment that cannot be decoded is counted and skipped; it is kept nowhere.

What it has: Redis holds Feast rows, so the registry, the online API and the offline joins are Feast's own. Workers share
the partitions, and an entity has one owner at a time.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402  # the loop must be chosen before
import msgspec  # noqa: E402
import pandas as pd  # noqa: E402
import redis.asyncio  # noqa: E402
from faust.types import StreamT, TopicT  # noqa: E402
from feast import FeatureStore  # noqa: E402

from benchmarks.peers.job import Job, Scoring, time_us  # noqa: E402
from benchmarks.peers.windows import (  # noqa: E402
    CARD_FEATURES,
    TERMINAL_FEATURES,
    Card,
    Rings,
    State,
    Terminal,
)

PROJECT = "faust_feast"
BATCH, WITHIN_S = 1_000, 0.05


class Payment(msgspec.Struct):
    """An event."""

    payment_id: str
    at: datetime
    card: str
    terminal: str
    amount: float
    channel: str


class Hop(msgspec.Struct, array_like=True):
    """A payment with the features of its card, on its way to its terminal."""

    payment: Payment
    features: list[float]


Newest = tuple[datetime, list[float]]
"""When an entity was last seen, and its features then."""

Record = tuple[bytes, bytes]
"""(key, value)."""


class Windows:
    """The windows of one entity: in Redis, and in memory once they were read. Forgotten when partitions move."""

    def __init__(self, entity: str, rings: Rings, client: redis.asyncio.Redis) -> None:
        self._prefix, self._rings, self._redis = f"{PROJECT}:{entity}:", rings, client
        self._states: dict[str, State] = {}
        self._decode, self._encode = msgspec.msgpack.Decoder().decode, msgspec.msgpack.Encoder().encode

    async def load(self, keys: Iterable[str]) -> dict[str, State]:
        """The states of these entities."""
        missing = [key for key in keys if key not in self._states]
        if missing:
            stored = await self._redis.mget([self._prefix + key for key in missing])
            for key, value in zip(missing, stored, strict=True):
                self._states[key] = self._rings.new() if value is None else self._decode(value)
        return self._states

    async def save(self, keys: Iterable[str]) -> None:
        """Write what was changed, in one command."""
        await self._redis.mset({self._prefix + key: self._encode(self._states[key]) for key in keys})

    def forget(self) -> None:
        """Another worker may change them from now on."""
        self._states.clear()


class Stages:
    """What the two agents do with a batch."""

    def __init__(self, job: Job) -> None:
        self._card, self._terminal = Card(), Terminal()
        client = redis.asyncio.Redis.from_url(job.redis_url)
        self._cards = Windows("card", self._card, client)
        self._terminals = Windows("terminal", self._terminal, client)
        self._scoring, self._store = Scoring(job), FeatureStore(repo_path=job.folder)
        self._decode = msgspec.json.Decoder(Payment).decode
        self._decode_hop = msgspec.msgpack.Decoder(Hop).decode
        self._encode_hop = msgspec.msgpack.Encoder().encode
        self._encode = msgspec.json.Encoder().encode
        self.undecodable = 0

    async def cards(self, batch: Sequence[bytes]) -> list[Record]:
        """Payments become records of the hop."""
        payments = self._decoded(batch)
        keys = {payment.card for payment in payments}
        states, newest, made = await self._cards.load(keys), {}, []
        for payment in payments:
            at = time_us(payment.at)
            features = self._card.take(states[payment.card], at, payment.amount, payment.terminal)
            newest[payment.card] = (payment.at, features)
            made.append((payment.terminal.encode(), self._encode_hop(Hop(payment, features))))
        await self._cards.save(keys)
        await asyncio.to_thread(self._write_rows, "card", CARD_FEATURES, newest)
        return made

    async def terminals(self, batch: Sequence[bytes]) -> list[Record]:
        """Records of the hop become predictions."""
        hops = [self._decode_hop(value) for value in batch]
        keys = {hop.payment.terminal for hop in hops}
        states, newest, rows = await self._terminals.load(keys), {}, []
        for payment, of_card in [(hop.payment, hop.features) for hop in hops]:
            at = time_us(payment.at)
            features = self._terminal.take(states[payment.terminal], at, payment.amount)
            newest[payment.terminal] = (payment.at, features)
            rows.append(self._scoring.row(payment.amount, payment.channel, at, of_card, features))
        await self._terminals.save(keys)
        await asyncio.to_thread(self._write_rows, "terminal", TERMINAL_FEATURES, newest)
        scored = zip(hops, rows, self._scoring.scores(rows), strict=True)
        return [self._prediction(hop.payment, row, score) for hop, row, score in scored]

    def forget(self) -> None:
        """When partitions move."""
        self._cards.forget()
        self._terminals.forget()

    def _decoded(self, batch: Sequence[bytes]) -> list[Payment]:
        payments = []
        for value in batch:
            try:
                payments.append(self._decode(value))
            except msgspec.MsgspecError:
                self.undecodable += 1
        return payments

    def _write_rows(self, entity: str, names: Sequence[str], newest: Mapping[str, Newest]) -> None:
        columns = zip(*(features for _, features in newest.values()), strict=True)
        frame = {entity: list(newest), "event_timestamp": [at for at, _ in newest.values()]}
        frame |= dict(zip(names, columns, strict=True))
        self._store.write_to_online_store(f"{PROJECT}_{entity}", pd.DataFrame(frame))

    def _prediction(self, payment: Payment, row: Sequence[float], score: float) -> Record:
        at: Any = payment.at  # as JSON it becomes text again
        made = self._scoring.prediction(payment.payment_id, at, payment.channel, row, score)
        return payment.payment_id.encode(), self._encode(made)


def make_app(job: Job) -> faust.App:
    """The app with its two agents."""
    app = faust.App(
        job.group,
        broker=f"kafka://{job.brokers}",
        datadir=job.folder,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=65_536,
        broker_max_poll_records=2_000,
        broker_commit_every=100_000,
        broker_commit_interval=1.0,
        producer_linger=0.005,
        producer_max_batch_size=262_144,
        worker_redirect_stdouts=False,
    )
    stages = Stages(job)
    events, hop, predictions = (_raw(app, name) for name in (job.events, job.hop, job.predictions))

    @app.agent(events)
    async def cards(stream: StreamT[bytes]) -> None:
        async for batch in stream.take(BATCH, within=WITHIN_S):
            await send(hop, await stages.cards(batch))

    @app.agent(hop)
    async def terminals(stream: StreamT[bytes]) -> None:
        async for batch in stream.take(BATCH, within=WITHIN_S):
            await send(predictions, await stages.terminals(batch))

    @app.on_partitions_revoked.connect
    async def revoked(*args: Any, **named: Any) -> None:
        stages.forget()

    return app


async def send(topic: TopicT, records: Sequence[Record]) -> None:
    """All of them, and then the broker's acknowledgements."""
    await asyncio.gather(*[await topic.send(key=key, value=value) for key, value in records])


def _raw(app: faust.App, name: str) -> TopicT:
    return app.topic(name, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")


def main() -> None:
    """Be a Faust worker until SIGTERM."""
    app = make_app(Job.from_arguments())
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # the state has no cycles, and much of it
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
