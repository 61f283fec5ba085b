"""A Faust transport that yields one event per fetched batch of a partition (broker URL `batched://host:port`).

Stock Faust spends about 60 microseconds of CPU on every message, most of it on four tasks made per message to be able
to interrupt a full queue. Here Faust sees one message per (partition, fetch): its value is a `FetchedBatch`, its offset
the last record's. Besides that, four things are taken over from Faust, each explained where it stands: where reading
starts after a rebalance, what is committed, which partitions flow, and what happens when the log no longer holds the
position. Two threads are involved: Faust's main loop (hooks, agents, `mark_done`, `hold`, `release`, `rewind`) and the
consumer thread, in which aiokafka lives; every method of `Consumer` belongs to the main loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import aiokafka
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, ConsumerMessage
from mode import Service

from features.errors import DeveloperError, PositionError
from streams.batch import FetchedBatch, Partition, partitions_text

log = logging.getLogger(__name__)

BEGINNING = -2
"""A position that means the oldest record still in the log (Kafka's own number for "earliest")."""

FETCH_PATIENCE_S = 1.0
"""How long the consumer thread waits for records before it reports that there were none, in seconds. Nothing depends
on it (new data and `release` wake the wait at once); it only has to be well below `broker_max_poll_interval`, because a
consumer that does not poll for that long leaves its group."""

RETRY_S = 0.5
"""Pause before the broker is asked for a position again, in seconds; a cold group coordinator needs a second or two."""

GROUP_LOOK_S = 0.5
"""How often the consumer thread asks for what keeps it out of its group, in seconds."""

SOMETHING = TP("", -1)
"""Always in the set of partitions that flow: aiokafka reads an EMPTY set as "all partitions", held ones included."""

_INSTALLED = "_driftwood_transport"
"""Where the hooks hang on the app: Faust makes the transport from a URL alone and hands it nothing but the app."""

_seek_numbers = itertools.count(1)
"""One sequence for the process, so that numbers grow over partitions, rebalances and consumers alike."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class FetchSettings:
    """How batches are fetched.

    The broker answers a fetch when `min_bytes` have come or `max_wait_ms` have passed. `min_bytes` is high so that a
    trickle is fetched in batches (each fetch costs about 1 ms of CPU here, whatever it brings); `max_wait_ms` low,
    because it is waited once per hop (raise it to save CPU at low rates, lower it to save latency). `partition_bytes`
    bounds the memory of a partition that is held back; a single larger record still comes through. `max_records`
    bounds one event of Faust. `stop_s` is how long commit and leaving the group may take when stopping.
    """

    min_bytes: int = 1 << 20
    max_wait_ms: int = 8
    partition_bytes: int = 1 << 20
    max_records: int = 4000
    stop_s: float = 5.0


class Hooks(Protocol):
    """What the application decides. All are called on Faust's main loop."""

    async def position(self, partition: Partition) -> int | None:
        """The next offset to read of a partition just assigned: asked at EVERY assignment, also for partitions that
        were ours before it (the group's eager protocol takes all away in between, and another may have owned them).
        `BEGINNING`: the oldest record. None: the offset committed by the group, or the oldest record if there is none.
        It may take as long as it needs: no record of the partition flows meanwhile; it is cancelled at revocation.
        An exception ends the worker."""

    def started(self, partition: Partition, offset: int, seek: int) -> None:
        """The partition will flow from `offset`; its batches carry at least the number `seek`."""

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        """These partitions are being taken away, or the worker stops: finish or drop what is in hand, forget the rest.
        What is marked as done before this returns is still committed. Must be quicker than the session time-out."""


class Sought(NamedTuple):
    """Where a partition was sought to, and the number of that seek."""

    offset: int
    seek: int


class _Installed(NamedTuple):
    hooks: Hooks
    settings: FetchSettings
    identities: Mapping[str, str]


def install(
    app: AppT,
    hooks: Hooks,
    settings: FetchSettings | None = None,
    identities: Mapping[str, str] | None = None,
) -> None:
    """Hand the hooks to the transport of this app; to be called before the app starts.

    `identities` of the topics stand beside the offsets that are committed. An offset of a topic that was made anew since
    does not count: in the new topic other records stand there.
    """
    vars(app)[_INSTALLED] = _Installed(hooks, settings or FetchSettings(), identities or {})


def consumer_of(app: AppT) -> Consumer:
    """The app's consumer, for `mark_done`, `hold`, `release` and `rewind`."""
    consumer = app.consumer
    if not isinstance(consumer, Consumer):
        raise DeveloperError(
            f"the app's broker is {app.conf.broker}; expected a URL made by streams.transport.broker_url"
        )
    return consumer


def broker_url(servers: str) -> str:
    """Faust's broker setting for a list of bootstrap servers.

    Example:
        >>> broker_url("kafka-1:9092,kafka-2:9092")
        'batched://kafka-1:9092;batched://kafka-2:9092'
    """
    return ";".join(f"batched://{server.strip()}" for server in servers.split(","))


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The consumer's own thread and loop: everything that touches aiokafka."""

    mundane_level = "debug"  # "Starting…", "Stopping…"
    consumer: Consumer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seek_of: dict[TP, int] = {}
        self._read_to: dict[TP, int] = {}

    def call(self, coroutine: Coroutine[Any, Any, _T]) -> Awaitable[_T]:
        """Run a coroutine in this thread, awaited in the caller's loop.

        Faust's own queue of calls has two workers, one of which the fetch would occupy, and makes tasks for each call.
        """
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.thread_loop))

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        """Faust's, but with the fetch settings (it hard-codes a wait of 1.5 s) and without any silent reset."""
        conf, settings = self.app.conf, self.consumer.settings
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            # Out of range is an error with a remedy, not a jump to either end of the log.
            auto_offset_reset="none",
            max_poll_records=settings.max_records,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            fetch_min_bytes=settings.min_bytes,
            fetch_max_wait_ms=settings.max_wait_ms,
            max_partition_fetch_bytes=settings.partition_bytes,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            # What a sender aborted was never said; topics without transactions notice no difference.
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def on_start(self) -> None:
        await super().on_start()
        # aiokafka stops fetching from a NODE for 100 ms after it brought records that nobody took: one held partition
        # would hold up all others of its broker each time.
        self._ensure_consumer()._fetcher._prefetch_backoff = 0.0
        self._watch = asyncio.create_task(self._watch_group(), name="watch the group")

    async def _watch_group(self) -> None:
        """Hear what keeps us out of the group: aiokafka holds still with it until somebody asks, and Faust never does."""
        coordinator = self._ensure_consumer()._coordinator
        while True:
            await asyncio.sleep(GROUP_LOOK_S)
            try:
                coordinator.check_errors()
            except KafkaError as error:
                # aiokafka's own class is for answers that it did not expect; what the broker refuses has its own.
                passing = error.retriable or type(error) is KafkaError
                if coordinator._coordination_task.done() or not passing:
                    asyncio.run_coroutine_threadsafe(self.consumer.crash(error), self.consumer.loop)
                    return
                self.log.warning("The group did not take this worker, which asks again: %s", error)

    async def fetch(self) -> list[FetchedBatch]:
        """The next records of the partitions that flow; none after `FETCH_PATIENCE_S`."""
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            records = await fetcher.fetched_records(
                self.consumer.flowing, timeout=FETCH_PATIENCE_S, max_records=consumer._max_poll_records
            )
        # No await from here on: a seek cannot come between the records and their number.
        return [self._batch(TP(*tp), found) for tp, found in records.items()]

    def _batch(self, tp: TP, records: list[Any]) -> FetchedBatch:
        consumer = self._ensure_consumer()
        start, end = self._read_to[tp], records[-1].offset + 1
        self._read_to[tp] = end
        highwater = consumer.highwater(tp)
        return FetchedBatch(
            tp.topic,
            tp.partition,
            records,
            self._seek_of[tp],
            start,
            end,
            end if highwater is None else highwater,
        )

    def wake(self) -> None:
        """Let a waiting fetch look again at which partitions flow."""
        self.thread_loop.call_soon_threadsafe(self._notify_waiters)

    def _notify_waiters(self) -> None:
        consumer = self._consumer
        if consumer is not None and consumer._fetcher is not None:
            for waiter in list(consumer._fetcher._fetch_waiters):
                consumer._fetcher._notify(waiter)

    async def seek_to(self, tp: TP, position: int | None) -> Sought | None:
        """Seek; None when the partition is not ours (any more)."""
        while True:
            try:
                offset = await self._offset(TopicPartition(*tp), position)
                self._ensure_consumer().seek(TopicPartition(*tp), offset)
                break
            except IllegalStateError:
                return None
            except KafkaError as error:
                if not error.retriable:
                    raise
                self.log.warning("The broker does not say where %s starts, asking again: %r", tp, error)
                await asyncio.sleep(RETRY_S)
        self._seek_of[tp] = number = next(_seek_numbers)
        self._read_to[tp] = offset
        return Sought(offset, number)

    async def _offset(self, tp: TopicPartition, position: int | None) -> int:
        consumer = self._ensure_consumer()
        if position is None:
            position = await self._committed(tp)
        if position is None or position == BEGINNING:
            position = (await consumer.beginning_offsets([tp]))[tp]
        return int(position)

    async def _committed(self, tp: TopicPartition) -> int | None:
        """The group's offset, if it was committed for this very topic."""
        # Not the consumer's `committed`: it leaves out what was committed beside the offset.
        found = (await self._ensure_consumer()._coordinator.fetch_committed_offsets([tp])).get(tp)
        if found is None or found.offset < 0:
            return None
        if found.metadata not in ("", self.consumer.identities.get(tp.topic, found.metadata)):
            self.log.warning(
                "%s/%d was made anew since the group committed offset %d: it is read from its beginning",
                *(tp.topic, tp.partition, found.offset),
            )
            return None
        return int(found.offset)

    async def committed(self, tp: TP) -> int | None:
        """The group's committed offset, None when there is none or the partition is not ours (any more)."""
        while True:
            try:
                offset = await self._committed(TopicPartition(*tp))
            except IllegalStateError:
                return None
            except KafkaError as error:
                if not error.retriable:
                    raise
                self.log.warning(
                    "The broker does not say what was committed of %s, asking again: %r", tp, error
                )
                await asyncio.sleep(RETRY_S)
            else:
                return offset

    async def put_commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit; False when the group has moved on, which the next owner's own position makes harmless."""
        try:
            await self._ensure_consumer().commit(
                {
                    TopicPartition(*tp): OffsetAndMetadata(offset, self.consumer.identities.get(tp.topic, ""))
                    for tp, offset in offsets.items()
                }
            )
        except (CommitFailedError, IllegalStateError) as error:
            self.log.info("Not committed, the group is rebalancing: %r", error)
            return False
        return True

    async def log_range(self, tp: TP) -> str:
        """'[oldest, next)' for an error message, or that the broker does not say."""
        consumer = self._ensure_consumer()
        try:
            async with asyncio.timeout(5):
                oldest, following = await consumer.beginning_offsets([tp]), await consumer.end_offsets([tp])
        except (KafkaError, TimeoutError):
            return "unknown: the broker does not say"
        return f"[{oldest[tp]}, {following[tp]})"

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # While the app stops its main loop answers no calls; waiting for it would hold up leaving the group.
        if not self.app.should_stop:
            await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        if not self.app.should_stop:
            await super().on_partitions_assigned(assigned, generation_id)

    def close(self) -> None:
        """Nothing: Faust closes aiokafka here from the wrong thread; `on_thread_stop` does it properly."""

    async def on_thread_stop(self) -> None:
        """Leave the group and close, for at most `stop_s`: both wait for a broker that may be gone.

        A task of its own, because aiokafka's tasks may swallow a cancel, or raise theirs here as if we were cancelled.
        """
        closing = asyncio.ensure_future(super().on_thread_stop())
        await asyncio.wait({closing}, timeout=self.consumer.settings.stop_s)
        if not closing.done() or closing.cancelled() or closing.exception():
            self.log.warning("The broker did not let us leave the group in time; it will notice by itself")

    async def _gather_remaining_tasks(self) -> None:
        # Faust's main thread waits for this thread to end, and mode here for every task of it, without a limit.
        remaining = asyncio.all_tasks() - {asyncio.current_task()}
        for task in remaining:
            task.cancel()
        if remaining:
            await asyncio.wait(remaining, timeout=1)


