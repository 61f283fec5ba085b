"""The contract of a state store: what is asked of Redis, and of the in-memory store that tests and replays use.

The numbers are the steps of the batch protocol (docs/architecture.md): `claim` is step 3, `commit` step 7.
Both are refused when another worker has loaded the partition since (its epoch is newer) or when `applied` is not what
the caller last saw (Redis was rolled back or lost). Each is one atomic call: it has its whole effect or none.

A claim that is granted leaves a *pin*: up to this record, these versions. Pins lie end to end from `applied` on, so they
are also the record of what was claimed and not yet committed; a commit drops those that it covers, and is refused where
its own is missing: a store that was rolled back to before the claim has forgotten what else the claim had settled. There
are never more pins than batches in flight, because a repeated batch finds the pins that it made before.

Every call may be sent twice when a connection breaks before the answer: a second load raises the epoch once more, a
second claim finds its own pin and gets the same answer, a second commit is refused in a way that shows that the first
one was done (`Refused.already_done`).

The first stage's claim also *reserves* the event ids of its batch, in one map for all partitions of a pipeline: of two
events with one id the one that is claimed first is answered, wherever the other one comes. A reservation is made once
and stands, so a repeated claim finds the same repeats (docs/decisions/0024).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

NOTHING_APPLIED = -1  # `applied` of a partition from which no record was ever taken
REBUILDING = "rebuilding "  # before the identity of a partition of which the state is not complete yet

# The ids of a pipeline are kept while some partition of the first stage may still ask for them. One to which no event
# comes would so keep them for ever, so it does not count any more after an hour without a load or a commit: in an hour
# others do not move on by a repeat horizon, unless history is replayed, and then there is no such idle partition.
IDLE_S = 3_600
# And beyond so many full buckets, or buckets at all, the oldest are forgotten whoever may ask for them.
FULL_BUCKETS = 4
BUCKETS = 1_000
# One in 2^31 that two owners hold the same epoch after a roll-back; and 2^32 loads until Redis' integers end.
EPOCH_STEP = 2**31
POSITION_BYTES = 12  # of an event in `events`: topic and partition (u32) and offset (i64)


@dataclass(frozen=True, order=True)
class Position:
    """A row of an upstream record: its offset in the upstream partition, and the row's place in that record."""

    offset: int
    row: int


@dataclass(frozen=True)
class PartitionId:
    """A partition of a stage's input topic, and the identity of that topic.

    `topic` is the full name (`flights.hop-origin`), `identity` names cluster and topic instance: state that was built
    from another broker's topic, or from one that was deleted and made again, must not be continued.
    """

    pipeline: str
    topic: str
    partition: int
    identity: str

    @property
    def rebuilding(self) -> PartitionId:
        """The partition while its state is being rebuilt: under an identity that no worker goes on from.

        Example:
            >>> PartitionId("flights", "flights.hop-origin", 0, "cluster/topic").rebuilding.identity
            'rebuilding cluster/topic'
        """
        return replace(self, identity=f"{REBUILDING}{self.identity}")


@dataclass(frozen=True)
class Loaded:
    """What the store knows of a partition, and the epoch under which the caller now owns it."""

    epoch: int
    applied: int  # offset of the last record whose effects are in the store, or NOTHING_APPLIED
    seen: Mapping[str, Position]  # upstream partition ("<topic>/<partition>") -> last row taken
    watermark_us: int  # newest event time taken, or 0
    identity: str | None  # the topic identity recorded with `applied`; None when nothing was applied


@dataclass(frozen=True)
class Claim:
    """Step 3: may this batch (records `first`..`last`) be worked on, with which versions, from which states?

    With nothing in flight the store must stand exactly at `applied`. With batches in flight their commits may overtake
    this claim, so the store may stand anywhere from `applied` to `in_flight`, and its pins must reach `in_flight`: a
    store that was rolled back has lost either the one or the other.
    """

    partition: PartitionId
    epoch: int
    applied: int  # the last record that the caller knows to be committed
    first: int  # the record after `applied`, or after `in_flight`
    last: int
    versions: str  # the versions in force, as canonical JSON; used unless the positions are pinned already
    entity: str
    missing: Sequence[str] = ()  # keys whose state is not in memory
    ids: Sequence[bytes] = ()  # 16-byte digests of the event ids to reserve, in row order (first stage)
    id_buckets: Sequence[int] = ()  # event_time_us // repeat horizon of each id
    id_positions: bytes = b""  # where each event stands in `events`, `POSITION_BYTES` each, joined
    in_flight: int = NOTHING_APPLIED  # last record of the newest batch claimed, and not known to be committed


