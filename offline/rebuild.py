"""Rebuilds the state of a pipeline's stages from the hop topics, when Redis was lost.

    1 survey   each hop topic: where its log begins, and up to which record all outputs stand downstream
    2 empty    what is left of the pipeline in the store
    3 replay   each partition up to there, through the stage itself, without publishing anything; the ledger of a pipeline
               that learns as well, from hop-join (`offline/rebuilt_ledger.py`)
    4 open     the partitions to workers, which go on behind; pin what they repeat to the versions of its first answers

Order is input: the same records in the same order give the same state, bit for bit. No worker can begin from a state that
is half built: until step 4 a partition stands under an identity that none of them goes on from. An interrupted rebuild
goes on where it stopped. docs/decisions/0013 has the reasons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry

from features.errors import OperatorError
from features.plan import EntityPlan
from features.store import NOTHING_APPLIED, EmptiableStore, PartitionId, Refused
from models.pipeline import Pipeline
from offline.hop_survey import Logs
from offline.id_holders import IdHolders
from offline.proof import Proof, ProvenStage
from offline.rebuilt_ledger import LedgerRebuild, LedgerRebuilt
from offline.rebuilt_partition import RebuiltPartition
from offline.time_order import in_time_order
from streams.assembly import entity_batches
from streams.batch import Partition
from streams.entity_batch import Memory, stage_plans
from streams.metrics import Metrics
from streams.mute import mute_stage
from streams.prediction import utc_texts
from streams.served_rows import Archive
from streams.settings import Settings
from streams.topics import PipelineTopics


class NotEmptyError(OperatorError):
    """The store knows something of the pipeline, which a rebuild would replace."""


class Told(Protocol):
    """Hears what is being done, and how much of it is done (0.0 to 1.0)."""

    def __call__(self, what: str, share: float, /) -> None: ...


@dataclass(frozen=True)
class StageRebuilt:
    """What became of the stage of `entity`.

    `records` were replayed, with `rows` new rows; `to_answer` records stand behind them for the workers. Where not the
    `whole` history is in the log, windows began empty at the event time `reaches_back_to`, and the longest one is complete
    for events from `complete_from` on (None: the log holds nothing at all). `deleted_unread` records were deleted, of
    which nobody knows that they had been answered.
    """

    entity: str
    records: int
    rows: int
    to_answer: int
    whole: bool
    reaches_back_to: str | None
    complete_from: str | None
    deleted_unread: int


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did; `resumed` when it went on with one that had been interrupted. `ledger`: of a pipeline that learns."""

    pipeline: str
    seconds: float
    resumed: bool
    stages: list[StageRebuilt]
    ledger: LedgerRebuilt | None


