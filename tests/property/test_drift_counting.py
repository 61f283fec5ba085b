"""Counting in any split and any order gives the bytes of counting all at once, and what is kept is bounded."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from models.drift.buckets import CATEGORIES, GAMMA, MISSING, WIDTHS, bucket_values, number_buckets
from models.drift.columns import Column
from models.drift.time_slice import (
    MOST_NAME,
    MOST_VALUES,
    MOST_WAITING,
    OTHER,
    Counting,
    WatchedRows,
    decoded,
    empty_slice,
    encoded,
    merged,
)

COLUMNS = (
    Column("amount", "number", "feature", low=0.0, high=100.0),
    Column("country", "category", "feature"),
    Column("score", "probability", "score"),
    Column("card", "category", "entity"),
)
numbers = st.one_of(st.none(), st.floats(-10, 200), st.sampled_from([np.inf, -np.inf, 0.0, 1e300, 5e-324]))
texts = st.one_of(st.none(), st.text(max_size=3), st.integers(0, 200).map(str), st.just("x" * 100))
rows_of = st.lists(
    st.tuples(numbers, texts, st.floats(-0.1, 1.1), texts, texts, st.integers(0, 2)), min_size=1, max_size=150
)


def watched(drawn, version="v1"):
    amounts, countries, scores, cards, producers, _ = zip(*drawn, strict=True)
    given_ = np.array([np.nan if amount is None else amount for amount in amounts])
    return WatchedRows(
        np.zeros(len(drawn), np.int64),
        np.column_stack([given_, scores]),
        [pa.array(countries, pa.string()), pa.array(cards, pa.string())],
        {"producer": producers},
        version,
    )


def counted(rows):
    counting = Counting(COLUMNS, 0, 100)
    counting.add(rows)
    return counting.closed()


@given(rows_of, st.data())
def test_any_split_over_partitions_calls_and_restarts_gives_the_same_bytes(drawn, data):
    rows = watched(drawn)
    order = np.array(data.draw(st.permutations(range(len(drawn)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(drawn)), max_size=6)))
    parts = []
    for places in np.split(order, cuts):
        counting = Counting(COLUMNS, 0, 100)
        half = len(places) // 2
        counting.add(rows.take(places[:half]))
        if data.draw(st.booleans()):
            counting = Counting.of(COLUMNS, decoded(encoded(counting.closed())))
        counting.add(rows.take(places[half:]))
        parts.append(counting.closed())
    assert encoded(merged(COLUMNS, data.draw(st.permutations(parts)))) == encoded(counted(rows))


@given(rows_of, st.integers(0, 5))
def test_late_rows_and_versions_add_up(drawn, late):
    parts = []
    for version in ("v1", "v2"):
        counting = Counting(COLUMNS, 0, 100)
        counting.add(watched(drawn, version))
        counting.late += late
        parts.append(counting.closed())
    found = merged(COLUMNS, parts)
    assert found.late == 2 * late
    assert found.rows == 2 * len(drawn)
    assert found.versions == {"v1": len(drawn), "v2": len(drawn)}


@given(rows_of)
def test_every_row_is_counted_once_in_every_column(drawn):
    found = counted(watched(drawn))
    for place in range(len(COLUMNS)):
        assert found.column(place)[1].sum() == len(drawn)
    missing = sum(amount is None for amount, *_ in drawn)
    buckets, counts = found.column(0)
    assert counts[buckets == MISSING].sum() == missing
    outside = sum(amount is not None and not 0 <= amount <= 100 for amount, *_ in drawn)
    assert found.outside[0] == outside
    assert sum(counts.rows for counts in found.segments["producer"].values()) == len(drawn)


@given(st.lists(st.floats(-1e14, 1e14), min_size=1, max_size=50))
def test_buckets_keep_the_order_of_numbers_and_their_size_to_two_percent(values):
    ordered = np.sort(np.array(values))
    buckets = number_buckets(ordered)
    assert (np.diff(buckets) >= 0).all()
    assert ((buckets >= 0) & (buckets < WIDTHS["number"])).all()
    large = np.abs(ordered) > 1e-8
    back = bucket_values("number", buckets)[large]
    assert (np.abs(back / ordered[large] - 1) < GAMMA - 1).all()


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_an_explosion_of_categories_takes_bounded_room(seed):
    random = np.random.default_rng(seed)
    count = MOST_WAITING * 3
    names = [f"{number}-{'y' * 200}" for number in random.integers(0, 2**60, count)]
    counting = Counting(COLUMNS, 0, 100)
    for start in range(0, count, 500):
        part = names[start : start + 500]
        counting.add(
            WatchedRows(
                np.zeros(len(part), np.int64),
                np.ones((len(part), 2)),
                [pa.array(part), pa.array(part)],
                {"producer": part},
                "v1",
            )
        )
    found = counting.closed()
    assert len(found.names[1]) <= CATEGORIES
    assert max(map(len, found.names[1].values())) <= MOST_NAME
    # Of entities no names are kept.
    assert not found.names[3]
    assert len(found.segments["producer"]) == MOST_VALUES
    assert found.segments["producer"][OTHER].rows > 0
    assert max(map(len, found.segments["producer"])) <= MOST_NAME
    assert len(encoded(found)) < 150_000


def test_what_is_added_in_vain_leaves_no_trace():
    counting = Counting(COLUMNS, 0, 100)
    rows = watched([(1.0, "DE", 0.5, "c", "p", 0)])
    counting.add(rows.take(np.zeros(0, np.int64)))
    assert counting.closed() == empty_slice(COLUMNS, 0, 100)


def test_more_rows_may_come_after_a_look():
    counting = Counting(COLUMNS, 0, 100)
    rows = watched([(1.0, "DE", 0.5, "c", "p", 0), (2.0, "FR", 0.1, "d", "q", 0)])
    counting.add(rows.take(np.array([0])))
    assert counting.closed().rows == 1
    counting.add(rows.take(np.array([1])))
    assert encoded(counting.closed()) == encoded(counted(rows))
