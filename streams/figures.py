"""The figures of a worker that are worked out when Prometheus asks for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from streams.join_stage import JoinMemory
from streams.learner import LearnMemory
from streams.metrics import Now
from streams.pressure import Pressure
from streams.serving import Serving
from streams.snapshot_watch import SnapshotWatch
from streams.stage import Held
from streams.surroundings import Surroundings
from streams.watch_alerts import AlertWatch
from streams.watch_stage import WatchMemory
from streams.worker import Worker

Values = list[tuple[tuple[str, ...], float]]
Figures = Mapping[str, Any]


def figures(worker: Worker, pressure: Pressure, surroundings: Surroundings) -> list[Now]:
    """Lag, what waits, entities and their memory by partition; what stands unread; a broker that is away."""

    def by_partition(values: Iterable[tuple[tuple[str, int], float]]) -> Values:
        return [((topic, str(number)), value) for (topic, number), value in values]

    def of_states(read: Callable[[Held], int]) -> Callable[[], Values]:
        return lambda: by_partition(
            ((memory.partition.topic, memory.partition.partition), read(memory.state))
            for memory in worker.memories()
        )

    place = ("topic", "partition")
    return [
        Now(
            "driftwood_lag_records",
            "Records behind the end of a partition.",
            place,
            lambda: by_partition(worker.lags().items()),
        ),
        Now(
            "driftwood_partitions",
            "Partitions that are ours and flow.",
            ("topic",),
            lambda: _by_topic(worker),
        ),
        Now(
            "driftwood_waiting_records",
            "Records of a partition that wait in memory.",
            place,
            lambda: by_partition(
                (mailbox.partition, mailbox.waiting_records) for mailbox in worker.mailboxes()
            ),
        ),
        Now("driftwood_entities", "Entities in memory.", place, of_states(lambda state: state.entities)),
        Now(
            "driftwood_state_bytes",
            "Memory of the entities' state.",
            place,
            of_states(lambda state: state.nbytes),
        ),
        Now(
            "driftwood_evictions",
            "Entities that had to make room.",
            place,
            of_states(lambda state: state.evictions),
        ),
        Now(
            "driftwood_unread_bytes",
            "Bytes unread in the fullest hop partition.",
            (),
            lambda: [((), pressure.fullest_bytes)],
        ),
        Now(
            "driftwood_broker_away_seconds",
            "For how long the broker has not answered; 0 while it does.",
            (),
            lambda: [((), surroundings.broker_away_s)],
        ),
    ]


def serving_figures(serving: Serving) -> list[Now]:
    """What answers."""
    return [
        Now(
            "driftwood_model_in_service",
            "1 for the version that answers.",
            ("version",),
            lambda: [((serving.in_service,), 1.0)],
        ),
        Now(
            "driftwood_snapshot_in_service",
            "Version of the online learners' snapshot that answers; -1 for none. Only where the pipeline learns.",
            (),
            lambda: _of_snapshots(serving, lambda snapshots: serving.snapshot),
        ),
        Now(
            "driftwood_snapshot_unchanged_seconds",
            "For how long this worker has found no newer snapshot.",
            (),
            lambda: _of_snapshots(serving, lambda snapshots: snapshots.unchanged_s),
        ),
        Now(
            "driftwood_snapshots_refused",
            "Snapshots that this worker could not use: unsigned, altered, of another version.",
            (),
            lambda: _of_snapshots(serving, lambda snapshots: snapshots.refused),
        ),
    ]


def learner_figures(memories: Callable[[], Iterable[Any]], clock: Callable[[], float]) -> list[Now]:
    """Of a learn process: the label feeds of its partitions of hop-join, and the learner where it owns that, by the clock of
    its stage."""

    def of_learner(read: Callable[[LearnMemory], float]) -> Callable[[], Values]:
        return lambda: [((), read(memory)) for memory in memories() if isinstance(memory, LearnMemory)]

    def of_figures(read: Callable[[Figures], Values]) -> Callable[[], Values]:
        """Of what the newest snapshot says of itself."""
        return lambda: [
            value
            for memory in memories()
            if isinstance(memory, LearnMemory)
            for value in read(_parsed(memory.figures))
        ]

    def stalled() -> Values:
        joins = [memory for memory in memories() if isinstance(memory, JoinMemory)]
        return [((str(one.partition.partition),), float(one.feeds.clock.stalled)) for one in joins]

    return [
        Now(
            "driftwood_labels_stalled",
            "1 while the label feed is silent for this partition of hop-join: nothing times out then.",
            ("partition",),
            stalled,
        ),
        Now(
            "driftwood_snapshot_version",
            "Offset in outcomes up to which the newest snapshot has learnt; -1: there is none.",
            (),
            of_learner(lambda memory: memory.applied),
        ),
        Now(
            "driftwood_snapshot_age_seconds",
            "For how long outcomes have been in hand, or learnt, that no snapshot has; 0 when the newest has all.",
            (),
            of_learner(lambda memory: memory.unpublished_s(clock())),
        ),
        Now(
            "driftwood_snapshot_bytes",
            "Size of the newest snapshot, as the next learner would load it.",
            (),
            of_learner(lambda memory: memory.state.nbytes),
        ),
        Now(
            "driftwood_snapshots_dropped",
            "Older snapshots that had to make room, since the pipeline began.",
            (),
            of_learner(lambda memory: memory.state.evictions),
        ),
        Now(
            "driftwood_model_figure",
            "How good a model is: what `driftwood models` shows, over the last outcomes (rolling) and all (total).",
            ("model", "period", "figure"),
            of_figures(_quality),
        ),
        Now(
            "driftwood_model_weight",
            "A model's weight in the blend, 0 to 1.",
            ("model",),
            of_figures(_weights),
        ),
        Now(
            "driftwood_learner_frozen",
            "1 for a learner that neither learns nor answers: it broke, or operators wanted it so.",
            ("model",),
            of_figures(_frozen),
        ),
        Now(
            "driftwood_label_delay_seconds",
            "From an event to when its label became known, of the last labels.",
            ("quantile",),
            of_figures(_delays),
        ),
        Now(
            "driftwood_labels_an_hour",
            "Labels by the hour in which they became known: the newest full one (now), and the mean of a week (usual).",
            ("period",),
            of_figures(lambda figures: _by_name(figures, "labels_per_hour")),
        ),
        Now(
            "driftwood_label_class_share",
            "Share of a class in these labels; of a binary label the positives.",
            ("class", "period"),
            of_figures(_class_shares),
        ),
        Now(
            "driftwood_label_unknown_share",
            "Share of these labels for which there was no event.",
            ("period",),
            of_figures(lambda figures: _by_name(figures, "unknown_share")),
        ),
        Now(
            "driftwood_learning_frozen",
            "1 while the label feed is stalled, or what it held up is not settled: weights and calibrator stand still.",
            (),
            of_figures(lambda figures: [((), float(figures.get("frozen") is not None))]),
        ),
    ]


def watch_figures(memories: Callable[[], Iterable[Any]]) -> list[Now]:
    """Of a monitor: the alerts that are open, where it raises them."""

    def of_alerts(read: Callable[[AlertWatch], Values]) -> Callable[[], Values]:
        return lambda: [
            value
            for memory in memories()
            if isinstance(memory, WatchMemory) and isinstance(memory.work, AlertWatch)
            for value in read(memory.work)
        ]

    return [
        Now(
            "driftwood_drift_alerts_open",
            "Alerts of the drift watch that are open, by their first level.",
            ("level", "severity"),
            of_alerts(_open_alerts),
        ),
        Now(
            "driftwood_drift_strength",
            "How strong the signals of open alerts were in the newest record: 1 raises an alert, below 0.7 is calm.",
            ("level", "subject", "statistic", "segment"),
            of_alerts(_strengths),
        ),
        Now(
            "driftwood_drift_psi",
            "PSI of the columns in open alerts, in the newest record.",
            ("column",),
            of_alerts(_psi),
        ),
        Now(
            "driftwood_drift_watched_to_seconds",
            "Event time up to which everything was judged, in seconds since 1970.",
            (),
            of_alerts(lambda watch: [((), watch.end_us / 1e6)]),
        ),
        Now(
            "driftwood_drift_slices_waiting",
            "Time slices that wait for some partition of hop-join.",
            (),
            of_alerts(lambda watch: [((), watch.waiting)]),
        ),
    ]


def _open_alerts(watch: AlertWatch) -> Values:
    found = Counter((alert.levels[0], alert.severity) for alert in list(watch.open.values()))
    return [*found.items()]


def _strengths(watch: AlertWatch) -> Values:
    found: dict[tuple[str, ...], float] = {}
    for alert in list(watch.open.values()):  # a copy: metrics ask from a thread of their own
        for one in alert.signals:
            labels = (one.level, one.subject, one.statistic, one.segment)
            found[labels] = max(one.strength, found.get(labels, 0.0))
    return [*found.items()]


def _psi(watch: AlertWatch) -> Values:
    signals = [one for alert in list(watch.open.values()) for one in alert.signals if not one.segment]
    found = {(one.subject,): one.evidence.psi for one in signals if one.evidence.psi is not None}
    return [*found.items()]


@lru_cache(maxsize=1)
def _parsed(figures: bytes) -> Figures:
    """Once for all that a look at the metrics asks of them."""
    parsed: Figures = json.loads(figures)
    return parsed


def _quality(figures: Figures) -> Values:
    return [
        ((name, period, figure), value)
        for name, row in figures.get("models", {}).items()
        for period in ("rolling", "total")
        for figure, value in row[period].items()
    ]


def _weights(figures: Figures) -> Values:
    models = figures.get("models", {})
    return [((name,), row["weight"]) for name, row in models.items() if row["weight"] is not None]


def _frozen(figures: Figures) -> Values:
    learners = [(name, row) for name, row in figures.get("models", {}).items() if row["learnt"] is not None]
    return [((name,), float(row["frozen"] is not None)) for name, row in learners]


def _delays(figures: Figures) -> Values:
    return [((name,), value) for name, value in figures.get("label_delay_s", {}).items()]


def _by_name(figures: Figures, figure: str) -> Values:
    return [((name,), value) for name, value in figures.get("label_feed", {}).get(figure, {}).items()]


def _class_shares(figures: Figures) -> Values:
    shares = figures.get("label_feed", {}).get("class_share", {})
    return [((name, period), value) for name, row in shares.items() for period, value in row.items()]


def _of_snapshots(serving: Serving, read: Callable[[SnapshotWatch], float]) -> Values:
    return [] if serving.snapshots is None else [((), read(serving.snapshots))]


def _by_topic(worker: Worker) -> Values:
    return [
        ((topic,), count) for topic, count in Counter(box.partition[0] for box in worker.mailboxes()).items()
    ]
