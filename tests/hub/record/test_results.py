"""Accuracies, as they are measured and as somebody else may have written them."""

import json

import pytest

from dd_plugin.data.real.held_out import HeldOut
from dd_plugin.evaluation import Scores
from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.record import Evaluation, HeldOutPart, Protocol, Result
from dd_plugin.hub.record.results import read_results

TWO = Scores.joined(
    {"a": Scores((0.25, 0.75), seeds=(3, 4)), "b": Scores((0.5, 0.5), seeds=(3, 4))}
)


def test_scores_are_written_with_their_seeds():
    written = json.dumps(Result.of(TWO).to_json())
    assert written == json.dumps({**TWO.to_dict(), "seeds": [3, 4]})
    assert json.dumps(Result.of(Scores((0.5,))).to_json()) == json.dumps(Scores((0.5,)).to_dict())


def test_a_result_is_read_back():
    result = Result.of(TWO)
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_what_is_no_accuracy_is_left_out():
    result = Result.from_json(
        {"mean": "x", "std": True, "accuracies": [0.5, 2, None], "by_model": [1], "seeds": ["1"]}
    )
    assert result == Result(accuracies=(0.5,))


def test_results_that_are_no_objects():
    assert read_results({"distilled": None, "x": 0.5, "y": {"mean": 1}}, "results") == {
        "y": Result(mean=1.0)
    }
    with pytest.raises(DistilledFormatError, match=r"'results\.distilled' must be an object or nu"):
        read_results({"distilled": 0.5}, "results")


def test_a_row_has_its_scores_and_what_is_known_beside():
    row = Evaluation(set="a", dataset="digits").with_scores(Scores((0.25, 0.75)))
    assert str(row.scores) == "50.0 ± 35.4 %"
    assert row.to_json() == {
        **dict.fromkeys(["model", "trained_on", "protocol", "pixels", "images"]),
        **Scores((0.25, 0.75)).to_dict(),
        "set": "a",
        "dataset": "digits",
        "split": None,
    }


@pytest.mark.parametrize(
    "key", ["set", "model", "trained_on", "protocol", "pixels", "dataset", "split"]
)
def test_rows_differ_by_what_was_measured(key):
    row = Evaluation.from_json({"model": "a", "mean": 0.5, key: "one"})
    same = Evaluation.from_json({"model": "a", "mean": 0.7, "images": 5, key: "one"})
    other = Evaluation.from_json({"model": "a", "mean": 0.5, key: "two"})
    assert row.identity == same.identity != other.identity


def test_the_step_that_did_best_is_written_where_it_was_chosen():
    assert "best_step" not in Protocol().to_json()
    assert next(iter(Protocol(best_step=4).to_json())) == "best_step"


def test_held_out_images_are_read_as_they_were_written():
    rule = HeldOut(0.2, seed=3, keep=2)
    written = Protocol(images=4, held_out=HeldOutPart.of(rule)).to_json()
    assert Protocol.from_json(written).rule == rule
    assert Protocol.from_json(written).tested_on == "held out"
    assert HeldOutPart.of(None) is None
    assert "held_out" not in Protocol(split="test").to_json()
    assert Protocol(split="dev").tested_on == "dev"
    assert Protocol().tested_on == "test"


@pytest.mark.parametrize("fraction", [None, 0, 1, -0.5, "a fifth", float("nan")])
def test_without_a_share_no_images_were_held_out(fraction):
    assert Protocol.from_json({"held_out": {"fraction": fraction, "seed": 1}}).rule is None
