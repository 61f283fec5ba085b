"""What the documentation names exists: files, tests, links, settings, metrics, commands, steps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from driftwood.cli.program import app
from streams import dead_letters, frames, predict_road, serving, settings
from streams.settings import Settings
from streams.units import size_text

DOCS = Path("docs")
PAGES = {
    str(path): path.read_text()
    for path in (Path("README.md"), Path("CHANGELOG.md"), *sorted(DOCS.rglob("*.md")))
}
ARCHITECTURE, GUARANTEES, TOPICS = (
    PAGES[f"docs/{name}.md"] for name in ("architecture", "guarantees", "topics")
)
PACKAGES = ("features", "models", "streams", "offline", "driftwood", "examples")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "deploy", "docs")

STEPS = ("take", "decode", "claim", "compute", "score", "deliver", "commit", "ack")


def found(pattern: str) -> list[tuple[str, str]]:
    """(page, match) of a pattern in all pages, each once."""
    return sorted({(page, match) for page, text in PAGES.items() for match in re.findall(pattern, text)})


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


# ---- names of files, tests, links


@pytest.mark.parametrize(("page", "name"), found(rf"`((?:{'|'.join(FOLDERS)})/[^`\s:<*…]*)`"))
def test_every_file_that_is_named_exists(page, name):
    assert Path(name).exists(), page


def test_every_package_module_of_the_road_stands_in_the_architecture():
    for path in sorted(Path("streams").glob("*.py")):
        if path.name not in ("__init__.py", "batch.py", "flags.py", "headers.py", "units.py", "assembly.py"):
            assert str(path) in ARCHITECTURE


@cache
def functions_of(path: str) -> set[str]:
    if not Path(path).exists():
        return set()
    return {
        node.name
        for node in ast.walk(ast.parse(Path(path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("page", "name"), found(r"(tests/[\w/]+\.py::\w+)"))
def test_every_test_that_is_named_exists(page, name):
    path, _, function = name.partition("::")
    assert function in functions_of(path), page


def rows_of(text: str) -> Iterator[str]:
    """The rows of all tables, without their headings."""
    for table in re.findall(r"^\|(?:---\|)+\n((?:\|.*\n)+)", text, re.MULTILINE):
        yield from table.splitlines()


def test_every_guarantee_names_its_test_or_says_that_there_is_none():
    rows = list(rows_of(GUARANTEES))
    assert len(rows) > 60
    for row in rows:
        proof = row.rstrip("| ").rpartition(" | ")[2]
        assert "::test_" in proof or "not tested yet" in proof or proof.startswith("the same"), row


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize(("page", "link"), found(r"\]\((?!https?:|mailto:)([^)\s]+)\)"))
def test_every_relative_link_resolves(page, link):
    path, _, fragment = link.partition("#")
    target = Path(page).parent / path if path else Path(page)
    assert target.exists(), page
    if fragment:
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert fragment in [anchor(heading) for heading in headings], page


def test_every_page_is_linked_from_the_index():
    index = PAGES["docs/README.md"]
    for page in PAGES:
        if page.startswith("docs/") and "/decisions/" not in page and page != "docs/README.md":
            assert f"]({page.removeprefix('docs/')})" in index


# ---- names of settings, metrics, commands


@pytest.mark.parametrize(("page", "name"), found(r"DRIFTWOOD_(?!NAME\b)([A-Z_]+)\b"))
def test_every_variable_is_a_setting(page, name):
    assert name.lower() in settings.setting_names(), page


@pytest.mark.parametrize(("page", "names"), found(r"settings? ((?:`[a-z_]+`(?:, | and )?)+)"))
def test_every_setting_that_is_named_exists(page, names):
    for name in re.findall(r"`([a-z_]+)`", names):
        assert name in settings.setting_names(), page


@pytest.mark.parametrize(("page", "name"), found(r"--set (?!name=)([a-z_]+)="))
def test_every_override_is_a_setting(page, name):
    assert name in settings.setting_names(), page


@pytest.mark.parametrize(
    ("page", "text"), [(page, text) for page in PAGES for text in blocks(PAGES[page], "toml")]
)
def test_every_settings_file_on_a_page_names_settings_only(page, text):
    for line in text.splitlines():
        assert line.split(" = ")[0] in settings.setting_names(), page


@pytest.mark.parametrize(("page", "name"), found(r"`(driftwood_[a-z_]+)"))
def test_every_metric_that_is_named_exists(page, name):
    listed = set(re.findall(r"^\| `(driftwood_\w+)`", PAGES["docs/metrics.md"], re.MULTILINE))
    assert {name, name.removesuffix("_total")} & listed, page


def told_commands() -> list[tuple[str, str, bool]]:
    """(page, command, whether it is whole) of every command of ours on a page."""
    told = []
    for page, text in PAGES.items():
        typed = re.findall(r"^\$ (driftwood .*)$", text, re.MULTILINE)
        told += [(page, line.partition("#")[0].strip(), True) for line in typed]
        told += [
            (page, span, False) for span in re.findall(r"`(driftwood [a-z][^`]*)`", text.replace("\n", " "))
        ]
    return told


@pytest.mark.parametrize(("page", "command", "whole"), told_commands())
def test_every_command_that_is_told_is_understood(page, command, whole):
    group: Any = typer.main.get_command(app)
    words = command.split()[1:]
    while words and hasattr(group, "commands"):
        name = words.pop(0)
        assert name in group.commands, page
        group = group.commands[name]
    if whole:
        group.make_context(group.name, words)  # parses, and raises for what it does not know
    options = {
        option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}, page


@pytest.mark.parametrize(("page", "target"), found(r"(?:`|^\$ )make ([a-z-]+)"))
def test_every_make_target_exists(page, target):
    assert re.search(rf"^{target}:", Path("Makefile").read_text(), re.MULTILINE), page


# ---- the steps, the decisions


@pytest.mark.parametrize(("number", "name"), list(enumerate(STEPS, start=1)))
def test_steps_have_the_same_number_and_name_everywhere(number, name):
    step = f"{number} {name}"
    assert step in str(predict_road.__doc__)
    assert f"| {step} |" in ARCHITECTURE
    assert re.search(rf"(^\| |, ){step}\b", GUARANTEES, re.MULTILINE)


def test_decisions_have_a_number_of_their_own_a_title_and_three_parts():
    numbers = []
    for path in sorted((DOCS / "decisions").glob("*.md")):
        number = path.name[:4]
        numbers.append(number)
        text = path.read_text()
        assert text.startswith(f"# {number} "), path
        for part in ("Context", "Decision", "Consequences"):
            assert f"**{part}" in text, path
        assert len(text.splitlines()) <= 45, path
    assert len(numbers) == len(set(numbers))


def test_every_decision_that_the_code_refers_to_exists():
    there = {path.name[:4] for path in (DOCS / "decisions").glob("*.md")}
    for package in PACKAGES:
        for path in Path(package).rglob("*.py"):
            assert set(re.findall(r"docs/decisions/(\d{4})", path.read_text())) <= there, path


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (ARCHITECTURE, f"At most {frames.MAX_FRAME_BYTES >> 10} KiB"),
        (ARCHITECTURE, f"| scorers | each worker | memory (`streams/serving.py`) | {serving.KEPT_SCORERS} |"),
        (TOPICS, f"frames are cut at {frames.MAX_FRAME_BYTES >> 10} KiB"),
        (TOPICS, f"only the first {dead_letters.HEAD_BYTES >> 10} KiB"),
        (TOPICS, f"`max_record_bytes` ({size_text(Settings().max_record_bytes).replace('MiB', ' MiB')})"),
        (TOPICS, f"`max_message_bytes` ({size_text(Settings().max_message_bytes).replace('MiB', ' MiB')})"),
        (TOPICS, f"`events_retention` ({Settings().events_retention.days} days)"),
    ],
)
def test_figures_are_those_of_the_code(page, text):
    assert text in page
