"""The job in Quix Streams, in its own environment (requirements.txt).

    events (keyed by card) -> windows of the card -> hop (keyed by terminal) -> windows of the terminal -> predictions

Written well: state as one value an entity, which Quix keeps in RocksDB and sends to a changelog topic once a checkpoint;
JSON by orjson; LightGBM by its C interface for single rows; feature rows to Redis in one command a checkpoint. The hop is a topic of its
own, as `group_by` makes one wherever there is more than one partition.

What it leaves out:

- It answers one event at a time, so nothing of an event can be shared with its neighbours: a row costs LightGBM twice as
  much as in a batch, and state is decoded and encoded for every event.
- At least once, its default: after a crash the events since the last checkpoint (5 s) are worked on again. State, offsets
  and changelog go together, so that cards count them once; but they are sent to the hop again, where terminals count them
  twice, and predictions stand twice. `processing_guarantee="exactly-once"` mends both, by Kafka's transactions, at a price;
  the cheaper one is measured. (Redis rows are outside of it, and are written again.)
- A payment that its sender repeats is counted twice.
- A payment that cannot be decoded ends the application, unless a callback says to ignore it; it is kept nowhere.
- Redis gets the newest features as JSON, for those who know the keys. There is no registry and no offline join.

What it has: state survives a crash without Redis, and is rebuilt from the changelog where the disk is lost.
"""

from __future__ import annotations

import ctypes
import gc
from datetime import datetime
from typing import Any

import lightgbm
import numpy as np
import orjson
import redis
from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.peers.job import FEATURES, Job, Scoring, time_us
from benchmarks.peers.windows import CARD_FEATURES, TERMINAL_FEATURES, Card, Terminal

Row = dict[str, Any]


class FeatureRows(BatchingSink):
    """The newest features of each entity, as JSON in Redis, at every checkpoint."""

    def __init__(self, url: str, entity: str, names: tuple[str, ...]) -> None:
        super().__init__()
        self._redis, self._entity, self._names = redis.Redis.from_url(url), entity, names

    def write(self, batch: SinkBatch) -> None:
        """The rows of one partition since the last checkpoint, oldest first."""
        newest = {item.value[self._entity]: item.value[f"{self._entity}_features"] for item in batch}
        self._redis.mset(
            {
                f"{self._entity}:{key}": orjson.dumps(dict(zip(self._names, features, strict=True)))
                for key, features in newest.items()
            }
        )


class SingleRows:
    """LightGBM for one row at a time, by its C interface: 10 µs a row, where `Booster.predict` takes 34.

    Python's interface has no door to it (https://lightgbm.readthedocs.io/en/stable/C-API.html,
    LGBM_BoosterPredictForMatSingleRowFast): the handle and the library are private names of the package.
    """

    NORMAL, FLOAT64 = 0, 1  # what to predict, and of what type the row is

    def __init__(self, model: str) -> None:
        self._booster = lightgbm.Booster(model_file=model)  # its end would end the handle
        self._row, self._score = np.zeros(len(FEATURES)), np.zeros(1)
        self._config, length = ctypes.c_void_p(), ctypes.c_int64()
        self._library = lightgbm.basic._LIB  # noqa: SLF001
        done = self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
            *(self._booster._handle, self.NORMAL, 0, -1, self.FLOAT64, len(FEATURES)),  # noqa: SLF001
            *(b"num_threads=1", ctypes.byref(self._config)),
        )
        lightgbm.basic._safe_call(done)  # noqa: SLF001
        self._arguments = (
            *(self._config, self._row.ctypes.data_as(ctypes.c_void_p)),
            *(ctypes.byref(length), self._score.ctypes.data_as(ctypes.c_void_p)),
        )

    def score(self, row: list[Any]) -> float:
        """The score of one row; None is missing."""
        self._row[:] = np.array(row, np.float64)
        done = self._library.LGBM_BoosterPredictForMatSingleRowFast(*self._arguments)
        lightgbm.basic._safe_call(done)  # noqa: SLF001
        return float(self._score[0])


class Stages:
    """The functions of the two data frames."""

    def __init__(self, job: Job) -> None:
        self._card, self._terminal = Card(), Terminal()
        self._scoring, self._model = Scoring(job), SingleRows(job.model)

    def of_card(self, payment: Row, state: State) -> Row:
        """The payment with the features of its card."""
        windows = state.get("windows") or self._card.new()
        payment["time_us"] = at = time_us(datetime.fromisoformat(payment["at"]))
        payment["card_features"] = self._card.take(windows, at, payment["amount"], payment["terminal"])
        state.set("windows", windows)
        return payment

    def of_terminal(self, payment: Row, state: State) -> Row:
        """The payment with the features of its terminal as well."""
        windows = state.get("windows") or self._terminal.new()
        features = self._terminal.take(windows, payment["time_us"], payment["amount"])
        payment["terminal_features"] = features
        state.set("windows", windows)
        return payment

    def prediction(self, payment: Row) -> Row:
        """The answer."""
        row = self._scoring.row(
            payment["amount"],
            payment["channel"],
            payment["time_us"],
            payment["card_features"],
            payment["terminal_features"],
        )
        score = self._model.score(row)
        return self._scoring.prediction(payment["payment_id"], payment["at"], payment["channel"], row, score)


def main() -> None:
    """Run until SIGTERM."""
    job = Job.from_arguments()
    app = Application(
        job.brokers,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        state_dir=job.folder,
        producer_extra_config={"linger.ms": 5},
        loglevel="WARNING",
    )
    stages = Stages(job)
    events = app.topic(job.events, key_deserializer="str", value_deserializer="json")
    hop = app.topic(job.hop, key_deserializer="str", key_serializer="str")
    predictions = app.topic(job.predictions, key_serializer="str", value_serializer="json")

    cards = app.dataframe(events).apply(stages.of_card, stateful=True)
    cards.to_topic(hop, key=lambda payment: payment["terminal"])
    cards.sink(FeatureRows(job.redis_url, "card", CARD_FEATURES))

    terminals = app.dataframe(hop).apply(stages.of_terminal, stateful=True)
    terminals.apply(stages.prediction).to_topic(predictions, key=lambda answer: answer["event_id"])
    terminals.sink(FeatureRows(job.redis_url, "terminal", TERMINAL_FEATURES))

    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # as the other peers
    app.run()


if __name__ == "__main__":
    main()
