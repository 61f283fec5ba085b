"""How good the answers are on simulated payments: as they always were, and after a new way of fraud has come up.

    python -m benchmarks.quality.payments            about 15 minutes on one free core
    python -m benchmarks.quality.payments --json

Two worlds of three months, equal but for the drift. In each the first month trains LightGBM, once; two months are
answered; every label comes seven days late. From day 45 of the second world on cards are tested (eight small payments in
one night hour, anywhere), which nobody has seen before. Everything runs through both roads, in this process and in one order
of time (`offline/in_process.py`). The seed is none of those with which features and settings were chosen.

    before     from the cut-off to the drift
    unlearnt   the week after it: none of its labels has come
    recovered  from the 2,000th label of the new kind on

`recovered_fraction` is (recovered - unlearnt) / (before - unlearnt) of the blend's average precision, target 0.8; the same
of LightGBM, which is frozen, stands beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.quality.replay import BLEND, MINUTE_US, Answered, Promotion, replayed, without_holdout
from examples.payments.data import events, labels
from examples.payments.frauds import simulated_payments
from examples.payments.records import ACTIONS, EVENTS, LABELS, feed, payment_id
from examples.payments.simulation import Ints, Payments, Scenario, moment_us
from examples.payments.switches import Switches
from features.plan import Floats
from models.card_precision import card_precision
from models.loading import load_pipeline
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.in_process import Watch
from offline.one_order import Feed, Sent
from offline.train import train

# Days since the start of a world.
CUT, DRIFT = 30, 45
NEW_LABELS = 2_000
SEED = 20_241
LIGHTGBM, FALLBACK = "lightgbm", "fallback"
PACKAGES = ("driftwood", "lightgbm", "river", "numpy", "numba")


@dataclass(frozen=True)
class World:
    """n payments from the cut-off on, and what every part said of them: `scores[part]` float64[n]."""

    switches: Switches
    made: Payments
    scores: Mapping[str, Floats]
    learner: Mapping[str, Any]

    def rows(self, first_us: int, end_us: int) -> Ints:
        """Those between two times."""
        return np.flatnonzero((self.made.times_us >= first_us) & (self.made.times_us < end_us))

    def ap(self, rows: Ints) -> dict[str, float]:
        """Average precision of each part, over what it has answered."""
        found = {}
        for name, scores in self.scores.items():
            own = rows[~np.isnan(scores[rows])]
            if self.made.fraud[own].any():
                found[name] = round(float(average_precision_score(self.made.fraud[own], scores[own])), 4)
        return found

    def card_precision_100(self) -> dict[str, float]:
        """Of each part the mean over the days, over what it has answered."""
        found = {}
        for name, scores in self.scores.items():
            codes = np.where(np.isnan(scores), np.nan, self.made.fraud)
            precision = card_precision(self.made.times_us, self.made.customers, codes, scores)
            found[name] = round(precision.mean, 4)
        return found


def main() -> None:
    """Run, and say what was found."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--slice", type=int, default=60, help="minutes of event time in a slice (default: 60)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the worlds (default: {SEED})")
    parser.add_argument("--customers", type=int, default=5_000, help="who pay (default: 5000)")
    given = parser.parse_args()
    tell(measured(given.slice, given.seed, given.customers), as_json=given.json, show=_show)


def measured(slice_minutes: int, seed: int, customers: int) -> dict[str, Any]:
    """All figures."""
    calm = Switches(seed=seed, customers=customers, terminals=2 * customers)
    drifted = Switches(seed=seed, customers=customers, terminals=2 * customers, new_fraud_from=DRIFT)
    found = {}
    for name, switches in {"calm": calm, "drifted": drifted}.items():
        say(f"the {name} world")
        found[name] = _world(switches, slice_minutes)
    everything = np.arange(len(found["calm"].made))
    return {
        "ap": found["calm"].ap(everything),
        "card_precision_100": found["calm"].card_precision_100(),
        **_recovery(found["drifted"]),
        "outcomes": {name: world.learner["outcomes"] for name, world in found.items()},
        "seed": seed,
        "customers": customers,
        "slice_minutes": slice_minutes,
        "machine": machine(PACKAGES),
    }


