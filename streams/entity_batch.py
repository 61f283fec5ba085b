"""What the steps of an entity's stage do with a batch: from records to claim, features and commit, without any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import mmh3
import numpy as np

from features.errors import PositionError, SettingError
from features.feast_rows import FeastRows
from features.feature_set import FeatureSet
from features.inputs import entity_inputs
from features.plan import EntityPlan, Floats, Ints
from features.rows import entity_keys
from features.state import EntityBatch, EntityState
from features.store import NOTHING_APPLIED, Claim, Claimed, Commit, Loaded, PartitionId, Position
from streams import flags
from streams.batch import Record
from streams.frames import Frame, FrameCodec
from streams.taken import Taken, take

# Event ids are remembered for the horizon of the watermark and two before it, so that an event of the horizon before the
# watermark's still finds the neighbours of its own. An older event is not checked: whether the ids it asks for are still
# there would depend on how rows are cut into batches.
KEPT_HORIZONS = 2
CHECKED_HORIZONS = 1

# The watermark of a partition before its first event: event times may lie before 1970.
NO_EVENT_US = -(2**62)


# The stage of a pipeline without windows: it drops repeated ids, and its rows are spread by their event id.
NO_ENTITY = EntityPlan("event", (), (), (), (), (), ())


def stage_plans(feature_set: FeatureSet) -> tuple[EntityPlan, ...]:
    """The plans of the stages with state, in order: one for each entity, or `NO_ENTITY` alone."""
    return feature_set.entities or (NO_ENTITY,)


# The event ids of a batch: (event-time bucket, digest) -> the position of the event's own record.
Ids = Mapping[tuple[int, bytes], bytes]


@dataclass
class Memory:
    """What a worker holds of one partition of a stage. It is forgotten whole when the partition moves.

    `applied` is what the store is known to have; `taken`, `seen` and `watermark_us` are as of the newest batch that was
    begun, which is further while batches are in flight. `in_flight` has the event ids of each of those, oldest first.
    """

    partition: PartitionId
    epoch: int
    applied: int
    taken: int
    seen: Mapping[str, Position]
    watermark_us: int
    state: EntityState
    in_flight: tuple[Ids, ...] = ()

    @property
    def upstream(self) -> str:
        """This partition's name in the positions of the next stage."""
        return f"{self.partition.topic}@{self.partition.identity}/{self.partition.partition}"


@dataclass(frozen=True)
class Work:
    """A batch after steps 1 and 2: its new rows, and for each row the entity's key and (first stage) its id's digest.

    `before` are the ids of the batches that were in flight when this one was taken: the store may not have them yet.
    """

    taken: Taken
    keys: Sequence[str | None]
    digests: Sequence[bytes]
    before: tuple[Ids, ...]


@dataclass(frozen=True)
class Computed:
    """A batch after step 4: the frame that goes on, and what step 7 will write. `kept` are the rows of the work."""

    frame: Frame
    kept: Ints
    entities: EntityBatch | None
    repeats: int


