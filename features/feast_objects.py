"""A pipeline's Feast repository: a folder in which `feast apply` works, made from the entity plans.

`write_repository` copies the two files of features/feast_repo/ and puts `views.json` beside them: all that differs
between pipelines is data, no code is generated. Feast itself is only imported by the process that applies.
"""

from __future__ import annotations

import json
import string
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from features.durations import SECOND_US
from features.errors import OperatorError, SettingError
from features.feast_rows import is_integer
from features.masked_urls import masked
from features.plan import EntityPlan, Output

PASSWORD = "${FEAST_REDIS_PASSWORD}"  # noqa: S105 - Feast puts the environment's value there when it reads the file
# Importing Feast takes 3 s, applying to the file registry 0.02 s; a machine that is busy with much else takes minutes.
APPLY_WITHIN_S = 300
LINES_SHOWN = 12  # of Feast's output in an error: its tracebacks end with the cause


def view_name(pipeline: str, entity: str) -> str:
    """The name of the feature view of an entity.

    Example:
        >>> view_name("flights", "origin")
        'flights_origin'
    """
    return f"{pipeline}_{entity}"


def describe(pipeline: str, plans: Sequence[EntityPlan]) -> dict[str, Any]:
    """What `views.json` holds: a view for every entity that has features, its offline file relative to the folder."""
    views = [_view(pipeline, plan) for plan in plans if plan.outputs]
    return {"project": pipeline, "views": views}


def write_repository(folder: Path, pipeline: str, plans: Sequence[EntityPlan], redis_url: str) -> None:
    """Write the Feast repository of a pipeline into `folder` (made when missing; files of an earlier one replaced).

    A password of `redis_url` is not written: whoever uses the folder sets FEAST_REDIS_PASSWORD. An offline file that is
    missing is made, empty and with its columns, so that `feast apply` and historical joins work from the start.

    Raises:
        SettingError: Feast cannot reach Redis the way `redis_url` does (a Unix socket).
    """
    form = files("features").joinpath("feast_repo")
    settings = string.Template(form.joinpath("feature_store.yaml").read_text(encoding="utf-8"))
    description = describe(pipeline, plans)
    connection = connection_string(redis_url)
    (folder / "offline").mkdir(parents=True, exist_ok=True)
    for view in description["views"]:
        _write_empty(folder / view["offline"], view)
    (folder / "views.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (folder / "definitions.py").write_text(
        form.joinpath("definitions.py").read_text(encoding="utf-8"), "utf-8"
    )
    filled = settings.substitute(project=pipeline, connection=connection)
    (folder / "feature_store.yaml").write_text(filled, encoding="utf-8")


def apply_repository(folder: Path) -> str:
    """Run `feast apply` in a process of its own; returns what it said. Raises `OperatorError` when it failed."""
    command = [sys.executable, "-c", "from feast.cli.cli import cli; cli()", "--chdir", str(folder), "apply"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=APPLY_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        raise OperatorError(
            f"`feast apply` in {folder} did not end within {APPLY_WITHIN_S} s: is the machine that busy?"
        ) from None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LINES_SHOWN:])
        raise OperatorError(f"`feast apply` failed in {folder}:\n{said}")
    return done.stdout


def connection_string(redis_url: str) -> str:
    """Feast's way of writing a Redis URL.

    Example:
        >>> connection_string("rediss://worker:secret@cache:6380/2")
        'cache:6380,db=2,username=worker,password=${FEAST_REDIS_PASSWORD},ssl=true'
    """
    parts = urlsplit(redis_url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise SettingError(
            "redis_url", masked(redis_url), "a host and a port, because Feast knows no Unix sockets"
        )
    query = dict(parse_qsl(parts.query))
    database = parts.path.strip("/") or query.get("db", "0")
    words = [f"{parts.hostname}:{parts.port or 6379}", f"db={database}"]
    if parts.username:
        words.append(f"username={parts.username}")
    if parts.password or "password" in query:
        words.append(f"password={PASSWORD}")
    return ",".join([*words, "ssl=true"] if parts.scheme == "rediss" else words)


def _view(pipeline: str, plan: EntityPlan) -> dict[str, Any]:
    name = view_name(pipeline, plan.entity)
    return {
        "name": name,
        "entity": plan.entity,
        "about": f"Windows of {plan.entity} as they stood before its newest event, written by driftwood",
        # A row older than the longest window says nothing any more: offline joins leave it out. Online, Feast returns it
        # all the same, and the reader compares its event timestamp.
        "ttl_s": plan.longest_us // SECOND_US,
        "offline": f"offline/{name}.parquet",
        "features": [_feature(output) for output in plan.outputs],
    }


def _feature(output: Output) -> dict[str, str]:
    what = output.aggregate.name.lower().replace("_", " ")
    dtype = "Int64" if is_integer(output) else "Float64"
    return {
        "name": output.name,
        "dtype": dtype,
        "about": f"{what} within {output.window_us / SECOND_US:g} s",
    }


def _write_empty(path: Path, view: dict[str, Any]) -> None:
    if path.exists():
        return
    types = {"Int64": pa.int64(), "Float64": pa.float64()}
    columns = [(view["entity"], pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC"))]
    columns += [(feature["name"], types[feature["dtype"]]) for feature in view["features"]]
    pq.write_table(pa.schema(columns).empty_table(), path)
