"""Snapshots as a learner would publish them, each of learners that have learnt something else, and where scorers find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.errors import UnreachableError
from models.blend import CHAMPION
from models.learning import Learning
from models.pipeline import Pipeline
from models.snapshot import made_here, seal
from models.state_bytes import pack_state, unpack_state
from streams.snapshot_watch import SCORING, SnapshotFeed
from tests.small_models import random_rows

KEY = b"a key of thirty-two bytes, or so"


def scoring(pipeline: Pipeline, seed: int, weights: Mapping[str, float] | None = None) -> bytes:
    """What scorers read: learners that were taught by `seed`, all parts with one weight unless `weights` says otherwise."""
    state = unpack_state(made_here(Learning(pipeline).scoring()))
    for spec in pipeline.online:
        learner = spec.make(pipeline)
        matrix = random_rows(pipeline, seed)
        codes = np.random.default_rng(seed).integers(0, 2, len(matrix)).astype(np.float64)
        learner.learn(matrix, codes)
        state["learners"][spec.name] = learner.scoring_bytes()
    parts = [CHAMPION, *state["learners"]]
    state["weights"] = dict(weights or dict.fromkeys(parts, 1.0 / len(parts)))
    return pack_state(state)


@dataclass
class Shelf:
    """Snapshots by version; `away`: the store does not answer; `mode`: what the operator has switched to.

    `payloads`: what to seal in turn, where learning anew for each would take too long.
    """

    pipeline: Pipeline
    payloads: Sequence[bytes] = ()
    sealed: dict[int, bytes] = field(default_factory=dict)
    away: bool = False
    mode: str = "blend"
    asked: int = 0

    @property
    def feed(self) -> SnapshotFeed:
        """As a worker has it."""
        return SnapshotFeed(self, KEY, lambda: self.mode)

    def publish(self, version: int, **more: object) -> bytes:
        """One more snapshot, learnt by its version."""
        payload = self.payloads[version % len(self.payloads)] if self.payloads else b""
        payload = payload or scoring(self.pipeline, version, **more)  # type: ignore[arg-type]
        self.sealed[version] = seal(SCORING, version, self.pipeline.feature_set.hash, payload, KEY)
        return self.sealed[version]

    async def latest(self, pipeline: str) -> int | None:
        """The newest version."""
        self._answer(pipeline)
        return max(self.sealed, default=None)

    async def scoring(self, pipeline: str, version: int) -> bytes | None:
        """Its bytes."""
        self._answer(pipeline)
        self.asked += 1
        return self.sealed.get(version)

    def _answer(self, pipeline: str) -> None:
        assert pipeline == self.pipeline.name
        if self.away:
            raise UnreachableError("Redis", "redis_url", "redis://x", "gone")
