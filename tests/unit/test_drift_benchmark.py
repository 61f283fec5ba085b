"""The benchmark of the drift watch: its worlds, and how it judges alarms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.quality import drift_baselines, drift_labels, drift_real, elec2
from benchmarks.quality.drift_life import answered, counted_and_read, featured, trained
from benchmarks.quality.drift_real import lives, raised_by_month, weeks
from benchmarks.quality.drift_scored import Incident, Span, of_alarms, of_alerts, summary
from benchmarks.quality.drift_world import (
    CUT,
    GATEWAYS,
    HIT,
    KINDS,
    Onset,
    World,
    calm,
    drifted,
    pipeline,
    start_us,
)
from benchmarks.quality.replay import BLEND
from benchmarks.quality.replay import Answered as Replayed
from examples.payments.simulation import DAY_US
from models.drift.alert import Alert, Status, moment
from models.fallback import FallbackScorer

DAY = DAY_US
SPAN = Span(10 * DAY, 20 * DAY, 30 * DAY)
COLUMNS = ("customers", "terminals", "amounts", "channels", "producers", "distances", "fraud")


def alert(name: str, status: Status, day: float) -> Alert:
    at = moment(round(day * DAY))
    return Alert(name, status, 0, "p", "warning", at, at, "", ("data",), (), 1.0, (), "")


def judged(*alerts: Alert) -> Incident:
    times = np.arange(100, dtype=np.int64) * DAY // 2
    return of_alerts(alerts, SPAN, times, times + 2 * DAY)


def test_an_alert_behind_the_onset_has_found_it_and_its_delay_is_counted():
    found = judged(alert("a", "raised", 21.0), alert("a", "updated", 25.0), alert("a", "resolved", 29.0))
    assert (found.found_us, found.alarms, found.false_alarms) == (21 * DAY, 1, 0)
    assert (found.events, found.labels, found.delay) == (2, 0, 0.1)


def test_an_alert_before_the_onset_is_false_and_one_more_behind_it_is_one_too_many():
    found = judged(
        alert("a", "raised", 12.0),
        alert("a", "resolved", 13.0),
        alert("b", "raised", 24.0),
        alert("c", "raised", 26.0),
    )
    assert (found.alarms, found.false_alarms, found.labels) == (2, 1, 4)


def test_an_open_alert_that_is_updated_has_found_it_but_one_that_is_resolved_has_not():
    assert judged(alert("a", "raised", 12.0), alert("a", "updated", 22.0)).found_us == 22 * DAY
    assert judged(alert("a", "raised", 12.0), alert("a", "resolved", 22.0)).found_us is None


def test_what_never_rings_finds_nothing_and_what_always_rings_is_nearly_always_wrong():
    never, always = of_alarms([], SPAN), of_alarms([day * DAY for day in range(10, 30)], SPAN)
    assert summary([never])["f1"] == 0
    assert summary([never])["normalised_delay"] == 1
    figures = summary([always])
    assert (figures["detected_fraction"], figures["alerts_per_incident"]) == (1, 10)
    assert (figures["f1"], figures["normalised_delay"]) == (round(2 / 12, 3), 0)
    assert figures["false_alarms_per_30_days"] == 30


@pytest.fixture(scope="module")
def world() -> World:
    return calm(5, 10, 200)


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_before_its_onset_a_changed_world_is_the_calm_one(kind, gradual, world):
    onset_us = start_us(5) + 6 * DAY
    other = drifted(world, 5, kind, Onset(6, gradual))
    before = world.times_us < onset_us
    changed = []
    for name in COLUMNS:
        mine, theirs = getattr(world, name), getattr(other, name)
        assert np.array_equal(mine[before], theirs[before], equal_nan=name == "distances")
        changed += [name] * (not np.array_equal(mine, theirs, equal_nan=name == "distances"))
    assert len(changed) == 1
    assert (changed == ["fraud"]) == (not KINDS[kind].inputs)


def test_one_producer_is_hit_and_the_others_are_as_before(world):
    other = drifted(world, 5, "field missing at one producer", Onset(6))
    hit = world.producers == GATEWAYS.index(HIT)
    late = world.times_us >= start_us(5) + 6 * DAY
    assert np.isnan(other.distances[hit & late]).all()
    assert np.array_equal(other.distances[~hit], world.distances[~hit], equal_nan=True)


def test_a_gradual_change_grows(world):
    other = drifted(world, 5, "category swap", Onset(2, gradual=True))
    swapped = other.channels != world.channels
    days = (world.times_us - start_us(5)) // DAY
    shares = [swapped[days == day].mean() for day in (2, 4, 6, 8)]
    assert shares[0] < shares[1] < shares[2] <= shares[3] + 0.05


def test_slices_counted_from_a_backfill_are_those_of_the_records_of_the_roads():
    counted, read = counted_and_read(pipeline(), calm(3, 2, 600))
    assert len(read) > 40
    assert counted == read


def test_psi_rings_for_what_moved_and_not_before():
    made, begin_us = pipeline(), start_us(5)
    world = calm(5, CUT + 4, 150)
    model = trained(made, world, featured(made, world), begin_us)
    since_us = begin_us + CUT * DAY
    moved = drifted(world, 5, "category swap", Onset(CUT + 2))
    one = answered(made, moved, featured(made, moved), model.scorer, model.threshold, since_us)
    rings = drift_baselines.psi(one.slices, model.reference)
    assert all(at <= one.slices[-1].end_us for at in rings)
    assert any(at > since_us + 2 * DAY for at in rings)


def test_an_error_that_doubles_is_found_and_one_that_stays_is_not():
    assert drift_labels.concept_raised(drift_labels.alerts_of(1, 24 * 12, 40)) == 0
    found = drift_labels.labels_until_found(1, 40, 24 * 12, 72)
    assert found is not None
    assert 0 < found < 2_880


def test_expected_auc_stands_beside_what_came_true_week_by_week():
    made, begin_us = pipeline(), start_us(2)
    world = calm(2, 14, 150)
    scorer = FallbackScorer(made)
    one = answered(made, world, featured(made, world), scorer, scorer.threshold, begin_us)
    # Calibrated: what is said comes true as often as it is said.
    came = np.random.default_rng(1).random(len(world)) < one.scores
    told = Replayed(list(world.ids), 0, [{BLEND: score} for score in one.scores.tolist()])
    truth = pd.Series(came.astype(float), index=world.ids)
    found = weeks(made, one.slices, told, truth, world.times_us)
    assert [*found] == ["2024-04-01", "2024-04-08"]
    for row in found.values():
        assert row["expected"] - row["came_true"] == pytest.approx(row["difference"], abs=2e-4)
        assert abs(row["difference"]) < 4 * row["standard_error"] + 0.01


def test_every_alert_is_a_line_and_counts_in_its_month():
    told = [
        alert("a", "raised", 1.0),
        alert("b", "raised", 5.5),
        alert("b", "updated", 6.0),
        alert("b", "resolved", 40.0),
    ]
    assert [line[:36] for line in lives(told, 2 * DAY)] == ["1970-01-06T12:00 to 1970-02-10T00:00"]
    assert lives(told, 0)[0].startswith("1970-01-02T00:00 to open: warning")
    assert raised_by_month(told, 2 * DAY) == {"1970-01": 1}


def test_elec2_goes_through_the_roads_and_its_alerts_are_told(tmp_path: Path):
    rows = 120
    at = pd.date_range("1996-05-07", periods=rows, freq="30min")
    columns = {name: np.linspace(0.0, 1.0, rows) for name in elec2.NUMBERS}
    later = at + pd.Timedelta(minutes=30)
    table = pd.DataFrame(
        {"event_time": at, **columns, "class": ["UP", "DOWN"] * (rows // 2), "label_time": later}
    )
    table.to_parquet(tmp_path / "elec2.parquet")
    found = drift_real.elec2(tmp_path / "elec2.parquet")
    assert (found["raised_within_14_days"], found["first_after_hours"]) == (0, None)
    assert found["days"] == 2
