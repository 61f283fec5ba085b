"""Models that differ in their number alone, and so in every score: which one answered can be told from an answer's bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.pipeline import Pipeline
from models.scoring import Flags
from streams.serving import InService
from streams.versions import BLEND, CHAMPION, read_versions, versions_text


@dataclass(frozen=True)
class Numbered:
    """A model whose scores depend on its version, `number`, and on what was learnt beside it."""

    pipeline: Pipeline
    number: int
    snapshot: int
    name = "numbered"
    flags: tuple[str, ...] = ()
    threshold = 0.5

    @property
    def version(self) -> str:
        return str(self.number)

    @property
    def feature_hash(self) -> str:
        return self.pipeline.feature_set.hash

    def score(self, matrix: FeatureMatrix) -> Floats:
        scores: Floats = np.nan_to_num(matrix.values).sum(axis=1) / (
            1_000.0 + self.number + self.snapshot / 64.0
        )
        return scores

    def unseen_categories(self, matrix: FeatureMatrix) -> Flags:
        return np.zeros(len(matrix), np.bool_)


@dataclass
class NumberedServing:
    """Which model and snapshot a worker has in service; it hears of others when the test says so.

    Every second number is another snapshot of the same model, so that neither can stand in for the other in a pin. Where
    nothing learns, each is another model: answers name no snapshot there, so scores must not depend on one.
    """

    pipeline: Pipeline
    number: int

    def versions(self) -> str:
        if not self.pipeline.learns:
            return versions_text(str(self.number), self.pipeline.version)
        mode = (BLEND, CHAMPION)[self.number // 4 % 2]
        return versions_text(str(self.number // 2), self.pipeline.version, mode, self.number)

    async def ready(self, versions: str) -> None:
        """Everything is at hand."""

    def pinned(self, versions: str) -> InService:
        pinned = read_versions(versions)
        scorer = Numbered(self.pipeline, int(pinned.model), pinned.snapshot)
        return InService(versions, scorer, pinned.mode, pinned.snapshot)
