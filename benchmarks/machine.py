"""Where figures were measured: without it they say nothing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

# What the speed of the whole road depends on.
ROAD_PACKAGES = (
    "driftwood",
    "lightgbm",
    "numpy",
    "numba",
    "pyarrow",
    "confluent-kafka",
    "aiokafka",
    "faust-streaming",
)


def machine(packages: Sequence[str]) -> dict[str, object]:
    """Processor, cores, memory, load, system, and the versions of these packages.

    `loop_ms` is the CPU time of a loop that always does the same. Where others use the machine (or its host) as well, it
    takes longer, and so does everything that was measured: compare runs of about the same.
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "loop_ms": loop_ms(),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def loop_ms() -> float:
    """Milliseconds of CPU for two million additions, the mean of three: about 60 on a processor of 2024 that is free."""
    started = time.process_time()
    for _ in range(3):
        total = 0
        for number in range(2_000_000):
            total += number
    return round(1e3 * (time.process_time() - started) / 3, 1)


def _processor() -> str:
    """The model's name; Linux alone tells it in a file, elsewhere the architecture must do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
