"""The whole predict road, bytes to bytes: equal to the offline backfill, sure of its versions, unshaken by bad records."""

import asyncio
import json
import logging
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import prometheus_client
import pyarrow as pa
import pytest

from driftwood import Entity, Label, Pipeline, load_pipeline, personal
from examples.flights.data import events as flight_events
from examples.flights.data import labels as flight_labels
from features.memory_store import MemoryStore
from features.redis_store import RedisStore
from models.model_store import ModelStore
from offline.backfill import Backfill, compute_features
from offline.events import event_records
from offline.in_process import InProcess
from offline.label_records import label_records
from offline.one_order import Sent, merged
from offline.train import labelled_features
from streams.taken import OtherVersionError
from tests.in_process import CrashedError, CrashingStore, Road
from tests.recorded_order import assert_as_recorded
from tests.shop_events import customer, orders, random_features, random_orders
from tests.small_models import save_model


def offline(pipeline: Pipeline, events: list[bytes], folder: Path) -> Backfill:
    """The same events in the same order, by the backfill."""
    file = folder / "events.jsonl"
    file.write_bytes(b"\n".join(events))
    return compute_features(pipeline.feature_set, file, order="as given", chunk_rows=97)[0]


def assert_equal_to_backfill(road: Road, made: Backfill) -> None:
    """Every feature and age that was served, bit for bit."""
    served = road.predictions()
    assert len(made) == len(served)
    entities = [plan.entity for plan in road.pipeline.feature_set.entities]
    for row, event_id in enumerate(made.event_ids.to_pylist()):
        prediction = served[event_id]
        assert bits(prediction["features"].values()) == bits(_features(made, row)), event_id
        assert bits([prediction["ages_s"][name] for name in entities]) == bits(made.ages_s[row].tolist())
        assert ("late" in prediction["flags"]) == bool(made.dropped[row])


def _features(made: Backfill, row: int) -> list[Any]:
    values: list[Any] = made.matrix.values[row].tolist()
    for column, texts in made.matrix.categories.items():
        values[column] = texts[row].as_py()
    return values


def bits(values: Any) -> list[Any]:
    """Numbers as their bytes, missing ones as None."""
    return [
        None
        if value is None or (isinstance(value, float) and math.isnan(value))
        else value
        if isinstance(value, str)
        else np.float64(value).tobytes()
        for value in values
    ]


# ---- equal to the backfill


def test_streamed_flights_with_their_labels_have_the_features_of_the_backfill_bit_for_bit(tmp_path):
    pipeline = load_pipeline("flights")
    table = flight_events().iloc[100_000:100_500]
    events = pa.Table.from_pandas(table, preserve_index=False)
    told = flight_labels()
    labels = pa.Table.from_pandas(told[told["flight_id"].isin(table["flight_id"])], preserve_index=False)
    made, _, _ = labelled_features(pipeline, events, labels)
    served = asyncio.run(both_roads(pipeline, events, labels, tmp_path))
    assert served.keys() == set(made.event_ids.to_pylist())
    for row, event_id in enumerate(made.event_ids.to_pylist()):
        assert bits(served[event_id]["features"].values()) == bits(_features(made, row)), event_id
    late_rates = made.matrix.number("origin_late_rate_3h")
    assert np.isfinite(late_rates).sum() > 100  # labels did come in between


async def both_roads(
    pipeline: Pipeline, events: pa.Table, labels: pa.Table, folder: Path
) -> dict[str, dict[str, Any]]:
    """Events and labels in the order of their times through both roads: the predictions by event id."""
    served: dict[str, dict[str, Any]] = {}

    def watch(topic: str, records: Sequence[Any]) -> None:
        if topic == "predictions":
            for record in records:
                prediction = json.loads(record.value)
                served[prediction["event_id"]] = prediction

    times_us = events["scheduled_departure"].cast(pa.int64()).to_pylist()
    values = list(event_records(events, pipeline.feature_set))
    told = label_records(pipeline, labels)
    sent = merged(
        [Sent(at, "events", value) for at, value in zip(times_us, values, strict=True)],
        [
            Sent(at, "labels", value, name.encode())
            for at, value, name in zip(told.known_us.tolist(), told.values, told.event_ids, strict=True)
        ],
    )
    roads = InProcess(pipeline, folder, watch)
    await roads.open()
    await roads.run(sent)
    return served


