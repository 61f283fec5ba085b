"""What a worker rests on and others may change while it runs: the topics, and what all its fellows agree on.

Looked at when a worker starts, and every `LOOK_EVERY_S` as long as it runs. Kafka's protocol tells a consumer neither
that a topic was made anew nor that the broker lost its log; an idle worker would wait for ever, and a busy one could
read on in the middle of another topic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from features.errors import OperatorError, StoreError, TopicError, UnreachableError
from streams.topics import PipelineTopics, SeenTopic, Topic

log = logging.getLogger(__name__)

# Seconds between two looks: one request to the broker and one to Redis.
LOOK_EVERY_S = 3.0

# A worker of another version that has ended holds its lease for ten seconds; this long a start waits for it.
LEASE_PATIENCE_S = 12.0

# A broker that has just started may answer before it has read which topics it has.
MISSING_LOOKS = 2

# Between two log lines about a broker that stays away, in seconds.
REMIND_EVERY_S = 60.0


class OtherWorkersError(OperatorError):
    """Workers of another pipeline version are running, or the pipeline began with another number of partitions."""


class Agreed(Protocol):
    """What is agreed on: the version of the frames, and the partitions of each topic."""

    @property
    def version(self) -> str: ...
    @property
    def partitions(self) -> Mapping[str, int]: ...


class Agreement(Protocol):
    """Where workers agree (`features/redis_agreement.py`)."""

    async def agree(self, version: str, partitions: Mapping[str, int]) -> Agreed: ...


class Surroundings:
    """Watches the topics of a pipeline and what its workers agree on.

    `look_at` asks the broker for topics by name, in a thread; those that it lacks are missing from the answer. `version` is
    that of the frames. `clock` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        topics: PipelineTopics,
        identities: Mapping[str, str],
        version: str,
        look_at: Callable[[list[str]], Mapping[str, SeenTopic]],
        agreement: Agreement,
        clock: Callable[[], float],
    ) -> None:
        self._topics: dict[str, Topic] = {topic.name: topic for topic in topics}
        self._identities, self._version = identities, version
        self._look_at, self._agreement, self._clock = look_at, agreement, clock
        self._partitions = {f"{topic.name}@{identities[topic.name]}": topic.partitions for topic in topics}
        self._missing: dict[str, int] = {}
        self._grown: set[str] = set()
        self._away_since: float | None = None
        self._reminded = 0.0
        self._redis_said = ""

    @property
    def broker_away_s(self) -> float:
        """For how long the broker has not answered, in seconds; 0 while it does."""
        away_since = self._away_since  # metrics ask from a thread of their own
        return 0.0 if away_since is None else self._clock() - away_since

    async def enter(self) -> None:
        """Agree with the workers that run, before anything is read or written.

        Raises:
            OtherWorkersError: workers of another version run, or this pipeline began with other numbers of partitions.
            UnreachableError, StoreError: Redis does not answer, or refuses.
        """
        deadline = self._clock() + LEASE_PATIENCE_S
        while (
            agreed := await self._agreement.agree(self._version, self._partitions)
        ).version != self._version:
            if self._clock() > deadline:
                raise self._other_version(agreed.version)
            await asyncio.sleep(1.0)
        for name, partitions in self._partitions.items():
            if (first := agreed.partitions[name]) != partitions:
                raise OtherWorkersError(
                    f"topic {name.partition('@')[0]}: setting partitions is {partitions}, but the pipeline's state was "
                    f"begun with {first}. Set partitions back to {first}: rows would go to partitions that do not have "
                    "their entities' state. Partitions that were added to a topic stay unused"
                )

    async def watch(self) -> None:
        """Look every `LOOK_EVERY_S`, for ever; a task of the worker. Raises what must end it."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """One look at the broker's topics and the agreement.

        A server that does not answer is waited for: whoever has work for it notices.

        Raises:
            TopicError: a topic is gone, or was made anew.
            OtherWorkersError: while this worker stood still, one of another version has begun.
        """
        try:
            self._check(await asyncio.to_thread(self._look_at, list(self._topics)))
        except UnreachableError as error:
            self._away(error)
        await self._renew()

    async def _renew(self) -> None:
        said = ""
        try:
            agreed = await self._agreement.agree(self._version, self._partitions)
        except (UnreachableError, StoreError) as error:
            said = str(error)
        else:
            if agreed.version != self._version:
                raise self._other_version(agreed.version)
        if said and said != self._redis_said:
            log.warning("workers cannot tell each other their version: %s", said)
        self._redis_said = said

    def _other_version(self, held: str) -> OtherWorkersError:
        return OtherWorkersError(
            f"workers of pipeline version {held} run, this one has {self._version}: neither could read the other's frames. "
            "Stop the others, let them finish what stands in the hop topics, then start this one "
            "(docs/recipes/production.md, change a pipeline)"
        )

    def _away(self, error: UnreachableError) -> None:
        now = self._clock()
        if self._away_since is None:
            self._away_since = self._reminded = now
            log.warning("%s. Waiting for it", error)
        elif now - self._reminded >= REMIND_EVERY_S:
            self._reminded = now
            log.warning("%s. Waiting for it since %.0f s", error, self.broker_away_s)

    def _check(self, seen: Mapping[str, SeenTopic]) -> None:
        if self._away_since is not None:
            log.warning("the broker answers again after %.0f s", self.broker_away_s)
            self._away_since = None
        for name, topic in self._topics.items():
            if name in seen:
                self._missing.pop(name, None)
                self._compare(topic, seen[name])
            else:
                self._miss(name)

    def _miss(self, name: str) -> None:
        self._missing[name] = self._missing.get(name, 0) + 1
        if self._missing[name] >= MISSING_LOOKS:
            raise TopicError(
                f"topic {name} is gone: it was deleted, or the broker has lost its log. Nothing was skipped. Restore the "
                "broker's log; or begin afresh: new topics ('driftwood topics create') and, where a hop topic is gone, an "
                "empty Redis database (docs/operations.md, topic-made-anew)"
            )

    def _compare(self, topic: Topic, seen: SeenTopic) -> None:
        if seen.identity != self._identities[topic.name]:
            raise TopicError(
                f"topic {topic.name} was made anew while this worker ran ({self._identities[topic.name]} before, "
                f"{seen.identity} now). Nothing was skipped. Start the worker again: it reads new events from their "
                "beginning, and says what to do where the state belonged to the old topic (docs/operations.md, "
                "topic-made-anew)"
            )
        if seen.partitions > topic.partitions and topic.name not in self._grown:
            self._grown.add(topic.name)
            log.error(
                "topic %s has %d partitions now, %d when this pipeline began: rows go on to the first %d, the others stay "
                "unused. Leave the setting partitions as it is (docs/operations.md, topics)",
                *(topic.name, seen.partitions, topic.partitions, topic.partitions),
            )
