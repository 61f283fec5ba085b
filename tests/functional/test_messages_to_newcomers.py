"""What a first pipeline is told when its files are not yet right."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import pandas as pd
import pytest
from msgspec import Meta, Struct

from driftwood import Label, Pipeline
from driftwood.doctor import model
from features.errors import DeveloperError
from models.model_store import ModelStore
from offline.backfill import compute_features
from offline.train import train
from streams.settings import Settings


class Ride(Struct):
    ride: int
    at: datetime
    km: Annotated[float, Meta(ge=0)]
    seats: Annotated[int, Meta(ge=1)] = 1


def rides(**kwargs):
    declared = {"time_zone": "Europe/Berlin", "earliest": "2024-03-01", **kwargs}
    return Pipeline(
        "rides", event=Ride, id="ride", time="at", features=["km"], label=Label("minutes"), **declared
    )


def table(**columns):
    return pd.DataFrame({"ride": [1, 2, 3], "at": ["2024-05-01T09:00:00"] * 3, "km": [1.0] * 3, **columns})


def refused(events):
    return compute_features(rides().feature_set, events)[1].sentences()[1:]


def test_one_reason_at_several_places_names_each_of_them():
    assert refused(table(km=[-1.0, -2.0, 3.0], seats=[1, 1, 0])) == [
        "3 refused: out_of_range at $.km, $.seats (the first: expected float >= 0.0)"
    ]
    assert refused(table(km=[-1.0, -2.0, 3.0])) == ["2 refused: out_of_range at $.km (expected float >= 0.0)"]


def test_a_local_time_that_is_too_early_is_shown_in_utc_beside_the_bound():
    local = table(at=["2024-03-01T00:30:00", "2024-03-01T01:30:00", "2024-03-01T02:30:00"])
    (sentence,) = refused(local)
    assert "2024-03-01T00:30:00 (2024-02-29T23:30:00Z) is before 2024-03-01T00:00:00Z" in sentence


def test_training_without_a_label_column_asks_for_the_labels_file(tmp_path):
    with pytest.raises(DeveloperError, match=r"no column 'minutes'; .*name it after the events"):
        train(rides(), table(), store=ModelStore(tmp_path))


def test_a_wrong_cut_off_or_labels_file_is_refused_before_the_events_are_read(tmp_path):
    never = tmp_path / "events.parquet"
    with pytest.raises(DeveloperError, match=r"labels.parquet does not exist"):
        train(rides(), never, tmp_path / "labels.parquet", store=ModelStore(tmp_path))
    with pytest.raises(DeveloperError, match=r"until: 'yesterday' is no date"):
        train(rides(), never, store=ModelStore(tmp_path), until="yesterday")


def test_the_doctors_remedy_names_the_pipeline_as_its_user_did(tmp_path):
    (finding,) = model(Settings(models_dir=tmp_path), rides(), "pipelines/rides.py")
    assert finding.do.startswith("driftwood train pipelines/rides.py … --promote")