@pytest.mark.parametrize("seed", range(12))
def test_streamed_features_of_random_pipelines_equal_the_backfill_bit_for_bit(seed, tmp_path):
    source = random.Random(seed)
    pipeline = orders(random_features(source), fallback=0.2)
    events = [json.dumps(order).encode() for order in random_orders(source, 250)]
    road = Road(pipeline, MemoryStore(), tmp_path, partitions=1, capacity=8)
    road.send(events)
    road.run_randomly(source, most=40)
    assert_equal_to_backfill(road, offline(pipeline, events, tmp_path))


def on_redis(
    url: str, pipeline: Pipeline, models: Path, partitions: int, source: random.Random, **more: Any
) -> Road:
    """Some orders through a road whose state is in Redis and hardly fits into memory."""

    async def drive() -> Road:
        store = RedisStore.connect(url)
        road = Road(pipeline, store, models, partitions, **more)
        road.send(random_orders(source, 300))
        try:
            while unread := road.unread():
                place = source.choice(unread)
                await road.step(place, source.randint(1, 20))
                if source.random() < 0.1:
                    road.forget(place)
        finally:
            await store.aclose()
        return road

    return asyncio.run(drive())


def test_streamed_features_with_their_state_in_redis_equal_the_backfill_bit_for_bit(redis_url, tmp_path):
    road = on_redis(redis_url, orders(), tmp_path, 1, random.Random(5), capacity=6)
    events = [record.value for record in road.log.topic("orders.events")]
    assert_equal_to_backfill(road, offline(road.pipeline, [value for value in events if value], tmp_path))


def test_several_partitions_with_their_state_in_redis_follow_the_recorded_order(redis_url, tmp_path):
    road = on_redis(redis_url, orders(), tmp_path, 3, random.Random(6))
    assert assert_as_recorded(road) == 300


def test_two_workers_with_four_partitions_follow_the_order_that_the_hop_topics_recorded(tmp_path):
    source, store = random.Random(7), MemoryStore()
    pipeline = orders()
    one = Road(pipeline, store, tmp_path, partitions=4)
    two = Road(pipeline, store, tmp_path, partitions=4, log=one.log)
    one.send(random_orders(source, 400))

    async def work() -> None:
        # Each worker owns half of the partitions, and for a while the other half.
        for swapped in (0, 1, 0):
            for _ in range(60):
                worker = source.choice([one, two])
                mine = [place for place in worker.unread() if place[1] % 2 == swapped ^ (worker is two)]
                if mine:
                    await worker.step(source.choice(mine), 15)
            committed = {
                (topic, number): max(one.read[topic, number], two.read[topic, number])
                for topic, number in one.places()
                if topic in one.stages.ingest
            }
            for worker in (one, two):
                worker.memories.clear()
                worker.read.update(committed)
        await one.drain()

    asyncio.run(work())
    assert assert_as_recorded(one) == 400


# ---- versions


def test_a_batch_repeated_after_a_crash_is_scored_by_the_versions_it_was_pinned_to(tmp_path):
    models, pipeline = ModelStore(tmp_path), orders()
    old, new = save_model(models, pipeline, 1), save_model(models, pipeline, 2)
    models.promote("orders", old)
    store = CrashingStore(MemoryStore())
    road = Road(pipeline, store, tmp_path, partitions=1)
    road.send(random_orders(random.Random(1), 40))
    *_, last = road.places()

    async def scenario() -> None:
        for place in road.places()[:-1]:
            await road.step(place)
        store.armed = "before"
        with pytest.raises(CrashedError):
            await road.step(last, 1)  # its predictions are out, its effects are not
        models.promote("orders", new)

    asyncio.run(scenario())
    again = Road(pipeline, store, tmp_path, partitions=1, log=road.log)
    assert again.serving.in_service == new
    again.run()
    versions = {one["parts"]["lightgbm"]["version"] for one in again.predictions().values()}
    assert versions == {old}  # `predictions` holds each of them twice, and the copies are the same bytes
    assert len(again.log.topic("orders.predictions")) == 80
    again.send(random_orders(random.Random(2), 10, first=40))
    again.run()
    assert {one["parts"]["lightgbm"]["version"] for one in again.predictions().values()} == {old, new}