@dataclass(frozen=True)
class EntityBatches:
    """The steps of the stage of `plan`'s entity.

    `first` stages drop repeated event ids within `repeat_horizon_us` of event time. `capacity` is the number of
    entities kept in memory for a partition; `expire_s` the leak guard on their keys in the store.
    """

    plan: EntityPlan
    codec: FrameCodec
    feast_rows: FeastRows
    first: bool
    repeat_horizon_us: int
    capacity: int
    expire_s: int

    def remember(self, partition: PartitionId, loaded: Loaded) -> Memory:
        """A partition's memory as it begins. Raises `PositionError` when the state belongs to another topic."""
        if loaded.identity not in (None, partition.identity):
            raise PositionError(
                f"the state of {partition.topic}/{partition.partition} was built from the topic {loaded.identity}, "
                f"this broker has {partition.identity}: the topic was made again or another broker is configured. "
                "Point `brokers` at the old one, or begin afresh with an empty Redis database"
            )
        watermark_us = NO_EVENT_US if loaded.applied == NOTHING_APPLIED else loaded.watermark_us
        state = EntityState(self.plan, self.capacity)
        applied = loaded.applied
        return Memory(partition, loaded.epoch, applied, applied, dict(loaded.seen), watermark_us, state)

    def take(self, memory: Memory, records: Sequence[Record]) -> Work | None:
        """Steps 1 and 2. The batch is cut where its entities would not fit into memory together.

        None: they do not fit beside those of the batches in flight, which have to be finished first.
        """
        taken = take(memory.partition.partition, records, memory.taken, memory.seen, self.codec)
        keys = self._keys(taken)
        if memory.state.fits(keys):
            return Work(taken, keys, self._digests(taken), memory.in_flight)
        if memory.in_flight:
            return None
        if len(records) == 1:
            raise SettingError(
                "hot_entities", self.capacity, f"at least {len(set(keys))}: one record names so many"
            )
        return self.take(memory, records[: len(records) // 2])

    def cut(self, memory: Memory, work: Work, records: Sequence[Record], claim: Claimed) -> Work:
        """The batch as far as its versions were pinned: a batch that is repeated must not outgrow its pin."""
        if claim.pinned_last >= work.taken.last:
            return work
        records = [record for record in records if record.offset <= claim.pinned_last]
        taken = take(memory.partition.partition, records, memory.taken, memory.seen, self.codec)
        return Work(taken, self._keys(taken), self._digests(taken), work.before)

    def claim(self, memory: Memory, work: Work, versions: str) -> Claim:
        """The question of step 3."""
        frame = work.taken.frame
        times_us = frame.rows.times_us if frame is not None and self.first else np.zeros(0, np.int64)
        return Claim(
            memory.partition,
            memory.epoch,
            memory.applied,
            work.taken.first,
            work.taken.last,
            versions,
            self.plan.entity,
            memory.state.missing(work.keys),
            work.digests,
            (times_us // self.repeat_horizon_us).tolist(),
            memory.taken if memory.in_flight else NOTHING_APPLIED,
        )

    def compute(self, memory: Memory, work: Work, claim: Claimed) -> Computed:
        """Step 4: drop repeated events, work out the features of the others, add them to the state."""
        frame = work.taken.frame
        if frame is None:
            return Computed(self._empty(), np.zeros(0, np.int64), None, 0)
        kept = self._kept(memory, frame, work, claim)
        going = replace(frame, upstream_offsets=work.taken.records, upstream_rows=work.taken.rows)
        if len(kept) < len(frame):  # picking all rows would cost as much as a small batch's features
            going = going.take(kept)
        if not self.plan.outputs:
            return Computed(going, kept, None, len(frame) - len(kept))
        memory.state.load(claim.states)
        inputs, hashes = entity_inputs(self.plan, going.rows)
        keys = [work.keys[row] for row in kept]
        entities = memory.state.update_batch(keys, going.rows.times_us, inputs, hashes)
        late = np.where(entities.dropped > 0, flags.LATE, 0)
        going = going.with_entity(entities.features, entities.age_s, late)
        return Computed(going, kept, entities, len(frame) - len(kept))

    def commit(self, memory: Memory, work: Work, computed: Computed) -> Commit:
        """What step 7 writes."""
        taken = work.taken
        times_us = computed.frame.rows.times_us
        watermark_us = int(times_us.max(initial=memory.watermark_us))
        return Commit(
            memory.partition,
            memory.epoch,
            memory.taken,
            taken.last,
            taken.seen,
            watermark_us,
            self.plan.entity,
            computed.entities.changes if computed.entities else (),
            self._feature_rows(computed),
            self._ids(work, computed),
            self.expire_s,
            watermark_us // self.repeat_horizon_us - KEPT_HORIZONS if self.first else None,
        )

    def begun(self, memory: Memory, commit: Commit) -> None:
        """The batch is in flight: the next one builds on what this one will have written."""
        ids = {(bucket, digest): position for bucket, digest, position in commit.ids}
        memory.in_flight = (*memory.in_flight, ids)
        memory.taken, memory.seen, memory.watermark_us = commit.last, commit.seen, commit.watermark_us

    def committed(self, memory: Memory, computed: Computed, commit: Commit) -> None:
        """The store has the oldest batch in flight."""
        if computed.entities is not None:
            memory.state.committed(computed.entities.number)
        memory.in_flight = memory.in_flight[1:]
        memory.applied = commit.last

    def _keys(self, taken: Taken) -> list[str | None]:
        if taken.frame is None:
            return []
        return entity_keys(taken.frame.rows, self.plan.keys) if self.plan.keys else [None] * len(taken.frame)

    def _digests(self, taken: Taken) -> list[bytes]:
        if taken.frame is None or not self.first:
            return []
        # 128 bits: a collision would drop an event that was never seen, and must not happen in the life of a system.
        return [mmh3.mmh3_x64_128_digest(name.encode()) for name in taken.frame.rows.event_ids.to_pylist()]

    def _kept(self, memory: Memory, frame: Frame, work: Work, claim: Claimed) -> Ints:
        """The rows that are no repeats, found row by row: the same ones, however rows are cut into batches."""
        if not self.first or not _may_repeat(work, claim):
            return np.arange(len(frame))
        horizon_us, watermark_us = self.repeat_horizon_us, memory.watermark_us
        here = {place: position for ids in work.before for place, position in ids.items()}
        kept = []
        times_us, origins = frame.rows.times_us.tolist(), _origins(frame)
        events = zip(work.digests, times_us, origins, claim.known_ids, strict=False)
        for row, (digest, time_us, origin, stored) in enumerate(events):
            bucket = time_us // horizon_us
            known: bytes | None = None
            if bucket >= watermark_us // horizon_us - CHECKED_HORIZONS:
                near = (here.get((at, digest)) for at in (bucket, bucket - 1, bucket + 1))
                known = stored or next(filter(None, near), None)
            # The same position is the event itself, come again after a crash: no repeat.
            if known is None or known == origin:
                kept.append(row)
                here[bucket, digest] = origin
                watermark_us = max(watermark_us, time_us)
        return np.array(kept, np.int64)

    def _feature_rows(self, computed: Computed) -> Sequence[tuple[bytes, bytes]]:
        if computed.entities is None:
            return ()
        newest = computed.entities.newest_rows
        keys = [key for (key, _), row in zip(computed.entities.changes, newest, strict=True) if row >= 0]
        rows = newest[newest >= 0]
        features: Floats = computed.entities.features[rows]
        return self.feast_rows.rows(keys, features, computed.frame.rows.times_us[rows])

    def _ids(self, work: Work, computed: Computed) -> Sequence[tuple[int, bytes, bytes]]:
        if not self.first:
            return ()
        buckets = (computed.frame.rows.times_us // self.repeat_horizon_us).tolist()
        digests = [work.digests[row] for row in computed.kept]
        return list(zip(buckets, digests, _origins(computed.frame), strict=True))

    def _empty(self) -> Frame:
        if not self.plan.outputs:
            return self.codec.empty()
        return self.codec.empty().with_entity(
            np.zeros((0, len(self.plan.outputs))), np.zeros(0), np.zeros(0, np.int64)
        )


def _may_repeat(work: Work, claim: Claimed) -> bool:
    """Whether an id of the batch was there before: in the store, in a batch in flight, or in this one."""
    digests = set(work.digests)
    if any(claim.known_ids) or len(digests) < len(work.digests):
        return True
    return any(digest in digests for ids in work.before for _, digest in ids)


def _origins(frame: Frame) -> list[bytes]:
    pairs = zip(frame.origin_partitions.tolist(), frame.origin_offsets.tolist(), strict=True)
    return [b"%d:%d" % pair for pair in pairs]
