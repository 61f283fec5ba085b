"""Which model answers: the champion of the model store, or the pipeline's fallback while there is none.

`watch` looks for a newly promoted champion and loads it beside the one in service, off the answer path. Batches that are
pinned to another version get that version, from memory or from the store.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict

from features.errors import OperatorError
from models.champion import ChampionWatch, Refused
from models.model_store import ModelStore
from models.pipeline import Pipeline
from models.scoring import Scorer

log = logging.getLogger(__name__)

# Scorers kept in memory: the one in service and the one before it, to which batches may still be pinned, and two to
# spare. One that was dropped is loaded from the store again.
KEPT_SCORERS = 4


class Serving:
    """The scorers of one pipeline in one worker. Raises `ModelError` when there is a champion that cannot be used."""

    def __init__(self, pipeline: Pipeline, store: ModelStore) -> None:
        self._pipeline, self._store = pipeline, store
        self._watch = ChampionWatch(store, pipeline)
        self._scorers: OrderedDict[str, Scorer] = OrderedDict()

    @property
    def in_service(self) -> str:
        """The version of the model that answers new batches."""
        return self._watch.scorer.version

    def versions(self) -> str:
        """The versions in force, as the store pins them to a batch."""
        scorer = self._watch.scorer
        self._keep(scorer)
        return versions_text(scorer.version, self._pipeline.version)

    def scorer(self, versions: str) -> Scorer:
        """The scorer of pinned versions. Raises `ModelError` when it cannot be had any more."""
        pinned = json.loads(versions)
        if pinned["pipeline"] != self._pipeline.version:
            raise OperatorError(
                f"a batch is pinned to pipeline version {pinned['pipeline']}, this worker runs {self._pipeline.version}: "
                "start a worker of that version to finish it, then this one"
            )
        version = pinned["model"]
        if version not in self._scorers:
            self._keep(self._store.load(self._pipeline, version))
        return self._scorers[version]

    async def watch(self, every_s: float) -> None:
        """Look for another champion every `every_s` seconds, for ever; a task of the worker."""
        while True:
            await asyncio.sleep(every_s)
            await self.look()

    async def look(self) -> None:
        """Put a new champion into service. One that cannot be used is reported once, and the old one stays."""
        outcome = await asyncio.to_thread(self._watch.poll, time.monotonic())
        if isinstance(outcome, Refused):
            log.error("model %s stays in service: %s", self.in_service, outcome.error)
        elif outcome is not None:
            log.info("model %s is in service, after %s", outcome.new, outcome.old)

    def _keep(self, scorer: Scorer) -> None:
        self._scorers[scorer.version] = scorer
        self._scorers.move_to_end(scorer.version)
        while len(self._scorers) > KEPT_SCORERS:
            self._scorers.popitem(last=False)


def versions_text(model: str, pipeline: str) -> str:
    """The versions of an answer, as the store pins them to a batch.

    Example:
        >>> versions_text("7", "v1")
        '{"model": "7", "pipeline": "v1"}'
    """
    return json.dumps({"model": model, "pipeline": pipeline}, sort_keys=True)
