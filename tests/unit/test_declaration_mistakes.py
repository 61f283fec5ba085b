"""Every mistake in a pipeline is one PipelineError: the place, what was seen, what was expected."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from driftwood import (
    CostMatrix,
    DailyCapacity,
    Entity,
    Label,
    Pipeline,
    PipelineError,
    Threshold,
    categorical,
    expression,
    hour_of_day,
    known_later,
    personal,
    sensitive,
    unit,
)


class Departure(msgspec.Struct):
    flight_id: str
    scheduled_departure: datetime
    origin: str
    destination: str
    carrier: str
    passenger: Annotated[str, personal]
    age: Annotated[float, personal]
    distance_km: Annotated[float, Meta(ge=0), unit("km")]
    diverted: bool
    stops: int
    landed: Annotated[datetime | None, known_later] = None
    late: Annotated[int | None, known_later] = None
    tail: str | None = None
    booked: date | None = None


origin = Entity("origin")
LATE = Label("late", horizon="3d")


def declare(**changed: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "event": Departure,
        "id": "flight_id",
        "time": "scheduled_departure",
        "features": ["distance_km"],
        "label": LATE,
        **changed,
    }
    return Pipeline(declared.pop("name", "flights"), **declared)


def struct(**fields: Any) -> type[msgspec.Struct]:
    usual = {"flight_id": str, "scheduled_departure": datetime, "distance_km": float, **fields}
    return msgspec.defstruct("Odd", [(name, kind) for name, kind in usual.items() if kind is not None])


ROUTE = Entity("route", keys=("origin", "destination"))
CIRCLE = [expression("a", "b + 1"), expression("b", "a * 2")]

FEATURES: list[tuple[object, str, str, str]] = [
    (origin.mean("carrier", "3h"), "origin.mean('carrier', '3h')", "carrier (str) is text", "a number field"),
    (
        origin.mean("distnace_km", "3h"),
        "origin.mean",
        "Departure has no field 'distnace_km'",
        "'distance_km'",
    ),
    (origin.sum("scheduled_departure", "1d"), "origin.sum", "is a time", "a number field"),
    (origin.mean("late + 1", "1d", name="x"), "origin.mean", "'late' is the label", "fields of the event"),
    (origin.last("late"), "origin.last('late')", "last over labels ('late')", "rate, count, sum, mean, std"),
    (origin.max("late", "1d"), "origin.max", "max over labels", "no max can take back"),
    (origin.rate("stops", "1d"), "origin.rate('stops', '1d')", "'stops', which is not the label", "'late'"),
    (origin.rate("late"), "origin.rate('late')", "it has no window", "'1h', '7d'"),
    (origin.count("late"), "origin.count('late')", "it has no window", "'1h', '7d'"),
    (origin.count("late", "1h", where="stops > 1"), "origin.count", "where='stops > 1'", "values=…"),
    (origin.rate, "origin.rate", "its brackets are missing", "origin.rate('label'"),
    (origin.max("landed", "1d"), "origin.max", "landed (datetime) is known_later", "known at the moment"),
    (origin.mean("age", "1d"), "origin.mean", "age (float) is personal", "allow_personal=('age',)"),
    (origin.count(), "origin.count()", "it has no window", "'1h', '7d'"),
    (origin.count("3 hours"), "origin.count('3 hours')", "'3 hours' is no duration", "'3h'"),
    (origin.count("1month"), "origin.count", "'1month' is no duration", "write days"),
    (origin.count("30s"), "origin.count('30s')", "'30s' is out of range", "'1m' to '90d'"),
    (origin.count("91d"), "origin.count('91d')", "'91d' is out of range", "'1m' to '90d'"),
    (origin.count(3), "origin.count(3)", "3 is no duration", "'3h'"),  # type: ignore[arg-type]  # the mistake
    (origin.count("1h", where="distance_km"), "where", "'distance_km' is a number", "a condition such as"),
    (origin.count("1h", where="carrier = 'AA'"), "where", "cannot be read", "an expression"),
    (
        origin.count("1h", where="carrier == AA"),
        "where",
        "unknown name 'AA' (a text stands in quotes)",
        "one of",
    ),
    (origin.count("1h", where="carrier > 'AA'"), "where", "'AA'\" is a text", "== != or in"),
    (
        origin.count("1h", where="carrier == 3"),
        "where",
        "'3' is a number",
        "a text, as on the left (carrier)",
    ),
    (origin.count("1h", where="landed > 0"), "where", "is known_later", "known at the moment"),
    (origin.mean("distance_km / stops", "1h"), "origin.mean", "an expression has no name", "name='…'"),
    (origin.mean("distance_km", "1h", default="x"), "origin.mean", "default='x'", "a number"),  # type: ignore[arg-type]  # the mistake
    (origin.mean("distance_km", "1h", name="1st"), "origin.mean", "name '1st_1h'", "letters, digits and _"),
    (origin.distinct("carrier", "7d", exact_to=2), "origin.distinct", "exact_to=2", "from 4 to 1024"),
    (origin.distinct("booked", "7d"), "origin.distinct", "booked (date) is a time", "a number field"),
    (origin.last("distance_km", within="1y"), "within", "'1y' is no duration", "write days"),
    (origin.ewm("distance_km", half_life="fast"), "half_life", "'fast' is no duration", "'15m'"),
    (origin, "Entity", "an entity alone is no feature", "origin.count('1d')"),
    (
        Entity("distance_km").count("1h"),
        "entity distance_km",
        "the key distance_km (float)",
        "text or whole-number",
    ),
    (Entity("booked").count("1h"), "entity booked", "the key booked (date)", "text or whole-number"),
    (Entity("late").count("1h"), "entity late", "late (int) is known_later", "known at the moment"),
    (Entity("terminal").count("1h"), "entity terminal", "no key field 'terminal'", "one of: flight_id"),
    (Entity("a b").count("1h"), "a b.count", "the entity's name 'a b'", "letters, digits and _"),
    (Entity("join", keys="origin").count("1h"), "join.count", "'join' is the join stage's", "another name"),
    (
        Entity("origin", keys="tail").count("2h"),
        "origin.count",
        "keys ('tail',) here and ('origin',)",
        "one name",
    ),
    (
        Entity("pair", keys=("tail", "tail")).count("2h"),
        "pair.count",
        "name a field twice",
        "different fields",
    ),
    ("carrier", "features[1] 'carrier'", "carrier (str) is text", "categorical('carrier')"),
    ("scheduled_departure", "features[1]", "is a time", "hour_of_day(of='scheduled_departure')"),
    ("late", "features[1] 'late'", "'late' is the label", "fields of the event"),
    ("speed", "features[1] 'speed'", "Departure has no field 'speed'", "one of: flight_id"),
    ("distance_km", "features[1]", "two features are named 'distance_km'", "different names"),
    (42, "features[1] 42", "an element of type int", "a field name, categorical"),
    (["stops"], "features[1] ['stops']", "an element of type list", "a field name, categorical"),
    (categorical("distance_km"), "categorical('distance_km')", "distance_km (float)", "it is a number"),
    (categorical("passenger"), "categorical('passenger')", "passenger (str) is personal", "allow_personal"),
    (categorical("carrier", name="stops"), "categorical", "name 'stops' is a field's", "another name"),
    (hour_of_day("Europe/Pariss"), "hour_of_day('Europe/Pariss')", "is no time zone", "'Europe/Paris'"),
    (hour_of_day("my town"), "hour_of_day('my town')", "is no time zone", "'UTC' or 'Europe/Paris'"),
    (hour_of_day(of="carrier"), "hour_of_day", "carrier (str)", "a datetime or date field"),
    (expression("late", "stops + 1"), "expression('late'", "'late' is the label's", "another name"),
    (expression("stops", "distance_km + 1"), "expression", "name 'stops' is a field's", "another name"),
    (expression("x", "stops + carrier"), "expression('x'", "'carrier' is a text", "can only be compared"),
    (expression("x", "carrier"), "expression('x'", "'carrier' is a text", "a number or a condition"),
    (expression("x", "x + stops"), "expression('x'", "unknown name 'x'", "one of"),
    (expression("x", "1 + 1"), "expression('x'", "reads no field", "the event's fields"),
    (expression("x", "percentile(stops)"), "expression('x'", "unknown function 'percentile'", "one of: abs"),
    (expression("x", "where(stops, 1, 0)"), "expression('x'", "'stops' is a number", "a condition"),
    (expression("x", "abs(stops, 1)"), "expression('x'", "has 2", "1 argument(s) of abs"),
    (expression("x", "stops.real"), "expression('x'", "is not understood", "fields, numbers"),
    (expression("x", "stops is None"), "expression('x'", "is", "isnull(field)"),
    (expression("x", "[s for s in stops]"), "expression('x'", "is not understood", "fields, numbers"),
    (expression("x", "__import__('os')"), "expression('x'", "unknown function '__import__'", "one of: abs"),
    (expression("x", "stops + 1e999"), "expression('x'", "is out of range", "a finite number"),
    (expression("x", "age + 1"), "expression('x'", "age (float) is personal", "allow_personal"),
    (expression("x", "late + 1"), "expression('x'", "'late' is the label", "fields of the event"),
    (expression("x", ""), "expression('x'", "'' is no expression", "at most 1000 characters"),
    (expression("x", "(" * 300 + "stops" + ")" * 300), "expression('x'", "cannot be read", "an expression"),
    (expression("x", "stops" + "+ stops" * 300), "expression('x'", "characters", "at most 1000"),
]


@pytest.mark.parametrize(("feature", "place", "seen", "expected"), FEATURES)
def test_a_mistake_in_a_feature_names_its_place_what_was_seen_and_what_was_expected(
    feature, place, seen, expected
):
    first = origin.count("5m") if "keys ('tail',) here" in seen else "distance_km"
    with pytest.raises(PipelineError) as caught:
        declare(features=[first, feature])
    error = caught.value
    assert error.place.startswith("pipeline flights, features[1] ")
    assert place in error.place and seen in error.seen and expected in error.expected, str(error)
    assert str(error) == f"{error.place}: {error.seen}; expected {error.expected}"


PIPELINES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"name": "Flights"}, "pipeline", "the name 'Flights'", "lower-case letters"),
    ({"name": ""}, "pipeline", "the name ''", "lower-case letters"),
    ({"name": None}, "pipeline", "the name None", "lower-case letters"),
    ({"event": dict}, "event", "<class 'dict'> is no event class", "a subclass of msgspec.Struct"),
    (
        {"event": msgspec.defstruct("Nothing", [])},
        "event Nothing",
        "it has no fields",
        "an id and an event time",
    ),
    ({"event": msgspec.defstruct("T", [("a", str)], tag="x")}, "event T", "it is tagged", "without tag="),
    (
        {"event": msgspec.defstruct("T", [("a", str)], array_like=True)},
        "event T",
        "array_like",
        "a plain struct",
    ),
    ({"event": struct(seats=list[int])}, "field seats", "its type is list[int]", "str, int, float, bool"),
    ({"event": struct(seat=Departure)}, "field seat", "its type is Departure", "str, int, float, bool"),
    ({"event": struct(seat=int | str)}, "field seat", "its type is int | str", "str, int, float, bool"),
    ({"event": struct(seat=Literal["a", 1])}, "field seat", "its choices are ['a', 1]", "of texts only"),
    ({"event": struct(seat=Annotated[str, Meta(ge=0)])}, "field seat", "msgspec refuses it", "fit the type"),
    ({"event": struct(late=bool)}, "field late", "it is the label", "the tag known_later"),
    (
        {"event": struct(gate=Annotated[str, known_later])},
        "field gate",
        "it is known_later, and yet",
        "a default",
    ),
    ({"id": "flight"}, "id", "Departure has no field 'flight'", "'flight_id'"),
    ({"id": "tail"}, "id", "tail (str) may be null or absent", "every event has"),
    ({"id": "distance_km"}, "id", "distance_km (float)", "a text or a whole number"),
    ({"id": None}, "id", "Departure has no field None", "one of"),
    ({"time": "departure"}, "time", "Departure has no field 'departure'", "'scheduled_departure'"),
    ({"time": "booked"}, "time", "booked (date) may be null or absent", "every event has"),
    ({"time": "carrier"}, "time", "carrier (str)", "a datetime, a date, or a number with time_unit"),
    ({"time": "stops"}, "time_unit", "stops (int) is a number and time_unit is None", "'s', 'ms' or 'us'"),
    ({"time": "stops", "time_unit": "h"}, "time_unit", "time_unit is 'h'", "'s', 'ms' or 'us'"),
    (
        {"time": "stops", "time_unit": "s", "time_zone": "UTC"},
        "time_zone",
        "counts from 1970",
        "no time_zone",
    ),
    ({"time_unit": "ms"}, "time_unit", "scheduled_departure (datetime) is no number", "no time_unit"),
    ({"time_zone": "Paris"}, "time_zone", "'Paris' is no time zone", "'Europe/Paris'"),
    ({"earliest": "2013"}, "earliest", "'2013' is no date", "'2013-01-01'"),
    ({"earliest": 2013}, "earliest", "2013 is no date", "'2013-01-01'"),
    ({"earliest": "2999-01-01"}, "earliest", "'2999-01-01'", "before 2200"),
    ({"max_ahead": "soon"}, "max_ahead", "'soon' is no duration", "'15m'"),
    ({"features": []}, "features", "there are none", "a list with at least one of"),
    ({"features": "distance_km"}, "features", "'distance_km'", "a list with at least one of"),
    ({"features": CIRCLE}, "features[0]", "expressions need each other: a -> b -> a", "no circle"),
    ({"allow_personal": "age"}, "allow_personal", "'age' is one text", "('age',)"),
    ({"allow_personal": ("ages",)}, "allow_personal", "no field 'ages'", "'age'"),
    ({"allow_personal": ("carrier",)}, "allow_personal", "carrier is not tagged personal", "only personal"),
    ({"label": "late"}, "label", "'late'", "a Label such as"),
    ({"batch": "lightgbm"}, "batch", "'lightgbm'", "LightGBM(rounds=200)"),
    ({"decide": 0.5}, "decide", "0.5", "Threshold(0.5), CostMatrix(…) or DailyCapacity(…)"),
    (
        {"label": Label("delay", kind="regression"), "decide": CostMatrix(1, 9)},
        "decide",
        "CostMatrix",
        "Threshold",
    ),
    (
        {"label": Label("way", kind="multiclass", classes=("a", "b", "c")), "decide": Threshold(0.5)},
        "decide",
        "for a multiclass label",
        "the likeliest class",
    ),
    ({"fallback": 1.2}, "fallback", "1.2", "a probability from 0 to 1"),
    ({"fallback": -0.1}, "fallback", "-0.1", "a probability from 0 to 1"),
    ({"fallback": "distance"}, "fallback", "unknown name 'distance'", "'distance_km'"),
    ({"fallback": True}, "fallback", "True", "a probability from 0 to 1"),
    (
        {"label": Label("way", kind="multiclass", classes=("a", "b")), "fallback": (0.9, 0.2)},
        "fallback",
        "(0.9, 0.2)",
        "2 probabilities that add up to 1",
    ),
]


@pytest.mark.parametrize(("changed", "place", "seen", "expected"), PIPELINES)
def test_a_mistake_in_a_pipeline_names_its_place_what_was_seen_and_what_was_expected(
    changed, place, seen, expected
):
    with pytest.raises(PipelineError) as caught:
        declare(**changed)
    error = caught.value
    assert place in error.place and seen in error.seen and expected in error.expected, str(error)


PARTS: list[tuple[Any, str, str]] = [
    (lambda: Label("is late"), "Label('is late')", "letters, digits and _"),
    (lambda: Label("late", values="delay"), "values='delay'", "names in brackets: ('delay',)"),
    (lambda: Label("late", values=("known_at",)), "'known_at'", "names other than the label's, event_id"),
    (lambda: Label("late", values=("late",)), "'late'", "names other than the label's"),
    (lambda: Label("late", values=("a", "a")), "names one twice", "different names"),
    (lambda: Label("late", holdout=1.0), "holdout=1.0", "a share from 0.0 to below 1.0"),
    (lambda: Label("late", holdout="1%"), "holdout='1%'", "a share from 0.0 to below 1.0"),  # type: ignore[arg-type]  # the mistake
    (lambda: Label("late", kind="yes/no"), "kind='yes/no'", "'binary', 'regression' or 'multiclass'"),  # type: ignore[arg-type]  # the mistake
    (lambda: Label("late", horizon="3 months"), "'3 months' is no duration", "write days"),
    (lambda: Label("late", when_silent="unknown"), "when_silent='unknown'", "'no label' or one of 0, 1"),
    (
        lambda: Label("late", classes=("no", "yes", "maybe")),
        "of a binary label",
        "two, the second one predicted",
    ),
    (lambda: Label("late", kind="multiclass"), "classes=()", "two or more different"),
    (lambda: Label("late", kind="multiclass", classes=("a", 1)), "classes=('a', 1)", "two or more different"),
    (
        lambda: Label("late", kind="multiclass", classes=("a", "a")),
        "classes=('a', 'a')",
        "two or more different",
    ),
    (lambda: Label("delay", kind="regression", classes=(0, 1)), "of a regression", "no classes"),
    (lambda: Threshold("high"), "Threshold(value): 'high'", "a finite number"),  # type: ignore[arg-type]  # the mistake
    (lambda: CostMatrix(0, 5), "CostMatrix(false_positive): 0", "a cost above 0"),
    (lambda: DailyCapacity(-5), "DailyCapacity(events): -5", "above 0"),
]


@pytest.mark.parametrize(("make", "seen", "expected"), PARTS)
def test_a_mistake_in_a_label_or_a_decision_is_told_where_it_is_made(make, seen, expected):
    with pytest.raises(PipelineError) as caught:
        make()
    assert seen in str(caught.value) and expected in caught.value.expected


def test_an_event_with_a_post_init_is_refused_because_columns_never_call_it():
    class Checked(msgspec.Struct):
        flight_id: str

        def __post_init__(self) -> None: ...

    with pytest.raises(PipelineError, match="it has __post_init__"):
        declare(event=Checked)


def test_a_default_outside_its_own_range_is_refused():
    class Odd(msgspec.Struct):
        flight_id: str
        scheduled_departure: datetime
        distance_km: Annotated[float, Meta(ge=0)] = -1.0

    with pytest.raises(PipelineError, match=r"field distance_km: its default -1.0 is refused"):
        declare(event=Odd)


def test_a_personal_field_may_be_a_key_and_where_it_is_allowed_a_feature():
    passenger = Entity("passenger")
    pipeline = declare(features=["age", passenger.count("1d")], allow_personal=("age",))
    assert [feature.privacy for feature in pipeline.feature_set.features] == ["personal", "free"]


def test_tags_combine_in_any_order_inside_and_outside_of_null():
    class Tagged(msgspec.Struct):
        flight_id: str
        scheduled_departure: datetime
        distance_km: Annotated[float | None, Meta(ge=0), sensitive, unit("km"), Meta(le=9)] = None

    field = declare(event=Tagged).feature_set.schema["distance_km"]
    assert (field.low, field.high, field.unit, field.privacy, field.nullable) == (
        0,
        9,
        "km",
        "sensitive",
        True,
    )


@pytest.mark.parametrize(
    ("element", "written", "call"),
    [
        (origin.since_last, "origin.since_last", "origin.since_last()"),
        (origin.count, "origin.count", "origin.count('1d')"),
        (origin.mean, "origin.mean", "origin.mean('field', '1d')"),
        (origin.ewm, "origin.ewm", "origin.ewm('field', half_life='1d')"),
        (hour_of_day, "hour_of_day", "hour_of_day()"),
        (categorical, "categorical", "categorical('field')"),
    ],
)
def test_a_feature_without_its_brackets_is_told_how_to_call_it(element, written, call):
    with pytest.raises(PipelineError) as caught:
        declare(features=["distance_km", element])
    assert str(caught.value) == (
        f"pipeline flights, features[1] {written}: its brackets are missing, so it was not called; expected a call of it: "
        f"{call}"
    )
