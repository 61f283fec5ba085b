"""The demo's figures by month and by week: what scikit-learn says of the same rows, and a picture of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from driftwood.by_period import CARDS, FEWEST_LABELS, Judged
from driftwood.picture import COLOURS, _styles, draw

N, JOINS = 4_000, 2_300  # in June
START = datetime(2024, 5, 1, tzinfo=UTC)


class World:
    """Events of May and June, a part that scores all of them and one that joins late; every tenth has no label."""

    def __init__(self) -> None:
        draw = np.random.default_rng(1)
        self.moments = [START + timedelta(minutes=20 * number) for number in range(N)]
        self.times = [f"{moment:%Y-%m-%dT%H:%M:%S}.000000Z" for moment in self.moments]
        self.label = np.where(np.arange(N) % 10 == 0, np.nan, draw.random(N) < 0.2)
        self.score = np.clip(draw.random(N) * 0.6 + 0.3 * np.nan_to_num(self.label), 0.01, 0.99)
        self.cards = draw.integers(0, 50, N).astype(str)
        self.parts = [
            {"tree": score, **({"blend": score / 2} if number >= JOINS else {})}
            for number, score in enumerate(self.score.tolist())
        ]

    def truth(self, *, cards: bool) -> pd.DataFrame:
        return pd.DataFrame({"label": self.label, **({"card": self.cards} if cards else {})})


WORLD = World()


def test_all_and_each_month_have_the_figures_of_their_labelled_rows() -> None:
    judged = Judged(WORLD.times, WORLD.parts, WORLD.truth(cards=False))
    months = {month.name: month for month in judged.by("month")}
    assert list(months) == ["2024-05", "2024-06"]
    known = ~np.isnan(WORLD.label)
    june = known & np.array([moment.month == 6 for moment in WORLD.moments])
    for period, rows in ((judged.whole(), known), (months["2024-06"], june)):
        truth, scores = WORLD.label[rows], WORLD.score[rows]
        assert period.labels == rows.sum()
        assert period.figures["auc"]["tree"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
        assert period.figures["ap"]["tree"] == pytest.approx(average_precision_score(truth, scores), abs=1e-4)
        assert period.figures["log_loss"]["tree"] == pytest.approx(log_loss(truth, scores), abs=1e-4)
    assert list(months["2024-06"].figures["auc"]) == ["blend", "tree"]
    assert "blend" not in months["2024-05"].figures["auc"] and CARDS not in months["2024-05"].figures


def test_a_week_begins_on_monday_and_one_with_few_labels_is_left_out() -> None:
    weeks = Judged(WORLD.times, WORLD.parts, WORLD.truth(cards=False)).by("week")
    assert [week.name for week in weeks[:2]] == ["2024-04-29", "2024-05-06"]
    last = datetime.fromisoformat(WORLD.times[-1])
    assert weeks[-1].name < f"{last:%Y-%m-%d}" and all(week.labels >= FEWEST_LABELS for week in weeks)
    assert len(Judged(WORLD.times[:150], WORLD.parts[:150], WORLD.truth(cards=False)[:150]).by("week")) == 0


def test_where_cards_are_known_there_is_the_share_of_bad_ones_among_the_most_suspicious_of_a_day() -> None:
    days = 3
    times, parts, rows = [], [], []
    for day in range(days):
        for card in range(150):  # cards 0 to 29 are bad; ten of them are among the hundred that look worst
            bad = card < 30
            times.append(f"2024-05-0{day + 6}T10:00:00.000000Z")
            parts.append({"blend": 0.9 if card < 10 else 0.1 if bad else 0.5})
            rows.append((float(bad), f"c{card}"))
    whole = Judged(times, parts, pd.DataFrame(rows, columns=["label", "card"])).whole()
    assert whole.figures[CARDS] == {"blend": 0.1}
    assert whole.possible == 0.3


def test_the_picture_has_a_colour_for_each_part_and_the_blend_in_black(tmp_path: Path) -> None:
    periods = Judged(WORLD.times, WORLD.parts, WORLD.truth(cards=True)).by("week")
    styles = _styles(periods, "ap")
    assert styles["blend"]["color"] == "black" and styles["tree"]["color"] in COLOURS
    draw(periods, ("ap", CARDS), "payments", tmp_path / "models.png")
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")
