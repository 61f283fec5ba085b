"""The watch over the label feed: counts by brute force, however records are cut; and what the join says of a stall."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwood import Label
from models.label_feed import HOUR_US, HOURS, LabelFeed
from models.matured import Matured
from models.outcomes import (
    CENSORED,
    CORRECTED,
    DUPLICATE,
    EARLY,
    EXPIRED,
    LATE,
    MATCHED,
    NAMES,
    REPEAT,
    SILENT,
    UNKNOWN,
)
from tests.served_outcomes import NAN, matured

CLASSES = ("a", "b", "c")
LABELS = {
    "binary": Label("came"),
    "multiclass": Label("came", kind="multiclass", classes=CLASSES),
    "regression": Label("came", kind="regression"),
}

# (hours after a beginning, outcome, code)
outcomes = st.lists(
    st.tuples(st.floats(0, 3 * HOURS), st.sampled_from(NAMES), st.integers(0, 2)), min_size=1, max_size=80
)


def batch_of(rows: list[tuple[float, str, int]], kind: str) -> Matured:
    """Outcomes that became known then."""
    known = [int(hours * HOUR_US) for hours, _, _ in rows]
    codes = [NAN if name not in (MATCHED, CORRECTED, SILENT) else _code(code, kind) for _, name, code in rows]
    names = [name for _, name, _ in rows]
    return matured(codes, [0.5] * len(rows), times_us=known, delays_us=0, kinds=names)


def _code(code: int, kind: str) -> float:
    return float(min(code, 1)) if kind == "binary" else float(code)


def fed(kind: str, rows: list[tuple[float, str, int]], cuts: set[int]) -> LabelFeed:
    feed = LabelFeed(LABELS[kind])
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for start, end in pairwise(edges):
        feed.step(batch_of(rows[start:end], kind))
    return feed


@given(outcomes, st.sampled_from(sorted(LABELS)), st.sets(st.integers(1, 79)))
def test_hours_are_counted_as_brute_force_does_however_records_are_cut(rows, kind, cuts):
    found = fed(kind, rows, cuts).figures()
    came: list[tuple[int, str, int]] = []
    upto = 0
    for hours, name, code in rows:
        if name in (MATCHED, CORRECTED, LATE, DUPLICATE, UNKNOWN):
            upto = max(upto, int(hours))
            came.append((upto if name == UNKNOWN else int(hours), name, code))
    newest = max((hour for hour, _, _ in came), default=0)
    alive = [one for one in came if one[0] > newest - HOURS]
    oldest = max(min((hour for hour, _, _ in came), default=0), newest - HOURS + 1)
    for when, hours in (("now", range(newest - 1, newest)), ("usual", range(oldest, newest))):
        if newest == oldest:
            assert when not in found["labels_per_hour"]
            continue
        within = [one for one in alive if one[0] in hours]
        assert found["labels_per_hour"][when] == pytest.approx(len(within) / len(hours))
        unknown = sum(name == UNKNOWN for _, name, _ in within)
        assert found["unknown_share"].get(when) == (pytest.approx(unknown / len(within)) if within else None)
        codes = Counter(_code(code, kind) for _, name, code in within if name in (MATCHED, CORRECTED))
        wanted = {"binary": {"came": 1.0}, "multiclass": {"a": 0.0, "b": 1.0, "c": 2.0}}.get(kind, {})
        assert found["class_share"].keys() == wanted.keys()
        for name, code in wanted.items():
            share = found["class_share"][name].get(when)
            assert share == (pytest.approx(codes[code] / codes.total()) if codes else None)


@given(outcomes, st.sets(st.integers(1, 79)), st.sets(st.integers(1, 79)))
def test_the_state_does_not_depend_on_how_records_are_cut_and_goes_on_where_it_was_taken(rows, some, others):
    one, other = fed("binary", rows, some), fed("binary", rows, others)
    assert _plain(one) == _plain(other)
    restored = LabelFeed(LABELS["binary"])
    restored.restore(one.state())
    assert restored.figures() == other.figures()


def _plain(feed: LabelFeed) -> dict[str, object]:
    return {name: np.asarray(value).tolist() for name, value in feed.state().items()}


def test_what_is_no_label_counts_nothing():
    rows = [(hour, name, 0) for hour in (0.0, 1.0) for name in (SILENT, EARLY, CENSORED, EXPIRED, REPEAT)]
    assert LabelFeed(LABELS["binary"]).figures() == fed("binary", rows, set()).figures()


def test_an_unknown_id_is_counted_also_where_the_horizon_is_longer_than_a_week():
    feed, horizon_h = LabelFeed(LABELS["binary"]), 8 * 24
    for hour in range(12 * 24):
        rows = [(float(hour), MATCHED, 0)]
        if hour > horizon_h:
            rows.append(
                (float(hour - horizon_h), UNKNOWN, 0)
            )  # known then, and nobody knows the event until now
        feed.step(batch_of(rows, "binary"))
    assert feed.figures()["unknown_share"]["now"] == 0.5


def test_a_label_that_was_taken_back_is_of_no_class():
    feed = LabelFeed(LABELS["binary"])
    rows = matured([1.0, NAN, 0.0], [0.5] * 3, delays_us=[0, 0, HOUR_US], kinds=[MATCHED, CORRECTED, MATCHED])
    feed.step(rows)
    assert feed.figures()["class_share"] == {"came": {"now": 1.0, "usual": 1.0}}
    assert feed.figures()["labels_per_hour"]["now"] == 2.0


def test_a_stall_begins_with_the_first_partition_that_says_so_and_ends_with_the_last():
    feed, found = LabelFeed(LABELS["binary"]), []
    said = [("1", 1_700_000_003_000), ("0", 1_700_000_000_000), ("0", None), ("1", None)]
    for partition, since_ms in said:
        feed.hear(partition, since_ms)
        found.append((feed.frozen, feed.figures()["stalled_since_ms"]))
    third, first = (f"label feed stalled since 2023-11-14T22:13:2{second}Z" for second in (3, 0))
    at_ms = [since_ms for _, since_ms in said]
    assert found == [(third, at_ms[0]), (first, at_ms[1]), (third, at_ms[0]), (None, None)]
