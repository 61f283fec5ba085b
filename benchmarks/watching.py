"""Figures of running processes, between two marks: their CPU from the system, a worker's steps from its own metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from driftwood.demo_worker import WorkerChild

STEP_SUM, STEP_COUNT = "driftwood_step_seconds_sum", "driftwood_step_seconds_count"
Steps = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Mark:
    """One moment: CPU seconds (user and system) by process, and the worker's metrics by name and labels."""

    at_s: float
    cpu_s: Mapping[str, float]
    samples: Mapping[tuple[str, tuple[str, ...]], float]


class Watch:
    """Looks at a worker and at the processes beside it, by name."""

    def __init__(self, worker: WorkerChild, beside: Mapping[str, int]) -> None:
        self._worker = worker
        self._processes = {
            name: psutil.Process(pid) for name, pid in {"worker": worker.pid, **beside}.items()
        }

    def mark(self) -> Mark:
        """Now. Asking for its metrics costs a worker a few milliseconds of CPU."""
        samples = {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in self._worker.families()
            for sample in family.samples
        }
        cpu_s = {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}
        return Mark(time.monotonic(), cpu_s, samples)

    def memory_mib(self) -> dict[str, int]:
        """What each of them has resident."""
        return {name: process.memory_info().rss >> 20 for name, process in self._processes.items()}


def cpu_us(before: Mark, after: Mark, events: int) -> dict[str, float]:
    """Microseconds of CPU for each event, by process."""
    return {
        name: round(1e6 * (spent - before.cpu_s[name]) / events, 1) for name, spent in after.cpu_s.items()
    }


def cpu_shares(before: Mark, after: Mark) -> dict[str, float]:
    """Cores that each process was using: 0.5 is half of one core."""
    seconds = after.at_s - before.at_s
    return {name: round((spent - before.cpu_s[name]) / seconds, 3) for name, spent in after.cpu_s.items()}


def step_us(before: Mark, after: Mark, events: int) -> Steps:
    """By stage and step: microseconds of wall time for each event, waits included. Steps of different batches overlap."""
    sums = _differences(before, after, STEP_SUM)
    return _by_stage({place: round(1e6 * spent / events, 2) for place, spent in sums.items()})


def step_ms(before: Mark, after: Mark) -> Steps:
    """By stage and step: milliseconds of a batch on average."""
    sums, counts = _differences(before, after, STEP_SUM), _differences(before, after, STEP_COUNT)
    return _by_stage({place: round(1e3 * sums[place] / max(counts[place], 1), 2) for place in sums})


def batch_rows(before: Mark, after: Mark, events: int) -> dict[str, float]:
    """By stage: rows of a batch on average, where every event passes every stage once."""
    counts = _differences(before, after, STEP_COUNT)
    return {
        stage: round(events / max(count, 1), 1)
        for (stage, step), count in counts.items()
        if step == "deliver"
    }


def _differences(before: Mark, after: Mark, name: str) -> dict[tuple[str, str], float]:
    return {
        (labels[0], labels[1]): value - before.samples.get((name, labels), 0.0)
        for (sample, labels), value in after.samples.items()
        if sample == name
    }


def _by_stage(figures: Mapping[tuple[str, str], float]) -> Steps:
    stages: Steps = {}
    for (stage, step), figure in figures.items():
        stages.setdefault(stage, {})[step] = figure
    return stages
