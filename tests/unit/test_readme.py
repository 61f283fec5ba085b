"""The README shows what the demo prints, and a pipeline that loads."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from driftwood import demo_view
from driftwood.by_period import Period
from driftwood.demo import DemoResult
from models.loading import load_pipeline

README = (Path(__file__).parents[2] / "README.md").read_text()
PARTS = ("blend", "bounded_tree", "lightgbm", "scaled_logistic")
MONTHS = ("2013-04", "2013-05", "2013-06")
FIGURE = re.compile(r"[\d.,:]+")


def block() -> str:
    """The block behind the mark that says it comes from the demo."""
    return README.split("<!-- demo -->\n```\n")[1].split("\n```")[0]


def printed() -> str:
    """What the demo prints for some figures."""
    summary: dict[str, Any] = {
        "pipeline": "flights",
        "events": 85_369,
        "predictions": 85_369,
        "dead_letters": 0,
        "events_per_second": 4_000,
        "cpu_us_per_event": 90.1,
        "latency_ms": {"p50": 150.5, "p95": 400.5, "p99": 450.5},
        "labels": 85_369,
        "outcomes": {"matched": 82_767, "censored": 2_602, "early": 25_647},
        "label_to_weights_seconds": {"p50": 1.11, "p95": 1.81},
        "label_skew_hours": {"p50": 0.15, "p95": 6.97},
    }
    figures = {"auc": dict.fromkeys(PARTS, 0.75), "log_loss": dict.fromkeys(PARTS, 0.5)}
    *months, whole = (Period(name, 27_000, figures) for name in (*MONTHS, "all"))
    training = cast("Any", SimpleNamespace(version="000000000000"))
    outcomes = {"arrived": 82_767, "cancelled": 2_240, "diverted": 362}
    folder = Path("runs/demo-flights-20130401T000000Z")
    shown = ("auc", "log_loss")
    return demo_view.summary(DemoResult(summary, outcomes, shown, months, whole, training, folder))


def shape(text: str) -> str:
    """The words without the figures, which differ from run to run."""
    text = re.sub(r"model [0-9a-f]{12}", "model", re.sub(r"runs/\S+", "runs", text))
    return FIGURE.sub("#", text)


def test_the_block_in_the_readme_is_what_the_demo_prints() -> None:
    assert shape(block()) == shape(printed())


def test_the_score_in_the_readme_is_above_the_bar_of_the_example() -> None:
    blend_all = re.search(r"^ +all +(0\.\d+)", block(), re.MULTILINE)
    assert blend_all is not None
    assert float(blend_all[1]) >= 0.64


def test_the_pipeline_in_the_readme_loads(tmp_path: Path) -> None:
    code = README.split("```python\n")[1].split("```")[0]
    file = tmp_path / "orders.py"
    file.write_text(code)
    assert load_pipeline(str(file)).feature_set.names[-1] == "customer_since_last"
