"""One answered event as the ledger and the archive keep it: the features as the model saw them, the scores, the keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final, Protocol

import msgspec
import numpy as np

from features.plan import EntityPlan, Floats
from features.rows import entity_keys
from features.store import Position
from models.pipeline import Pipeline
from streams import flags
from streams.served import Served
from streams.versions import read_versions

PART_SEPARATOR: Final = "\n"


class ServedRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What was served of one event.

    `values` are the numbers of the features (float64 each), `texts` its categories in their order. `scores` has the score
    and then each of `parts` (names, joined): one float64, or one a class. `keys` are those of the entities that have
    windows over labels. `propensity` is the probability with which the outcome of such an event is seen at all. `champion`
    is the version of the champion that answered, or of the fallback. `features` is the hash of the features that the row
    holds: a pipeline may change them while an event waits for its label, and then nothing can be learnt from the row.
    """

    event_id: str
    time_us: int
    values: bytes
    texts: tuple[str | None, ...]
    scores: bytes
    parts: str
    threshold: float
    propensity: float
    keys: tuple[str | None, ...]
    champion: str = ""
    features: str = ""


Place = tuple[int, Position]
"""Where a row was served: partition of `hop-join`, and position there."""


class Archive(Protocol):
    """Keeps rows that have become too old for the ledger, by their place in `hop-join`."""

    def write(self, partition: int, rows: Sequence[tuple[Position, bytes]], open_us: int) -> None:
        """Keep these packed rows; again and again the same is as good as once. Raises OSError.

        Nobody will ask for what is older than `open_us` in event time.
        """

    def read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        """Those that are there. Raises OSError."""


class ServedRows:
    """Packs what was served of one pipeline, and unpacks it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.plans: tuple[EntityPlan, ...] = label_plans(pipeline)

    def packed(self, served: Served) -> Iterator[tuple[str, int, bytes]]:
        """Event id, event time and packed row of each event that was answered."""
        rows = served.frame.rows
        matrix = self._pipeline.feature_set.assemble(rows, served.frame.windows)
        scores = np.column_stack([_flat(score) for score in (served.score, *served.parts.values())])
        texts = [column.to_pylist() for column in matrix.categories.values()]
        keys = [entity_keys(rows, plan.keys) for plan in self.plans]
        columns = (
            rows.event_ids.to_pylist(),
            rows.times_us.tolist(),
            _row_bytes(matrix.values),
            zip(*texts, strict=True) if texts else repeat(()),
            _row_bytes(scores),
            repeat(PART_SEPARATOR.join(served.parts)),
            repeat(served.threshold),
            self._propensities(served).tolist(),
            zip(*keys, strict=True) if keys else repeat(()),
            repeat(read_versions(served.versions).model),
            repeat(self._pipeline.feature_set.hash),
        )
        for row in map(ServedRow, *columns):
            yield row.event_id, row.time_us, _encode(row)

    def _propensities(self, served: Served) -> Floats:
        """Only a hold-out of those that would be acted upon is seen; of all others every outcome is."""
        share = self._pipeline.label.holdout
        held = (served.frame.flags & flags.HOLDOUT) != 0
        if not share or served.score.ndim > 1 or not held.any():
            return np.ones(len(served))
        return np.where(held & (served.score >= served.threshold), share, 1.0)


def label_plans(pipeline: Pipeline) -> tuple[EntityPlan, ...]:
    """The entities that have windows over labels, in the order of their stages."""
    return tuple(plan for plan in pipeline.feature_set.entities if plan.label_inputs)


def unpacked(row: bytes) -> ServedRow:
    """A row as it was packed."""
    return _decode(row)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ServedRow).decode


def _flat(scores: Floats) -> Floats:
    return scores.reshape(len(scores), -1)


def _row_bytes(matrix: Floats) -> Iterator[bytes]:
    width = matrix.shape[1] * matrix.itemsize
    blob = np.ascontiguousarray(matrix).tobytes()
    return (blob[at * width : (at + 1) * width] for at in range(len(matrix)))
