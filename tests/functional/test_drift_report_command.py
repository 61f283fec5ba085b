"""`driftwood drift report` against a broker: from what a monitor left on its topics to the page in a real browser."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from driftwood.cli import main
from driftwood.drift_series import lives_of
from driftwood.embedded.broker import EmbeddedBroker
from models.drift.alert import encoded
from models.model_store import ModelStore
from streams.producer import Outgoing, Publisher, settings_for
from streams.settings import Settings
from streams.topics import pipeline_topics
from streams.watch_frames import SliceFrames
from tests.headless_browser import NAMES, Browser, browser, found_browser
from tests.watched_shop import VERSION, alerts, reference, shop_called, slices


def open_alerts() -> list[str]:
    """The names of those that the monitor has left open."""
    return sorted(life.last.alert for life in lives_of(alerts()) if life.open)


class Shop:
    """The shop of tests/watched_shop.py on a broker, under a name of its own, and the report called for it."""

    def __init__(self, settings: Settings, name: str, call: Callable[..., tuple[object, str, str]]) -> None:
        self.settings, self.name, self.report = settings, name, call
        self.topics = pipeline_topics(name, [], settings, learns=True).learning

    def watch(self) -> None:
        """Leave on the topics what a monitor leaves there; of slices and alerts one twice, as after a crash."""
        frames = SliceFrames(shop_called(self.name), self.topics.drift_slices.name)
        upstream = f"c/{self.topics.hop_join.name}/0"
        counted = [message for one in slices() for message in frames.of_slice(upstream, one)]
        topic = self.topics.drift_alerts.name
        raised = [Outgoing(topic, 0, one.alert.encode(), encoded(one), []) for one in alerts()]

        async def run() -> None:
            publisher = Publisher(settings_for(self.settings.brokers))
            await publisher.deliver([*counted, counted[-1], *raised, raised[-1]])
            await publisher.close(10.0)

        asyncio.run(run())


@pytest.fixture
def watched(
    embedded_broker: EmbeddedBroker,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Shop:
    name = f"shop_{unique_name[-8:]}"
    path = tmp_path / "shop.py"
    path.write_text(f"from tests.watched_shop import shop_called\n\nshop = shop_called({name!r})\n")
    monkeypatch.chdir(tmp_path)

    def call(*more: str) -> tuple[object, str, str]:
        given = [f"--set=brokers={embedded_broker.address}", "--set=partitions=1"]
        monkeypatch.setattr(sys, "argv", ["driftwood", "drift", "report", str(path), *given, *more])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        return (code, *capsys.readouterr())

    settings = Settings(brokers=embedded_broker.address, partitions=1)
    place = Shop(settings, name, call)
    for topic in place.topics:
        embedded_broker.create_topic(topic.name, 1)
    models = tmp_path / settings.models_dir
    (models / name / VERSION).mkdir(parents=True)
    ModelStore(models).save_reference(name, VERSION, reference().encoded())
    return place


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    program = found_browser()
    if program is None:
        # Also in CI: the page is plain HTML, which tests/unit/test_drift_report.py reads everywhere.
        pytest.skip(
            f"the page was not opened: none of {', '.join(NAMES)} is on PATH (Debian: apt install chromium)"
        )
    with browser(program, tmp_path / "profile") as started:
        yield started


def test_before_the_monitor_has_counted_anything_the_report_says_what_is_missing(watched: Shop) -> None:
    code, out, err = watched.report()
    assert (code, out) == (3, "")
    assert f"nothing is known of {watched.name} yet" in err and f"driftwood monitor {watched.name}" in err


def test_the_report_says_what_is_open_and_opens_in_a_browser_without_asking_anybody(
    watched: Shop, chromium: Browser, tmp_path: Path
) -> None:
    watched.watch()
    code, out, err = watched.report("--out", str(tmp_path / "report"), "--json")
    assert code == 0, err
    figures: dict[str, Any] = json.loads(out)
    assert sorted(one["alert"] for one in figures["open"]) == open_alerts()
    assert figures["features"][0]["name"] == "weight_kg"
    assert "what model 0a1b2c3d4e5f was trained on" in figures["reference"]

    page = Path(figures["page"])
    for width, dark in ((1200, False), (1200, True), (390, False)):
        chromium.open(page, width=width, dark=dark)
        assert chromium.value("document.title") == f"Drift of {watched.name}, 2024-05-06 00:00"
        drawn = chromium.value("[...document.images].filter(image => image.naturalWidth > 100).length")
        assert drawn == chromium.value("document.images.length") == len(figures["pictures"])
        # Nothing sticks out on a phone: what is wide scrolls by itself.
        assert chromium.value("document.documentElement.scrollWidth") <= width
        paper = chromium.value("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is not dark
        shot = chromium.screenshot()
        assert shot.startswith(b"\x89PNG") and len(shot) > 50_000
    asked = {
        request["request"]["url"].partition(":")[0] for request in chromium.told("Network.requestWillBeSent")
    }
    assert asked == {"file", "data"}
    assert chromium.told("Log.entryAdded") == chromium.told("Runtime.consoleAPICalled") == []
    assert chromium.told("Runtime.exceptionThrown") == []


def test_without_json_it_prints_where_the_page_is_and_how_much_is_open(watched: Shop, tmp_path: Path) -> None:
    watched.watch()
    code, out, err = watched.report("--days", "3")
    page = Path(out.strip())
    assert code == 0 and page.is_file() and page.parent.name == watched.name
    count = len(open_alerts())
    assert f"{watched.name}: {'1 alert is' if count == 1 else f'{count} alerts are'} open." in err
