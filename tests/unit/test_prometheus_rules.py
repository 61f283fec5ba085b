"""deploy/prometheus: the rules against the metrics that there are, the pages that they name, and promtool's own tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"

METRICS: dict[str, tuple[str, set[str]]] = {
    name: (kind, set(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
    )
}
# What Prometheus puts on a series by itself, and what prometheus.yml does.
EVERYWHERE = {"job", "instance", "pipeline"}


def document(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


RULES: list[dict[str, Any]] = [rule for group in document("rules.yml")["groups"] for rule in group["rules"]]
TESTS: list[dict[str, Any]] = document("rules_test.yml")["tests"]


def metric_of(series: str) -> str:
    """The metric whose series this is: counters end in _total, histograms in _bucket, _sum and _count."""
    for name, (kind, _) in METRICS.items():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [""])
        if series in [name + end for end in ends]:
            return name
    raise AssertionError(f"no process has {series}")


def headings() -> set[str]:
    """The anchors of docs/operations.md, as they are made of headings."""
    titles = re.findall(r"^#+ (.*)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"driftwood_\w+", rule["expr"]))
    assert named or "up{" in rule["expr"]
    known = set().union(*(METRICS[metric_of(series)][1] for series in named))
    asked = set(re.findall(r"(\w+)(?==~?\")", rule["expr"]))
    asked |= {name for by in re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]) for name in by.split(", ")}
    assert asked <= known | EVERYWHERE


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_says_who_is_woken_and_which_page_to_read(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, heading = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/operations.md" and heading in headings()
    assert "$labels.pipeline" in rule["annotations"]["summary"]


def test_every_rule_is_seen_raised_and_silent_and_each_series_is_one_that_there_is() -> None:
    asked = [one for test in TESTS for one in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in RULES}
    assert {one["alertname"] for one in asked if one.get("exp_alerts")} == alerts
    assert {one["alertname"] for one in asked if not one.get("exp_alerts")} == alerts
    for test in TESTS:
        for given in test["input_series"]:
            name, _, labels = given["series"].partition("{")
            own = METRICS[metric_of(name)][1] if name != "up" else set()
            assert set(re.findall(r"(\w+)=", labels)) <= own | EVERYWHERE, given["series"]


def test_prometheus_is_pointed_at_the_ports_that_the_compose_file_publishes() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for job in document("prometheus.yml")["scrape_configs"]:
        service = compose[job["job_name"].removeprefix("driftwood-")]
        (address,) = job["static_configs"][0]["targets"]
        host, _, port = address.partition(":")
        first = re.fullmatch(r"([\d.]+):(\d+)(?:-\d+)?:9464", service["ports"][0])
        assert first is not None and (host, port) == first.groups()
        assert job["static_configs"][0]["labels"]["pipeline"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_the_rules_right(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("the rules were not run: promtool is not on PATH (Debian: apt install prometheus)")
    ran = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
