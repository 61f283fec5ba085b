"""Expressions against plain Python arithmetic, row by row, with nulls as SQL has them."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import PipelineError
from features.expressions import parse_expression
from features.inputs import entity_inputs, hash_numbers, hash_texts
from features.plan import EntityPlan, Floats, Input
from features.rows import RowLayout, Rows
from features.schema import Kind

KINDS: dict[str, Kind] = {"a": "number", "b": "number", "yes": "boolean", "status": "text", "other": "text"}
NAN = math.nan


def rows_of(*events: tuple[float | None, float | None, bool | None, str | None, str | None]) -> Rows:
    columns = list(zip(*events, strict=True))
    numbers = np.array(columns[:3], np.float64).T
    texts = tuple(pa.array(column, pa.string()) for column in columns[3:])
    ids = pa.array([str(index) for index in range(len(events))])
    return Rows(
        RowLayout(("a", "b", "yes"), ("status", "other")),
        ids,
        np.zeros(len(events), np.int64),
        numbers,
        texts,
    )


ROWS = rows_of(
    (6.0, 3.0, True, "paid", "paid"),
    (-2.0, 0.0, False, "refunded", "paid"),
    (None, 4.0, None, None, "paid"),
    (0.5, None, True, "", None),
)


def values(text: str) -> list[float]:
    found: list[float] = parse_expression(text, KINDS, "here").evaluate(ROWS).tolist()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b", [9, -2, NAN, NAN]),
        ("a / b", [2, NAN, NAN, NAN]),
        ("-a % 4", [2, 2, NAN, 3.5]),
        ("a // 4", [1, -1, NAN, 0]),
        ("a ** 2", [36, 4, NAN, 0.25]),
        ("a ** 0.5", [6**0.5, NAN, NAN, 0.5**0.5]),
        ("sqrt(a)", [6**0.5, NAN, NAN, 0.5**0.5]),
        ("log(b)", [math.log(3), NAN, math.log(4), NAN]),
        ("log1p(a)", [math.log1p(6), NAN, NAN, math.log1p(0.5)]),
        ("exp(a * 1000)", [NAN, 0, NAN, math.exp(500)]),
        ("1 / (1 / b)", [3, NAN, 4, NAN]),
        ("max(a, b, 1)", [6, 1, NAN, NAN]),
        ("min(abs(a), 1)", [1, 1, NAN, 0.5]),
        ("coalesce(a, b, 0)", [6, -2, 4, 0.5]),
        ("isnull(a) + isnull(status)", [0, 0, 2, 0]),
        ("where(a > 0, b, -1)", [3, -1, NAN, NAN]),
        ("where(isnull(a), 0, a)", [6, -2, 0, 0.5]),
        ("a > 0", [1, 0, NAN, 1]),
        ("0 < a <= 6", [1, 0, NAN, 1]),
        ("a > 0 and b > 0", [1, 0, NAN, NAN]),
        ("a > 0 or b > 0", [1, 0, 1, 1]),
        ("not yes", [0, 1, NAN, 0]),
        ("yes and True", [1, 0, NAN, 1]),
        ("status == 'paid'", [1, 0, NAN, 0]),
        ("'paid' != status", [0, 1, NAN, 1]),
        ("status == other", [1, 0, NAN, NAN]),
        ("status in ('paid', 'refunded')", [1, 1, NAN, 0]),
        ("status not in ['paid']", [0, 1, NAN, 1]),
        ("b in (3, 4)", [1, 0, 1, NAN]),
        ("status == 'refunded' and a < 0", [0, 1, NAN, 0]),
        ("(status == 'paid') * a", [6, 0, NAN, 0]),
        ("floor(a)", [6, -2, NAN, 0]),
        ("nullif(a, -2) + 1", [7, NAN, NAN, 1.5]),
        ("nullif(a, b)", [6, -2, NAN, 0.5]),
        ("sin(a) ** 2 + cos(a) ** 2 > 0.999", [1, 1, NAN, 1]),
    ],
)
def test_an_expression_has_the_value_of_plain_arithmetic_and_null_gives_null(text, expected):
    np.testing.assert_allclose(values(text), expected, rtol=1e-15)


def test_an_expression_knows_its_names_its_kind_and_its_normal_form():
    parsed = parse_expression("  a>0   and status=='x'", KINDS, "here")
    assert parsed.names == ("a", "status") and parsed.texts == {"status"} and parsed.kind == "condition"
    assert parsed.source == "a > 0 and status == 'x'"
    assert parse_expression(parsed.source, KINDS, "here").source == parsed.source


@given(st.text(max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    try:
        parse_expression(text, KINDS, "here")
    except PipelineError:
        pass


PARTS = st.recursive(
    st.sampled_from(["a", "b", "2", "0.5", "yes"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%", "//", "**"]), inner).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
        st.tuples(inner, inner, inner).map("where({0[0]} > {0[1]}, {0[2]}, {0[0]})".format),
        st.tuples(st.sampled_from(["abs", "sqrt", "log1p", "sin", "exp"]), inner).map(
            "{0[0]}({0[1]})".format
        ),
        st.tuples(inner, inner).map("coalesce({0[0]}, {0[1]})".format),
    ),
    max_leaves=8,
).filter(lambda text: "a" in text or "b" in text)


@given(PARTS, st.integers(0, 2**32 - 1))
def test_a_value_depends_on_its_row_alone_bit_for_bit(text, seed):
    """However a batch is cut: the vectorised functions of NumPy must not be seen through."""
    random = np.random.default_rng(seed)
    numbers = random.normal(0, 10, (37, 3))
    numbers[random.random((37, 3)) < 0.1] = np.nan
    numbers[:, 2] = random.random(37) < 0.5
    layout = RowLayout(("a", "b", "yes"), ())
    ids = pa.array(["x"] * 37)
    whole = Rows(layout, ids, np.zeros(37, np.int64), numbers, ())
    try:
        parsed = parse_expression(text, KINDS, "here")
    except PipelineError:
        return  # such as an expression of constants
    together = parsed.evaluate(whole)
    assert np.isfinite(together[~np.isnan(together)]).all()
    for cut in (1, 5, 16):
        pieces = [parsed.evaluate(whole.take(np.arange(at, min(at + cut, 37)))) for at in range(0, 37, cut)]
        assert np.concatenate(pieces).tobytes() == np.ascontiguousarray(together).tobytes()


# ---- the inputs of windows


def inputs(*given: Input, hashed: tuple[Input, ...] = ()) -> tuple[Floats, np.ndarray]:
    return entity_inputs(EntityPlan("shop", ("status",), given, hashed, (), (), ()), ROWS)


def test_an_input_is_kept_only_where_its_condition_holds():
    numbers, _ = inputs(Input(None), Input("a"), Input(None, "status == 'paid'"), Input("b", "a > 0 or yes"))
    expected = [[1, 1, 1, 1], [6, -2, NAN, 0.5], [1, NAN, NAN, NAN], [3, NAN, NAN, NAN]]
    np.testing.assert_array_equal(numbers.T, expected)


def test_texts_and_numbers_are_hashed_and_null_or_refused_is_zero():
    _, hashes = inputs(hashed=(Input("status"), Input("a"), Input("status", "a > 0")))
    assert (hashes[:, 0] == 0).tolist() == [False, False, True, False]  # an empty text is a value
    assert (hashes[:, 1] == 0).tolist() == [False, False, True, False]
    assert (hashes[:, 2] == 0).tolist() == [False, True, True, False]


def test_hashes_are_those_of_every_machine_and_every_run():
    assert hash_texts(pa.array(["JFK", "Zürich"])).tolist() == [7425777529508795112, 11993177627919292516]
    assert hash_numbers(np.array([1.0, 0.0, -0.0])).tolist() == [
        2130271605816900181,
        11286133854226296554,
        11286133854226296554,
    ]


def test_many_different_numbers_have_as_many_hashes():
    assert len(set(hash_numbers(np.arange(100_000, dtype=np.float64)).tolist())) == 100_000
