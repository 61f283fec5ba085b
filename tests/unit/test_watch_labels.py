"""Records of outcomes become reports: copies are dropped, notices heard, commands passed over, junk counted."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from driftwood import Drift, categorical
from features.store import Position
from models.drift.label_counting import LabelCounting
from models.drift.label_reports import FeedState, LabelSlice, decoded
from models.outcomes import MATCHED
from streams.control import COMMAND
from streams.feed_notices import FeedNotice, notice_message
from streams.outcomes import Outcome, OutcomeCodec
from streams.served_rows import ServedRow
from streams.watch_frames import SliceFrames
from streams.watch_labels import LabelWatch
from tests.in_process import LogRecord
from tests.monitor_world import HOUR, START_US, watched_orders

PIPELINE = watched_orders(Drift())
JOIN = "orders.hop-join@memory/0"


class Labels:
    """The one partition of outcomes, read by one `LabelWatch` after another."""

    def __init__(self):
        self.offset, self.reports = 0, []
        self.watch = self.made()

    def made(self, state=None, pipeline=PIPELINE):
        frames = SliceFrames(pipeline, "orders.drift-slices")
        counting = partial(LabelCounting, pipeline)
        return LabelWatch(OutcomeCodec(pipeline), frames, "orders.outcomes@memory/0", counting, state)

    def take(self, value, headers):
        frames = SliceFrames(PIPELINE, "orders.drift-slices")
        found = []
        for message in self.watch.take(LogRecord(self.offset, 0, None, value, headers)):
            one = frames.read(LogRecord(0, 0, None, message.value, message.headers))
            assert one is not None and one.kind == "labels"
            found.append((one.position, decoded(one.value)))
        self.offset += 1
        self.reports += [report for _, report in found]
        return found

    def matched(self, known_us, first, count=5, pipeline=PIPELINE):
        """Outcomes at these positions."""
        outcomes = [_outcome(known_us, first + at) for at in range(count)]
        codec = OutcomeCodec(pipeline)
        found = []
        for one in codec.messages(outcomes, "orders.outcomes", JOIN):
            found += self.take(one.value, one.headers)
        return found


def _outcome(known_us, row):
    numbers = len(PIPELINE.feature_set.names)
    served = ServedRow(
        f"o{row}",
        known_us - HOUR,
        np.zeros(numbers).tobytes(),
        ("DE",),
        np.array([0.2]).tobytes(),
        parts="",
        threshold=0.5,
        propensity=1.0,
        keys=(None, None),
        champion="m1",
        features=PIPELINE.feature_set.hash,
    )
    return Outcome(f"o{row}", MATCHED, known_us - HOUR, known_us, 1.0, float("nan"), row, 0, served)


def test_a_report_has_the_position_of_the_record_that_completes_it():
    labels = Labels()
    assert labels.matched(START_US, 0) == []
    [(position, report)] = labels.matched(START_US + HOUR, 5)
    assert position == Position(1, 0)
    assert isinstance(report, LabelSlice) and report.outcomes == {MATCHED: 5}


def test_outcomes_that_come_again_however_they_are_cut_are_counted_once():
    labels = Labels()
    labels.matched(START_US, 0)
    labels.matched(START_US, 0, count=8)
    labels.matched(START_US, 3, count=2)
    [(_, report)] = labels.matched(START_US + HOUR, 8)
    assert isinstance(report, LabelSlice) and report.outcomes == {MATCHED: 8}
    assert labels.watch.counts["copies"] == 7


def test_who_goes_on_from_a_state_makes_the_same_reports():
    through, cut = Labels(), Labels()
    for at in range(30):
        for one in (through, cut):
            one.matched(START_US + at * HOUR // 3, at * 5)
        cut.watch = cut.made(cut.watch.state())
    assert through.reports == cut.reports and len(through.reports) >= 9


def test_notices_are_heard_once():
    labels = Labels()
    stalled = notice_message(FeedNotice(True, 1_000, 61_000, 3, 0), "orders.outcomes", JOIN)
    [(_, report)] = labels.take(stalled.value, stalled.headers)
    assert isinstance(report, FeedState) and report.stalled and report.partition == "0"
    assert labels.take(stalled.value, stalled.headers) == []


def test_that_labels_are_stalled_is_not_forgotten_when_the_pipeline_is_reloaded_with_one_feature_more():
    labels = Labels()
    stalled = notice_message(FeedNotice(True, 1_000, 61_000, 3, 0), "orders.outcomes", JOIN)
    labels.take(stalled.value, stalled.headers)
    more = watched_orders(Drift(), features_more=[categorical("city")])
    again = labels.made(labels.watch.state(), more)
    flows = notice_message(FeedNotice(False, 1_000, 99_000, 4, 0), "orders.outcomes", JOIN)
    [message] = again.take(LogRecord(9, 0, None, flows.value, flows.headers))
    report = decoded(message.value)
    assert isinstance(report, FeedState) and not report.stalled


def test_commands_are_passed_over_and_outcomes_of_other_features_left_out_with_one_line(caplog):
    labels = Labels()
    assert labels.take(json.dumps({"kind": "learner"}).encode(), [(COMMAND, b"0")]) == []
    for at in range(3):
        labels.take(
            b"x", [("upstream", JOIN.encode()), ("frame", b"outcomes-2-other-0"), ("n", str(at).encode())]
        )
    assert labels.watch.counts["other_version"] == 3 and labels.watch.counts["junk"] == 0
    assert caplog.text.count("is of other features") == 1


@pytest.mark.parametrize(
    "headers", [[], [("frame", b"?")], [("upstream", b"\xff"), ("frame", b"label-feed-1")]]
)
@pytest.mark.parametrize("value", [None, b"", b"junk"])
def test_junk_is_counted_and_stops_nothing(headers, value):
    labels = Labels()
    assert labels.take(value, headers) == []
    assert labels.take(value, [("upstream", JOIN.encode()), ("frame", OutcomeCodec(PIPELINE).version)]) == []
    assert labels.watch.counts["junk"] == 2
    labels.matched(START_US, 0)
    assert len(labels.matched(START_US + HOUR, 5)) == 1
