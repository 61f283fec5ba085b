"""What is left of a disturbed run, against one worker that reads the same hop topics in peace."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.memory_store import MemoryStore
from features.store import POSITION_BYTES, Claim, Claimed, Position, Refused
from models.pipeline import Pipeline
from streams.frames import Frame, FrameCodec
from streams.prediction import position_text
from streams.served import ServedCodec
from streams.taken import BEFORE_ALL
from streams.topics import PipelineTopics
from streams.versions import read_versions
from tests.in_process import Log, Road
from tests.protocol_world import World
from tests.recorded_order import assert_as_recorded

NO_MODELS = Path("no-models-here")

# What a prediction owes to the model that made it: the rest is the event's and the windows'.
OF_THE_MODEL = ("score", "decision", "parts", "threshold", "threshold_version", "flags", "mode", "snapshot")


def assert_undisturbed(world: World) -> None:
    """State, hop topics as the next stage sees them, answers and dead letters are those of the undisturbed run."""
    store = _ToldStore(world)
    peace = Road(world.pipeline, store, NO_MODELS, world.settings.partitions, reads=world.log)
    peace.run()
    _assert_same_state(world, store)
    for number, topic in enumerate(world.hops):
        expected = _rows_seen(world.pipeline, peace.log, number, topic)
        assert _rows_seen(world.pipeline, world.log, number, topic) == expected, f"rows of {topic}"
    assert _dead(world.log, world.topics) == _dead(peace.log, world.topics)
    _assert_answers(world)
    _assert_served(world)


class _ToldStore(MemoryStore):
    """Which of two events of one id in different partitions was first stands in no order: it takes that from the answers.

    That there is another one of its id for each event without an answer, `tests.recorded_order` checks.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._answered = set(map(_packed_position, world.answers()))

    async def claim(self, claim: Claim) -> Claimed | Refused:
        claimed, positions = await super().claim(claim), claim.id_positions
        assert isinstance(claimed, Claimed)
        places = [positions[at : at + POSITION_BYTES] for at in range(0, len(positions), POSITION_BYTES)]
        return replace(
            claimed, repeats=[at for at, place in enumerate(places) if place not in self._answered]
        )


def _packed_position(position: str) -> bytes:
    """The position of a prediction as a claim has it."""
    topic, partition, offset = position.rsplit("/", 2)
    _, _, digest = topic.partition("@")
    return struct.pack(">Iq", int(digest or "0", 16) ^ int(partition), int(offset))


def _assert_same_state(world: World, expected: MemoryStore) -> None:
    for name, known in world.store.memory._partitions.items():
        place = (name[1], name[2])
        assert known.applied == world.end(place) - 1, place
        assert known.pins == [], place
        if known.applied >= 0:
            other = expected._partitions[name]
            for attribute in ("identity", "watermark_us", "seen"):
                assert getattr(known, attribute) == getattr(other, attribute), (place, attribute)
    assert world.store.memory._states == expected._states
    assert world.store.memory.feature_rows == expected.feature_rows


def _rows_seen(pipeline: Pipeline, log: Log, number: int, topic: str) -> dict[tuple[int, bytes], list[Any]]:
    """Rows of a hop topic by target partition and upstream, in order, each position once."""
    codec = FrameCodec(pipeline.feature_set, number)
    found: dict[tuple[int, bytes], list[Any]] = {}
    seen: dict[tuple[int, bytes], Position] = {}
    for partition in range(log.partitions[topic]):
        for record in log.records[topic, partition]:
            upstream = record.header("upstream")
            if upstream is None:  # junk that a test put there
                continue
            place = (partition, upstream)
            for position, row in _rows(codec.decode(record.value or b"")):
                if position > seen.get(place, BEFORE_ALL):
                    seen[place] = position
                    found.setdefault(place, []).append(row)
    return found


def _rows(frame: Frame) -> Iterator[tuple[Position, Any]]:
    """Each row with its position, as bytes: NaN is not equal to itself."""
    columns = (frame.rows.times_us, frame.rows.numbers, frame.windows, frame.ages_s, frame.flags)
    places = (frame.origin_partitions, frame.origin_offsets, frame.arrived_ms)
    texts = [column.to_pylist() for column in (frame.rows.event_ids, *frame.rows.texts)]
    for row in range(len(frame)):
        position = Position(int(frame.upstream_offsets[row]), int(frame.upstream_rows[row]))
        numbers = [column[row].tobytes() for column in (*columns, *places)]
        yield position, (position, numbers, [column[row] for column in texts])


def _dead(log: Log, topics: PipelineTopics) -> set[tuple[bytes | None, ...]]:
    """The identities of the dead letters: each may stand twice."""
    letters = log.topic(topics.dead_letters.name)
    return {
        tuple(letter.header(name) for name in ("topic", "partition", "offset", "reason"))
        for letter in letters
    }


def _assert_answers(world: World) -> None:
    """One answer an event, as the recorded order has it. After a roll-back models may differ between copies."""
    if not world.store.rolled_back:
        assert_as_recorded(world)
        return
    copies = world.answers()
    for position, values in copies.items():
        documents = [json.loads(value) for value in values]
        versions = {_versions(document) for document in documents}
        assert len(versions) == len(values), f"one model gave two answers to {position}"
        assert len({_without_the_model(document) for document in documents}) == 1, position
    assert_as_recorded(_First(world))


def _assert_served(world: World) -> None:
    """What stands on hop-join is what the predictions say, under the versions that they name.

    After a roll-back a worker that died may have left there what no prediction says: its pin was forgotten with it. What
    was answered instead stands there as well.
    """
    if world.topics.learn is None:
        return
    answers, standing = world.answers(), _standing(world)
    assert standing.keys() == answers.keys()
    enough = any if world.store.rolled_back else all
    for position, served in standing.items():
        said = [json.loads(value) for value in answers[position]]
        told = {(one["score"], one["snapshot"], one["mode"]) for one in said}
        assert enough(one in told for one in served), position


def _standing(world: World) -> dict[str, list[tuple[float, int, str]]]:
    """By position the scores that stand on hop-join, each with the snapshot and the mode that made it."""
    codec, found = ServedCodec(world.pipeline), dict[str, list[tuple[float, int, str]]]()
    for record in world.log.topic(world.topics.learning.hop_join.name):
        served = codec.decode(record.value or b"")
        frame, versions = served.frame, read_versions(served.versions)
        places = (frame.origin_topics, frame.origin_partitions, frame.origin_offsets)
        for row, origin in enumerate(zip(*(column.tolist() for column in places), strict=True)):
            one = (float(served.score[row]), versions.snapshot, versions.mode)
            found.setdefault(position_text(world.topics.events.name, *origin), []).append(one)
    return found


def _versions(document: dict[str, Any]) -> str:
    """What an answer names of the model that made it."""
    parts = {name: part["version"] for name, part in document["parts"].items()}
    return json.dumps([parts, document.get("mode"), document.get("snapshot")])


def _without_the_model(document: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in document.items() if name not in OF_THE_MODEL})


class _First:
    """A run of which readers keep the first of several copies."""

    def __init__(self, world: World) -> None:
        self.pipeline, self.topics, self.log = world.pipeline, world.topics, world.log
        self._answers = {position: values[:1] for position, values in world.answers().items()}

    def answers(self) -> dict[str, list[bytes]]:
        return self._answers