def test_a_batch_is_cut_where_a_pin_ends(tmp_path):
    models, pipeline = ModelStore(tmp_path), orders(["amount", customer.count("1h")], fallback=0.3)
    store = CrashingStore(MemoryStore())
    road = Road(pipeline, store, tmp_path, partitions=1)
    ingest, hop = road.places()
    road.send(random_orders(random.Random(1), 9))

    async def scenario() -> tuple[Any, Any]:
        for _ in range(9):
            await road.step(ingest, 1)
        store.armed = "before"
        with pytest.raises(CrashedError):
            await road.step(hop, 4)
        models.promote("orders", save_model(models, pipeline))
        await road.serving.look()
        road.forget(hop)
        return await road.step(hop, 9), await road.step(hop, 9)

    assert asyncio.run(scenario()) == (3, 8)
    names = [
        list(json.loads(record.value or b"")["parts"]) for record in road.log.topic("orders.predictions")
    ]
    assert names == [["fallback"]] * 8 + [["lightgbm"]] * 5


def test_frames_of_another_pipeline_version_stop_the_worker_with_a_sentence_that_names_both(tmp_path):
    before = Road(
        orders(["amount", customer.count("1h")], fallback=0.1), MemoryStore(), tmp_path, partitions=1
    )
    before.send(random_orders(random.Random(1), 3))
    asyncio.run(before.step(before.places()[0]))
    after = Road(
        orders(["amount", customer.count("2h")], fallback=0.1), MemoryStore(), tmp_path, 1, log=before.log
    )
    old, new = (road.pipeline.feature_set.hash for road in (before, after))
    with pytest.raises(
        OtherVersionError, match=f"record 0 of partition 0 .*-{old}-0, this worker runs [0-9]+-{new}-0: let"
    ):
        asyncio.run(after.step(after.places()[1]))
    assert after.answers() == {}


# ---- bad records


BAD = [b"", b"{", b"[1]", b'{"order_id": "x"}', b"\xff\xfe", b'{"order_id": 5}', b"NaN"]


def test_good_records_keep_their_order_around_bad_ones_which_keep_theirs(tmp_path):
    source = random.Random(3)
    good = [json.dumps(order).encode() for order in random_orders(source, 60)]
    mixed = [record for order in good for record in (order, *source.choices(BAD, k=source.randint(0, 2)))]
    bad = [at for at, record in enumerate(mixed) if record in BAD]
    road = Road(orders(), MemoryStore(), tmp_path, partitions=1)
    road.send(mixed)
    road.run(batch=11)
    assert [record.value for record in road.dead()] == [mixed[at] for at in bad]
    assert [record.header("offset") for record in road.dead()] == [b"%d" % at for at in bad]
    clean = Road(orders(), MemoryStore(), tmp_path, partitions=1)
    clean.send(good)
    clean.run(batch=7)
    kept = ("score", "features", "ages_s", "flags")
    got, wanted = (
        {name: [one[field] for field in kept] for name, one in road.predictions().items()}
        for road in (road, clean)
    )
    assert list(got) == list(wanted) and got == wanted
    assert road.counted("dead_letters", reason="missing_field") > 0


