"""What answers: the champion of the model store, or the fallback while there is none, and what was learnt online beside it.

An answer is made by a model, a snapshot of the online learners and the serve mode. `watch` looks for others of each; what
it finds is loaded and verified in a thread, beside what is in service, and then put into service whole: answers never wait
for it. Batches that are pinned to other versions get those, from memory or from the stores.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from features.errors import OperatorError, SnapshotError, StoreError, UnreachableError
from features.feature_set import FeatureMatrix
from models.blend_scorer import BlendScorer
from models.champion import ChampionWatch, Refused
from models.fallback import FallbackScorer
from models.model_store import ModelStore
from models.pipeline import Pipeline
from models.scoring import Scored, Scorer
from streams.snapshot_watch import Snapshot, SnapshotFeed, SnapshotWatch
from streams.versions import CHAMPION, FALLBACK, NO_SNAPSHOT, Versions, read_versions, versions_text

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# Kept in memory: what is in service and what was before it, to which batches may still be pinned, and two to spare. One
# that was dropped is loaded from the stores again.
KEPT_SCORERS = 4

# Seconds between two looks at snapshot and serve mode: one small read, of what changes once a second at most.
LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class InService:
    """Everything that makes an answer. `versions` names it; `blend` is None where the champion answers alone.

    `lost`: the snapshot that a batch was pinned to is gone, and this stands in for it.
    """

    versions: str
    champion: Scorer
    mode: str = CHAMPION
    snapshot: int = NO_SNAPSHOT
    blend: BlendScorer | None = None
    lost: bool = False

    def scored(self, matrix: FeatureMatrix) -> Scored:
        """The score of each row, and its parts with their weights: the champion's first."""
        if self.blend is not None:
            return self.blend.parts(matrix)
        score, name = self.champion.score(matrix), self.champion.name
        return Scored(score, {name: score}, {name: 1.0})