def _world(switches: Switches, slice_minutes: int) -> World:
    pipeline, made = without_holdout(load_pipeline("payments")), simulated_payments(switches)
    answered, learner = lived(pipeline, switches, made, _sent(switches, made), slice_minutes)
    later = made.taken(made.times_us >= moment_us(switches, CUT))
    rows = {name: row for row, name in enumerate(answered.ids)}
    order = np.array([rows[payment_id(number)] for number in later.numbers.tolist()])
    scores = {
        name: found[order] for name, found in answered.scores.items() if not np.isnan(found[order]).any()
    }
    return World(switches, later, scores, learner)


def lived(
    pipeline: Pipeline,
    switches: Switches,
    made: Payments,
    sent: Iterable[Sent],
    slice_minutes: int,
    watch: Watch | None = None,
) -> tuple[Answered, dict[str, Any]]:
    """A world through both roads, as `replayed` has it: what came before `CUT` trains the model that answers from then on."""
    cut_us = moment_us(switches, CUT)
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        models = ModelStore(Path(folder))
        past = made.taken(made.times_us < cut_us)
        report = train(pipeline, events(past), labels(made, switches), store=models, until=cut_us)
        return replayed(
            pipeline,
            models.folder,
            sent,
            span_us=slice_minutes * MINUTE_US,
            promotions=[Promotion(cut_us, report.version)],
            watch=watch,
        )


def _sent(switches: Switches, made: Payments) -> Iterator[Sent]:
    """All records of the world, as they arrive."""
    feeds: dict[str, Feed] = {EVENTS: "events", LABELS: "labels", ACTIONS: "actions"}
    for topic, record in feed(switches, made):
        yield Sent(record.at_us, feeds[topic], record.value, record.key)


def _recovery(world: World) -> dict[str, Any]:
    """Average precision before the drift, before its first label, and after its 2,000th; the share that came back."""
    drift_us, end_us = (moment_us(world.switches, day) for day in (DRIFT, world.switches.days))
    delay_us = int(timedelta(days=world.switches.label_delay) / timedelta(microseconds=1))
    new = world.made.times_us[world.made.scenarios == Scenario.CARD_TEST]
    if len(new) < NEW_LABELS:
        raise SystemExit(
            f"this world has {len(new)} payments of the new kind, fewer than {NEW_LABELS}: more --customers"
        )
    learnt_us = int(new[NEW_LABELS - 1]) + delay_us
    spans = {
        "before": (moment_us(world.switches, CUT), drift_us),
        "unlearnt": (drift_us, drift_us + delay_us),
        "recovered": (learnt_us, end_us),
    }
    found = {name: world.ap(world.rows(*span)) for name, span in spans.items()}
    share = {
        part: round((found["recovered"][part] - low) / (found["before"][part] - low), 3)
        for part, low in found["unlearnt"].items()
        if part in (LIGHTGBM, BLEND)
    }
    return {
        "recovered_fraction": share[BLEND],
        "recovered_fractions": share,
        "ap_around_drift": found,
        "recovered_after_days": round((learnt_us - drift_us) / timedelta(days=1).total_seconds() / 1e6, 1),
    }


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    names = list(figures["ap"])
    table = Table("", *names, title="Payments")
    table.add_row("average precision, no drift", *(f"{figures['ap'][name]:.4f}" for name in names))
    table.add_row(
        "card precision@100, no drift", *(f"{figures['card_precision_100'][name]:.4f}" for name in names)
    )
    for span, row in figures["ap_around_drift"].items():
        table.add_row(f"average precision, drift: {span}", *(f"{row[name]:.4f}" for name in names))
    shares = figures["recovered_fractions"]
    table.add_row("recovered", *(f"{shares[name]:.2f}" if name in shares else "" for name in names))
    console.print(table)
    print_machine(console, figures["machine"])


if __name__ == "__main__":
    main()
