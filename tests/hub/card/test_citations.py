"""The papers that a card cites are those of the methods that were used."""

import re

import pytest

from tests.hub.card.parts import sections
from tests.hub.records import bare_record, card_of


@pytest.mark.parametrize(
    ("change", "papers"),
    [
        ({}, None),
        ({"window": "random", "window_length": 3}, "2311.07025"),
        ({"window": "last", "window_length": 3}, None),
        ({"parametrization": "upsampled"}, "2205.14959"),
        ({"soft_labels": True}, "1910.02551"),
        ({"augmentation": "dsa"}, "2102.08259"),
        ({"augmentation": "shift_flip"}, "2102.08259"),
        ({"augmentation": "shift"}, None),
        ({"augmentation": "none"}, None),
        ({"augmentation": "resizedcrop+noise_shift"}, None),
        ({"augmentation": "resizedcrop+flip"}, "2102.08259"),
        ({"parametrization": "pyramid"}, "2511.16674"),
        ({"parametrization": "upsampled_pyramid"}, "2205.14959 2511.16674"),
        ({"init": "pool"}, "2206.00719"),
        ({"method": "mixed"}, "2505.00793"),
        ({"step_size_parameters": ["head.weight"]}, "1810.09502"),
    ],
)
def test_citations_are_those_of_the_methods_used(change, papers):
    record = bare_record()
    config = {"window": "full", "parametrization": "pixels", "method": "reverse", **change}
    record["about"] = {"config": config}
    record["recipe"]["augmentation"] = change.get("augmentation", "")
    record["recipe"]["init"] = change.get("init", "random")
    record["recipe"]["step_size_parameters"] = change.get("step_size_parameters")
    record["images"]["soft_labels"] = change.get("soft_labels", False)
    text = sections(card_of(record))["citation"]
    expected = {"1811.10959", *(papers or "").split()}
    assert set(re.findall(r"arxiv.org/abs/([\d.]+)", text)) == expected
    assert set(re.findall(r"eprint = \{([\d.]+)\}", text)) == expected
