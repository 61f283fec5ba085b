"""The newest snapshot of the online learners, as a scorer sees it: polled, verified, and refused where it is not ours.

A snapshot is sealed: its bytes are signed, and bound to what they are and to the features that they read. Nothing in it is
looked at before that was checked (`models/snapshot.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from features.errors import SnapshotError, StoreError, UnreachableError
from models.pipeline import Pipeline
from models.snapshot import Unsealed, read_snapshot

log = logging.getLogger(__name__)

SCORING = "scoring"
"""What the part of a snapshot that scorers read is sealed as."""


class ScoringReader(Protocol):
    """What a scorer asks of the snapshot store. Raises `UnreachableError` and `StoreError` as that does."""

    async def latest(self, pipeline: str) -> int | None:
        """The newest version, or None before the first."""
        ...

    async def scoring(self, pipeline: str, version: int) -> bytes | None:
        """The sealed bytes; None: this version is not kept any more."""
        ...


@dataclass(frozen=True)
class SnapshotFeed:
    """What a worker of a pipeline that learns hears of the learner and of the operator.

    `key` signs snapshots. `mode` gives the serve mode in force: "blend", "champion" or "fallback".
    """

    store: ScoringReader
    key: bytes = field(repr=False)
    mode: Callable[[], str]


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot: the bytes that its scorers are made of."""

    version: int
    scoring: Unsealed


class SnapshotWatch:
    """Looks for newer snapshots of one pipeline. `refused` counts those that could not be used."""

    def __init__(self, pipeline: Pipeline, feed: SnapshotFeed) -> None:
        self._pipeline, self._feed = pipeline, feed
        self._said = ("", "")  # version and error that were reported
        self._away = False
        self._since_s = time.monotonic()
        self.newest: Snapshot | None = None
        self.refused = 0

    @property
    def mode(self) -> str:
        """The serve mode in force."""
        return self._feed.mode()

    @property
    def unchanged_s(self) -> float:
        """Seconds since this worker last took a new snapshot up, or since it started."""
        return time.monotonic() - self._since_s

    async def newer(self) -> Snapshot | None:
        """The newest snapshot, verified, when it is another one than `newest`.

        None where there is none, where it was refused, and while the store does not answer: each is said once.
        """
        try:
            version = await self._feed.store.latest(self._pipeline.name)
            if version is None or (self.newest is not None and version == self.newest.version):
                found = None
            else:
                found = await self._opened_or_refused(version)
        except (UnreachableError, StoreError) as error:
            self._say_away(error)
            return None
        self._away = False
        return found

    async def _opened_or_refused(self, version: int) -> Snapshot | None:
        try:
            return await self.opened(version)
        except SnapshotError as error:
            self.refuse(version, error)
            return None

    async def opened(self, version: int) -> Snapshot | None:
        """The snapshot of this version, verified in a thread; None when it is gone.

        Raises `SnapshotError` for one that must not be used; `UnreachableError` and `StoreError` as the store does.
        """
        sealed = await self._feed.store.scoring(self._pipeline.name, version)
        return None if sealed is None else await asyncio.to_thread(self._verified, sealed, version)

    def _verified(self, sealed: bytes, version: int) -> Snapshot:
        found = read_snapshot(sealed, SCORING, self._pipeline.feature_set.hash, self._feed.key)
        if found.version != str(version):
            raise SnapshotError(f"the snapshot that stands as {version} says that it is {found.version}")
        return Snapshot(version, found.payload)

    def take_up(self, snapshot: Snapshot) -> None:
        """This one is in service from now on."""
        self.newest, self._since_s, self._said = snapshot, time.monotonic(), ("", "")

    def refuse(self, version: int, error: Exception) -> None:
        """Say once that a snapshot cannot be used, and count it once; the one in service stays."""
        if self._said == (str(version), str(error)):
            return
        self._said = (str(version), str(error))
        self.refused += 1
        stays = (
            "no snapshot is in service" if self.newest is None else f"{self.newest.version} stays in service"
        )
        log.error("snapshot %d of %s was refused, %s: %s", version, self._pipeline.name, stays, error)

    def _say_away(self, error: UnreachableError | StoreError) -> None:
        if not self._away:
            log.warning("no newer snapshots for now: %s", error)
        self._away = True