@dataclass(frozen=True)
class Claimed:
    """Go ahead. Records after `pinned_last` (when smaller than the claim's `last`) must wait for the next batch."""

    versions: str
    pinned_last: int
    states: Mapping[str, bytes | None]  # key -> packed state (see features/packing.py); None: never seen
    repeats: Sequence[
        int
    ] = ()  # places in `ids` of those that another event has, in the bucket or a neighbour
    ids_dropped: int = 0  # ids not remembered: their bucket was full, or older than all that fit


@dataclass(frozen=True)
class Refused:
    """Forget the partition's memory, load again, seek to `applied` + 1. `why` is 'epoch' or 'applied'."""

    why: str
    applied: int  # what stands in the store

    def already_done(self, commit: Commit) -> bool:
        """Whether this answers a commit that had been done before: sent twice, because the first answer got lost.

        The epoch still stood, so nobody but this caller can have moved `applied` to the commit's last record.

        Example:
            >>> commit = Commit(PartitionId("p", "p.hop-a", 0, "t"), 1, 4, 9, {}, 0, "a", ())
            >>> Refused("applied", 9).already_done(commit), Refused("epoch", 9).already_done(commit)
            (True, False)
        """
        return self.why == "applied" and self.applied == commit.last


@dataclass(frozen=True)
class Commit:
    """Step 7: everything that the batch changes, written at once or not at all. Commits go in the order of claims."""

    partition: PartitionId
    epoch: int
    applied: int  # what the caller believes stands in the store
    last: int  # the new `applied`
    seen: Mapping[str, Position]
    watermark_us: int
    entity: str
    states: Sequence[tuple[str, bytes]]  # key, packed changes (see features/packing.py)
    feature_rows: Sequence[tuple[bytes, bytes]] = ()  # Feast's Redis key, packed row (see feast_rows.py)
    expire_s: int = 0  # leak guard on the entity and Feast keys, renewed by every write; 0 = never
    oldest_bucket: int | None = None  # this partition needs no ids before this bucket any more (first stage)
    superseded: Sequence[str] = ()  # upstream partitions to forget: their topic was made anew
    claimed: bool = False  # the claim of this batch left a pin, which has to stand


@dataclass(frozen=True)
class Committed:
    """Done: the batch's effects are in the store, once."""


def epoch_step() -> int:
    """By how much a load raises the epoch: at random, so that no epoch is given out twice.

    A store that was rolled back, or emptied, has forgotten loads. Raised by one, the next owner's epoch would be one that
    an earlier owner may still hold, who would then be let in beside it (docs/decisions/0028).

    Example:
        >>> 1 <= epoch_step() <= EPOCH_STEP
        True
    """
    # Not `random`: a program that seeds it would give out the same epochs again.
    return secrets.randbelow(EPOCH_STEP) + 1


class StateStore(Protocol):
    """Where partitions and entities are remembered.

    Raises `UnreachableError` when the store does not answer: the outcome of the call is then unknown, load again.
    Raises `StoreError` when it answers and cannot do what was asked; the call then had no effect.
    """

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        ...

    async def claim(self, claim: Claim) -> Claimed | Refused:
        """Step 3."""
        ...

    async def commit(self, commit: Commit) -> Committed | Refused:
        """Step 7."""
        ...


class EmptiableStore(StateStore, Protocol):
    """A store of which a pipeline's part can be emptied, to be built anew."""

    async def forget(self, pipeline: str) -> None:
        """Delete the positions, states and ids of a pipeline, positions first. Epochs stay, and so do Feast's rows.

        So whoever owned a partition before is refused, and a call that breaks off leaves no position behind whose state
        is not there.
        """
        ...