class Rebuild:
    """Rebuilds one pipeline. `identities` has those of the topics, `committed` the offsets that workers and learn processes
    have committed, of the hop topics and of `hop-join`. `archive` is the one that learn processes have.

    Nobody may run meanwhile: a worker that comes is refused, and ends the rebuild, which can be run again.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        topics: PipelineTopics,
        identities: Mapping[str, str],
        store: EmptiableStore,
        logs: Logs,
        committed: Mapping[Partition, int],
        told: Told = lambda what, share: None,
        archive: Archive | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._settings, self._topics = pipeline, settings, topics
        self._identities, self._store, self._logs = identities, store, logs
        self._committed, self._told, self._clock = committed, told, clock
        self._plans = stage_plans(pipeline.feature_set)
        self._metrics = Metrics(CollectorRegistry(), clock=clock, now_ms=lambda: 0.0)
        self._holders = IdHolders(entity_batches(pipeline, settings, 0))
        self._read, self._all = 0, 1  # records
        known = (pipeline, settings, topics, identities, store, logs, committed, archive)
        self._ledger = LedgerRebuild(*known, self._metrics, self._heard) if topics.learn else None

    async def run(self, *, discard: bool = False) -> Rebuilt:
        """Do it. `discard`: also where the store knows something of the pipeline, which is thrown away.

        Raises:
            NotEmptyError: the store is not empty, and nothing may be discarded.
            TakenOverError: a worker, or another rebuild, took a partition over.
            OtherVersionError, PositionError: the logs are not those of this pipeline's state (`Surveyor.survey`).
        """
        began = self._clock()
        resumed = await self._refuse_unless_empty(discard=discard)
        stages = self._proven()
        if not resumed:
            await self._store.forget(self._pipeline.name)
        work = [await self._marked(number, stage) for number, stage in enumerate(stages)]
        joins = await self._ledger.marked() if self._ledger else []
        await self._reserve(work[0])
        for number, parts in enumerate(work):
            # Partitions of the first stage share one map of event ids, so what came first in time goes first.
            for together in [parts] if number == 0 else [[part] for part in parts]:
                await self._replay(together)
        for part in joins:
            await self._ledger.replay(part)  # type: ignore[union-attr]  # there is one, or there were no parts
        for part in chain(*work, joins):
            await part.open()
        seconds = round(self._clock() - began, 3)
        done = list(map(self._report, self._plans, stages))
        ledger = None if self._ledger is None else self._ledger.report()
        return Rebuilt(self._pipeline.name, seconds, resumed, done, ledger)

    # What is there.

    async def _refuse_unless_empty(self, *, discard: bool) -> bool:
        """Whether an interrupted rebuild goes on."""
        loaded = [(at, await self._store.load(at)) for at in self._partitions()]
        if discard:
            return False
        if any(known.identity == at.rebuilding.identity for at, known in loaded):
            return True
        for at, known in loaded:
            if known.applied != NOTHING_APPLIED:
                raise NotEmptyError(
                    f"the store has the state of {at.topic}/{at.partition} up to offset {known.applied}, which a rebuild "
                    "would replace: --discard throws away what is there"
                )
        return False

    def _partitions(self) -> Iterator[PartitionId]:
        for plan in self._plans:
            topic = self._topics.hops[plan.entity]
            for number in range(topic.partitions):
                yield self._partition(topic.name, number)
        yield from self._ledger.partitions() if self._ledger else ()

    def _partition(self, topic: str, number: int) -> PartitionId:
        return PartitionId(self._pipeline.name, topic, number, self._identities[topic])

    # 2 empty, 3 replay

    def _proven(self) -> list[ProvenStage]:
        bounds = [self._logs.bounds((at.topic, at.partition)) for at in self._partitions()]
        # Every hop topic is read twice, and at worst the predictions once, which is nothing beside the replay.
        self._all = max(2 * sum(end - begin for begin, end in bounds), 1)
        of = (self._pipeline, self._topics, self._identities, self._logs, self._committed)
        return Proof(*of, self._holders, self._heard).stages()

    async def _marked(self, number: int, proven: ProvenStage) -> list[RebuiltPartition]:
        """The partitions that are to be rebuilt, each taken over under the identity that no worker goes on from."""
        of = (self._pipeline, self._settings, self._topics)
        stage = mute_stage(*of, number, self._store, self._metrics)
        parts = []
        for survey, last, pins in zip(proven.survey.partitions, proven.proven, proven.pins, strict=True):
            part = RebuiltPartition(stage, self._store, self._partition(*survey.place), last, pins)
            if await part.marked(survey.begins):
                parts.append(part)
        return parts

    async def _reserve(self, parts: Sequence[RebuiltPartition]) -> None:
        """Give the ids that the workers will ask for again to the events that have them."""
        for part in parts[:1]:  # the map is shared
            for claim in self._holders.claims(part.at, await self._store.load(part.at)):
                if isinstance(await self._store.claim(claim), Refused):
                    raise part.taken_over()

    async def _replay(self, parts: Sequence[RebuiltPartition]) -> None:
        memories: list[Memory] = [await part.begun() for part in parts]
        logs = {
            number: self._logs.read(part.place, memory.applied + 1, part.last + 1)
            for number, (part, memory) in enumerate(zip(parts, memories, strict=True))
        }
        for number, records in in_time_order(logs, self._settings.batch_max_records):
            await parts[number].worked(memories[number], records)
            self._heard(f"rebuilding {parts[number].stage.name}", len(records))

    # What is told.

    def _heard(self, what: str, records: int) -> None:
        self._read += records
        self._told(what, min(self._read / self._all, 1.0))

    def _report(self, plan: EntityPlan, stage: ProvenStage) -> StageRebuilt:
        surveys, name = stage.survey.partitions, plan.entity
        oldest = [survey.oldest_us for survey in surveys if survey.oldest_us is not None]
        return StageRebuilt(
            name,
            int(self._counted("events", name)),
            int(self._counted("rows", name)),
            sum(survey.end - 1 - last for survey, last in zip(surveys, stage.proven, strict=True)),
            all(survey.begins == 0 for survey in surveys),
            _text(max(oldest)) if oldest else None,
            _text(max(oldest) + plan.longest_us) if oldest else None,
            sum(survey.deleted_unread for survey in surveys),
        )

    def _counted(self, name: str, stage: str) -> float:
        return self._metrics.registry.get_sample_value(f"driftwood_{name}_total", {"stage": stage}) or 0.0


def _text(time_us: int) -> str:
    return utc_texts(np.array([time_us]))[0]
