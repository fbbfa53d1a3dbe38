"""A new card over an edited one: the edits stay, and all else is ours."""

import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dd_plugin.hub.card.text import merge_card, with_license
from tests.hub.records import a_record, bare_record, card_of


def newer():
    record = a_record()
    record["results"]["distilled"]["accuracies"] = [0.8, 0.82]
    record["images"]["per_class"] = 3
    record["source"]["licenses"] = ["mit"]
    record["recipe"]["steps"] = 77
    return card_of(record)


OLD, NEW = card_of(a_record()), newer()


def metadata(card):
    return DatasetCard(card).data.to_dict()


def edited(card, old, new):
    assert card.count(old) >= 1
    return card.replace(old, new, 1)


@pytest.mark.parametrize("theirs", [None, "", "\n", OLD, NEW, OLD.replace("\n", "\r\n")])
def test_without_edits_it_is_ours(theirs):
    assert merge_card(NEW, theirs) == NEW


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_without_edits_it_is_ours_when_parts_come_and_go(first, second):
    bare, full = card_of(bare_record()), NEW
    old, new = (full if which else bare for which in (first, second))
    assert merge_card(new, old) == new


def test_text_between_the_parts_stays_where_it_was():
    theirs = edited(
        OLD, "<!-- dd_plugin:begin recipe", "My own words.\n\n<!-- dd_plugin:begin recipe"
    )
    merged = merge_card(NEW, theirs)
    assert merged == edited(
        NEW, "<!-- dd_plugin:begin recipe", "My own words.\n\n<!-- dd_plugin:begin recipe"
    )
    assert "81.0" in merged
    assert "75.0" not in merged


def test_an_edited_part_stays_as_it_was_written():
    theirs = edited(OLD, "## Results\n", "## Results, looked at twice\n")
    merged = merge_card(NEW, theirs)
    assert "## Results, looked at twice" in merged
    assert "75.0 ± 1.0 %" in merged
    assert "81.0" not in merged
    assert "| 77 " in merged  # the recipe is the new one


def test_a_part_that_was_taken_away_stays_away():
    begin, end = OLD.index("<!-- dd_plugin:begin limits"), OLD.index("<!-- dd_plugin:begin results")
    merged = merge_card(NEW, OLD[:begin] + OLD[end:])
    assert "What it is, and what it is not" not in merged
    assert merge_card(NEW, merged) == merged


def test_a_part_can_be_had_again():
    theirs = edited(OLD, "## Results\n", "## My results\n")
    begin = theirs.index("<!-- dd_plugin:begin results")
    end = theirs.index("<!-- dd_plugin:begin usage")
    asked = edited(theirs[:begin] + theirs[end:], "limits results usage", "limits usage")
    assert merge_card(NEW, asked) == NEW


def test_a_part_that_is_new_goes_to_its_place():
    theirs = card_of(bare_record()) + "\nThe end.\n"
    merged = merge_card(NEW, theirs)
    for earlier, later in [("limits", "results"), ("results", "usage"), ("recipe", "distillation")]:
        assert merged.index(f"begin {earlier}") < merged.index(f"begin {later}")
    assert "The end." in merged


def test_metadata_of_the_user():
    theirs = edited(OLD, "license: cc-by-4.0", "license: other\nlicense_name: pets  # asked them")
    theirs = edited(theirs, "- ipc-2", "- ipc-2\n- cute\n- 'no'")
    theirs = edited(theirs, "- dd_plugin\n", "")
    theirs = edited(theirs, "task_categories:\n- image-classification\n", "language: no\n")
    theirs = edited(theirs, "- n<1K", "- n>1T")
    merged = merge_card(NEW, theirs)
    found = metadata(merged)
    assert found["license"] == "other"
    assert "license_name: pets  # asked them\n" in merged
    # ipc-2 was ours and is now ipc-3; dd_plugin was taken out.
    assert found["tags"] == ["dataset-distillation", "ipc-3", "cute", "no"]
    assert "task_categories" not in found
    assert "language: no\n" in merged
    assert found["size_categories"] == ["n<1K"]
    assert merge_card(NEW, merged) == merged