class Serving:
    """What answers for one pipeline in one worker. `feed` None: the pipeline does not learn.

    Raises `ModelError` when there is a champion that cannot be used.
    """

    def __init__(self, pipeline: Pipeline, store: ModelStore, feed: SnapshotFeed | None = None) -> None:
        self._pipeline, self._store = pipeline, store
        self._watch = ChampionWatch(store, pipeline)
        self._fallback = FallbackScorer(pipeline)
        self.snapshots = None if feed is None else SnapshotWatch(pipeline, feed)
        self._models: OrderedDict[str, Scorer] = OrderedDict()
        self._kept: OrderedDict[str, InService] = OrderedDict()
        self._now = self._in_force(None)

    @property
    def in_service(self) -> str:
        """The version of the model that answers new batches."""
        return self._now.champion.version

    @property
    def snapshot(self) -> int:
        """The version of the snapshot that answers new batches, or `NO_SNAPSHOT`."""
        return self._now.snapshot

    def versions(self) -> str:
        """The versions in force, as the store pins them to a batch."""
        _keep(self._kept, self._now.versions, self._now)
        return self._now.versions

    async def ready(self, versions: str) -> None:
        """Have pinned versions in memory, for `pinned`.

        A snapshot that is gone for good, or must not be used, is not waited for: the champion answers alone, flagged.
        Raises `ModelError` when the model cannot be had any more, `UnreachableError` when the snapshot cannot be now.
        """
        if versions not in self._kept:
            _keep(self._kept, versions, await self._loaded(versions))

    def pinned(self, versions: str) -> InService:
        """What answers under pinned versions. `ready` has them in memory, as `versions` has those in force."""
        return self._kept[versions]

    async def watch(self, every_s: float) -> None:
        """Look for another champion every `every_s` seconds, and for what else may change, for ever; a worker's task."""
        pause_s = every_s if self.snapshots is None else min(every_s, LOOK_EVERY_S)
        for number in count(1):
            await asyncio.sleep(pause_s)
            await (self.refresh() if number % round(every_s / pause_s) else self.look())

    async def look(self) -> None:
        """Put a new champion into service. One that cannot be used is reported once, and the old one stays."""
        outcome = await asyncio.to_thread(self._watch.poll, time.monotonic())
        await self.refresh()
        if isinstance(outcome, Refused):
            log.error("model %s stays in service: %s", self.in_service, outcome.error)
        elif outcome is not None:
            log.info("model %s is in service, after %s", outcome.new, outcome.old)

    async def refresh(self) -> None:
        """Put the newest snapshot into service, with the champion and the serve mode as they are known by now."""
        if self.snapshots is not None and (newer := await self.snapshots.newer()) is not None:
            try:
                self._now = await asyncio.to_thread(self._in_force, newer)
            except Exception as error:  # noqa: BLE001  whatever its learners raise: what is in service stays
                self.snapshots.refuse(newer.version, error)
            else:
                self.snapshots.take_up(newer)
        standing = None if self.snapshots is None else self.snapshots.newest
        if self._text(*self._wanted, standing) != self._now.versions:
            self._now = await asyncio.to_thread(self._in_force, standing)

    @property
    def _wanted(self) -> tuple[Scorer, str]:
        """The model in force, and the serve mode."""
        mode = CHAMPION if self.snapshots is None else self.snapshots.mode
        return (self._fallback if mode == FALLBACK else self._watch.scorer), mode

    def _in_force(self, snapshot: Snapshot | None) -> InService:
        return self._together(*self._wanted, snapshot)

    def _text(self, model: Scorer, mode: str, snapshot: Snapshot | None) -> str:
        number = NO_SNAPSHOT if snapshot is None else snapshot.version
        return versions_text(model.version, self._pipeline.version, mode, number)

    def _together(self, model: Scorer, mode: str, snapshot: Snapshot | None) -> InService:
        text = self._text(model, mode, snapshot)
        if snapshot is None:
            return InService(text, model, mode)
        blend = BlendScorer(self._pipeline, model, snapshot.scoring, mode)
        return InService(text, model, mode, snapshot.version, blend)

    async def _loaded(self, text: str) -> InService:
        pinned = read_versions(text)
        if pinned.pipeline != self._pipeline.version:
            raise OperatorError(
                f"a batch is pinned to pipeline version {pinned.pipeline}, this worker runs {self._pipeline.version}: "
                "start a worker of that version to finish it, then this one"
            )
        model = await self._model(pinned.model)
        if pinned.snapshot == NO_SNAPSHOT:
            return self._together(model, pinned.mode, None)
        try:
            snapshot = await self._opened(pinned.snapshot)
            return await asyncio.to_thread(self._together, model, pinned.mode, snapshot)
        except (UnreachableError, StoreError):
            raise
        except Exception as error:  # noqa: BLE001  it is gone for good, or its learners cannot be loaded
            log.error("%s: what is pinned to it is answered by model %s alone", error, model.version)
            return self._alone(pinned, model)

    def _alone(self, pinned: Versions, model: Scorer) -> InService:
        text = versions_text(pinned.model, pinned.pipeline)
        return InService(text, model, lost=True)

    async def _opened(self, version: int) -> Snapshot:
        found = None if self.snapshots is None else await self.snapshots.opened(version)
        if found is None:
            raise SnapshotError(f"snapshot {version} of {self._pipeline.name} is kept no more")
        return found

    async def _model(self, version: str) -> Scorer:
        if version == self._watch.scorer.version:
            return self._watch.scorer
        if version not in self._models:
            _keep(self._models, version, await asyncio.to_thread(self._store.load, self._pipeline, version))
        return self._models[version]


def _keep(kept: OrderedDict[str, _T], name: str, one: _T) -> None:
    kept[name] = one
    kept.move_to_end(name)
    while len(kept) > KEPT_SCORERS:
        kept.popitem(last=False)
