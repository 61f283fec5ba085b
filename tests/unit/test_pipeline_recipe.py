"""docs/recipes/pipeline.md is all that a user reads: nothing that exists may be missing from it, no figure be wrong."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import driftwood
from driftwood import Entity, Label, LightGBM
from driftwood.cli.program import app
from features import decode, diagnosis, expressions, windows
from features.durations import DAY_US
from features.event_times import DEFAULT_EARLIEST
from models.label import NO_LABEL

PAGE = Path("docs/recipes/pipeline.md").read_text()
SOURCE = Path(diagnosis.__file__).read_text() + Path(decode.__file__).read_text()


@pytest.mark.parametrize("name", sorted(set(driftwood.__all__) - {"DriftwoodError"}))
def test_every_public_name_is_on_the_page(name):
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize("name", sorted(expressions._FUNCTIONS))
def test_every_function_of_expressions_is_on_the_page(name):
    assert re.search(rf"`?\b{name}\b", PAGE)


@pytest.mark.parametrize("aggregate", sorted(windows.RULES))
def test_every_aggregate_is_on_the_page(aggregate):
    assert f"`.{aggregate}(" in PAGE and hasattr(Entity, aggregate)


def test_every_reason_of_a_dead_letter_is_on_the_page_and_in_the_list_of_reasons():
    given = set(re.findall(r'Problem\(\s*"([a-z_]+)"', SOURCE)) | set(
        re.findall(r'return "([a-z_]+)"\n', SOURCE)
    )
    listed = set(re.findall(r"^    ([a-z_]+) {2,}", str(diagnosis.__doc__), re.MULTILINE))
    assert given == listed
    assert all(f"`{reason}`" in PAGE for reason in listed)


def test_the_defaults_on_the_page_are_those_of_the_code():
    fields = {
        field.name: field.default for field in dataclasses.fields(LightGBM) if field.name != "parameters"
    }
    assert "LightGBM(" + ", ".join(f"{name}={value}" for name, value in fields.items()) in PAGE
    assert f'(default `"{DEFAULT_EARLIEST}"`)' in PAGE
    label = Label("x")
    assert f'`horizon` (default `"{label.horizon}"`)' in PAGE and f'(default `"{NO_LABEL}"`)' in PAGE
    assert f'`within` (default `"{windows.DEFAULT_WITHIN}"`)' in PAGE
    assert f"`exact_to={windows.DISTINCT_EXACT_TO}` values (4 to 1,024)" in PAGE
    assert windows.DISTINCT_BOUNDS == (4, 1_024)
    assert f"at most {decode.MAX_KEY_CHARS} characters" in PAGE


def test_the_tiles_on_the_page_are_those_of_the_code():
    told = "15 s below 12 minutes, 1 min up to 1 h, 5 min up to 12 h, 1 h up to 12 d, 1 d above"
    assert told in PAGE
    sizes = {size.from_us: size.tile_us for size in windows.TILE_SIZES}
    assert sizes == {
        12 * DAY_US: DAY_US,
        DAY_US // 2: DAY_US // 24,
        DAY_US // 24: DAY_US // 288,
        DAY_US // 120: DAY_US // 1440,
        0: DAY_US // 5760,
    }


def commands() -> list[str]:
    """What the page tells to type."""
    lines = [line[2:].partition("#")[0].strip() for line in PAGE.splitlines() if line.startswith("$ ")]
    return lines + re.findall(r"`(driftwood [^`]+)`", PAGE.replace("\n", " "))


@pytest.mark.parametrize("command", commands())
def test_every_command_on_the_page_is_understood_by_the_command_line(command):
    group: Any = typer.main.get_command(app)
    words = command.split()[1:]
    while hasattr(group, "commands"):
        name = words.pop(0)
        assert name in group.commands, command
        group = group.commands[name]
    group.make_context(group.name, words)  # parses, and raises for what it does not know
