"""What the doctor looks at on the learn road: the learn process, its newest snapshot, the signing key, the archive."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwood.feed_view import duration
from driftwood.findings import ACT, HINT, OK, Finding
from driftwood.standing import LearnStanding, learn_standing_of
from features.errors import OperatorError, SettingError, SnapshotError, TopicError
from features.redis_snapshots import RedisSnapshots
from models.pipeline import Pipeline
from models.snapshot import KEY_FILE, read_snapshot
from offline.prediction_archive import archive_of
from streams.foundation import shared_key
from streams.settings import Settings
from streams.topics import PipelineTopics, learn_group


def learn_road(
    settings: Settings, pipeline: Pipeline, topics: PipelineTopics, reference: str, now_s: float
) -> Iterator[Finding]:
    """All findings about the learn road of a pipeline whose topics are there. `now_s` is the wall clock."""
    yield from learn_process(settings, pipeline, topics, reference, now_s)
    yield from signing_key(settings)
    yield from snapshot(settings, pipeline, reference, now_s)
    yield from archive(settings, pipeline)


# ---- the process


def learn_process(
    settings: Settings, pipeline: Pipeline, topics: PipelineTopics, reference: str, now_s: float
) -> Iterator[Finding]:
    """Is a learn process in its group, and how far is it?"""
    try:
        standing = learn_standing_of(pipeline.name, topics, settings, now_s)
    except TopicError as error:
        yield Finding("learn lag", HINT, str(error), "Look at the broker, then ask again.", "lag-unknown")
        return
    start, group = f"driftwood learn {reference}", learn_group(pipeline.name)
    if standing.members == 0:
        what = f"no learn process is in the group {group}: labels wait, and the newest snapshot goes on answering"
        yield Finding("learn process", HINT, what, start, "no-learn-process")
    elif standing.members:
        yield Finding("learn process", OK, f"{standing.members} in the group {group}")
    yield _lag(standing, settings, start)


def _lag(standing: LearnStanding, settings: Settings, start: str) -> Finding:
    waiting = ", ".join(f"{count:,} in {name}" for name, count in standing.behind.items() if count)
    what = f"records that no learn process has read: {waiting}" if waiting else "everything was read"
    if not standing.aging:
        return Finding("learn lag", OK, what, figures=standing.behind)
    kept = duration(settings.events_retention.total_seconds())
    what += f"; in {', '.join(standing.aging)} they are older than half of events_retention ({kept}), and then they are deleted"
    do = f"{start}, or another one beside it; answers do not wait for it."
    return Finding("learn lag", ACT, what, do, "labels-will-be-lost", standing.behind)


# ---- the signing key


def signing_key(settings: Settings) -> Iterator[Finding]:
    """Is there a key, and may nobody else read it?"""
    try:
        key = _key(settings)
    except (SettingError, SnapshotError, OSError) as error:
        do = "Correct it for all processes of the pipeline alike."
        yield Finding("signing key", ACT, str(error), do, "signing-key")
        return
    path = settings.models_dir / KEY_FILE
    if key is None:
        what = f"there is no {path} yet: the first process that needs a key makes it"
    else:
        what = "of the setting signing_key" if settings.signing_key.get_secret_value() else str(path)
    yield Finding("signing key", OK, what)


def _key(settings: Settings) -> bytes | None:
    """The key, as processes have it; None where the first one would make it. Raises as `shared_key`."""
    there = settings.signing_key.get_secret_value() or (settings.models_dir / KEY_FILE).exists()
    return shared_key(settings) if there else None


# ---- the newest snapshot


@dataclass(frozen=True)
class _Newest:
    version: int
    scoring: bytes | None
    figures: dict[str, Any]


def snapshot(settings: Settings, pipeline: Pipeline, reference: str, now_s: float) -> Iterator[Finding]:
    """Is there a snapshot, how old is it, and can workers and learner read it with the key that is here?"""
    try:
        newest = asyncio.run(_newest(settings, pipeline.name))
    except OperatorError:
        return  # that Redis does not answer is a finding of its own
    if newest is None:
        what = f"no learner of {pipeline.name} has published anything yet: the champion, or the fallback, answers alone"
        do = f"driftwood learn {reference}, and send labels (driftwood produce {reference} FILE --labels)."
        yield Finding("snapshot", HINT, what, do, "no-snapshot")
        return
    yield _readable(settings, pipeline, reference, newest, now_s)
    if (frozen := newest.figures.get("frozen")) is not None:
        do = "Look at who sends the labels."
        yield Finding("label feed", ACT, f"learning is frozen: {frozen}", do, "labels-stalled")


async def _newest(settings: Settings, pipeline: str) -> _Newest | None:
    store = RedisSnapshots.connect(settings.redis_url)
    try:
        version = await store.latest(pipeline)
        if version is None:
            return None
        scoring, figures = await store.scoring(pipeline, version), await store.figures(pipeline)
    finally:
        await store.aclose()
    return _Newest(version, scoring, json.loads(figures or b"{}"))


def _readable(
    settings: Settings, pipeline: Pipeline, reference: str, newest: _Newest, now_s: float
) -> Finding:
    do = f"Correct signing_key or models_dir, or begin behind it: driftwood learn {reference} --afresh"
    if newest.scoring is None:
        what = f"Redis names snapshot {newest.version} as the newest, and has it no more"
        return Finding("snapshot", ACT, what, do, "snapshot-not-ours")
    try:
        key = _key(settings)
        if key is not None:
            read_snapshot(newest.scoring, "scoring", pipeline.feature_set.hash, key)
    except (SettingError, SnapshotError, OSError) as error:
        return Finding("snapshot", ACT, str(error), do, "snapshot-not-ours")
    if key is None:
        what = f"snapshot {newest.version} was signed, and there is no key in {settings.models_dir} (setting models_dir)"
        return Finding("snapshot", ACT, what, do, "snapshot-not-ours")
    published_ms = newest.figures.get("published_ms")
    age = "" if published_ms is None else f", {duration(max(now_s - published_ms / 1e3, 0.0))} old"
    return Finding("snapshot", OK, f"{newest.version} is the newest{age}, signed with the key that is here")


# ---- the archive


def archive(settings: Settings, pipeline: Pipeline) -> Iterator[Finding]:
    """Can what becomes too old for the ledger be written where all learn processes find it?"""
    hot_us = settings.ledger_hot.total_seconds() * 1e6
    if pipeline.label.horizon_us <= hot_us:
        return
    folder = archive_of(pipeline, settings).folder
    if not _writable(folder):
        do = "Correct runs_dir or the folder's rights: labels that come after ledger_hot are expired without it."
        yield Finding("archive", ACT, f"{folder} cannot be written", do, "archive-folder")
    elif not settings.runs_dir.is_absolute():
        what = f"{folder} depends on where a learn process is started: runs_dir is no absolute path"
        do = "Set runs_dir to one folder for all learn processes."
        yield Finding("archive", HINT, what, do, "archive-folder")
    else:
        yield Finding("archive", OK, str(folder))


def _writable(folder: Path) -> bool:
    """Whether the folder, or the one in which it would be made, can be written."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
