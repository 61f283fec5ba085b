"""The command line without servers: help, exit codes, what goes to stdout."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from driftwood.cli import main
from driftwood.cli.program import app

ROOT = Path(__file__).parents[2]


def commands() -> dict[str, Any]:
    """Every command by its words, with groups opened."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [(f"{words} {name}".strip(), child) for name, child in command.commands.items()]
        else:
            found[words] = command
    return found


@pytest.fixture
def driftwood(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["driftwood", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call


def test_the_commands_are_those_that_are_promised():
    assert set(commands()) == {
        *("demo", "up", "run", "topics create", "topics show", "produce", "tail"),
        *("train", "promote", "features", "models", "why", "doctor", "rebuild"),
        *("learn", "serve-mode", "learners", "monitor", "drift report"),
        *(f"alerts {word}" for word in ("list", "show", "tail", "ack", "silence", "unsilence")),
    }


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_has_help_and_examples_that_it_would_take(words, driftwood):
    code, out, _ = driftwood(*words.split(), "--help")
    assert code == 0 and "Usage:" in out
    examples = re.findall(rf"driftwood {words}[^;,>]*", commands()[words].epilog)
    assert examples
    for example in examples:
        commands()[words].make_context(words, example.split()[1 + len(words.split()) :])


def test_the_exit_codes_are_documented(driftwood):
    _, out, _ = driftwood("--help")
    text = " ".join(out.split())
    for part in ("0 done", "1 unexpected", "2 wrong usage", "3 something around it", "130 interrupted"):
        assert part in text


def test_the_version_is_that_of_the_package(driftwood):
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert driftwood("--version")[:2] == (0, f"driftwood {version[1]}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["featurs"], 2, "featurs"),
        (["produce", "flights", "--rat", "5"], 2, "--rate"),
        (["features", "nowhere.py"], 2, "there is no such file"),
        (["produce", "flights", "--rate", "1", "--speed", "1"], 2, "exclude each other"),
        (["produce", "flights", "--rate", "0"], 2, "above 0"),
        (["produce", "flights", "nowhere.parquet"], 2, "nowhere.parquet does not exist"),
        (["run", "flights", "--set", "partition=1"], 3, "did you mean partitions?"),
        (["run", "flights", "--set", "fetch_max_wait=8"], 3, "with its unit"),
        (["topics", "show", "flights", "--settings", "nowhere.toml"], 3, "nowhere.toml"),
        (["demo", "--pipeline", "payment"], 2, "payment is no shipped example; expected 'payments'"),
        (["promote", "flights"], 3, "driftwood train flights"),
        (["promote", "flights", "0123456789ab"], 3, "0123456789ab"),
    ],
)
def test_an_error_is_one_sentence_on_stderr_and_says_who_must_act(driftwood, arguments, code, part):
    ended, out, err = driftwood(*arguments)
    assert (ended, out) == (code, "") and part in err and "Traceback" not in err


def test_debug_shows_where_an_error_comes_from(driftwood):
    code, _, err = driftwood("--debug", "features", "nowhere.py")
    assert code == 2 and "Traceback" in err


def test_an_error_that_nobody_foresaw_ends_with_1_and_a_traceback(driftwood, monkeypatch):
    def broken(reference: str) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("models.loading.load_pipeline", broken)
    code, _, err = driftwood("features", "flights")
    assert code == 1 and "ZeroDivisionError" in err and "report it" in err


def test_features_are_data_on_stdout(driftwood):
    code, out, err = driftwood("features", "flights", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "") and {"hash", "features", "entities"} == set(document)
    assert {"name", "unit", "window", "tile", "default", "range"} <= set(document["features"][0])
    code, out, _ = driftwood("features", "flights")
    assert code == 0 and all(feature["name"] in out for feature in document["features"])


def test_help_imports_nothing_heavy():
    heavy = (
        "numpy",
        "pandas",
        "faust",
        "feast",
        "numba",
        "lightgbm",
        "pyarrow",
        "confluent_kafka",
        "pydantic",
    )
    program = f"import sys, driftwood.cli.program; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
