"""From records of `outcomes` to what the learners step: each record one mini-batch, in order, its copies dropped.

A record holds rows of one upstream partition. After a crash the join stage may write rows again, cut into other records:
a row is new when its position stands above the last one *seen* from there, and what is new of a record is the mini-batch.
The log's order decides, so whoever steps the same records comes to the same learners.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from features.errors import DriftwoodError
from features.plan import Ints
from features.store import Position
from models.matured import Matured
from streams.batch import Record
from streams.control import COMMAND, LearnerCommand, decoded
from streams.dead_letters import DeadLetter
from streams.feed_notices import NOTICE_FRAME, FeedNotice, read_notice
from streams.frames import positions_after
from streams.headers import FRAME, header
from streams.taken import BEFORE_ALL, OtherVersionError, superseded_by

log = logging.getLogger(__name__)

CONTROL = "control"
"""The upstream of commands in `seen`: their positions are offsets in `control`."""


class Learner(Protocol):
    """All that learns in a pipeline: measures, blend, calibrator, models (`models/learning.py`)."""

    def step(self, batch: Matured) -> object:
        """One mini-batch: measure what was served, weigh, then learn."""

    def scoring(self) -> bytes:
        """What scorers load."""

    def state(self) -> bytes:
        """Everything it owns."""

    def figures(self) -> Mapping[str, Any]:
        """What a person is shown, as JSON takes it."""

    @property
    def taught(self) -> bool:
        """Whether some model has learnt anything."""

    def label_feed(self, partition: str, stalled_since_ms: int | None) -> None:
        """This partition of the join says that labels are stalled since then (wall clock); None: they flow again."""

    def freeze(self, name: str) -> None:
        """This learner learns no more and drops out of the blend."""

    def reset(self, name: str) -> None:
        """This learner begins anew."""

    def restore_learner(self, name: str, state: bytes) -> None:
        """This learner is what it was in an older state."""


class Decoded(Protocol):
    """A record of `outcomes` (`streams/outcomes.py`): its rows, and the positions that they came from."""

    @property
    def matured(self) -> Matured: ...
    @property
    def upstream_offsets(self) -> Ints: ...
    @property
    def upstream_rows(self) -> Ints: ...


class OutcomeReader(Protocol):
    """Reads records of `outcomes`. `version` stands in their header FRAME."""

    @property
    def version(self) -> bytes: ...

    def read(self, record: Record) -> tuple[str, Decoded]:
        """The upstream partition of a record of this version, and its rows. Raises ValueError for what is none of ours."""


@dataclass(frozen=True)
class Junk:
    """A record that driftwood did not write."""

    record: Record
    why: str

    def letter(self, partition: int) -> DeadLetter:
        """As a dead letter."""
        return DeadLetter(
            partition, self.record, "not_a_frame", "$", f"no outcomes of this pipeline: {self.why}"
        )


@dataclass
class Stepped:
    """What one call has stepped; `junk` is the record behind it, when that is none of ours."""

    records: int = 0
    rows: int = 0
    copies: int = 0
    junk: Junk | None = None


@dataclass
class MiniBatches:
    """The learner of a partition, and how far it is: `taken` is the last record stepped, `seen` the last position of
    each upstream partition, `superseded` those whose topic was made anew. All three move with each record."""

    learner: Learner
    codec: OutcomeReader
    taken: int
    seen: dict[str, Position]
    superseded: list[str] = field(default_factory=list)

    def step_all(
        self,
        records: Sequence[Record],
        states: Mapping[int, bytes],
        clock: Callable[[], float],
        budget_s: float,
    ) -> Stepped:
        """Step the records in order, until `budget_s` is over: at least one. Stops at one that is none of ours.

        `states` has the older states that commands among them need, by version. Raises `OtherVersionError` for a record
        of another pipeline version, when all before it are stepped.
        """
        began_s, done = clock(), Stepped()
        for record in records:
            try:
                if header(record, COMMAND) is not None:
                    self._obey(record, states)
                elif not self._step(record, done):
                    return done
            except ValueError as error:
                done.junk = Junk(record, str(error))
                return done
            self.taken = record.offset
            done.records += 1
            if clock() - began_s >= budget_s:
                break
        return done

    def _step(self, record: Record, done: Stepped) -> bool:
        """One mini-batch; False: it is of another version, and others were stepped before it in this call."""
        version = header(record, FRAME)
        if version == NOTICE_FRAME:
            self._hear(*read_notice(record))
            return True
        if version not in (None, self.codec.version):
            if done.records:
                return False
            raise OtherVersionError(
                f"record {record.offset} of outcomes was written under pipeline version {_text(version)}, this learner runs "
                f"{_text(self.codec.version)}: let the learner of the other version finish what stands there, then start "
                "this one"
            )
        name, rows = self.codec.read(record)
        self._learn(name, rows, done)
        return True

    def _learn(self, upstream: str, rows: Decoded, done: Stepped) -> None:
        count = len(rows.matured)
        if not count:
            return
        start = positions_after(rows, self.seen.get(upstream, BEFORE_ALL))
        done.copies += start
        done.rows += count - start
        if start == count:
            return
        batch = rows.matured.select(np.arange(count) >= start) if start else rows.matured
        try:
            self.learner.step(batch)
        except ValueError as error:  # a mistake of ours, and no junk
            raise RuntimeError(f"outcomes could not be learnt: {error}") from error
        self._saw(upstream, Position(int(rows.upstream_offsets[-1]), int(rows.upstream_rows[-1])))

    def _hear(self, upstream: str, notice: FeedNotice) -> None:
        """What the join says of the label feed."""
        if notice.position <= self.seen.get(upstream, BEFORE_ALL):
            return
        self._saw(upstream, notice.position)
        self.learner.label_feed(_number(upstream), notice.since_ms if notice.stalled else None)

    def _saw(self, upstream: str, last: Position) -> None:
        if upstream not in self.seen and (gone := superseded_by(upstream, self.seen)):
            self.superseded += gone
            # What the topic before it said of its labels has no end otherwise.
            self.learner.label_feed(_number(upstream), None)
        self.seen[upstream] = last

    def _obey(self, record: Record, states: Mapping[int, bytes]) -> None:
        place, command = header(record, COMMAND), decoded(record.value)
        if place is None or not place.isdigit() or not isinstance(command, LearnerCommand):
            raise ValueError("it is no command to a learner")
        position = Position(int(place), 0)
        if position <= self.seen.get(CONTROL, BEFORE_ALL):
            return
        self.seen[CONTROL] = position
        try:
            _apply(self.learner, command, states)
        except (DriftwoodError, KeyError, ValueError) as error:  # again at the same place after every restart
            log.error("%s %s had no effect: %s", command.action, command.learner, error)
        else:
            log.warning("%s %s, as %s decided at %s", command.action, command.learner, command.by, command.at)


def _apply(learner: Learner, command: LearnerCommand, states: Mapping[int, bytes]) -> None:
    if command.action == "freeze":
        learner.freeze(command.learner)
    elif command.action == "reset":
        learner.reset(command.learner)
    elif command.snapshot is not None and command.snapshot in states:
        learner.restore_learner(command.learner, states[command.snapshot])
    else:
        raise ValueError(f"snapshot {command.snapshot} is not there any more")


def restores(records: Iterable[Record]) -> list[int]:
    """The versions of the snapshots to which commands among these records set learners back."""
    commands = [decoded(record.value) for record in records if header(record, COMMAND) is not None]
    return [
        command.snapshot
        for command in commands
        if isinstance(command, LearnerCommand) and command.snapshot is not None
    ]


def _number(upstream: str) -> str:
    """The partition of hop-join, without the topic's identity."""
    return upstream.rpartition("/")[2]


def _text(version: bytes | None) -> str:
    return (version or b"").decode(errors="replace")