class Consumer(driver.Consumer):
    """Faust's consumer, yielding batches. `flowing` holds the partitions whose batches may be delivered now."""

    mundane_level = "debug"  # as above
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        installed = vars(self.app).get(_INSTALLED)
        if not isinstance(installed, _Installed):
            raise DeveloperError(
                "the batched transport has no hooks: call streams.transport.install(app, hooks) first"
            )
        self.hooks, self.settings, self.identities = installed
        self.flowing: set[TP] = {SOMETHING}
        self._held: set[TP] = set()
        self._assigned: set[TP] = set()
        self._seeks: dict[TP, int] = {}
        self._done: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}
        self._positioning: asyncio.Task[None] | None = None

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # Where reading starts.

    async def perform_seek(self) -> None:
        """Ask the hooks for a position, seek there, then let the partition flow.

        Faust seeks to the committed offsets here, after the application was told of the assignment. It also gives up
        for good, without a word, when this takes longer than a request: so this returns at once, and no partition
        flows before it is positioned.
        """
        await self._stop_positioning()
        self._assigned = {TP(*tp) for tp in self.assignment()}
        self._positioning = asyncio.create_task(
            self._position_all(self._assigned), name="position partitions"
        )

    async def _position_all(self, tps: Collection[TP]) -> None:
        try:
            await asyncio.gather(*(self._position(tp) for tp in tps))
            log.info("partitions of this worker: %s", partitions_text((tp.topic, tp.partition) for tp in tps))
        except Exception as error:  # noqa: BLE001  whatever a hook raises ends the worker
            await self.crash(error)

    async def _position(self, tp: TP) -> None:
        position = await self.hooks.position(tp)
        sought = await self._thread.call(self._thread.seek_to(tp, position))
        if sought is None:
            return  # taken away meanwhile; the next assignment asks again
        # Faust empties its queues once more when flow resumes, which comes after perform_seek.
        await self.can_resume_flow.wait()
        self._restart(tp, sought.seek)
        self.hooks.started(tp, sought.offset, sought.seek)
        if tp not in self._held:
            self.flowing.add(tp)
            self._thread.wake()

    def _restart(self, tp: TP, seek: int) -> None:
        self._seeks[tp] = seek
        self._done.pop(tp, None)
        self._committed.pop(tp, None)

    async def _stop_positioning(self) -> None:
        if self._positioning is not None:
            self._positioning.cancel()
            await asyncio.wait([self._positioning])
            self._positioning = None

    async def rewind(self, partition: Partition, offset: int) -> int | None:
        """Read a partition again from `offset`; the new seek number, or None when the partition is no longer ours."""
        tp = TP(*partition)
        sought = await self._thread.call(self._thread.seek_to(tp, offset))
        if sought is None or tp not in self._seeks:
            return None
        self._restart(tp, sought.seek)
        return sought.seek

    async def seek(self, partition: TP, offset: int) -> None:
        await self.rewind(partition, offset)

    # Which partitions flow.

    def hold(self, partition: Partition) -> None:
        """Deliver nothing more of this partition until `release`; at most one fetch of it waits in memory."""
        self._held.add(TP(*partition))
        self.flowing.discard(TP(*partition))

    def release(self, partition: Partition) -> None:
        """Let a held partition flow again, at once."""
        tp = TP(*partition)
        if tp in self._held:
            self._held.discard(tp)
            if tp in self._seeks:
                self.flowing.add(tp)
                self._thread.wake()

    # What is committed.

    def ack(self, message: Any) -> bool:
        """Nothing: Faust acks by itself what a stream skips in a rebalance; only `mark_done` counts."""
        return False

    def mark_done(self, partition: Partition, end: int, seek: int) -> bool:
        """Everything below `end` is done and may be committed; False for a batch of an older seek or owner.

        Partitions are worked on in order, so the highest mark is the position. Faust instead looks for gaps between
        the offsets of acked messages, and one message per batch leaves nothing but gaps.
        """
        tp = TP(*partition)
        if self._seeks.get(tp) != seek:
            return False
        self._done[tp] = max(end, self._done.get(tp, end))
        return True

    async def force_commit(self, topics: Any = None, *_: Any, **__: Any) -> bool:
        """Commit what is done. Faust calls this every `broker_commit_interval` and when it stops."""
        offsets = {
            tp: end
            for tp, end in self._done.items()
            if self._committed.get(tp) != end and (topics is None or tp in topics or tp.topic in topics)
        }
        if not offsets or not await self._thread.call(self._thread.put_commit(offsets)):
            return False
        self._committed.update({tp: end for tp, end in offsets.items() if tp in self._seeks})
        return True

    async def still_ours(self, partition: Partition, offset: int) -> bool:
        """Whether the group still takes a commit from us, here of a position that was reached before.

        A worker that was away for longer than its session does not know that it has been replaced; the group does.
        """
        return await self._thread.call(self._thread.put_commit({TP(*partition): offset}))

    async def committed(self, partition: Partition) -> int | None:
        """What the group has committed of a partition, by us or whoever had it before; None: nothing."""
        return await self._thread.call(self._thread.committed(TP(*partition)))

    async def _commit_before(self, event: str) -> None:
        # Not `commit`: it waits for a commit under way, and swallows the cancel that would end that wait.
        committing = asyncio.ensure_future(self.force_commit())
        await asyncio.wait({committing}, timeout=self.settings.stop_s)
        if not committing.done():
            committing.cancel()
            self.log.warning("The broker took no commit before %s; the next owner repeats a little", event)
        elif not committing.cancelled() and (error := committing.exception()):
            self.log.warning("Not committed before %s, the next owner repeats a little: %r", event, error)

    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust reports a partition as stuck when its own acks and commits stand still; ours are others."""

    # Rebalance and stop.

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Faust forgets the acks before the application had a chance to finish: so first ours, then Faust's.
        self.stop_flow()  # Faust does so only if there was an assignment; `_position` waits for the resume after it
        await self._let_go(revoked, "the rebalance")
        await super().on_partitions_revoked(revoked)

    async def on_stop(self) -> None:
        await self._let_go(self._assigned, "stopping")

    async def _let_go(self, partitions: Iterable[TP], event: str) -> None:
        await self._stop_positioning()
        tps = {TP(*tp) for tp in partitions} & self._assigned
        if not tps:
            return
        self.flowing.difference_update(tps)
        try:
            await self.hooks.revoked(frozenset(tps))
        except Exception as error:  # noqa: BLE001  whatever a hook raises ends the worker
            await self.crash(error)
        await self._commit_before(event)
        self._forget(tps)

    def _forget(self, tps: set[TP]) -> None:
        self._assigned = self._assigned - tps
        self._held.difference_update(tps)
        self.flowing.difference_update(
            tps
        )  # once more: a mailbox that was full has released its partition as it closed
        for memory in (self._seeks, self._done, self._committed):
            for tp in tps:
                memory.pop(tp, None)

    # The way of a batch.

    async def _drain_messages(self, fetcher: Any) -> None:
        """Deliver batches until the fetcher stops; what cannot be mended ends the worker."""
        pump = asyncio.create_task(self._pump(), name="deliver batches")
        stopping = asyncio.create_task(cast(Service, fetcher)._stopped.wait())
        try:
            await asyncio.wait({pump, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done() and not pump.cancelled() and not self.app.should_stop:
                await self.crash(await self._explained(pump.exception()))
        finally:
            pump.cancel()
            stopping.cancel()
            await asyncio.gather(pump, stopping, return_exceptions=True)

    async def _pump(self) -> None:
        deliver = cast("Callable[[ConsumerMessage], Awaitable[None]]", self.callback)
        while True:
            for batch in await self._thread.call(self._thread.fetch()):
                # Only a rebalance stops the flow, and everything is sought and numbered anew after one.
                if self.flow_active:
                    await deliver(self._message(batch))

    def _message(self, batch: FetchedBatch) -> ConsumerMessage:
        last, tp = batch.records[-1], TP(batch.topic, batch.partition)
        value = cast("bytes", batch)  # Faust's raw codec passes on whatever stands here
        return ConsumerMessage(
            *(tp.topic, tp.partition, last.offset, last.timestamp / 1000, 0, [], None, value, None, 0, 0, tp),
            generation_id=self.app.consumer_generation_id,
        )

    async def _explained(self, error: BaseException | None) -> BaseException:
        if isinstance(error, OffsetOutOfRangeError):
            (tp, offset), *_ = error.args[0].items()
            held = await self._thread.call(self._thread.log_range(TP(*tp)))
            return PositionError(
                f"topic {tp.topic}, partition {tp.partition}: the next offset to read is {offset}, but the log holds {held}. "
                "Records were deleted before they were read, or the topic was made anew. Nothing was skipped. Restore the "
                "log, or rebuild the state and start from where the log begins (docs/guarantees.md)"
            )
        if isinstance(error, RecordTooLargeError):
            return PositionError(
                f"the broker sends no record that fits into fetch.partition_bytes: {error}; raise it"
            )
        return error or DeveloperError("the delivery of batches ended by itself")


class Transport(driver.Transport):
    """The transport behind `batched://`."""

    Consumer: ClassVar[Any] = Consumer
