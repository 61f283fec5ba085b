"""The model in service, and its exchange for a newly promoted one while the worker runs."""

from __future__ import annotations

from dataclasses import dataclass

from features.errors import ModelError
from models.fallback import FallbackScorer
from models.model_store import ModelStore
from models.pipeline import Pipeline
from models.scoring import Scorer

# Seconds after which a champion that could not be loaded is tried again, because somebody may have mended its files.
RETRY_S = 30.0


@dataclass(frozen=True)
class Swapped:
    """A new champion is in service."""

    old: str
    new: str


@dataclass(frozen=True)
class Refused:
    """The new champion cannot be used; the old model stays in service. Said once for each error."""

    version: str
    error: ModelError


class ChampionWatch:
    """Holds the scorer in service and looks for a new champion.

    `poll` reads files and may load a model (some 10 ms for 200 trees): call it in a thread, one call at a time.
    `scorer` may be read from any thread at any time.

    Raises ModelError on construction when there is a champion that cannot be used: a worker that has no old model to
    stay with must not answer by its fallback as if nobody had trained one.
    """

    def __init__(self, store: ModelStore, pipeline: Pipeline) -> None:
        self._store = store
        self._pipeline = pipeline
        self._refused = ("", "")  # the version and the error that were reported
        self._retry_s = 0.0
        self.scorer = self._current()

    def poll(self, now_s: float) -> Swapped | Refused | None:
        """Looks at the champion file, one small read. `now_s`: any clock in seconds that only goes forward."""
        try:
            version = self._store.champion(self._pipeline.name)
        except ModelError as error:
            return self._refuse("", error)
        if version is None or version == self.scorer.version:
            return None
        if version == self._refused[0] and now_s < self._retry_s:
            return None
        return self._swap(version, now_s)

    def _swap(self, version: str, now_s: float) -> Swapped | Refused | None:
        try:
            scorer = self._store.load(self._pipeline, version)
        except ModelError as error:
            self._retry_s = now_s + RETRY_S
            return self._refuse(version, error)
        old, self.scorer = self.scorer.version, scorer
        self._refused = ("", "")
        return Swapped(old, version)

    def _refuse(self, version: str, error: ModelError) -> Refused | None:
        if self._refused == (version, str(error)):
            return None
        self._refused = (version, str(error))
        return Refused(version, error)

    def _current(self) -> Scorer:
        version = self._store.champion(self._pipeline.name)
        return (
            FallbackScorer(self._pipeline) if version is None else self._store.load(self._pipeline, version)
        )
