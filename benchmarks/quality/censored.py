"""What blocked payments teach: nothing, where the bank tells what it did; else that fraud is none.

    python -m benchmarks.quality.censored            about 10 minutes on one free core
    python -m benchmarks.quality.censored --json

One world of simulated payments, three times through both roads, in this process and in one order of time. April trains
LightGBM, May and June are answered. A bank blocks what gets a decision, and of what is blocked no label ever comes.

    paid     nothing is blocked, so all labels come: what could be reached
    told     the bank says what it blocked, and lets the hold-out share pass: `censored`, learnt by nobody
    untold   it says nothing and holds nothing out: after the horizon silence means no, and every fraud that was stopped is
             learnt as genuine

Each is judged by the truth about all payments, the blocked ones as well, which only a simulation knows. Beside it stands
what the bank itself would believe: average precision over the labels that came, and with the hold-out counted for those it
stands for (models/totals.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.quality.payments import CUT, lived
from benchmarks.quality.replay import without_holdout
from examples.payments.bank import Bank
from examples.payments.frauds import simulated_payments
from examples.payments.records import EVENTS, LABELS, feed, payment_id
from examples.payments.simulation import Payments, moment_us
from examples.payments.switches import Switches
from features.plan import Floats
from models.card_precision import card_precision
from models.loading import load_pipeline
from models.pipeline import Pipeline
from offline.one_order import Sent
from offline.topic_lists import ListedRecord

SEED = 20_241
PACKAGES = ("driftwood", "lightgbm", "river", "numpy", "numba")


@dataclass(frozen=True)
class World:
    """One way to go about decisions: is anything blocked, and does driftwood hear of it?"""

    blocks: bool
    tells: bool


WORLDS = {"paid": World(blocks=False, tells=False), "told": World(True, True), "untold": World(True, False)}


class Town:
    """Payments and labels as they come while a bank acts on the answers; an action comes before all that follows it."""

    def __init__(self, switches: Switches, made: Payments, world: World) -> None:
        self._switches, self._made, self._world = switches, made, world
        self._actions: list[tuple[bytes, bytes]] = []
        self.bank = Bank()

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        """The bank reads the predictions."""
        if topic != "predictions" or not self._world.blocks:
            return
        for record in records:
            if (action := self.bank.act(msgspec.json.decode(record.value or b""))) is not None:
                self._actions.append((record.key or b"", action))

    def sent(self) -> Iterator[Sent]:
        """All records in the order in which they come."""
        for topic, record in feed(self._switches, self._made):
            if self._world.tells:
                yield from (Sent(record.at_us, "actions", value, key) for key, value in self._actions)
            self._actions.clear()
            if topic == EVENTS:
                yield Sent(record.at_us, "events", record.value, record.key)
            elif topic == LABELS and record.key.decode() not in self.bank.blocked:
                yield Sent(record.at_us, "labels", record.value, record.key)


@dataclass(frozen=True)
class Answered:
    """n payments: truth, `scores[part]` float64[n], and `weights` float64[n]: how many each label stands for, 0 where none
    came."""

    made: Payments
    scores: Mapping[str, Floats]
    weights: Floats
    learner: Mapping[str, Any]
    bank: Bank

    def figures(self) -> dict[str, Any]:
        """Of each part by the truth, and as the bank sees it."""
        return {
            "ap": {name: self._ap(scores) for name, scores in self.scores.items()},
            "card_precision_100": {name: self._found(scores) for name, scores in self.scores.items()},
            "ap_of_labels": {
                name: self._ap(scores, np.minimum(self.weights, 1.0)) for name, scores in self.scores.items()
            },
            "ap_with_holdout": {name: self._ap(scores, self.weights) for name, scores in self.scores.items()},
            "blocked": len(self.bank.blocked),
            "held_out": len(self.bank.passed),
            "outcomes": self.learner["outcomes"],
        }

    def _ap(self, scores: Floats, weights: Floats | None = None) -> float:
        known = ~np.isnan(scores)
        weights = np.ones(len(scores)) if weights is None else weights
        truth = self.made.fraud[known]
        return round(float(average_precision_score(truth, scores[known], sample_weight=weights[known])), 4)

    def _found(self, scores: Floats) -> float:
        codes = np.where(np.isnan(scores), np.nan, self.made.fraud)
        return round(card_precision(self.made.times_us, self.made.customers, codes, scores).mean, 4)


def main() -> None:
    """Run, and say what was found."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the world (default: {SEED})")
    parser.add_argument("--customers", type=int, default=2_000, help="who pay (default: 2000)")
    parser.add_argument("--days", type=int, default=91, help="of the world; the first 30 train (default: 91)")
    parser.add_argument(
        "--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS), help="default: all"
    )
    given = parser.parse_args()
    switches = Switches(
        seed=given.seed, days=given.days, customers=given.customers, terminals=2 * given.customers
    )
    tell(measured(switches, given.worlds), as_json=given.json, show=_show)


def measured(switches: Switches, worlds: Sequence[str]) -> dict[str, Any]:
    """All figures."""
    found = {}
    for name in worlds:
        say(f"the world {name}")
        found[name] = answered(switches, WORLDS[name]).figures()
    return {"worlds": found, "switches": switches.changed, "machine": machine(PACKAGES)}


def answered(switches: Switches, world: World, slice_minutes: int = 60) -> Answered:
    """One world through both roads."""
    pipeline, made = load_pipeline("payments"), simulated_payments(switches)
    pipeline = pipeline if world.tells else without_holdout(pipeline)
    town = Town(switches, made, world)
    replay, learner = lived(pipeline, switches, made, town.sent(), slice_minutes, town.watch)
    later = made.taken(made.times_us >= moment_us(switches, CUT))
    ids = [payment_id(number) for number in later.numbers.tolist()]
    rows = {name: row for row, name in enumerate(replay.ids)}
    order = np.array([rows[name] for name in ids])
    scores = {name: column[order] for name, column in replay.scores.items()}
    scores = {name: column for name, column in scores.items() if not np.isnan(column).all()}
    return Answered(later, scores, _weights(ids, town.bank, pipeline), learner, town.bank)


def _weights(ids: Sequence[str], bank: Bank, pipeline: Pipeline) -> Floats:
    share = pipeline.label.holdout or 1.0
    return np.array(
        [0.0 if name in bank.blocked else 1 / share if name in bank.passed else 1.0 for name in ids]
    )


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    names = list(next(iter(figures["worlds"].values()))["ap"])
    for figure in ("ap", "card_precision_100", "ap_of_labels", "ap_with_holdout"):
        table = Table("", *names, title=figure.replace("_", " "))
        for world, found in figures["worlds"].items():
            table.add_row(world, *(f"{found[figure][name]:.4f}" for name in names))
        console.print(table)
    for world, found in figures["worlds"].items():
        outcomes = ", ".join(f"{count:,} {name}" for name, count in Counter(found["outcomes"]).items())
        console.print(f"{world}: {found['blocked']:,} blocked, {found['held_out']:,} held out; {outcomes}")
    print_machine(console, figures["machine"])


if __name__ == "__main__":
    main()