def test_metadata_that_was_left_alone_is_ours():
    found = metadata(merge_card(NEW, edited(OLD, "## Results", "## My results")))
    assert found == metadata(NEW)
    assert found["license"] == "mit"


def test_metadata_that_we_no_longer_have_goes():
    record = a_record()
    record["source"]["licenses"] = []
    assert "license" not in metadata(merge_card(card_of(record), OLD))


def test_a_card_that_was_not_made_here():
    theirs = (
        "---\nlicense: gpl\ntags: [cats, ipc-2]\nconfigs: []\n---\n# My cats\n\nThey are nice.\n"
    )
    merged = merge_card(NEW, theirs)
    found = metadata(merged)
    assert found["license"] == "gpl"
    assert found["tags"] == ["dataset-distillation", "ipc-3", "dd_plugin", "cats", "ipc-2"]
    assert found["configs"] == metadata(NEW)["configs"]
    assert merged.index("They are nice.") < merged.index("begin title")
    assert merge_card(NEW, merged) == merged


def test_a_card_without_metadata():
    assert merge_card(NEW, "Hello.\n") == edited(NEW, "---\n\n<!--", "---\n\nHello.\n\n<!--")


@pytest.mark.parametrize(
    "text",
    [
        "{license: mit, pretty_name: Cats}",
        "license: &x mit\npretty_name: *x",
        "license: mit\nlicense: mit",
        "license: mit\n...",
        "# first\nlicense: mit # second\n# third",
        "license:\n  mit\nflag: true\nday: 2024-01-01",
    ],
)
def test_metadata_in_other_spellings(text):
    merged = merge_card(NEW, f"---\n{text}\n---\nHello.\n")
    assert metadata(merged)["license"] == "mit"
    assert metadata(merged).get("flag", True) is True
    assert merge_card(NEW, merged) == merged


@pytest.mark.parametrize(
    "text", ["a: [", "- a\n- b", "just words", "a: !!python/name:os.system", "x: " + "[" * 5000]
)
def test_metadata_that_cannot_be_kept_is_refused(text):
    with pytest.raises(ValueError, match="metadata at the top of the present card"):
        merge_card(NEW, f"---\n{text}\n---\n")


