"""What the doctor finds, with servers that are well, ill and away."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from driftwood.doctor import examine, memory, redis_server, redis_state
from driftwood.embedded.redis import free_port
from driftwood.findings import ACT, HINT, OK, Finding
from driftwood.pipelines import topics_of
from models.loading import load_pipeline
from models.model_store import ModelStore
from streams.settings import Settings
from streams.topics import TopicAdmin

ROOT = Path(__file__).parents[2]
HEALTHY: dict[str, Any] = {
    "redis_version": "7.2.7",
    "role": "master",
    "cluster_enabled": 0,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory": 2 << 30,
    "maxmemory_policy": "noeviction",
    "used_memory": 1 << 20,
    "evicted_keys": 0,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def servers(embedded, redis_url) -> list[str]:
    return [f"brokers={embedded.broker_address}", f"redis_url={redis_url}"]


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def test_servers_that_are_well_need_nothing_done(servers):
    findings = examine(None, servers, None)
    assert not [finding for finding in findings if finding.level == ACT]
    assert [finding.level for finding in of(findings, "kafka")] == [OK, HINT]  # the embedded broker's limits
    assert of(findings, "redis")[0].what.startswith("Redis ")


def test_servers_that_are_away_are_two_findings_with_setting_and_remedy():
    away = [f"brokers=127.0.0.1:{free_port()}", f"redis_url=redis://me:hunter2@127.0.0.1:{free_port()}/0"]
    findings = [finding for finding in examine(None, away, None) if finding.level == ACT]
    assert [finding.heading for finding in findings] == ["kafka-away", "redis-away"]
    assert "setting brokers" in findings[0].what and "setting redis_url" in findings[1].what
    assert all(finding.do for finding in findings)
    assert not any("hunter2" in finding.what for finding in findings)


def test_a_setting_that_is_wrong_is_a_finding_and_not_an_error():
    (finding,) = [found for found in examine(None, ["partition=3"], "flights") if found.level == ACT]
    assert finding.heading == "settings" and "did you mean partitions?" in finding.what


def test_a_pipeline_that_does_not_load_is_a_finding_beside_the_others(servers):
    findings = examine(None, servers, "nowhere.py")
    assert [finding.heading for finding in findings if finding.level == ACT] == ["pipeline"]
    assert of(findings, "kafka") and of(findings, "redis")


OWN = """
import msgspec
from driftwood import Entity, Label, Pipeline

class Order(msgspec.Struct):
    order_id: str
    at: int
    shop: str

shop = Entity("shop")
own = Pipeline("NAME", event=Order, id="order_id", time="at", time_unit="s", features=[shop.count("1h")],
               label=Label("returned"))
