"""What the hot path writes, read with Feast's own client: the folder, `feast apply`, values, types and freshness."""

from __future__ import annotations

import asyncio
import math
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import redis

from driftwood.embedded import EmbeddedRedis
from features.errors import OperatorError
from features.feast_objects import apply_repository, describe, view_name, write_repository
from features.feast_rows import FeastRows
from features.plan import Aggregate, EntityPlan, Output
from features.redis_store import RedisStore
from features.store import NOTHING_APPLIED, Commit, Committed, PartitionId

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "flights"
HOUR_US = 3_600_000_000
AGGREGATES = (Aggregate.COUNT, Aggregate.DISTINCT, Aggregate.MEAN, Aggregate.STD, Aggregate.SINCE_LAST)
KEYS = ["JFK", "ü|\\|\N{SNOWMAN}", "", "x" * 300, "empty"]
VALUES = [
    [0.0, 1.0, 0.0, -0.0, 5e-324],
    [1.0, 127.4, -1.5, math.pi, 1.7976931348623157e308],
    [128.0, 16_383.5, math.inf, -math.inf, 1e-300],
    [float(2**53), float(2**62), -1e300, 0.1, 86_400.000001],
    [math.nan] * 5,
]
TIMES_US = [1_364_811_300_000_001, 1_364_811_300_000_000, 1, 0, -1_500_000]


def plan_of(entity: str, aggregates: tuple[Aggregate, ...] = AGGREGATES) -> EntityPlan:
    outputs = tuple(
        Output(f"{entity}_{aggregate.name.lower()}", aggregate, 0, 24 * HOUR_US, math.nan)
        for aggregate in aggregates
    )
    return EntityPlan(entity, (entity,), (), (), (), (), outputs)


PLANS = (plan_of("origin"), plan_of("aircraft", (Aggregate.MAX,)), EntityPlan("none", (), (), (), (), (), ()))


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory, embedded_redis: EmbeddedRedis) -> Path:
    """The repository of PLANS, applied once: a process that imports Feast takes seconds."""
    folder = tmp_path_factory.mktemp("feast") / "applied"
    write_repository(folder, PROJECT, PLANS, embedded_redis.url)
    apply_repository(folder)
    return folder


@pytest.fixture
def repository(applied: Path, tmp_path: Path, redis_url: str) -> Path:
    """A copy of it for one test; all its paths are relative."""
    return Path(shutil.copytree(applied, tmp_path / "repository"))


def opened(folder: Path) -> FeatureStore:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(folder))


def write(
    redis_url: str, plan: EntityPlan, keys: list[str], values: list[list[float]], times_us: list[int]
) -> None:
    """As step 7 does it: through the store."""

    async def commit() -> None:
        store = RedisStore.connect(redis_url)
        partition = PartitionId(PROJECT, f"{PROJECT}.hop-{plan.entity}", 0, "c/t")
        loaded = await store.load(partition)
        maker = FeastRows(PROJECT, view_name(PROJECT, plan.entity), plan)
        rows = maker.rows(keys, np.array(values), np.array(times_us))
        known = max(loaded.applied, NOTHING_APPLIED)
        answer = await store.commit(
            Commit(partition, loaded.epoch, known, known + 1, {}, 0, plan.entity, (), rows, expire_s=3_600)
        )
        await store.aclose()
        assert isinstance(answer, Committed)

    asyncio.run(commit())


def test_feast_reads_what_the_hot_path_wrote(repository: Path, redis_url: str) -> None:
    origin, aircraft = PLANS[:2]
    write(redis_url, origin, KEYS, VALUES, TIMES_US)
    write(redis_url, aircraft, ["N1"], [[7.5]], [HOUR_US])
    names = [output.name for output in origin.outputs]
    asked = [f"flights_origin:{name}" for name in names]
    response = opened(repository).get_online_features(
        asked, [{"origin": key} for key in [*KEYS, "never seen"]]
    )

    read = response.to_dict()
    for column, name in enumerate(names):
        expected = [row[column] for row in VALUES]
        if column < 2:  # Int64: an estimate is rounded to the nearest
            expected = [value if math.isnan(value) else round(value) for value in expected]
            assert all(value is None or type(value) is int for value in read[name])
        assert read[name] == [*(None if math.isnan(value) else value for value in expected), None]
    assert math.copysign(1.0, read["origin_std"][0]) == -1.0

    freshness = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
    stamps = [stamp.ToMicroseconds() for stamp in freshness["origin_mean"].event_timestamps]
    assert stamps == [*TIMES_US, 0]
    other = opened(repository).get_online_features(["flights_aircraft:aircraft_max"], [{"aircraft": "N1"}])
    assert other.to_dict()["aircraft_max"] == [7.5]


