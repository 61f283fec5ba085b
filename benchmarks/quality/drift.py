"""How good the drift watch is: false alarms, what it finds, how soon, and what it costs.

    python -m benchmarks.quality.drift                       all parts but elec2; some hours on one free core
    python -m benchmarks.quality.drift --json
    python -m benchmarks.quality.drift --part injected --seeds 5
    python -m benchmarks.quality.drift --part no-drift --months 20
    python -m benchmarks.quality.drift --part concept --labels 1000000
    python -m benchmarks.quality.drift --part cpu
    python -m benchmarks.quality.drift --part elec2 --data <elec2.parquet>

    no-drift   worlds of payments (benchmarks/quality/drift_world.py) in which nothing changes, watched for ten months each with
               a budget of one false alarm a month; a one-sided test says whether more than the budget were raised
    concept    the concept detectors alone, on made-up labels: false alarms, and labels until an error of 0.20 in place of 0.10
    injected   one change in a world, of each kind, sudden and gradual: found or not, how soon, and in how many alerts; beside
               detectors that always ring, never ring, plain ADWIN and PSI > 0.2
    flights    2013 against its first quarter, through both roads: alerts, and expected AUC beside what came true by week
    elec2      the market's change of 2 May 1997, through both roads
    cpu        microseconds an event, for 30 features

The features of the worlds come from the backfill and are counted by the hour, because a hundred months through both roads
would take days. `no-drift` first drives four days through the roads and says how many slices the records give otherwise (`frames`).
Deterministic: equal arguments give equal figures, but for cpu.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.quality import drift_real, drift_runs

PACKAGES = ("driftwood", "lightgbm", "river", "numpy", "scipy")
PARTS = ("no-drift", "concept", "injected", "flights", "elec2", "cpu")
DEFAULT = tuple(part for part in PARTS if part != "elec2")


def main() -> None:
    """Run, and say what was found."""
    parser = _parser()
    given = parser.parse_args()
    parts = given.part or DEFAULT
    if "elec2" in parts and given.data is None:
        parser.error("--part elec2 needs --data")
    figures: dict[str, Any] = {}
    for part in parts:
        say(f"part {part}")
        for name, found in _part(part, given).items():
            figures[name] = {**figures.get(name, {}), **found} if isinstance(found, dict) else found
    tell({**figures, "machine": machine(PACKAGES)}, as_json=given.json, show=_show)


def _parser() -> ArgumentParser:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        help="only this one; again for more (default: all but elec2)",
    )
    parser.add_argument("--months", type=int, default=100, help="of no-drift (default: 100)")
    parser.add_argument("--seeds", type=int, default=20, help="of each injected drift (default: 20)")
    parser.add_argument("--labels", type=int, default=10_000_000, help="of concept (default: 10000000)")
    parser.add_argument("--customers", type=int, default=1_000, help="of a world (default: 1000)")
    parser.add_argument(
        "--time-slice", default="1h", help="how often is judged, in no-drift and injected (default: 1h)"
    )
    parser.add_argument("--kind", action="append", help="only this kind of injected drift; again for more")
    parser.add_argument("--first-seed", type=int, default=9_001, help="of the worlds (default: 9001)")
    parser.add_argument("--data", type=Path, help="the table of elec2, as Parquet")
    return parser


def _part(part: str, given: Namespace) -> dict[str, Any]:
    if part == "no-drift":
        return {
            "no_drift": drift_runs.no_drift(given.months, given.first_seed, given.customers, given.time_slice)
        }
    if part == "concept":
        found = drift_runs.concept(given.labels, given.seeds, given.first_seed)
        return {"no_drift": found.calm, "injected": found.changed}
    if part == "injected":
        return drift_runs.injected(
            given.seeds, given.first_seed, given.customers, given.kind or (), given.time_slice
        )
    if part == "flights":
        return {"flights": drift_real.flights()}
    if part == "elec2":
        return {"elec2": drift_real.elec2(given.data)}
    return {"cpu_us_per_event": drift_runs.cpu(given.first_seed)}


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    for name in ("no_drift", "flights", "elec2"):
        if name in figures:
            table = Table("", "", title=name)
            for key, value in figures[name].items():
                table.add_row(key, _shown(value))
            console.print(table)
    if "injected" in figures:
        _show_injected(console, figures)
    if "cpu_us_per_event" in figures:
        console.print(f"cpu_us_per_event {figures['cpu_us_per_event']}")
    print_machine(console, figures["machine"])


def _show_injected(console: Console, figures: Mapping[str, Any]) -> None:
    injected = figures["injected"]
    rows = {**injected.get("by_kind", {}), **figures.get("baselines", {})}
    if rows:
        names = [*next(iter(rows.values()))]
        table = Table("", *names, title="injected")
        for kind, row in rows.items():
            table.add_row(kind, *(_shown(row[name]) for name in names))
        console.print(table)
    for name in ("detected_fraction", "alerts_per_incident", "concept_delay_labels_p50"):
        if name in injected:
            console.print(f"{name} {injected[name]}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    if isinstance(value, list):
        return "\n".join(str(one) for one in value)
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
