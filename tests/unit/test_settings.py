"""Settings: where values come from, what is refused, and what the refusal says."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwood.reference import outdated, settings_page
from features.errors import SettingError
from streams.settings import Settings, field_of, setting_names, shown
from streams.settings_sources import load_settings, load_with_origins
from streams.units import duration_text, parse_duration, parse_size, size_text


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("DRIFTWOOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(file: Path | None = None, *overrides: str) -> str:
    with pytest.raises(SettingError) as caught:
        load_settings(file, overrides)
    return str(caught.value)


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(monkeypatch, tmp_path):
    assert load_settings().partitions == 4
    file = tmp_path / "mine.toml"
    file.write_text('partitions = 5\nhot_entities = 5000\nfetch_max_wait = "20ms"\n')
    assert load_settings(file).partitions == 5
    monkeypatch.setenv("DRIFTWOOD_PARTITIONS", "6")
    assert load_settings(file).partitions == 6
    loaded = load_with_origins(file, ["partitions=7"])
    assert loaded.settings.partitions == 7
    assert (loaded.settings.hot_entities, loaded.settings.fetch_max_wait) == (
        5000,
        timedelta(milliseconds=20),
    )
    assert loaded.origins == {
        "partitions": "on the command line",
        "hot_entities": f"in {file}",
        "fetch_max_wait": f"in {file}",
    }


def test_driftwood_toml_in_the_working_directory_is_read(tmp_path):
    (tmp_path / "driftwood.toml").write_text("partitions = 3\n")
    assert load_settings().partitions == 3


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("DRIFTWOOD_BROKERS", "")
    assert load_settings().brokers == "127.0.0.1:9092"


def test_defaults_alone_do_not_look_around(monkeypatch):
    monkeypatch.setenv("DRIFTWOOD_PARTITIONS", "9")
    assert Settings().partitions == 4


def test_an_unknown_name_is_refused_wherever_it_stands_and_the_nearest_is_named(monkeypatch, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("hot_entitys = 9\n")
    assert "hot_entitys" in refused(file) and "did you mean hot_entities?" in refused(file)
    assert "did you mean partitions?" in refused(None, "partition=3")
    monkeypatch.setenv("DRIFTWOOD_BROKER", "kafka:9092")
    assert "DRIFTWOOD_BROKER = 'kafka:9092'" in refused()
    assert "did you mean DRIFTWOOD_BROKERS?" in refused()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fetch_max_wait=8", "a duration with its unit"),
        ("fetch_max_wait=8 parsecs", "a duration with its unit"),
        ("batch_max_bytes=64M", "a size with its unit"),
        ("batch_max_bytes=1KiB", "at least 64KiB"),
        ("commit_interval=1w", "at most"),
        ("partitions=four", "a whole number"),
        ("partitions=0", "at least 1"),
        ("unknown_fields=ignore", "'count' or 'dead-letter'"),
        ("brokers=kafka", "host:port"),
        ("redis_url=localhost", "redis://"),
        ("metrics_port=70000", "at most 65535"),
        ("max_record_bytes=32MiB", "max_message_bytes"),
        ("security_protocol=sasl_ssl", "sasl_user and sasl_password"),
        ("partitions", "NAME=VALUE"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_setting_value_and_what_was_expected(override, expected):
    message = refused(None, override)
    assert override.partition("=")[0] in message and expected in message and "\n" not in message


def test_a_bare_number_in_a_file_needs_its_unit(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("batch_max_bytes = 2097152\n")
    assert "a size with its unit" in refused(file)
    file.write_text("stop_timeout = 20\n")
    assert "a duration with its unit" in refused(file)


def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path):
    assert "nowhere.toml" in refused(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("partitions: 4\n")
    assert "a TOML file" in refused(tmp_path / "bad.toml")


def test_secrets_are_in_no_message(monkeypatch):
    monkeypatch.setenv("DRIFTWOOD_SASL_PASWORD", "hunter2")
    assert "hunter2" not in refused()
    monkeypatch.delenv("DRIFTWOOD_SASL_PASWORD")
    assert "hunter2" not in refused(None, "redis_url=redi://me:hunter2@cache")
    settings = load_settings(
        None, ["sasl_password=hunter2", "redis_url=rediss://me:hunter2@cache:6379/0?password=hunter2"]
    )
    assert "hunter2" not in repr(settings) + "".join(map(settings.shown, setting_names()))
    assert settings.sasl_password.get_secret_value() == "hunter2"


def test_kafka_clients_get_what_secures_the_connection():
    settings = load_settings(
        None,
        [
            "security_protocol=sasl_ssl",
            "sasl_user=me",
            "sasl_password=hunter2",
            "kafka_ca_file=/ca.pem",
            "brokers=a:1,b:2",
        ],
    )
    assert settings.kafka_client(**{"linger.ms": 5}) == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "hunter2",
        "ssl.ca.location": "/ca.pem",
        "linger.ms": 5,
    }


def test_every_setting_says_what_it_does_and_what_raising_it_costs():
    for name in setting_names():
        field = field_of(name)
        assert field.description and isinstance(field.json_schema_extra, dict)
        assert field.json_schema_extra["group"] and field.json_schema_extra["raising"]


def test_every_default_is_accepted_as_it_is_shown():
    given = [f"{name}={shown(name, field_of(name).get_default())}" for name in setting_names()]
    assert load_settings(None, [one for one in given if not one.endswith("=")]) == Settings()


def test_the_reference_pages_are_what_the_code_would_write():
    assert outdated() == [], "run python -m driftwood.reference"
    assert all(f"### {name}\n" in settings_page() for name in setting_names())


@given(st.integers(0, 10**9))
def test_durations_of_whole_milliseconds_survive_their_spelling(milliseconds):
    duration = timedelta(milliseconds=milliseconds)
    if milliseconds < 1_000_000 or milliseconds % 1000 == 0:  # beyond, `g` keeps six digits
        assert parse_duration(duration_text(duration)) == duration


@given(st.integers(1, 999), st.sampled_from(["B", "KiB", "MiB", "GiB"]))
def test_sizes_survive_their_spelling(number, unit):
    assert size_text(parse_size(f"{number}{unit}")) == f"{number}{unit}"
