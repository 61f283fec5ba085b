"""What a worker tells Prometheus, on a loopback port. docs/metrics.md is generated from the names here.

Counting happens once a batch: labels are bound at the start and histograms take whole arrays, because a call per event
would cost more than decoding it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import prometheus_client
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from features.errors import SettingError

# Seconds. Fine around the target (20 ms median, 60 ms p99), and up to what a broker that was away for a while makes.
LATENCY_BOUNDS_S = (
    0.005,
    0.01,
    0.02,
    0.03,
    0.04,
    0.06,
    0.08,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
# Seconds of a step of a batch.
STEP_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
# Rows of a batch.
SIZE_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
# Seconds between an event and the entity's one before it: a minute to a quarter.
AGE_BOUNDS_S = (60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0, 7_776_000.0)

# Names of unknown fields that get a series of their own; a sender that makes names up must not fill the registry.
MAX_FIELD_SERIES = 100


class BatchHistogram(Collector):
    """A histogram that takes arrays, and single values at a tenth of an array's cost.

    Example:
        >>> histogram = BatchHistogram("latency_seconds", "Latency.", (0.1, 1.0), ())
        >>> histogram.observe((), np.array([0.05, 0.5, 0.6, 3.0]))
        >>> histogram.observe_one((), 0.1)
        >>> [(sample.labels.get("le"), sample.value) for sample in next(iter(histogram.collect())).samples][:3]
        [('0.1', 2), ('1.0', 4), ('+Inf', 5)]
    """

    def __init__(self, name: str, about: str, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self.name, self.about, self.labels = name, about, tuple(labels)
        self._bounds, self._bound_list = np.array(bounds, np.float64), list(bounds)
        self._counts: dict[tuple[str, ...], np.ndarray[Any, np.dtype[np.int64]]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, labels: tuple[str, ...], values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Count values; NaN is left out."""
        known = values[~np.isnan(values)]
        places = np.searchsorted(self._bounds, known, side="left")
        self._counts_of(labels)[:] += np.bincount(places, minlength=len(self._bounds) + 1)
        self._sums[labels] += float(known.sum())

    def observe_one(self, labels: tuple[str, ...], value: float) -> None:
        """Count one value, which is not NaN."""
        self._counts_of(labels)[bisect_left(self._bound_list, value)] += 1
        self._sums[labels] += value

    def _counts_of(self, labels: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
        if labels not in self._counts:
            self._sums[labels] = 0.0
            self._counts[labels] = np.zeros(len(self._bounds) + 1, np.int64)
        return self._counts[labels]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family with a histogram for each set of labels."""
        family = HistogramMetricFamily(self.name, self.about, labels=self.labels)
        bounds = [*map(str, self._bounds.tolist()), "+Inf"]
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(bounds, np.cumsum(counts).tolist(), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family


@dataclass(frozen=True)
class Now:
    """A figure that is worked out when Prometheus asks: (labels, value) pairs."""

    name: str
    about: str
    labels: tuple[str, ...]
    read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Gauges(Collector):
    """Figures of the moment, read from the worker at each scrape."""

    def __init__(self, figures: Sequence[Now]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One family for each figure."""
        for figure in self._figures:
            family = GaugeMetricFamily(figure.name, figure.about, labels=figure.labels)
            for labels, value in figure.read():
                family.add_metric(labels, value)
            yield family


class StepTimer:
    """The time of the steps of one batch: `done` ends one step and begins the next."""

    def __init__(self, metrics: Metrics, stage: str) -> None:
        self._metrics, self._stage = metrics, stage
        self._since = metrics.clock()

    def done(self, step: str) -> None:
        """The step named so has ended."""
        now = self._metrics.clock()
        self._metrics.steps.observe_one((self._stage, step), now - self._since)
        self._since = now


@dataclass(frozen=True)
class StageCounters:
    """The counters of one stage: looking them up by label at every batch would cost more than counting."""

    events: prometheus_client.Counter
    rows: prometheus_client.Counter
    copies: prometheus_client.Counter
    repeats: prometheus_client.Counter
    forgotten: prometheus_client.Counter
    late: prometheus_client.Counter
    labels: prometheus_client.Counter
    late_labels: prometheus_client.Counter


class Metrics:
    """All metrics of a worker. `clock` is a monotonic clock in seconds, `now_ms` the wall clock in milliseconds."""

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float], now_ms: Callable[[], float]
    ) -> None:
        self.registry, self.clock, self.now_ms = registry, clock, now_ms
        self.events = self._counter(
            "driftwood_events", "Records that a stage took, copies included.", "stage"
        )
        self.rows = self._counter("driftwood_rows", "Rows that a stage sent on, or answered.", "stage")
        self.copies = self._counter(
            "driftwood_copies", "Rows dropped because they were seen before a crash.", "stage"
        )
        self.repeats = self._counter(
            "driftwood_repeated_ids", "Events dropped: their id was there before.", "stage"
        )
        self.forgotten = self._counter(
            "driftwood_ids_not_remembered", "Event ids not remembered because a horizon was full.", "stage"
        )
        self.late = self._counter(
            "driftwood_late_events", "Events too late for at least one window.", "stage"
        )
        self.labels = self._counter(
            "driftwood_label_rows", "Rows of labels taken into windows over labels.", "stage"
        )
        self.late_labels = self._counter(
            "driftwood_late_label_rows", "Tiles that a label row was too late for.", "stage"
        )
        self.dead = self._counter("driftwood_dead_letters", "Records that could not be used.", "reason")
        self.unknown = self._counter(
            "driftwood_unknown_fields", "Event fields that the pipeline lacks.", "field"
        )
        self.refused = self._counter(
            "driftwood_refused_batches", "Batches that the store refused.", "stage", "why"
        )
        self.outcomes = self._counter(
            "driftwood_outcomes", "What became of events and labels, by the name of the outcome.", "outcome"
        )
        self.alerts = self._counter(
            "driftwood_drift_alerts",
            "Records of alerts that the monitor wrote, by their first level.",
            *("level", "severity", "status"),
        )
        self.skipped = self._counter(
            "driftwood_watch_skipped", "Records that the monitor left out.", "topic", "why"
        )
        self.errors = self._counter("driftwood_server_errors", "Errors talking to a server.", "server")
        self.sizes = self._histogram("driftwood_batch_rows", "Rows of a batch.", SIZE_BOUNDS, "stage")
        self.steps = self._histogram(
            "driftwood_step_seconds", "Time of a step.", STEP_BOUNDS_S, "stage", "step"
        )
        self.latency = self._histogram(
            "driftwood_prediction_latency_seconds",
            "From the broker's time of the event to the acks of its prediction.",
            LATENCY_BOUNDS_S,
        )
        self.age = self._histogram(
            "driftwood_feature_age_seconds",
            "From an entity's newest event to the one that is answered.",
            AGE_BOUNDS_S,
            "entity",
        )
        prometheus_client.ProcessCollector(registry=registry)

    def stage(self, stage: str) -> StageCounters:
        """What is counted at every batch of a stage."""
        families = (self.events, self.rows, self.copies, self.repeats, self.forgotten, self.late)
        over_labels = (self.labels, self.late_labels)
        return StageCounters(*(family.labels(stage) for family in (*families, *over_labels)))

    def timer(self, stage: str) -> StepTimer:
        """A timer for one batch of a stage."""
        return StepTimer(self, stage)

    def dead_letters(self, reasons: Iterable[str]) -> None:
        """Count dead letters by reason."""
        for reason, count in Counter(reasons).items():
            self.dead.labels(reason).inc(count)

    def outcomes_settled(self, kinds: Mapping[str, int]) -> None:
        """Count outcomes by name."""
        for kind, count in kinds.items():
            if count:
                self.outcomes.labels(kind).inc(count)

    def unknown_fields(self, names: Mapping[str, int]) -> None:
        """Count fields that the pipeline does not know; names beyond `MAX_FIELD_SERIES` are counted as (others)."""
        series = self.unknown._metrics  # noqa: SLF001  # no public list of children
        for name, count in names.items():
            known = (name,) in series or len(series) < MAX_FIELD_SERIES
            self.unknown.labels(name if known else "(others)").inc(count)

    def answered(self, arrived_ms: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Predictions of events that arrived at these times have been acknowledged by the broker."""
        self.latency.observe((), np.maximum(self.now_ms() - arrived_ms, 0.0) / 1000.0)

    def watch(self, figures: Sequence[Now]) -> None:
        """Add figures of the moment."""
        self.registry.register(Gauges(figures))

    def serve(self, host: str, port: int) -> tuple[str, Callable[[], None]]:
        """Serve /metrics; the URL, and how to stop. Port 0 takes a free one.

        Raises `SettingError` when the port is taken or the address is none of this machine's.
        """
        try:
            server, thread = prometheus_client.start_http_server(port, host, self.registry)
        except OSError as error:
            expected = f"a free port at metrics_host = {host!r}, or 0 to take any ({error.strerror})"
            raise SettingError("metrics_port", port, expected) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return f"http://{host}:{server.server_port}/metrics", stop

    def _counter(self, name: str, about: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, bounds: Sequence[float], *labels: str) -> BatchHistogram:
        histogram = BatchHistogram(name, about, bounds, labels)
        self.registry.register(histogram)
        return histogram
