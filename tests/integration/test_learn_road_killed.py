"""The learn road is killed at each step of its stages, on a real Kafka and a real Redis.

Four pipelines. In the first the process of the learn road kills itself (SIGKILL) at each point of the join, again and
again; in the second at those of the learner and of the source of labels; in the third the workers that answer die with
predictions delivered and not committed, and find other snapshots when they start again. In a fourth a learner stands still
until it was replaced, and wakes. Orders, labels and actions flow all the time. Then everything that the runs left is compared with what their recorded order prescribes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest

import pytest

from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from models.outcomes import CENSORED, CORRECTED, DUPLICATE, EARLY, LATE, MATCHED, REPEAT, SILENT, UNKNOWN
from tests.dying_learner import JOIN, LABELS
from tests.dying_worker import LEARNER, TWO_IN_FLIGHT
from tests.in_process import Log, Road
from tests.kafka_run import Dump
from tests.killed_learn_runs import DEATHS, SNAPSHOTS, STANDBY, LearnKilled, kill_learning, learn_place
from tests.learnt_run import Learnt
from tests.returned_orders import stamp_of

# All four runs are made for the first test.
pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

KINDS = (*DEATHS, STANDBY)

# Outcomes that no label has asked for.
WITHOUT_A_LABEL = (SILENT, REPEAT)


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, kafka: RealKafka, embedded_redis: EmbeddedRedis
) -> Iterator[dict[str, LearnKilled]]:
    """By what died the pipeline: all at a time, as most of it is waiting for the group."""
    with ExitStack() as ending:
        runs = {
            kind: LearnKilled(
                learn_place(tmp_path_factory.mktemp(kind), kafka.address, embedded_redis.url, ending)
            )
            for kind in KINDS
        }
        with ThreadPoolExecutor(len(runs)) as pool:
            for end in [pool.submit(kill_learning, *item) for item in runs.items()]:
                end.result()
        yield runs


@dataclass(frozen=True)
class Left:
    """What a run left, and what undisturbed workers made of its recorded order."""

    learnt: Learnt
    peace: Dump
    road: Road
    joined: Log


@pytest.fixture(scope="module")
def all_left(killed: dict[str, LearnKilled], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Left]:
    left = {}
    for kind, one in killed.items():
        learnt = one.place.left()
        redis_url = learnt.settings.redis_url.removesuffix("/0") + "/2"
        left[kind] = Left(learnt, *learnt.undisturbed(tmp_path_factory.mktemp("peace"), redis_url))
    return left


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def left(all_left: dict[str, Left], kind: str) -> Left:
    return all_left[kind]


@pytest.mark.parametrize("kind", DEATHS)
def test_each_process_died_at_its_point_in_the_middle_of_its_work(
    killed: dict[str, LearnKilled], kind: str
) -> None:
    notes = killed[kind].notes
    assert [(note["stage"], note["point"]) for note in notes] == [
        (death.stage, death.point) for death in DEATHS[kind]
    ]
    for note in notes:
        if note["stage"] not in (LEARNER, LABELS):
            assert note["in_flight"] >= (2 if note["point"] in TWO_IN_FLIGHT else 1), note


def test_every_label_has_exactly_one_outcome(killed: dict[str, LearnKilled], left: Left, kind: str) -> None:
    """A label that came early has one more, which says so; one that still waits has that alone."""
    outcomes = [one for found in left.learnt.outcomes()[0].values() for one in found]
    named: Counter[tuple[str, str]] = Counter()
    for one in outcomes:
        by_time = (
            one.kind == CENSORED and one.known_us == one.time_us + left.learnt.run.pipeline.label.horizon_us
        )
        if one.kind not in (*WITHOUT_A_LABEL, EARLY) and not by_time:
            named[one.event_id, stamp_of(one.known_us)] += 1
    for letter in left.learnt.dead("known_before_event"):
        document = json.loads(letter)
        named[document["event_id"], stamp_of(document["known_at"])] += 1
    for oracle in left.learnt.oracles.values():
        for row in oracle.rows.values():
            named.update(
                (row.event_id, stamp_of(one.known_us))
                for one in row.waiting
                if row.event is None and one.action is None
            )
    assert named == killed[kind].sent.labels
    kinds = Counter(one.kind for one in outcomes)
    wanted = {MATCHED, CORRECTED, DUPLICATE, LATE, EARLY, UNKNOWN, SILENT, CENSORED}
    assert kinds.keys() >= wanted, kinds


def test_outcomes_are_those_of_brute_force_over_the_recorded_order(left: Left) -> None:
    found, _ = left.learnt.outcomes()
    assert found.keys() == left.learnt.oracles.keys()
    for name, oracle in left.learnt.oracles.items():
        pairs = zip_longest(found[name], oracle.outcomes)
        assert not next(((one, other) for one, other in pairs if one != other), None), name


def test_label_rows_are_those_of_brute_force_over_the_recorded_order(left: Left) -> None:
    expected = {name: oracle.label_rows for name, oracle in left.learnt.oracles.items()}
    assert left.learnt.label_rows() == expected
    assert all(rows for one in expected.values() for rows in one.values())


def test_what_is_learnt_from_equals_an_undisturbed_join_to_the_bit(left: Left) -> None:
    assert left.learnt.learnt_rows(left.learnt.run.log) == left.learnt.learnt_rows(left.joined)


def test_ledger_windows_and_feast_rows_in_redis_equal_those_of_an_undisturbed_run(left: Left) -> None:
    name = left.learnt.run.pipeline.name
    found = left.learnt.in_redis()
    assert found.keys() == left.peace.keys(), sorted(found.keys() ^ left.peace.keys())[:5]
    different = [key for key, value in left.peace.items() if found[key] != value]
    assert not different, f"{len(different)} differ, such as {different[0]!r}"
    assert any(key.startswith(f"driftwood:{name}:state:join:".encode()) for key in found)


def test_the_learner_equals_an_undisturbed_one_over_the_same_outcomes_bit_for_bit(left: Left) -> None:
    newest, again = left.learnt.published, left.learnt.relearnt()
    assert newest.version == again.taken
    assert newest.state == again.learner.state()
    assert newest.scoring == again.learner.scoring()
    assert newest.figures == json.loads(json.dumps(again.learner.figures()))
    assert again.learner.figures()["matured"] > 0


def test_copies_of_a_prediction_are_the_same_bytes_and_say_what_the_windows_of_the_recorded_order_say(
    left: Left,
) -> None:
    answers, expected = left.learnt.run.answers(), left.road.answers()
    assert answers.keys() == expected.keys()
    snapshots = set()
    for position, values in answers.items():
        assert len(values) == 1, position
        document = json.loads(values[0])
        assert document["features"] == json.loads(expected[position][0])["features"], position
        snapshots.add(document["snapshot"])
    assert len(snapshots) >= SNAPSHOTS


@pytest.mark.parametrize("kind", ["answers"])
def test_a_prediction_that_is_made_again_after_other_snapshots_came_is_the_one_of_before(
    killed: dict[str, LearnKilled], left: Left
) -> None:
    copied: dict[int, int] = defaultdict(int)
    seen = set()
    for record in left.learnt.run.log.topic(left.learnt.run.topics.predictions.name):
        position = record.header("position")
        if position in seen:
            copied[json.loads(record.value or b"")["snapshot"]] += 1
        seen.add(position)
    swapped = killed["answers"].snapshots
    assert all(before < after for before, after in swapped)
    # Each of them was made again when a newer snapshot was in service: it still names the older one.
    assert copied
    assert all(any(version <= before for before, _ in swapped) for version in copied)


def test_a_learner_that_woke_after_it_was_replaced_is_refused_and_takes_over_when_the_other_one_dies(
    killed: dict[str, LearnKilled],
) -> None:
    one = killed[STANDBY]
    assert one.refused >= 1
    versions = [version for pair in one.snapshots for version in pair]
    assert len(versions) == 6, (
        "the second learner, before and after the zombie woke; and the zombie as its successor"
    )
    assert versions == sorted(versions), "nothing went back"


def test_the_kills_left_copies_behind_for_readers_to_drop(all_left: dict[str, Left]) -> None:
    assert all_left[JOIN].learnt.outcomes()[1] > 0
    assert all_left[LEARNER].learnt.copied_reports() > 0
