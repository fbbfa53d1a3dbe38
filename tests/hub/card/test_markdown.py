"""No text in a record breaks a table, a code block or the metadata of its card."""

import re
from contextlib import suppress

import pytest
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st

from dd_plugin.hub.limits import DistilledFormatError
from tests.hub.card.parts import rows, sections
from tests.hub.records import a_record, card_of

HOSTILE = [
    "a|b",
    "line\nbreak\r\n---\n# title",
    "``` `tick` ```",
    "<script>alert(1)</script><!-- dd_plugin:end results -->",
    "-->",
    "```",
    "<!-- dd_plugin:end results -->",
    "a\x85b\u2029c",
    "![x](y) [z](w) *a* _b_ & &lt;",
    "x" * 5000,
    "\u2028\u202e\x00\x1b[31m",
    "'\"\\",
    "- a: {b: [c",
    "",
]


def texts_of(value):
    """Every place in a JSON value that holds a text: (container, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        if isinstance(inner, str):
            yield value, key
        elif isinstance(inner, (dict, list)):
            yield from texts_of(inner)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_break_neither_tables_nor_metadata(text):
    honest = card_of(a_record())
    read = 0
    for i in range(len(list(texts_of(a_record())))):
        record = a_record()
        container, key = list(texts_of(record))[i]
        container[key] = text
        # What must be one of a few words is no text for a card.
        with suppress(DistilledFormatError):
            card = card_of(record)
            read += 1
            check_structure(card, honest)
    assert read > 40


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), min_size=3, max_size=3), st.text(), st.text(), st.text())
def test_any_text_breaks_neither_tables_nor_metadata(names, dataset, model, command):
    record = a_record()
    record["recipe"].update(class_names=names, model=model)
    record["source"]["dataset"] = record["source"]["hub_id"] = dataset
    record["protocol"]["command"] = command
    card = card_of(record)
    check_structure(card, card_of(a_record()))
    found = DatasetCard(card).data.dataset_info["features"][1]["dtype"]["class_label"]["names"]
    if not any(0xD800 <= ord(c) < 0xE000 for name in names for c in name):
        assert list(found.values()) == names


def check_structure(card, honest):
    card.encode()
    data = DatasetCard(card).data.to_dict()
    assert data["configs"] == DatasetCard(honest).data.to_dict()["configs"]
    found, expected = sections(card), sections(honest)
    assert set(found) <= set(expected)
    for name, text in found.items():
        outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        # No tag and no comment comes out of a record, and no heading but ours.
        assert "<" not in outside
        assert not re.search(r"^`{3}", outside, flags=re.MULTILINE)
        assert outside.count("\n#") <= expected[name].count("\n#")
        widths = [len(row) for row in rows(outside)]
        assert widths == [len(row) for row in rows(expected[name])][: len(widths)]
        assert max(map(len, outside.splitlines())) < 2000
