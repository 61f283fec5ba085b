"""Looks at everything a worker stands on and says what is wrong, what will hurt, and what to do about it.

Each check yields findings; none raises for a server that is away. docs/operations.md has a heading for every
`Finding.heading`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import redis

from driftwood.doctor_learning import learn_road
from driftwood.findings import ACT, HINT, OK, Finding
from driftwood.pipelines import topics_of
from driftwood.standing import standing_of
from features.errors import DriftwoodError, ModelError, SettingError, TopicError
from features.layout import bytes_per_entity
from models.loading import load_pipeline
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.assembly import hot_entities
from streams.settings import Settings, shown
from streams.settings_sources import Loaded, load_with_origins
from streams.topics import Cluster, TopicAdmin
from streams.units import size_text

# The packages whose versions decide how driftwood behaves.
PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "feast",
    "redis",
    "lightgbm",
    "river",
    "numba",
    "pyarrow",
)

# The embedded broker drops what lies 5 MiB behind, and sources notice a backlog with a delay: half of it is room.
EMBEDDED_UNREAD_BYTES = 2_621_440

# A record whose event time lies more than `max_ahead` (1 h) past the broker's clock is refused, and latencies are
# differences of clocks: a second is far more than machines with NTP differ by.
SKEW_S = 1.0

REDIS_OLDEST = (6, 2)
ANSWER_WITHIN_S = 3.0


def examine(file: Path | None, overrides: Sequence[str], pipeline: str | None) -> list[Finding]:
    """All findings about these settings and, where one is named, this pipeline."""
    found = [_versions()]
    try:
        loaded = load_with_origins(file, overrides)
    except SettingError as error:
        return [
            *found,
            Finding(
                "settings", ACT, str(error), "Correct it; docs/settings.md lists all settings.", "settings"
            ),
        ]
    found += _settings(loaded)
    declared = None
    if pipeline is not None:
        try:
            declared = load_pipeline(pipeline)
        except DriftwoodError as error:
            found.append(Finding("pipeline", ACT, str(error), "Correct the file.", "pipeline"))
    found += kafka(loaded.settings, declared, pipeline)
    found += redis_server(loaded.settings, time.time)
    if declared is not None:
        if any(finding.check == "topics" and finding.level == OK for finding in found) and declared.learns:
            topics = topics_of(declared, loaded.settings)
            found += learn_road(loaded.settings, declared, topics, pipeline or declared.name, time.time())
        found += model(loaded.settings, declared, pipeline or declared.name)
        found += memory(loaded.settings, declared, psutil.virtual_memory().available)
    return found


def _versions() -> Finding:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return Finding(
        "versions", OK, f"driftwood {version('driftwood')}, Python {platform.python_version()}, {packages}"
    )


def _settings(loaded: Loaded) -> Iterator[Finding]:
    values = loaded.settings
    given = [
        f"{name} = {shown(name, getattr(values, name))} ({origin})" for name, origin in loaded.origins.items()
    ]
    yield Finding("settings", OK, "; ".join(given) or "all at their defaults")
    if values.security_protocol == "sasl_plaintext" and values.sasl_mechanism == "PLAIN":
        yield Finding(
            "security_protocol",
            ACT,
            "the password travels to Kafka in clear text (PLAIN over sasl_plaintext)",
            "Set security_protocol to sasl_ssl, or sasl_mechanism to SCRAM-SHA-512.",
            "password-in-clear-text",
        )
    if values.metrics_host not in ("127.0.0.1", "::1", "localhost"):
        yield Finding(
            "metrics_host",
            HINT,
            f"metrics are served on {values.metrics_host}, without authentication",
            "Keep the port inside a private network, or set metrics_host to 127.0.0.1.",
            "metrics-open-to-the-network",
        )


# ---- Kafka


def kafka(settings: Settings, pipeline: Pipeline | None, reference: str | None = None) -> Iterator[Finding]:
    """Is Kafka there, which one is it, are the pipeline's topics as they should be, and how far are its workers?

    `reference` is how its user named the pipeline.
    """
    admin = TopicAdmin(settings)
    try:
        cluster = admin.cluster()
    except DriftwoodError as error:
        yield Finding(
            "kafka", ACT, str(error), "Start Kafka, or correct brokers and security_protocol.", "kafka-away"
        )
        return
    yield from _cluster(settings, cluster)
    if pipeline is not None:
        topics = _topics(settings, pipeline, admin)
        yield topics
        if topics.level == OK:
            yield from _standing(settings, pipeline, reference or pipeline.name)


def _cluster(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    kind = "the embedded broker" if cluster.embedded else f"cluster {cluster.identity}"
    yield Finding("kafka", OK, f"{kind} at {', '.join(cluster.brokers)}, {len(cluster.topics)} topics")
    if cluster.embedded:
        yield Finding(
            "kafka",
            HINT,
            "the embedded broker keeps 5 MiB a partition, in memory, and forgets everything when it ends",
            "Use a real Kafka for data that matters: docker compose up, or set brokers.",
            "embedded-broker",
        )
        if not 0 < settings.unread_bytes_max <= EMBEDDED_UNREAD_BYTES:
            yield Finding(
                "unread_bytes_max",
                ACT,
                f"{size_text(settings.unread_bytes_max)} on the embedded broker, which drops what lies 5 MiB behind",
                f"Set unread_bytes_max to {size_text(EMBEDDED_UNREAD_BYTES)} or less.",
                "embedded-broker",
            )
    elif settings.replication_factor == 1 and len(cluster.brokers) > 1:
        yield Finding(
            "replication_factor",
            HINT,
            f"topics will have one copy, on a cluster of {len(cluster.brokers)} brokers",
            f"Set replication_factor to {min(3, len(cluster.brokers))} before topics are created.",
            "one-copy-of-each-partition",
        )


def _topics(settings: Settings, pipeline: Pipeline, admin: TopicAdmin) -> Finding:
    topics = topics_of(pipeline, settings)
    try:
        identities = admin.check(topics)
    except TopicError as error:
        return Finding("topics", ACT, str(error), f"driftwood topics show {pipeline.name}", "topics")
    single = [topic.name.partition(".")[2] for topic in topics if topic.single]
    more = f" ({', '.join(single)}: one)" if single else ""
    what = f"{len(identities)} topics of {pipeline.name}, {settings.partitions} partitions each{more}"
    return Finding("topics", OK, what)


def _standing(settings: Settings, pipeline: Pipeline, reference: str) -> Iterator[Finding]:
    try:
        standing = standing_of(pipeline.name, topics_of(pipeline, settings), settings)
    except TopicError as error:
        yield Finding("lag", HINT, str(error), "Look at the broker, then ask again.", "lag-unknown")
        return
    waiting = [f"{count:,} in {name}" for name, count in standing.behind.items() if count]
    what = "records that the workers have not read: " + ", ".join(waiting)
    yield Finding("lag", OK, what if waiting else "the workers have read everything", figures=standing.behind)
    letters, figures = standing.dead_letters, {"dead_letters": standing.dead_letters}
    if letters:
        do = f"driftwood tail dead-letters {reference} --from-start says why."
        what = f"{letters:,} records could not be used and stand in the topic of dead letters"
        yield Finding("dead letters", HINT, what, do, "dead-letters", figures)
    else:
        yield Finding("dead letters", OK, "none in their topic", figures=figures)


# ---- Redis


def redis_server(settings: Settings, now: Callable[[], float]) -> Iterator[Finding]:
    """Is Redis there, does it keep what it is given, and does its clock agree with ours (`now`, in seconds)?"""
    url = shown("redis_url", settings.redis_url)
    try:
        # Any: redis-py types every answer as possibly awaitable.
        client: Any = redis.Redis.from_url(
            settings.redis_url, socket_timeout=ANSWER_WITHIN_S, socket_connect_timeout=ANSWER_WITHIN_S
        )
        before = now()
        seconds, micros = client.time()
        skew_s = seconds + micros / 1e6 - (before + now()) / 2
        info: Mapping[str, Any] = client.info()
        client.close()
    except (redis.RedisError, OSError, ValueError) as error:
        do = "Start it, or correct redis_url."
        yield Finding(
            "redis", ACT, f"Redis does not answer at {url} (setting redis_url): {error}", do, "redis-away"
        )
        return
    used = size_text(info["used_memory"])
    yield Finding("redis", OK, f"Redis {info['redis_version']} at {url}, {used} in use")
    yield from redis_state(info)
    if abs(skew_s) > SKEW_S:
        yield Finding(
            "clock",
            ACT,
            f"Redis' clock differs from this machine's by {skew_s:+.1f} s",
            "Let both keep time with NTP: event times are compared with the broker's clock, latencies are differences.",
            "clocks-differ",
        )


def redis_state(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What Redis says of itself (INFO), judged."""
    numbers = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if numbers < REDIS_OLDEST:
        yield Finding(
            "redis", ACT, f"Redis {info['redis_version']} is too old", "Use Redis 6.2 or 7.", "redis-version"
        )
    if info.get("cluster_enabled"):
        do = "Use one primary with replicas: the scripts reach keys of several slots."
        yield Finding("redis", ACT, "this is a Redis Cluster", do, "redis-cluster")
    if info.get("role", "master") != "master":
        do = "Point redis_url at the primary."
        yield Finding(
            "redis", ACT, f"this Redis is a {info['role']}, which takes no writes", do, "redis-replica"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory"):
        do = "Set maxmemory-policy to noeviction in redis.conf: an evicted entity counts from zero again."
        yield Finding("redis", ACT, f"Redis evicts keys when memory is full ({policy})", do, "redis-evicts")
    if info.get("evicted_keys"):
        do = "Rebuild the state from the topics, after setting noeviction."
        yield Finding(
            "redis",
            ACT,
            f"Redis has evicted {info['evicted_keys']:,} keys since it started",
            do,
            "redis-evicts",
        )
    if not info.get("aof_enabled"):
        do = "Set appendonly yes in redis.conf."
        what = "Redis keeps no append-only file: a restart loses state since the last snapshot"
        yield Finding("redis", HINT, what, do, "redis-without-aof")
    elif info.get("aof_last_write_status", "ok") != "ok":
        do = "Look into its log and at its disk."
        yield Finding("redis", ACT, "Redis could not write its append-only file", do, "redis-without-aof")
    if info.get("maxmemory") and info["used_memory"] > 0.8 * info["maxmemory"]:
        what = (
            f"Redis uses {size_text(info['used_memory'])} of the {size_text(info['maxmemory'])} that it may"
        )
        yield Finding("redis", HINT, what, "Raise maxmemory before writes are refused.", "redis-memory")


# ---- model and memory


def model(settings: Settings, pipeline: Pipeline, reference: str) -> Iterator[Finding]:
    """Is there a champion, and does it fit the pipeline as it is declared now? `reference` is how its user named it."""
    store = ModelStore(settings.models_dir)
    try:
        champion = store.champion(pipeline.name)
        if champion is None:
            yield Finding(
                "model",
                HINT,
                f"no model of {pipeline.name} is in service under {settings.models_dir}: its fallback answers",
                f"driftwood train {reference} … --promote, or correct models_dir.",
                "no-model-in-service",
            )
            return
        store.load(pipeline, champion)
    except ModelError as error:
        do = f"Train and promote a model for this declaration: driftwood train {reference} … --promote"
        yield Finding("model", ACT, str(error), do, "model-does-not-fit")
        return
    yield Finding("model", OK, f"{champion} is in service, for features {pipeline.feature_set.hash}")


def memory(settings: Settings, pipeline: Pipeline, available: int) -> Iterator[Finding]:
    """Would the hot sets of one worker that owns every partition fit into `available` bytes?"""
    entity_bytes = sum(bytes_per_entity(plan) for plan in pipeline.feature_set.entities)
    needed = settings.partitions * hot_entities(pipeline, settings) * entity_bytes
    what = f"full hot sets of all partitions take {size_text(needed)}, {size_text(available)} are available"
    if needed > available:
        do = "Lower hot_memory, or run more workers: each takes its share of the partitions."
        yield Finding("memory", HINT, what, do, "hot-sets-larger-than-memory")
    else:
        yield Finding("memory", OK, what)
