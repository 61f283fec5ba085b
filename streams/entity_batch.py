"""What the steps of an entity's stage do with a batch: from records to claim, features and commit, without any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
from streams.label_frames import LabelFrameCodec
from streams.taken import Taken, take

# Event ids are remembered for the horizon of the watermark and two before it, so that an event of the horizon before the
# watermark's still finds the neighbours of its own. An older event is neither checked nor remembered: whether the ids it
# asks for are still there would depend on how rows are cut into batches.
KEPT_HORIZONS = 2
CHECKED_HORIZONS = 1

# Where an event stands in `events`, as the store compares it: the digest of the topic's identity with the partition's
# number in its low bits, and the offset. An event of a topic that was made anew is none of the old one's.
POSITION = np.dtype([("partition", ">u4"), ("offset", ">i8")])

# The watermark of a partition before its first event: event times may lie before 1970.
NO_EVENT_US = -(2**62)


_NO_ROWS: Ints = np.zeros(0, np.int64)

# The stage of a pipeline without windows: it drops repeated ids, and its rows are spread by their event id.
NO_ENTITY = EntityPlan("event", (), (), (), (), (), ())


def stage_plans(feature_set: FeatureSet) -> tuple[EntityPlan, ...]:
    """The plans of the stages with state, in order: one for each entity, or `NO_ENTITY` alone."""
    return feature_set.entities or (NO_ENTITY,)


@dataclass
class Memory:
    """What a worker holds of one partition of a stage. It is forgotten whole when the partition moves.

    `applied` is what the store is known to have; `taken`, `seen` and `watermark_us` are as of the newest batch that was
    begun, which is further while batches are in flight. `in_flight` has the last record of each of those, oldest first.
    """

    partition: PartitionId
    epoch: int
    applied: int
    taken: int
    seen: Mapping[str, Position]
    watermark_us: int
    state: EntityState
    in_flight: tuple[int, ...] = ()

    @property
    def upstream(self) -> str:
        """This partition's name in the positions of the next stage."""
        return f"{self.partition.topic}@{self.partition.identity}/{self.partition.partition}"


@dataclass(frozen=True)
class Work:
    """A batch after steps 1 and 2: its new rows, for each the entity's key, and which of them have their ids checked.

    `watermark_us` is the newest event time up to here, repeats included: they are not known yet.
    """

    taken: Taken
    keys: Sequence[str | None]
    checked: Ints
    watermark_us: int

    @property
    def entities(self) -> Sequence[str | None]:
        """The keys of its events and of its label rows."""
        labels = self.taken.labels
        return self.keys if labels is None else [*self.keys, *labels.rows.keys]


@dataclass(frozen=True)
class Computed:
    """A batch after step 4: the frame that goes on, and what step 7 will write. `kept` are the rows of the work."""

    frame: Frame
    kept: Ints
    entities: EntityBatch | None
    repeats: int
    ids_dropped: int


