"""What holds the sources up when it is full, and with which key snapshots are signed."""

from __future__ import annotations

import pytest

from features.errors import SettingError
from streams.foundation import measured_topics, shared_key
from streams.settings import Settings
from streams.topics import EMBEDDED_CLUSTER, pipeline_topics


@pytest.mark.parametrize(
    ("cluster", "learns", "measured"),
    [
        ("abc", False, ["hop-card"]),
        (EMBEDDED_CLUSTER, False, ["hop-card"]),
        ("abc", True, ["hop-card"]),
        (EMBEDDED_CLUSTER, True, ["hop-card", "hop-join", "outcomes"]),
    ],
)
def test_the_learn_road_holds_answers_up_only_where_unread_bytes_would_be_lost(cluster, learns, measured):
    topics = pipeline_topics("shop", ["card"], Settings(), learns=learns)
    identities = {topic.name: f"{cluster}@127.0.0.1:1/{topic.name}" for topic in topics}
    assert measured_topics(topics, identities) == [f"shop.{kind}" for kind in measured]


def test_the_key_of_the_setting_is_everybodys_and_else_a_file_beside_the_models_is(tmp_path):
    from_setting = [
        shared_key(Settings(signing_key="s" * 32, models_dir=tmp_path / name))  # type: ignore[arg-type]  # as a person writes it
        for name in ("a", "b")
    ]
    from_file = [shared_key(Settings(models_dir=tmp_path / "a")) for _ in range(2)]
    assert from_setting[0] == from_setting[1] and from_file[0] == from_file[1]
    assert from_setting[0] != from_file[0] != shared_key(Settings(models_dir=tmp_path / "b"))


def test_a_short_key_is_refused_without_showing_it():
    with pytest.raises(SettingError, match="signing_key") as caught:
        shared_key(Settings(signing_key="hunter2"))  # type: ignore[arg-type]  # as above
    assert "hunter2" not in str(caught.value)
