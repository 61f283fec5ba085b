"""The figures of a worker that are worked out when Prometheus asks for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from streams.metrics import Now
from streams.pressure import Pressure
from streams.serving import Serving
from streams.stage import Held
from streams.surroundings import Surroundings
from streams.worker import Worker

Values = list[tuple[tuple[str, ...], float]]


def figures(worker: Worker, pressure: Pressure, serving: Serving, surroundings: Surroundings) -> list[Now]:
    """Lag, what waits, entities and their memory by partition; what stands unread; the model; a broker that is away."""

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
        Now(
            "driftwood_model_in_service",
            "1 for the version that answers.",
            ("version",),
            lambda: [((serving.in_service,), 1.0)],
        ),
    ]


def _by_topic(worker: Worker) -> Values:
    return [
        ((topic,), count) for topic, count in Counter(box.partition[0] for box in worker.mailboxes()).items()
    ]
