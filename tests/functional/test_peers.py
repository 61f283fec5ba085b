"""The peers of `python -m benchmarks.peers` do driftwood's job: same events, same features, same scores.

On the embedded broker, with few events and a small model. Quix Streams is not among them: it creates topics through the
admin interface, which this broker lacks, and lives in an environment of its own. The benchmark itself compares its answers.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.card_payments import payments
from benchmarks.card_pipeline import CARDS
from benchmarks.peers.__main__ import run
from benchmarks.peers.answers import agreement
from benchmarks.peers.job import FEATURES
from benchmarks.peers.windows import CARD_FEATURES, TERMINAL_FEATURES, Card, Terminal
from benchmarks.workloads import card_workload
from features.errors import DeveloperError
from features.inputs import hash_texts
from features.oracle import Oracle, Row


def test_the_windows_of_the_peers_equal_the_oracle_also_for_late_events():
    # Few entities whose payments are minutes apart, so that the late ones fall behind others of their entity.
    made = payments(700, cards=300, terminals=1, seed=3)
    of_card, of_terminal = CARDS.feature_set.entities
    assert [output.name for output in (*of_card.outputs, *of_terminal.outputs)] == [
        *CARD_FEATURES,
        *TERMINAL_FEATURES,
    ]
    cards, terminals = Oracle(of_card), Oracle(of_terminal)
    card, terminal = Card(), Terminal()
    states: dict[int, list[object]] = {}
    state, late, newest_us = terminal.new(), 0, 0
    [terminal_hash] = hash_texts(pa.array(["t0"])).tolist()
    for at, number, amount in zip(
        made.times_us.tolist(), made.cards.tolist(), made.amounts.tolist(), strict=True
    ):
        late, newest_us = late + (at < newest_us), max(at, newest_us)
        row = Row(at, [1.0, amount], [terminal_hash])
        found = card.take(states.setdefault(number, card.new()), at, amount, "t0")
        np.testing.assert_allclose(found, cards.answer(str(number), row).features, rtol=1e-9, atol=1e-6)
        found = terminal.take(state, at, amount)
        np.testing.assert_allclose(found, terminals.answer("t0", row).features, rtol=1e-9, atol=1e-6)
    assert late > 2


@pytest.mark.parametrize("column", [FEATURES.index("card_amount_mean_7d"), -1], ids=["feature", "score"])
def test_a_peer_that_is_wrong_for_one_event_is_noticed(column):
    ours = {f"p{number}": np.arange(len(FEATURES) + 1) / 100 for number in range(4)}
    theirs = {event: row.copy() for event, row in ours.items()}
    assert agreement(ours, theirs).predictions == 1.0
    theirs["p2"][column] += 1e-4
    found = agreement(ours, theirs)
    assert found.predictions == 0.75
    assert found.features == (1.0 if column == -1 else 0.75)
    assert list(found.differing.values()) == [1]


def test_faust_with_feast_and_the_plain_loop_answer_as_driftwood_does():
    figures = run(
        card_workload(200, 20), 400, "embedded", ["faust_feast", "plain"], training=2_000, settle_s=0.0
    )
    assert set(figures["cpu_us_per_event"]) == {"driftwood", "faust_feast", "plain"}
    assert set(figures["ratio"]) == {"faust_feast", "plain"}
    for peer in ("faust_feast", "plain"):
        equal = figures["equal"][peer]
        assert equal["compared"] + equal["left_out"] == 400
        assert equal["predictions"] == equal["features"] == 1.0, (peer, equal)


def test_quix_streams_is_refused_where_it_cannot_run():
    with pytest.raises(DeveloperError, match="the embedded broker lacks"):
        run(card_workload(), 400, "embedded", ["quix"])
