"""Every cause has a page in docs/diagnosis/, and every page a cause."""

from __future__ import annotations

import re
from typing import get_args
from xml.etree import ElementTree

import pytest

from job.diagnose.case import Mechanism
from job.diagnose.pages import page
from tests.support.command import ROOT
from tests.support.pictures_diagnosis import BARS, FOLDER
from tests.support.shown_causes import PAIRS

CAUSES: tuple[Mechanism, ...] = get_args(Mechanism)
HEADINGS = ["What was seen", "What it means", "What to do", "What it brings"]


def test_causes_and_pages_are_the_same() -> None:
    """No cause without a page, no page without a cause; likewise the pictures."""
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs/diagnosis").glob("*.md")}
    assert pages == {page(cause) for cause in CAUSES}
    pictures = {path.stem for path in FOLDER.glob("*.svg")}
    assert pictures == {cause.replace("_", "-") for cause in CAUSES}
    assert {*PAIRS, *BARS} == {*CAUSES}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_page_answers_four_questions(cause: Mechanism) -> None:
    """What was seen, what it means, what to do, what it brings; and it shows its picture."""
    text = (ROOT / page(cause)).read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert f"`{cause}`" in text
    for heading in HEADINGS:
        _, _, rest = text.partition(f"## {heading}\n")
        assert len(rest.partition("\n## ")[0].split()) > 3
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", text)
    assert (
        ROOT / "docs/diagnosis" / picture
    ).resolve() == FOLDER / f"{cause.replace('_', '-')}.svg"


@pytest.mark.parametrize("cause", CAUSES)
def test_a_page_needs_no_knowledge_of_ours(cause: Mechanism) -> None:
    """It does not speak of z."""
    assert not re.search(r"\bz\b", (ROOT / page(cause)).read_text("utf-8"))


@pytest.mark.parametrize("cause", CAUSES)
def test_a_picture_is_small_and_whole(cause: Mechanism) -> None:
    """It is well-formed, loads nothing from elsewhere, and shows both runs."""
    text = (FOLDER / f"{cause.replace('_', '-')}.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert len(text) < 20_000
    assert "href" not in text
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"with the fault", "mended"} <= set(words)