"""


@pytest.fixture
def own(tmp_path, unique_name):
    """The path of a pipeline of its own, which does not learn: its topics are like all that the broker makes by itself."""
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("NAME", "p" + re.sub(r"[^a-z0-9]", "_", unique_name.lower())[-30:]))
    return str(path)


def test_missing_topics_and_a_missing_model_are_found_and_go_when_they_are_there(servers, embedded, own):
    pipeline, settings = load_pipeline(own), Settings(brokers=embedded.broker_address)
    (topics,) = of(examine(None, servers, own), "topics")
    assert topics.level == ACT and f"{pipeline.name}.events does not exist" in topics.what
    TopicAdmin(settings).create(topics_of(pipeline, settings))
    findings = examine(None, servers, own)
    assert [finding.level for finding in of(findings, "topics")] == [OK]
    assert [finding.heading for finding in of(findings, "model")] == ["no-model-in-service"]


def test_lag_and_dead_letters_are_counted_and_the_lag_is_gone_when_all_is_read(servers, embedded, own):
    pipeline, settings, path = load_pipeline(own), Settings(brokers=embedded.broker_address), own
    name = pipeline.name
    topics = topics_of(pipeline, settings)
    assert not of(examine(None, servers, str(path)), "lag")  # no topics, no positions
    TopicAdmin(settings).create(topics)
    hop = next(iter(topics.hops.values())).name
    producer = Producer({"bootstrap.servers": embedded.broker_address})
    for topic, count in ((topics.events.name, 30), (hop, 7), (topics.dead_letters.name, 2)):
        for number in range(count):
            producer.produce(topic, b"{", partition=number % 2)
    producer.flush()

    def found() -> tuple[Finding, Finding]:
        findings = examine(None, servers, str(path))
        return of(findings, "lag")[0], of(findings, "dead letters")[0]

    lag, letters = found()
    assert lag.what == f"records that the workers have not read: 30 in {topics.events.name}, 7 in {hop}"
    assert lag.figures == {topic.name: 0 for topic in topics.hops.values()} | {topics.events.name: 30, hop: 7}
    assert (letters.level, letters.heading, letters.figures) == (HINT, "dead-letters", {"dead_letters": 2})
    assert f"driftwood tail dead-letters {path} " in letters.do
    group = Consumer({"bootstrap.servers": embedded.broker_address, "group.id": f"{name}.predict"})
    ends = [(topics.events.name, 0, 15), (topics.events.name, 1, 12), (hop, 0, 4), (hop, 1, 3)]
    group.commit(offsets=[TopicPartition(*end) for end in ends], asynchronous=False)
    assert found()[0].what == f"records that the workers have not read: 3 in {topics.events.name}"
    group.commit(offsets=[TopicPartition(topics.events.name, 1, 15)], asynchronous=False)
    group.close()
    assert found()[0].what == "the workers have read everything"


def test_a_champion_that_is_damaged_or_missing_must_be_acted_on(servers, tmp_path):
    store = ModelStore(tmp_path / "models")
    (tmp_path / "models/flights").mkdir(parents=True)
    (tmp_path / "models/flights/champion").write_text("0123456789ab\n")
    findings = examine(None, [*servers, f"models_dir={store.folder}"], "flights")
    (model,) = of(findings, "model")
    assert model.level == ACT and model.heading == "model-does-not-fit" and "0123456789ab" in model.what
    shutil.rmtree(store.folder)


def test_more_unread_bytes_than_the_embedded_broker_keeps_must_be_acted_on(servers):
    for value in ("64MiB", "0B"):
        (finding,) = of(examine(None, [*servers, f"unread_bytes_max={value}"], None), "unread_bytes_max")
        assert finding.level == ACT and value in finding.what


def test_a_password_in_clear_text_and_open_metrics_are_found():
    overrides = [
        "security_protocol=sasl_plaintext",
        "sasl_mechanism=PLAIN",
        "sasl_user=me",
        "sasl_password=hunter2",
    ]
    overrides += [
        f"brokers=127.0.0.1:{free_port()}",
        f"redis_url=redis://127.0.0.1:{free_port()}",
        "metrics_host=0.0.0.0",
    ]
    findings = examine(None, overrides, None)
    assert {"password-in-clear-text", "metrics-open-to-the-network"} <= {
        finding.heading for finding in findings
    }
    assert not any("hunter2" in finding.what for finding in findings)


def test_a_redis_whose_clock_is_wrong_is_found(redis_url):
    settings = Settings(redis_url=redis_url)
    assert "clocks-differ" in {found.heading for found in redis_server(settings, lambda: 1_364_811_300.0)}


@pytest.mark.parametrize(
    ("change", "level", "heading"),
    [
        ({"redis_version": "6.0.16"}, ACT, "redis-version"),
        ({"cluster_enabled": 1}, ACT, "redis-cluster"),
        ({"role": "slave"}, ACT, "redis-replica"),
        ({"maxmemory_policy": "allkeys-lru"}, ACT, "redis-evicts"),
        ({"evicted_keys": 7}, ACT, "redis-evicts"),
        ({"aof_enabled": 0}, HINT, "redis-without-aof"),
        ({"aof_last_write_status": "err"}, ACT, "redis-without-aof"),
        ({"used_memory": 1_900 << 20}, HINT, "redis-memory"),
    ],
)
def test_what_redis_says_of_itself_is_judged(change, level, heading):
    assert list(redis_state(HEALTHY)) == []
    (finding,) = redis_state(HEALTHY | change)
    assert (finding.level, finding.heading) == (level, heading) and finding.do


def test_hot_sets_that_would_not_fit_are_found():
    pipeline = load_pipeline("flights")
    (finding,) = memory(Settings(), pipeline, 1 << 20)
    assert finding.heading == "hot-sets-larger-than-memory"
    (finding,) = memory(Settings(), pipeline, 1 << 50)
    assert finding.level == OK


def test_every_heading_stands_in_the_operations_page_and_none_beside():
    code = "".join((ROOT / f"driftwood/{name}.py").read_text() for name in ("doctor", "doctor_learning"))
    page = (ROOT / "docs/operations.md").read_text()
    headings = set(re.findall(r"^### (\S+)$", page, re.MULTILINE))
    quoted = set(re.findall(r'"([a-z0-9-]+)"', code))
    assert headings <= quoted
    named = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"(?:,?\n? *\)|, standing)', code))
    named |= {"settings", "pipeline", "topics"}
    assert named <= headings
