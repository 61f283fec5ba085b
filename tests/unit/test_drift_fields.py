"""Fields that travel with an event because the drift watch looks at them."""

from datetime import date, datetime
from typing import Annotated, Any

import msgspec
import pytest

from driftwood import (
    Drift,
    Entity,
    Label,
    Pipeline,
    PipelineError,
    categorical,
    known_later,
    personal,
    sensitive,
)
from models.drift.columns import watched_columns


class Payment(msgspec.Struct):
    payment_id: str
    at: datetime
    card: str
    amount: float
    producer: str
    fee: float
    abroad: bool
    age: Annotated[float, personal]
    city: Annotated[str, personal]
    bank: Annotated[str, sensitive]
    booked: date | None = None
    fraud: Annotated[int | None, known_later] = None
    reviewed: Annotated[str | None, known_later] = None


def declare(drift: Drift | None = None, **changed: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "event": Payment,
        "id": "payment_id",
        "time": "at",
        "features": ["amount", Entity("card").count("1d")],
        "label": Label("fraud", horizon="7d"),
        **changed,
    }
    return Pipeline("payments", drift=drift, **declared)


def test_a_pipeline_that_declares_no_fields_is_what_it_was():
    plain, watched = declare(), declare(Drift(0.5, window="2d"))
    assert watched.feature_set.hash == plain.feature_set.hash
    assert watched.version == plain.version
    assert watched.feature_set.layout == plain.feature_set.layout


def test_declared_fields_and_segments_travel_in_the_order_of_the_event_and_change_the_hash():
    plain, watched = declare(), declare(Drift(fields=["abroad", "bank", "fee"], segments=["producer"]))
    layout = watched.feature_set.layout
    assert (layout.numbers, layout.texts) == (("amount", "fee", "abroad"), ("card", "producer", "bank"))
    assert watched.feature_set.hash != plain.feature_set.hash


def test_what_travels_anyhow_may_be_declared_and_changes_nothing():
    plain, watched = declare(), declare(Drift(fields=["amount", "card"], segments=["card"]))
    assert watched.feature_set.layout == plain.feature_set.layout
    assert watched.feature_set.hash == plain.feature_set.hash


def test_declared_fields_and_segments_are_watched():
    pipeline = declare(Drift(fields=["abroad", "bank"], segments=["producer"]))
    found = {column.name: (column.kind, column.source, column.hidden) for column in watched_columns(pipeline)}
    assert found["abroad"] == ("number", "field", False)
    assert found["bank"] == ("category", "field", True)
    assert found["producer"] == ("category", "field", False)
    assert found["card"] == ("category", "entity", False)


def test_a_field_that_travels_as_number_and_as_text_is_watched_once():
    class Numbered(msgspec.Struct):
        payment_id: str
        at: datetime
        card: int
        shop: str

    shop = Entity("shop")
    features = [shop.mean("card", "1d"), categorical("card", name="which")]
    pipeline = declare(event=Numbered, features=features)
    names = [column.name for column in watched_columns(pipeline)]
    assert names.count("card") == 1


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (Drift(fields=["fees"]), "drift, fields[0]: Payment has no field 'fees'; expected 'fee'"),
        (Drift(fields=["fee", "fraud"]), "drift, fields[1]: 'fraud' is the label"),
        (Drift(fields=["reviewed"]), "drift, fields[0]: reviewed (str) is known_later"),
        (Drift(fields=["age"]), "drift, fields[0]: age (float) is personal"),
        (Drift(fields=["booked"]), "drift, fields[0]: booked (date) is a time"),
        (Drift(segments=["shop"]), "drift, segments[0]: Payment has no field 'shop'"),
        (Drift(segments=["reviewed"]), "drift, segments[0]: reviewed (str) is known_later"),
        (Drift(segments=["city"]), "drift, segments[0]: city (str) is personal"),
        (Drift(segments=["bank"]), "drift, segments[0]: bank (str) is sensitive"),
        (Drift(segments=["fee"]), "drift, segments[0]: fee (float); expected a text field"),
    ],
)
def test_a_field_that_may_not_be_watched_is_refused_with_its_place(drift, message):
    with pytest.raises(PipelineError) as caught:
        declare(drift)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "declared"),
    [("fields", lambda: Drift(fields="producer")), ("segments", lambda: Drift(segments="producer"))],
)
def test_one_text_in_place_of_names_is_refused(name, declared):
    with pytest.raises(PipelineError) as caught:
        declared()
    assert (
        str(caught.value)
        == f"drift, {name}: 'producer' is one text; expected names in brackets: ['producer']"
    )


def test_a_personal_field_is_no_segment_even_where_it_may_be_a_feature():
    with pytest.raises(PipelineError, match=r"city \(str\) is personal; expected a field that is free"):
        declare(Drift(segments=["city"]), allow_personal=("city",))