def test_junk_in_a_hop_topic_becomes_a_dead_letter_and_the_frames_around_it_go_on(tmp_path):
    source = random.Random(4)
    road = Road(orders(), MemoryStore(), tmp_path, partitions=1)
    events = [json.dumps(order).encode() for order in random_orders(source, 60)]
    hops = [topic.name for topic in road.topics.hops.values()]
    for at, event in enumerate(events):
        road.send([event])
        asyncio.run(road.step(road.places()[0]))
        if at % 7 == 0:
            frame = road.log.records[hops[0], 0][-1]
            headers = dict(frame.headers)
            road.log.append(
                hops[0], 0, b"k", source.randbytes(source.randint(0, 300)), [("upstream", b"\xff")]
            )
            road.log.append(hops[0], 0, b"k", None)
            road.log.append(hops[0], 0, b"k", (frame.value or b"")[:-9], list(headers.items()))
            road.log.append(hops[0], 0, b"k", frame.value, [("frame", headers["frame"])])
            road.log.append(
                hops[0], 0, b"k", frame.value, [("frame", headers["frame"]), ("upstream", b"\xc3")]
            )
    road.run(batch=5)
    assert_equal_to_backfill(road, offline(road.pipeline, events, tmp_path))
    assert {record.header("reason") for record in road.dead()} == {b"not_a_frame"}
    assert {record.header("topic") for record in road.dead()} == {hops[0].encode()}
    assert len(road.dead()) == 9 * 5 == road.counted("dead_letters", reason="not_a_frame")


def test_batches_of_nothing_but_junk_or_copies_move_on(tmp_path):
    road = Road(orders(), MemoryStore(), tmp_path, partitions=1)
    hop = road.places()[1]
    road.log.append(*hop, None, b"junk")
    assert asyncio.run(road.step(hop)) == 0
    road.send(random_orders(random.Random(1), 5))
    road.run()
    road.read[road.places()[0]] = 0  # ingest again, as after a crash
    asyncio.run(road.step(road.places()[0]))
    road.run()
    assert len(road.predictions()) == 5
    assert road.counted("copies", stage="customer") == 5
    assert road.counted("rows", stage="customer") == 5


def test_the_values_of_personal_fields_stand_in_no_log_line_and_no_metric(tmp_path, caplog):
    class Visit(msgspec.Struct):
        visit_id: str
        at: int
        patient: Annotated[str, personal]
        ward: str

    ward = Entity("ward")
    visits = Pipeline(
        "visits",
        event=Visit,
        id="visit_id",
        time="at",
        time_unit="s",
        label=Label("returns"),
        features=[ward.count("1d")],
    )
    caplog.set_level(logging.DEBUG)
    road = Road(visits, MemoryStore(), tmp_path, partitions=1, unknown_fields="dead-letter")
    good = {"visit_id": "v1", "at": 1_700_000_000, "patient": "Secret Name", "ward": "w"}
    worse: list[Any] = [
        {"patient": ["Secret Name"]},
        {"at": "Secret Name"},
        {"ward": 5},
        {"more": "Secret Name"},
    ]
    road.send([good, good, *(good | one for one in worse)])
    road.send([b'{"patient": "Secret Name", "at": NaN}', b'{"patient": "Secret Name'])
    road.run()
    assert len(road.dead()) == 6 and len(road.predictions()) == 1
    assert road.counted("repeated_ids", stage="ward") == 1
    details = b" ".join(
        record.header(name) or b"" for record in road.dead() for name in ("reason", "path", "detail")
    )
    shown = caplog.text + prometheus_client.generate_latest(road.metrics.registry).decode() + details.decode()
    assert "Secret" not in shown


def test_a_field_with_few_choices_may_be_an_entitys_key(tmp_path):
    class Reading(msgspec.Struct):
        reading_id: str
        at: int
        side: Literal["left", "right"]

    side = Entity("side")
    readings = Pipeline(
        "readings",
        event=Reading,
        id="reading_id",
        time="at",
        time_unit="s",
        label=Label("broken"),
        features=[side.count("1h")],
    )
    road = Road(readings, MemoryStore(), tmp_path, partitions=1)
    road.send([{"reading_id": f"r{at}", "at": 1_700_000_000 + at, "side": "left"} for at in range(3)])
    road.run()
    assert [one["features"]["side_count_1h"] for one in road.predictions().values()] == [0, 1, 2]