def test_the_bytes_in_redis_are_those_that_feast_writes_itself(repository: Path, redis_url: str) -> None:
    origin = PLANS[0]
    written: list[dict[bytes, dict[bytes, bytes]]] = []
    with redis.Redis.from_url(redis_url) as client:
        write(redis_url, origin, KEYS, VALUES, TIMES_US)
        written.append(
            {key: client.hgetall(key) for key in client.scan_iter() if not key.startswith(b"driftwood:")}
        )
        client.flushall()
        frame = pd.DataFrame(VALUES, columns=[output.name for output in origin.outputs])
        for name in ("origin_count", "origin_distinct"):
            frame[name] = frame[name].round().astype("Int64")
        frame["origin"] = KEYS
        frame["event_timestamp"] = [datetime.fromtimestamp(time_us / 1e6, UTC) for time_us in TIMES_US]
        opened(repository).write_to_online_store("flights_origin", frame)
        written.append({key: client.hgetall(key) for key in client.scan_iter()})
    assert written[0] == written[1]


def test_feast_rows_are_replaced_whole_and_expire(repository: Path, redis_url: str) -> None:
    origin = PLANS[0]
    write(redis_url, origin, ["JFK"], [[5.0] * 5], [HOUR_US])
    write(redis_url, origin, ["JFK"], [[math.nan, 2.0, math.nan, 4.0, math.nan]], [2 * HOUR_US])
    asked = [f"flights_origin:{output.name}" for output in origin.outputs]
    read = opened(repository).get_online_features(asked, [{"origin": "JFK"}]).to_dict()
    assert [read[output.name] for output in origin.outputs] == [[None], [2], [None], [4.0], [None]]
    with redis.Redis.from_url(redis_url) as client:
        keys = [key for key in client.scan_iter() if not key.startswith(b"driftwood:")]
        assert [0 < client.ttl(key) <= 3_600 for key in keys] == [True]


def test_a_repository_joins_history_from_its_parquet_files(repository: Path) -> None:
    rows = pd.DataFrame(
        {
            "aircraft": ["N1", "N1"],
            "event_timestamp": pd.to_datetime(["2013-04-01T10:00Z", "2013-04-01T12:00Z"]),
            "aircraft_max": [1.0, 2.0],
        }
    )
    rows.to_parquet(repository / "offline" / "flights_aircraft.parquet")
    asked = pd.DataFrame(
        {
            "aircraft": ["N1", "N1"],
            "event_timestamp": pd.to_datetime(["2013-04-01T11:00Z", "2013-04-01T13:00Z"]),
        }
    )
    joined = opened(repository).get_historical_features(asked, ["flights_aircraft:aircraft_max"]).to_df()
    assert joined.sort_values("event_timestamp")["aircraft_max"].tolist() == [1.0, 2.0]


def test_a_second_apply_of_a_changed_pipeline_replaces_the_views(repository: Path, redis_url: str) -> None:
    write_repository(repository, PROJECT, [plan_of("origin", (Aggregate.SUM,))], redis_url)
    apply_repository(repository)
    [view] = opened(repository).list_feature_views()
    assert [field.name for field in view.features] == ["origin_sum"]


def test_a_refused_apply_is_one_error_with_what_feast_said(repository: Path) -> None:
    (repository / "views.json").unlink()
    with pytest.raises(OperatorError, match=r"(?s)`feast apply` failed in .*views.json is missing"):
        apply_repository(repository)


def test_an_apply_that_does_not_end_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.feast_objects.APPLY_WITHIN_S", 0.05)  # importing Feast takes seconds
    with pytest.raises(OperatorError, match=r"did not end within 0\.05 s"):
        apply_repository(tmp_path)


def test_entities_without_features_have_no_view() -> None:
    assert [view["entity"] for view in describe(PROJECT, PLANS)["views"]] == ["origin", "aircraft"]
