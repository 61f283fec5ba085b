"""Reports about labels, and the signals made of them: the same however outcomes are cut, and wherever a restart lies."""

from itertools import pairwise

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from driftwood import Drift
from features.durations import HOUR_US
from models.drift.label_counting import LabelCounting
from models.drift.label_judge import LabelJudge
from models.drift.label_reports import FeedState, LabelSlice, LossChange, decoded, encoded
from models.matured import Matured
from models.outcomes import CENSORED, CORRECTED, LEARNT, NAMES
from tests.labelled_days import Day, cut, outcomes
from tests.served_outcomes import NAN, START_US, matured, pipeline

KINDS = ("binary", "multiclass", "regression")

# (event, hours, delay; kind of outcome, code, code replaced, score)
rows_of_anything = st.lists(
    st.tuples(
        st.floats(-400 * 24, 40 * 24),
        st.floats(-2, 60),
        st.sampled_from(NAMES),
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.99, 1.0, NAN]),
    ),
    max_size=60,
)


def batch_of(rows, kind: str) -> Matured:
    codes, replaced, scores = [], [], []
    most = 1 if kind == "binary" else 2
    for _, _, name, code, old, score in rows:
        codes.append(float(min(code, most)) if name in LEARNT else NAN)
        replaced.append(float(min(old, most)) if name == CORRECTED or (name == CENSORED and old) else NAN)
        scores.append([score, 1 - score, 0.0] if kind == "multiclass" else score)
    shape = (len(rows), 3) if kind == "multiclass" else (len(rows),)
    served = np.asarray(scores, float).reshape(shape)
    return matured(
        codes,
        served,
        times_us=[START_US + int(hours * HOUR_US) for hours, *_ in rows],
        delays_us=np.array([int(delay * HOUR_US) for _, delay, *_ in rows], np.int64),
        kinds=[name for _, _, name, *_ in rows],
        replaced=replaced,
        parts={"lightgbm": served, "online": np.full(shape, np.nan)},
    )


@settings(deadline=None, max_examples=60)
@given(rows_of_anything, st.sampled_from(KINDS), st.sets(st.integers(1, 59)), st.sets(st.integers(1, 59)))
def test_any_outcomes_give_the_same_reports_however_they_are_cut_and_restarted(rows, kind, cuts, restarts):
    watched = pipeline(kind, horizon="1d", drift=Drift(time_slice="6h"))
    whole = LabelCounting(watched)
    wanted = whole.step(batch_of(rows, kind))
    found, counting = [], LabelCounting(watched)
    edges = sorted({0, *(cut for cut in cuts | restarts if cut < len(rows)), len(rows)})
    for start, end in pairwise(edges):
        found += counting.step(batch_of(rows[start:end], kind))
        if end in restarts:
            state = counting.state()
            counting = LabelCounting(watched)
            counting.restore(state)
            assert counting.state() == state
    assert [encoded(one) for one in found] == [encoded(one) for one in wanted]
    assert counting.state() == whole.state()
    judge = LabelJudge(watched)
    for one in wanted:
        assert decoded(encoded(one)) == one
        judge.judge(one)


LONG = [Day(events=600)] * 16 + [Day(events=600, wrong=0.45, positives=0.5)] * 4 + [Day(events=100)] * 3
ALL_ROWS = outcomes(LONG)


# A run takes seconds: what fails is shown as it is.
@settings(deadline=None, max_examples=3, phases=[Phase.generate])
@given(st.sets(st.integers(0, 40), min_size=1, max_size=3), st.integers(250, 700))
def test_counting_and_judge_go_on_exactly_where_they_were_stopped(restarts, size):
    watched = pipeline(horizon="3d", drift=Drift(time_slice="2h"))
    runs = []
    for stops in (set[int](), restarts):
        counting, judge, told = LabelCounting(watched), LabelJudge(watched), []
        for number, record in enumerate(cut(ALL_ROWS, size if stops else 1_000)):
            found = counting.step(record)
            for place, report in enumerate(found):
                told += [encoded(report), judge.judge(report)]
                if number in stops and place == 0:
                    judge = _restored(judge, LabelJudge(watched))
            if number in stops:
                counting = _restored(counting, LabelCounting(watched))
        runs.append((told, counting.state(), judge.state()))
    assert runs[0] == runs[1]
    # The run is one in which everything that has a state is at work.
    kinds = {type(decoded(one)) for one in runs[0][0] if isinstance(one, bytes)}
    assert kinds == {LabelSlice, LossChange}
    signals = [signal for one in runs[0][0] if isinstance(one, list) for signal in one]
    assert {"labels", "concept"} <= {signal.level for signal in signals}


def _restored(old, new):
    state = old.state()
    new.restore(state)
    assert new.state() == state
    return new


@given(st.lists(st.tuples(st.sampled_from("012"), st.one_of(st.none(), st.integers(0, 10**6))), max_size=12))
def test_what_the_join_says_of_its_feed_is_told_once_and_kept(said):
    counting, stalled = LabelCounting(pipeline()), set[str]()
    for at, (partition, since_ms) in enumerate(said):
        changes = (since_ms is not None) != (partition in stalled)
        found = counting.hear(partition, since_ms, 10**6 + at)
        (stalled.add if since_ms is not None else stalled.discard)(partition)
        assert bool(found) == changes
        if found:
            assert isinstance(found[0], FeedState)
            assert found[0].stalled == (since_ms is not None)
        counting = _restored(counting, LabelCounting(pipeline()))
