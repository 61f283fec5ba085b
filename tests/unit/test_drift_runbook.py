"""docs/operations.md has a heading for every kind of drift alert: what it means, how to confirm it, what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.drift.titles import RUNBOOKS

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
SECTIONS = dict(re.findall(r"^#### (drift-\S+)\n(.*?)(?=^#)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("heading", sorted(set(RUNBOOKS.values())))
def test_a_kind_of_alert_has_its_heading(heading: str) -> None:
    section = SECTIONS[heading]
    meaning, _, steps = section.partition("- **Confirm**:")
    assert meaning.strip().startswith("*"), "its first words are those of the alert's title"
    assert "- **Do**:" in steps


def test_no_heading_is_left_over() -> None:
    assert set(SECTIONS) == set(RUNBOOKS.values())


def test_the_choice_of_the_reference_is_explained() -> None:
    section = PAGE.partition("### What drift is compared with\n")[2].partition("\n### ")[0]
    for word in (
        "The reference",
        "The season",
        "The window",
        "The false-alarm budget",
        "Silencing",
        "psi-0.2",
    ):
        assert word in section
