"""The drift report: what it shows of a watch that heard a producer lose a field, and what it never shows."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from driftwood.drift_compared import REST, Side, compared, number
from driftwood.drift_report import Watched, Written, figures_of, write
from driftwood.drift_series import lives_of, moment_us
from driftwood.drift_watched import Heard, heard_in, watched_of
from models.drift.buckets import category_bucket, number_buckets
from models.drift.columns import Column
from models.drift.time_slice import Counting, TimeSlice
from streams.producer import Outgoing
from streams.topic_log import StoredRecord
from streams.watch_frames import SliceFrames
from tests.watched_shop import (
    BEGIN_US,
    CHANGED_US,
    COLUMNS,
    DAY_US,
    END_US,
    LENGTH_US,
    alerts,
    heard,
    reference,
    shop,
    slices,
)

TOPIC = "shop.drift-slices"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and what stands in each caption."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def watched() -> Watched:
    return watched_of(shop, heard(), lives_of(alerts()), lambda _: reference(), 28)


@pytest.fixture(scope="module")
def written(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(watched, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written: Written) -> str:
    return written.page.read_text()


def test_what_is_open_comes_first_and_the_worst_feature_before_all_others(
    watched: Watched, page: str
) -> None:
    worst, *others = watched.open
    assert worst.last.severity == "critical"
    assert worst.strongest is not None and worst.strongest.subject == "weight_kg"
    told = f"{len(others) + 1} alerts are open" if others else "1 alert is open"
    first = page.index(f"{told}, the worst is critical")
    assert first < page.index("Moved, worst first") < page.index('id="alerts"') < page.index('id="time"')
    assert f'<li><a href="#alert-{worst.number}">{worst.number}. shop: inputs differ' in page
    moved = re.findall(r'<a href="#feature-\d+">(\w+)</a> \(', page)
    assert moved[0] == "weight_kg" and {"amount", "country", "score"} <= set(moved)
    assert not {"age", "customer_count_1d"} & set(moved)


def test_an_alert_says_since_when_what_was_measured_what_is_behind_it_and_where_to_read_on(page: str) -> None:
    card = page[page.index("<article") : page.index("</article>")]
    assert "Since 2024-04-29 0" in card and "open for" in card
    assert "change of the share that is missing" in card and re.search(
        r"missing \d.\d+ % → \d\d(\.\d)? %", card
    )
    assert "Probably behind it" in card and "weight_kg (" in card
    assert "docs/operations.md#drift-data" in card


def test_the_page_needs_nothing_but_itself_and_each_picture_is_a_file_beside_it(
    written: Written, page: str
) -> None:
    elements = Elements(page)
    policy = next(one["content"] for one in elements.of("meta") if one.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not elements.of("script") and not elements.of("link")
    assert all((one["href"] or "").startswith("#") for one in elements.of("a"))
    embedded = [base64.b64decode((one["src"] or "").partition("base64,")[2]) for one in elements.of("img")]
    assert embedded and sorted(embedded) == sorted(path.read_bytes() for path in written.pictures)


def test_every_picture_has_its_words_every_table_its_caption_and_every_link_its_place(page: str) -> None:
    elements = Elements(page)
    assert all(len(one["alt"] or "") > 20 for one in elements.of("img"))
    assert len(elements.of("caption")) == len(elements.of("table")) > 5
    assert all(one.get("scope") for one in elements.of("th"))
    places = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert {(one["href"] or "")[1:] for one in elements.of("a")} <= places


def test_of_a_personal_column_no_value_is_shown(watched: Watched, page: str) -> None:
    (age,) = [found for found in watched.compared if found.column.name == "age"]
    assert age.column.hidden and not age.quantiles
    assert all(re.fullmatch(r"bin \d+|missing", name) for name in age.bars)
    assert "personal: its values are not shown" in page
    assert "Quantiles of age" not in page and "Quantiles of amount" in page


def test_the_time_lines_are_those_of_the_watch(watched: Watched) -> None:
    data, prediction = watched.time_lines[:2]
    assert data.level == "data" and data.subjects[0] == "weight_kg"
    assert min(one.at_us for one in data.strengths if one.strength >= 1) >= CHANGED_US
    raised = moment_us(alerts()[0].at)
    assert [life.raised_us for life in data.lives] == [
        moment_us(one.at) for one in alerts() if one.status == "raised"
    ]
    assert raised in {one.at_us for one in data.strengths if one.strength >= 1}
    assert prediction.subjects[0] == "score"


def test_the_figures_for_programs_are_those_of_the_page(watched: Watched, written: Written) -> None:
    figures: Any = figures_of(watched, written.features)
    assert figures["from"] == "2024-04-08T00:00:00Z" and figures["to"] == "2024-05-06T00:00:00Z"
    assert figures["features"][0]["name"] == "weight_kg"
    shown = {one["name"]: one for one in figures["features"]}
    before, now = shown["weight_kg"]["rates"]["missing"]
    assert before == pytest.approx(0.02, abs=0.01) and now == pytest.approx(0.30, abs=0.05)
    assert shown["country"]["rates"]["unseen"][1] == pytest.approx(0.04, abs=0.02)
    assert shown["amount"]["quantiles"]["0.5"][1] / shown["amount"]["quantiles"]["0.5"][0] == pytest.approx(
        1.3, abs=0.1
    )
    assert shown["age"]["verdict"] == "as usual" and shown["age"]["alerts"] == ()
    assert figures["open"][0]["runbook"] == "drift-data"


def test_a_watch_without_alerts_and_with_a_short_past_says_so(tmp_path: Path) -> None:
    few = Heard()
    for one in slices()[:6]:
        few.served(one, {})
    page = write(watched_of(shop, few, [], lambda _: None, 28), tmp_path).page.read_text()
    assert "No alert is open" in page and "None was raised" in page
    assert "Nothing is compared: nothing yet: the time before is too short" in page
    assert "No label has come in this time" in page


def test_what_a_column_or_an_alert_is_called_cannot_break_the_page(watched: Watched, tmp_path: Path) -> None:
    life = watched.lives[0]
    record = msgspec.structs.replace(life.last, title="<script>alert(1)</script>")
    told = replace(watched, lives=[replace(life, records=(record,))])
    page = write(told, tmp_path).page.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


def test_records_of_two_partitions_and_their_copies_are_one_watch() -> None:
    frames, made = SliceFrames(shop, TOPIC), slices()[:12]
    halves = [_half(one, side) for one in made for side in (0, 1)]
    sent = [
        message
        for number, half in enumerate(halves)
        for message in frames.of_slice(f"c/shop.hop-join/{number % 2}", half)
    ]
    found = heard_in(shop, _records([*sent[:7], *sent[3:]]), TOPIC, 2)
    assert found.slices == made


def _half(one: TimeSlice, side: int) -> TimeSlice:
    """The whole slice on one side and none of it on the other, in turn."""
    number = (one.start_us - BEGIN_US) // LENGTH_US
    counting = Counting(COLUMNS, one.start_us, one.length_us)
    if number % 2 == side:
        counting.merge(one)
    return counting.closed()


def _records(sent: list[Outgoing]) -> list[StoredRecord]:
    return [
        StoredRecord(offset, 0, None, message.value, [(name, value) for name, value in message.headers or ()])
        for offset, message in enumerate(sent)
    ]


def test_a_report_of_few_days_is_about_these_days_alone() -> None:
    short = watched_of(shop, heard(), lives_of(alerts()), lambda _: reference(), 2)
    assert short.span.start_us == END_US - 2 * DAY_US
    assert all(one.at_us >= short.span.start_us for line in short.time_lines for one in line.strengths)
    # They were raised before, and are open.
    assert short.lives == [life for life in lives_of(alerts()) if life.open]
    assert short.lives[0].raised_us < short.span.start_us


def test_bins_hold_about_a_sixteenth_of_the_reference_and_a_value_with_more_has_its_own() -> None:
    column = Column("amount", "number", "feature")
    values = np.concatenate([np.zeros(500), np.linspace(1, 100, 1500)])
    found = compared(column, _side(values), _side(np.full(10, 500.0)), 0.0)
    shares = {name: before for name, (before, _) in found.bars.items()}
    assert shares["0"] == 0.25
    assert max(share for name, share in shares.items() if name != "0") < 0.1
    assert [now for _, now in found.bars.values()][-1] == 1.0
    assert sum(shares.values()) == pytest.approx(1)


def test_of_many_categories_the_largest_of_both_sides_are_named_and_the_others_are_one_bar() -> None:
    names = [f"c{number:02}" for number in range(30)]
    before = {name: 30 - place for place, name in enumerate(names)}
    found = compared(
        Column("country", "category", "feature"),
        _categories(before),
        _categories({"new": 50, "c00": 50}),
        0.0,
    )
    assert list(found.bars)[:2] == ["new", "c00"] and list(found.bars)[-1] == REST
    assert found.bars["new"] == (0.0, 0.5) and found.rates["unseen"] == (0.0, 0.5)
    assert sum(share for share, _ in found.bars.values()) == pytest.approx(1)


def test_a_hidden_category_is_shown_by_its_place_alone() -> None:
    found = compared(
        Column("city", "category", "feature", hidden=True),
        _categories({"Rome": 3}),
        _categories({"Rome": 2}),
        0.0,
    )
    assert list(found.bars) == ["category 1"]


def _side(values: np.ndarray[Any, np.dtype[np.float64]]) -> Side:
    buckets, counts = np.unique(number_buckets(values), return_counts=True)
    return Side(len(values), dict(zip(buckets.tolist(), counts.tolist(), strict=True)), 0, {})


def _categories(counts: dict[str, int]) -> Side:
    by_bucket = {category_bucket(name): count for name, count in counts.items()}
    return Side(sum(counts.values()), by_bucket, 0, {category_bucket(name): name for name in counts})


@pytest.mark.parametrize(
    ("value", "text"), [(-1234.0, "-1,230"), (0.99996, "1"), (999.6, "1,000"), (3e12, "3.00e+12")]
)
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert number(value) == text
