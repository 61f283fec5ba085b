"""What every peer is told, and what every peer answers: one page that all of them share.

Standard library, NumPy and LightGBM alone: Quix Streams runs in an environment of its own.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np

from benchmarks.peers.windows import CARD_FEATURES, TERMINAL_FEATURES

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

FEATURES = ("amount", "channel", "hour_of_day", *CARD_FEATURES, *TERMINAL_FEATURES)


@dataclass(frozen=True)
class Job:
    """Where things are. `events` are keyed by card; `hop` is the peer's own topic, keyed by terminal."""

    brokers: str
    redis_url: str
    events: str
    hop: str
    predictions: str
    group: str
    folder: str  # for state on disk, and for Faust's Feast repository
    model: str  # LightGBM's text
    model_version: str
    channels: tuple[str, ...]  # the model's codes of `channel`, in order
    threshold: float

    def save(self, path: Path) -> Path:
        """As a file that `from_arguments` reads."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def from_arguments(cls) -> Self:
        """From the file that the command line names."""
        return cls(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


class Scoring:
    """The model, and predictions as they are published: driftwood's fields, as far as a peer knows them."""

    def __init__(self, job: Job) -> None:
        self._booster = lightgbm.Booster(model_file=job.model)
        self._codes = {text: float(code) for code, text in enumerate(job.channels)}
        self._version, self._threshold = job.model_version, job.threshold

    def row(
        self, amount: float, channel: str, time_us: int, card: Sequence[float], terminal: Sequence[float]
    ) -> list[float]:
        """The model's input."""
        hour = float(time_us // 3_600_000_000 % 24)
        return [amount, self._codes.get(channel, math.nan), hour, *card, *terminal]

    def scores(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Of all these rows, in one call: a call costs as much as three rows."""
        values = np.array(rows, dtype=np.float64)
        scores: list[float] = np.asarray(self._booster.predict(values, num_threads=1)).tolist()
        return scores

    def prediction(
        self, event_id: str, at: str, channel: str, row: Sequence[float], score: float
    ) -> dict[str, Any]:
        """What is published; NaN is for the JSON encoder to write as null, as orjson and msgspec do."""
        features: dict[str, Any] = dict(zip(FEATURES, row, strict=True))
        features["channel"] = channel
        return {
            "event_id": event_id,
            "event_time": at,
            "score": score,
            "decision": score >= self._threshold,
            "threshold": self._threshold,
            "model_version": self._version,
            "features": features,
        }


def time_us(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - EPOCH) // MICROSECOND
