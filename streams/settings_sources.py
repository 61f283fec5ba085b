"""Where settings come from: the command line, the environment, a TOML file. The only module that reads the environment.

The strongest first: `--set name=value`, `DRIFTWOOD_NAME`, the file given by `--settings` (else `driftwood.toml` in the
working directory), the default. Unknown names are refused in all three places.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from features.errors import SettingError
from streams.settings import ENVIRONMENT_PREFIX, Settings, is_duration, is_secret, is_size, shown
from streams.units import DURATION_SPELLING, SIZE_SPELLING

DEFAULT_FILE = Path("driftwood.toml")


@dataclass(frozen=True)
class Loaded:
    """Settings, and for each setting that is not at its default where its value came from."""

    settings: Settings
    origins: Mapping[str, str]


def load_settings(file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """The settings of this process; see `load_with_origins`."""
    return load_with_origins(file, overrides).settings


def load_with_origins(file: Path | None = None, overrides: Sequence[str] = ()) -> Loaded:
    """The settings from `overrides` ("name=value"), the environment, `file` (else ./driftwood.toml) and the defaults.

    An empty environment variable counts as not set, as Compose writes one for a variable that is missing.

    Raises:
        SettingError: an unknown name, a value without its unit, or an impossible one; it names where it was set.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for origin, found in ((_file(file)), _environment(), _command_line(overrides)):
        for name, value in found.items():
            values[name] = value
            origins[name] = _place(origin, name)
    try:
        return Loaded(Settings(**values), origins)  # type: ignore[arg-type]  # validated there, that is its job
    except ValidationError as error:
        raise _refusal(error, values, origins) from None


# ---- sources: each is its name and the values by setting


def _file(file: Path | None) -> tuple[str, dict[str, object]]:
    path = file or DEFAULT_FILE
    if file is None and not path.is_file():
        return "", {}
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingError("--settings", str(path), f"a file that can be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(
            "--settings", str(path), f"a TOML file of lines such as partitions = 4 ({error})"
        ) from error
    origin = f"in {path}"
    _refuse_unknown(origin, values)
    return origin, {name: _unit_needed(origin, name, value) for name, value in values.items()}


def _environment() -> tuple[str, dict[str, object]]:
    found = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in os.environ.items()  # noqa: TID251  # this is the settings module
        if name.startswith(ENVIRONMENT_PREFIX) and value
    }
    _refuse_unknown("environment", found)
    return "environment", dict(found)


def _command_line(overrides: Sequence[str]) -> tuple[str, dict[str, object]]:
    values: dict[str, object] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise SettingError("--set", override, "NAME=VALUE, such as --set batch_max_records=500")
        values[name.strip()] = value.strip()
    _refuse_unknown("on the command line", values)
    return "on the command line", values


def _place(origin: str, name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name.upper()}" if origin == "environment" else origin


def _refuse_unknown(origin: str, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if name in Settings.model_fields:
            continue
        near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
        guess = f"did you mean {_spelt(origin, near[0])}? " if near else ""
        where = "" if origin == "environment" else f" ({origin})"
        # The value of a name that nobody knows is masked where the name sounds like a secret: it may well be one.
        seen = "***" if is_secret(name) or any(map(is_secret, near)) else shown(name, value)
        raise SettingError(
            f"{_spelt(origin, name)}{where}",
            seen,
            f"a setting that exists; {guess}docs/settings.md lists all",
        )


def _spelt(origin: str, name: str) -> str:
    return _place(origin, name) if origin == "environment" else name


def _unit_needed(origin: str, name: str, value: object) -> object:
    """A bare number in a TOML file where a unit belongs would be read as bytes or refused unclearly."""
    if isinstance(value, int) and (is_size(name) or is_duration(name)):
        raise SettingError(f"{name} ({origin})", value, SIZE_SPELLING if is_size(name) else DURATION_SPELLING)
    return value


def _refusal(
    error: ValidationError, values: Mapping[str, object], origins: Mapping[str, str]
) -> SettingError:
    """The first thing that pydantic found wrong, in a sentence of ours."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    return SettingError(f"{name} ({origins[name]})", shown(name, values[name]), _expected(name, first))


def _expected(name: str, found: Any) -> str:
    context = found.get("ctx", {})
    match found["type"]:
        case "value_error":
            return str(context["error"])
        case "greater_than_equal":
            return f"at least {shown(name, context['ge'])}"
        case "less_than_equal":
            return f"at most {shown(name, context['le'])}"
        case "literal_error":
            return f"one of {context['expected']}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "a whole number"
        case "string_pattern_mismatch" | "string_too_short":
            return str(Settings.model_fields[name].description)
    return str(found["msg"])
