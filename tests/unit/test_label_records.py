"""Labels of a file, as records of the labels topic."""

import json

import pyarrow as pa
import pytest

from driftwood import Label
from features.errors import DeveloperError
from offline.label_records import label_records
from tests.shop_events import orders

SHOP = orders(["amount"], label=Label("late", values=("minutes",)))


def records(**columns: list[object]) -> list[dict[str, object]]:
    return [json.loads(value) for value in label_records(SHOP, pa.table(columns)).values]


def test_labels_come_in_the_order_in_which_they_became_known_with_their_values() -> None:
    made = records(
        order_id=["b", "a", "c"],
        late=[1, 0, None],
        known_at=["2024-03-02T00:00:00Z", "2024-03-01T00:00:00Z", "2024-03-03T00:00:00Z"],
        minutes=[31.5, -2.0, None],
    )
    assert made == [
        {"event_id": "a", "late": 0, "known_at": "2024-03-01T00:00:00.000000Z", "minutes": -2.0},
        {"event_id": "b", "late": 1, "known_at": "2024-03-02T00:00:00.000000Z", "minutes": 31.5},
        {"event_id": "c", "late": None, "known_at": "2024-03-03T00:00:00.000000Z", "minutes": None},
    ]


def test_rows_without_an_id_or_a_time_are_left_out_and_counted() -> None:
    table = pa.table(
        {
            "order_id": ["a", None, "c"],
            "late": [0, 1, 1],
            "known_at": ["2024-03-01T00:00:00Z", "2024-03-01T00:00:00Z", None],
        }
    )
    made = label_records(SHOP, table)
    assert (list(made.event_ids), made.left_out) == (["a"], 2)


def test_a_file_that_does_not_say_when_labels_became_known_is_refused() -> None:
    with pytest.raises(DeveloperError, match="known_at"):
        label_records(SHOP, pa.table({"order_id": ["a"], "late": [0]}))
