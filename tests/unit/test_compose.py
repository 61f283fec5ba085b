"""docker-compose.yml and the worker's Dockerfile, against the Compose specification and against the code."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from driftwood.cli.program import app
from streams.settings import Settings, setting_names
from streams.settings_sources import load_settings
from streams.units import parse_duration

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/worker/Dockerfile").read_text()
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*")


def compose() -> dict[str, Any]:
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
LASTING = {name: service for name, service in SERVICES.items() if service["restart"] != "no"}


def schema_errors(document: dict[str, Any]) -> list[str]:
    schema = json.loads((ROOT / "tests/data/compose_spec.json").read_text())
    # The schema is older than the top-level `name`, which the specification has since.
    document = {key: value for key, value in document.items() if key != "name"}
    return [error.message for error in jsonschema.Draft201909Validator(schema).iter_errors(document)]


def test_the_file_follows_the_compose_specification():
    assert schema_errors(compose()) == []


@pytest.mark.parametrize(
    "break_it",
    [
        lambda worker: worker.update(comand=["run"]),
        lambda worker: worker.update(ports={"9464": "9464"}),
        lambda worker: worker["healthcheck"].update(retries="often"),
        lambda worker: worker["depends_on"]["kafka"].update(condition="service_happy"),
    ],
)
def test_the_schema_would_notice_a_mistake(break_it):
    broken = copy.deepcopy(compose())
    break_it(broken["services"]["worker"])
    assert schema_errors(broken)


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it; an unknown command or option and a missing argument raise."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize("name", OURS)
def test_every_setting_in_it_exists_and_is_taken(name, monkeypatch):
    environment = {
        key: value for key, value in OURS[name]["environment"].items() if key.startswith("DRIFTWOOD_")
    }
    assert {key.removeprefix("DRIFTWOOD_").lower() for key in environment} <= set(setting_names())
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    load_settings()


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_it_exists_with_its_arguments(name):
    parse(list(OURS[name]["command"]))


def test_the_commands_in_its_comments_exist_with_their_arguments():
    lines = re.findall(r"docker compose run --rm worker (.+)", (ROOT / "docker-compose.yml").read_text())
    assert len(lines) == 4
    for line in lines:
        parse(line.split())


def test_images_are_pinned():
    for service in SERVICES.values():
        assert PINNED.fullmatch(service["image"])
    assert re.search(r"ARG PYTHON=\d+\.\d+\.\d+-", DOCKERFILE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:${PYTHON}"}


def test_ports_are_bound_to_loopback_and_are_those_that_the_programs_listen_on():
    listened = {
        "kafka": {
            port.rsplit(":", 1)[1] for port in SERVICES["kafka"]["environment"]["KAFKA_LISTENERS"].split(",")
        },
        "redis": {"6379"},
        "worker": {OURS["worker"]["environment"]["DRIFTWOOD_METRICS_PORT"]},
        "learner": {OURS["learner"]["environment"]["DRIFTWOOD_METRICS_PORT"]},
    }
    for name, ports in listened.items():
        for published in SERVICES[name]["ports"]:
            host, _, container = published.split(":")
            assert host == "127.0.0.1" and container in ports


def test_the_dockerfile_exposes_the_port_of_the_metrics():
    port = OURS["worker"]["environment"]["DRIFTWOOD_METRICS_PORT"]
    assert re.findall(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE) == [port]
    assert f":{port}/metrics" in OURS["worker"]["healthcheck"]["test"][-1]


def test_addresses_name_services_and_listeners():
    kafka = SERVICES["kafka"]["environment"]
    advertised = {listener.split("://")[1] for listener in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    for service in OURS.values():
        assert service["environment"]["DRIFTWOOD_BROKERS"] in advertised
        assert service["environment"]["DRIFTWOOD_REDIS_URL"].startswith("redis://redis:6379")


def test_what_keeps_running_has_a_health_check_a_memory_limit_and_a_restart():
    assert set(LASTING) == {"kafka", "redis", "worker", "learner", "monitor"}
    for service in LASTING.values():
        assert service["healthcheck"]["test"][0] == "CMD" and service["mem_limit"]
        assert service["restart"] == "unless-stopped"


def test_nothing_waits_for_the_health_of_a_service_without_a_health_check():
    for service in SERVICES.values():
        for name, need in service.get("depends_on", {}).items():
            expected = "service_healthy" if name in LASTING else "service_completed_successfully"
            assert need["condition"] == expected and ("healthcheck" in SERVICES[name]) == (name in LASTING)


def test_named_volumes_are_declared_and_used():
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name in mounted if not name.startswith((".", "/"))} == set(compose()["volumes"])


def test_redis_keeps_a_log_and_never_evicts():
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command and "--maxmemory-policy noeviction" in command


@pytest.mark.parametrize("name", ["worker", "learner", "monitor"])
def test_a_worker_may_finish_its_stop(name):
    patience = parse_duration(OURS[name]["stop_grace_period"])
    assert patience > 1.5 * Settings().stop_timeout


@pytest.mark.parametrize("name", ["learner", "monitor"])
def test_all_processes_run_one_pipeline_and_see_one_folder_of_models_and_key(name):
    assert OURS["worker"]["command"][1:] == OURS[name]["command"][1:]
    assert OURS["worker"]["environment"] == OURS[name]["environment"]
    assert OURS["worker"]["volumes"] == OURS[name]["volumes"]


def test_the_worker_runs_as_an_ordinary_user_that_cannot_write_the_code():
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    user = re.findall(r"^USER (\d+)", last_stage, re.MULTILINE)
    assert user and user[-1] != "0" and f"--uid {user[-1]}" in last_stage
    assert "--chown" not in last_stage
    for service in OURS.values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "privileged" not in service


def test_the_dockerfile_copies_what_there_is_and_all_packages():
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    packages = re.search(r"^packages = \[(.+)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert set(re.findall(r'"(\w+)"', packages[1])) <= copied
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{source}" for source in copied} <= set(ignored)


def test_the_dockerfile_uses_the_uv_of_the_makefile():
    version = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version is not None and f"ARG UV_VERSION={version[1]}\n" in DOCKERFILE
