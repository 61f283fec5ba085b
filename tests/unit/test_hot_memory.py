"""How many entities a worker keeps in memory: as `hot_entities` and `hot_memory` allow, and never fewer than a frame has."""

from __future__ import annotations

import pytest

from driftwood import Entity
from features.layout import bytes_per_entity
from models.pipeline import Pipeline
from streams.assembly import MOST_ROWS, entity_batches, hot_entities
from streams.entity_batch import stage_plans
from streams.frames import MAX_FRAME_BYTES, FrameCodec
from streams.settings import Settings
from tests.shop_events import orders

GIB = 1 << 30


def entity_bytes(pipeline: Pipeline) -> int:
    return sum(bytes_per_entity(plan) for plan in stage_plans(pipeline.feature_set))


@pytest.mark.parametrize("partitions", [1, 4, 12])
@pytest.mark.parametrize("hot_memory", [GIB, 3 * GIB])
def test_full_hot_sets_of_all_partitions_and_stages_take_no_more_than_hot_memory(
    partitions: int, hot_memory: int
) -> None:
    pipeline = orders()
    settings = Settings(partitions=partitions, hot_memory=hot_memory, hot_entities=100_000_000)
    full = partitions * hot_entities(pipeline, settings) * entity_bytes(pipeline)
    assert hot_memory - partitions * entity_bytes(pipeline) < full <= hot_memory
    for number in range(len(stage_plans(pipeline.feature_set))):
        assert entity_batches(pipeline, settings, number).capacity == hot_entities(pipeline, settings)


def test_hot_entities_is_the_most_where_memory_allows_more() -> None:
    assert hot_entities(orders(), Settings(partitions=1, hot_entities=5_000, hot_memory=GIB)) == 5_000


def test_the_default_keeps_a_worker_of_large_entities_far_below_four_gibibytes() -> None:
    card = Entity("customer")
    wide = orders([card.distinct("country", "1d", "7d", "30d", exact_to=1_000)], fallback=0.1)
    assert entity_bytes(wide) > 500_000
    settings = Settings()
    floor = MOST_ROWS * settings.partitions * entity_bytes(wide)
    assert settings.partitions * hot_entities(wide, settings) * entity_bytes(wide) <= max(2 * GIB, floor)
    flat = orders([card.count("1h")], fallback=0.1)
    assert hot_entities(flat, settings) == settings.hot_entities


def test_no_frame_has_more_rows_than_entities_fit_into_the_smallest_hot_set() -> None:
    pipeline = orders(["amount", Entity("customer").count("1h")], fallback=0.1)
    smallest = hot_entities(pipeline, Settings(partitions=1_000, hot_memory=64 << 20))
    assert smallest == MOST_ROWS
    schema = FrameCodec(pipeline.feature_set, 0).schema
    row_bytes = 8 * schema.field("integers").type.list_size
    assert row_bytes * (MOST_ROWS + 1) > MAX_FRAME_BYTES
