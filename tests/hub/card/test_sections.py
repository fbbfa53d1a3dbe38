"""Parts of a card between their marks: they come back as they went in, and an edit shows."""

import pytest

from dd_plugin.hub.card.sections import Section, fingerprints, joined, ledger, section, split

PARTS = [section("title", "# A set\n"), section("results", "## Results\n\n| a |\n|---|\n| 1 |")]
LISTED = ledger(PARTS, {"tags": ["a", "b"], "license": "mit"})
BODY = joined([PARTS[0], "My own words.", PARTS[1]], LISTED)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_parts_and_what_stands_between_them_come_back(end):
    parts, listed = split(BODY.replace("\n", end))
    assert parts == [PARTS[0], "My own words.", PARTS[1]]
    assert listed == LISTED
    assert listed.sections == ("title", "results")
    assert [len(listed.metadata[key]) for key in ("tags", "license")] == [2, 1]
    assert not any(part.edited for part in parts if isinstance(part, Section))


def test_an_edit_shows_and_empty_lines_around_a_text_are_none():
    parts, _ = split(BODY.replace("| 1 |", "| 2 |"))
    assert [part.edited for part in parts if isinstance(part, Section)] == [False, True]
    assert section("title", "\n# A set\n\n") == PARTS[0]


@pytest.mark.parametrize(
    "broken",
    [
        BODY.replace("<!-- dd_plugin:end results -->", ""),
        BODY.replace("dd_plugin:end results", "dd_plugin:end title"),
    ],
    ids=["no end", "the end of another"],
)
def test_a_part_without_its_end_is_text(broken):
    parts, listed = split(broken)
    assert [part.name for part in parts if isinstance(part, Section)] == ["title"]
    assert listed == LISTED


def test_a_card_of_somebody_else_has_no_parts():
    assert split("# Mine\n\ntext\n") == (["# Mine\n\ntext"], None)


def test_items_of_a_list_are_told_apart():
    assert len(set(fingerprints(["a", "b"]))) == 2
    assert fingerprints("a") == fingerprints(["a"])