ODD = [
    "x: &a [*a]",
    "x: &a {b: *a}",
    "tags: &a [*a]",
    "tags: [&b {x: [*b]}]",
    "? &a [*a]\n: 1",
    "license: &l {m: &n [*l, *n]}",
    "<<: &a [*a]",
    *(f"x: !!{tag} x" for tag in ("bool", "timestamp", "int", "float", "binary", "set", "omap")),
    *(f"x: !!{tag} ''" for tag in ("bool", "timestamp", "int", "float", "pairs")),
    "x: !!timestamp 9999-99-99",
    "x: !!bool [1]",
    "x: !!int {a: 1}",
    "x: !foo bar",
    "x: !!python/object/apply:os.system [ls]",
    "x: " + "[" * 3000,
    "x: *none",
    "? [1, 2]\n: 3",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_metadata_ends_in_our_error(text):
    for call in (
        lambda card: merge_card(NEW, card),
        lambda card: with_license(card, "mit"),
    ):
        with pytest.raises(ValueError, match="the metadata at the top of the present card") as told:
            call(f"---\n{text}\n---\nmine\n")
        assert type(told.value) is ValueError


TAGS = st.sampled_from(
    ["bool", "timestamp", "int", "float", "binary", "set", "omap", "null", "str"]
)
PIECES = st.one_of(
    st.sampled_from(
        ["&a ", "*a", "&b ", "*b", "[", "]", "{", "}", ", ", ": ", "x", "1", "''", "\n"]
    ),
    TAGS.map("!!{} ".format),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_any_metadata_is_kept_or_refused(text):
    card = f"---\nx: {text}\n---\nmine\n"
    try:
        merged = merge_card(NEW, card)
    except ValueError as error:
        assert "metadata at the top" in str(error)  # noqa: PT017 - only if there is one
        return
    assert merge_card(NEW, merged) == merged


def test_aliases_that_stand_beside_each_other_are_kept():
    card = "---\na: &a [1, &b {c: 2}]\nd: [*a, *b, *a]\n---\nmine\n"
    found = metadata(merge_card(NEW, card))
    assert found["d"] == [[1, {"c": 2}], {"c": 2}, [1, {"c": 2}]]


def test_references_that_grow_are_not_expanded():
    # Thirty levels of ten would be 10^30 items.
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    theirs = "---\n" + "\n".join(lines) + "\n---\n"
    assert len(merge_card(NEW, theirs)) < 1_000_000


def test_two_copies_of_a_card_in_one():
    theirs = OLD + OLD.split("\n---\n", 1)[1]
    merged = merge_card(NEW, theirs)
    assert merge_card(NEW, merged) == merged


def test_with_license():
    card = with_license(NEW, "apache-2.0")
    assert metadata(card) == {**metadata(NEW), "license": "apache-2.0"}
    assert card.split("\n---\n", 1)[1] == NEW.split("\n---\n", 1)[1]
    # It is an edit like any other: the next push keeps it.
    assert metadata(merge_card(OLD, card))["license"] == "apache-2.0"
    assert metadata(with_license("Hello.\n", "mit")) == {"license": "mit"}


# Words of the card, of its markers and of YAML, so that random texts come close to both.
WORDS = st.sampled_from(
    [
        "cats",
        "<!-- dd_plugin:begin recipe 0123456789ab -->",
        "<!-- dd_plugin:end recipe -->",
        "<!-- dd_plugin:generated\nsections: title recipe\n-->",
        "<!-- dd_plugin:generated\n",
        "-->",
        "---",
        "\n",
        "\n\n",
        "# Title",
        "| a | b |",
        "```",
        "é",
    ]
)
TEXT = st.lists(WORDS, max_size=8).map("".join) | st.text(max_size=30)
PLACES = [i for i in range(len(OLD)) if OLD.startswith("<!-- dd_plugin:begin", i)] + [len(OLD)]


def mergeable(theirs):
    try:
        return merge_card(NEW, theirs)
    except ValueError:
        assume(False)


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_merging_with_any_text_twice_is_merging_once(theirs):
    merged = mergeable(theirs)
    assert merge_card(NEW, merged) == merged
    assert metadata(merged)["configs"] == metadata(NEW)["configs"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), TEXT)
def test_merging_with_an_edited_card_twice_is_merging_once(place, text):
    merged = mergeable(OLD[:place] + text + OLD[place:])
    assert merge_card(NEW, merged) == merged


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PLACES), st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
def test_text_between_the_parts_survives(place, text):
    assume("<!--" not in text)
    mark = f"own words: {text}"
    assert mark in merge_card(NEW, f"{OLD[:place]}\n{mark}\n\n{OLD[place:]}")


KEYS = st.sampled_from(["license", "pretty_name", "language", "homepage", "annotations_creators"])
VALUES = st.text(max_size=20) | st.integers() | st.booleans() | st.lists(st.text(max_size=9))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1))
def test_metadata_survives(changes):
    data = {**yaml.safe_load(OLD.split("---\n")[1]), **changes}
    theirs = f"---\n{yaml.safe_dump(data)}---\n{OLD.split('---' + chr(10), 2)[2]}"
    merged = merge_card(NEW, theirs)
    found = yaml.safe_load(merged.split("\n---\n")[0])
    for key, value in changes.items():
        assert value == metadata(OLD).get(key) or found[key] == value
    assert merge_card(NEW, merged) == merged