@dataclass(frozen=True)
class EntityBatches:
    """The steps of the stage of `plan`'s entity.

    `first` stages drop repeated event ids within `repeat_horizon_us` of event time. `capacity` is the number of
    entities kept in memory for a partition; `expire_s` the leak guard on their keys in the store. A batch has `most_rows`
    rows, or one record: a record of a hop topic holds many, and all of a batch are one call that nobody interrupts in
    the store (20 µs a row, and every other partition waits).
    """

    plan: EntityPlan
    codec: FrameCodec
    feast_rows: FeastRows
    first: bool
    repeat_horizon_us: int
    capacity: int
    expire_s: int
    most_rows: int

    def remember(self, partition: PartitionId, loaded: Loaded) -> Memory:
        """A partition's memory as it begins. Raises `PositionError` when the state belongs to another topic."""
        if loaded.identity == partition.rebuilding.identity:
            raise PositionError(
                f"the state of {partition.topic}/{partition.partition} is being rebuilt: wait until 'driftwood rebuild "
                f"{partition.pipeline}' has ended; where it was interrupted, run it again, and it goes on where it stopped"
            )
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
        taken = self._taken(memory, records)
        work = self._work(memory, taken, self._keys(taken))
        if memory.state.fits(work.entities):
            return work
        if memory.in_flight:
            return None
        if len(records) == 1:
            needed = len(set(work.entities))
            raise SettingError("hot_entities", self.capacity, f"at least {needed}: one record names so many")
        return self.take(memory, records[: len(records) // 2])

    def cut(self, memory: Memory, work: Work, records: Sequence[Record], claim: Claimed) -> Work:
        """The batch as far as its versions were pinned: a batch that is repeated must not outgrow its pin."""
        if claim.pinned_last >= work.taken.last:
            return work
        records = [record for record in records if record.offset <= claim.pinned_last]
        taken = self._taken(memory, records)
        return self._work(memory, taken, self._keys(taken))

    def claim(self, memory: Memory, work: Work, versions: str) -> Claim:
        """The question of step 3."""
        return Claim(
            memory.partition,
            memory.epoch,
            memory.applied,
            work.taken.first,
            work.taken.last,
            versions,
            self.plan.entity,
            memory.state.missing(work.entities),
            *self._ids(work),
            memory.taken if memory.in_flight else NOTHING_APPLIED,
        )

    def compute(self, memory: Memory, work: Work, claim: Claimed) -> Computed:
        """Step 4: drop repeated events, work out the features of the others, add them to the state."""
        frame, labels = work.taken.frame, work.taken.labels
        if frame is None and labels is None:
            return Computed(self._empty(), _NO_ROWS, None, 0, 0)
        kept = _NO_ROWS if frame is None else _kept(frame, work, claim)
        going = self.codec.empty() if frame is None else _going(frame, work.taken, kept)
        repeats = 0 if frame is None else len(frame) - len(kept)
        if not self.plan.outputs:
            return Computed(going, kept, None, repeats, claim.ids_dropped)
        memory.state.load(claim.states)
        inputs, hashes = entity_inputs(self.plan, going.rows)
        keys = [work.keys[row] for row in kept]
        columns = (keys, going.rows.times_us, inputs, hashes)
        if labels is None:
            entities = memory.state.update_batch(*columns)
        else:
            before = np.searchsorted(kept, work.taken.labels_before)  # of the rows that are no repeats
            entities = memory.state.update_batch(*columns, labels=labels.rows, labels_before=before)
        late = np.where(entities.dropped > 0, flags.LATE, 0)
        going = going.with_entity(entities.features, entities.age_s, late)
        return Computed(going, kept, entities, repeats, claim.ids_dropped)

    def commit(self, memory: Memory, work: Work, computed: Computed) -> Commit:
        """What step 7 writes."""
        taken = work.taken
        return Commit(
            memory.partition,
            memory.epoch,
            memory.taken,
            taken.last,
            taken.seen,
            work.watermark_us,
            self.plan.entity,
            computed.entities.changes if computed.entities else (),
            self._feature_rows(computed),
            self.expire_s,
            self._oldest_bucket(work),
            taken.superseded,
            claimed=taken.last >= taken.first,
        )

    def begun(self, memory: Memory, commit: Commit) -> None:
        """The batch is in flight: the next one builds on what this one will have written."""
        memory.in_flight = (*memory.in_flight, commit.last)
        memory.taken, memory.seen, memory.watermark_us = commit.last, commit.seen, commit.watermark_us

    def committed(self, memory: Memory, computed: Computed, commit: Commit) -> None:
        """The store has the oldest batch in flight."""
        if computed.entities is not None:
            memory.state.committed(computed.entities.number)
        memory.in_flight = memory.in_flight[1:]
        memory.applied = commit.last

    def _taken(self, memory: Memory, records: Sequence[Record]) -> Taken:
        place = memory.partition.partition
        known = (memory.taken, memory.seen)
        return take(place, records, *known, self.codec, self.most_rows, self.label_codec)

    @cached_property
    def label_codec(self) -> LabelFrameCodec | None:
        """Of the frames of label rows that come to this stage; None where the entity has no windows over labels."""
        return LabelFrameCodec(self.plan) if self.plan.label_inputs else None

    def _keys(self, taken: Taken) -> list[str | None]:
        if taken.frame is None:
            return []
        return entity_keys(taken.frame.rows, self.plan.keys) if self.plan.keys else [None] * len(taken.frame)

    def _work(self, memory: Memory, taken: Taken, keys: list[str | None]) -> Work:
        if taken.frame is None:
            return Work(taken, keys, np.zeros(0, np.int64), memory.watermark_us)
        times_us = taken.frame.rows.times_us
        # Row by row, so that it does not depend on how rows are cut into batches.
        newest_us = np.maximum.accumulate(np.concatenate([[memory.watermark_us], times_us]))
        oldest = newest_us[:-1] // self.repeat_horizon_us - CHECKED_HORIZONS
        checked = np.flatnonzero(times_us // self.repeat_horizon_us >= oldest)
        return Work(taken, keys, checked, int(newest_us[-1]))

    def _ids(self, work: Work) -> tuple[list[bytes], list[int], bytes]:
        """Digest, bucket and position of each checked id, as a claim has them."""
        if work.taken.frame is None or not self.first:
            return [], [], b""
        frame = (
            work.taken.frame.take(work.checked) if len(work.checked) < len(work.keys) else work.taken.frame
        )
        origins = (frame.origin_topics, frame.origin_partitions, frame.origin_offsets)
        return self.reservations(frame.rows.event_ids.to_pylist(), frame.rows.times_us, *origins)

    def reservations(
        self, event_ids: Sequence[str], times_us: Ints, topics: Ints, partitions: Ints, offsets: Ints
    ) -> tuple[list[bytes], list[int], bytes]:
        """Digest, bucket and position of events, as a claim has them. `topics` are digests of the topics' identities."""
        buckets = (times_us // self.repeat_horizon_us).tolist()
        # 128 bits: a collision would drop an event that was never seen, and must not happen in the life of a system.
        digests = [mmh3.mmh3_x64_128_digest(name.encode()) for name in event_ids]
        places = np.empty(len(event_ids), POSITION)
        places["partition"], places["offset"] = topics ^ partitions, offsets
        return digests, buckets, places.tobytes()

    def _oldest_bucket(self, work: Work) -> int | None:
        if not self.first or work.watermark_us == NO_EVENT_US:
            return None
        return work.watermark_us // self.repeat_horizon_us - KEPT_HORIZONS

    def _feature_rows(self, computed: Computed) -> Sequence[tuple[bytes, bytes]]:
        if computed.entities is None:
            return ()
        newest = computed.entities.newest_rows
        keys = [key for (key, _), row in zip(computed.entities.changes, newest, strict=True) if row >= 0]
        rows = newest[newest >= 0]
        features: Floats = computed.entities.features[rows]
        return self.feast_rows.rows(keys, features, computed.frame.rows.times_us[rows])

    def _empty(self) -> Frame:
        if not self.plan.outputs:
            return self.codec.empty()
        return self.codec.empty().with_entity(
            np.zeros((0, len(self.plan.outputs))), np.zeros(0), np.zeros(0, np.int64)
        )


def _going(frame: Frame, taken: Taken, kept: Ints) -> Frame:
    """The rows that go on, with the positions that they have in this topic."""
    going = replace(frame, upstream_offsets=taken.records, upstream_rows=taken.rows)
    # Picking all rows would cost as much as a small batch's features.
    return going if len(kept) == len(frame) else going.take(kept)


def _kept(frame: Frame, work: Work, claim: Claimed) -> Ints:
    """The rows that are no repeats. The claim may have asked for more rows than there are now."""
    repeats = [at for at in claim.repeats if at < len(work.checked)]
    if not repeats:  # nearly always
        return np.arange(len(frame))
    return np.delete(np.arange(len(frame)), work.checked[repeats])
