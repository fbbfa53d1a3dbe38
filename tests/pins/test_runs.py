"""Short runs come out as the files say: tensors, record, log, table, files, card, the Hub.

`comparing` says how near numbers have to be, and where to the bit.
"""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from dd_plugin import DistilledDataset
from tests.pins import runs
from tests.pins.comparing import differences, distance, machine, written


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Does a run once: its folder, what is observed of it, its card."""
    known = {}

    def of(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name) / "out"
            known[name] = (folder, *runs.observe(name, folder))
        return known[name]

    return of


@pytest.mark.parametrize("name", runs.RUNS)
def test_a_run_comes_out_as_it_did(outcome, name):
    expected = runs.stored(name)
    same_machine = expected.pop("machine") == machine()
    _, observed, _ = outcome(name)
    assert not list(differences(observed, expected, to_the_bit=same_machine))


@pytest.mark.parametrize("name", runs.WITH_CARD)
def test_its_card_is_the_same_text(outcome, name):
    assert outcome(name)[2] == runs.golden(f"{name}.md").read_text(encoding="utf-8")


def test_a_traced_run_is_the_eager_one(outcome):
    (_, traced, card), (_, eager, eager_card) = outcome("traced"), outcome("scratch")
    assert card == eager_card
    for kind in ("tensors", "fitted", "checkpoint", "files"):
        assert not list(differences(traced[kind], eager[kind], to_the_bit=False))


def test_what_is_pushed(outcome, tmp_path):
    found = runs.published(outcome(runs.PUSHED)[0], tmp_path)
    assert not list(differences(found, runs.stored("published"), to_the_bit=False))


# --- what was written before is read -------------------------------------------------------------


def test_a_set_that_was_written_before_trains_the_same_network():
    expected = runs.stored("learned")
    logits = {"logits": written(runs.fitted(runs.KEPT / "set"))}
    assert not list(differences(logits, expected["fitted"], to_the_bit=False))
    tensors = load_file(runs.KEPT / "set" / "tensors.safetensors")
    opened = DistilledDataset.from_pretrained(runs.KEPT / "set")
    assert torch.equal(opened.images, tensors["images"])
    # Kept as logits when it is read.
    torch.testing.assert_close(opened.soft_labels, tensors["soft_labels"], rtol=1e-12, atol=0)
    assert torch.equal(opened.step_sizes, tensors["step_sizes"])
    assert opened.results == expected["record"]["results"]


def test_a_run_goes_on_from_a_checkpoint_that_was_written_before(tmp_path):
    shutil.copytree(runs.KEPT / "checkpoint-2", tmp_path / "checkpoint-2")
    run = runs.learned(tmp_path / "out")
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    images = {"images": written(run.synthetic.images())}
    expected = {"images": runs.stored("learned")["tensors"]["images"]}
    assert not list(differences(images, expected, to_the_bit=False))


# --- the comparison notices ----------------------------------------------------------------------


def test_a_last_bit_is_seen_where_bits_are_compared_and_a_millionth_everywhere():
    values = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    bit, more = values.clone(), values.clone()
    bit[1], more[1] = torch.nextafter(values[1], values[0]), 0.5 + 2e-6
    expected = {"a": written(values)}
    assert not list(differences({"a": written(values.clone())}, expected, to_the_bit=True))
    assert not list(differences({"a": written(bit)}, expected, to_the_bit=False))
    assert len(list(differences({"a": written(bit)}, expected, to_the_bit=True))) == 1
    assert len(list(differences({"a": written(more)}, expected, to_the_bit=False))) == 1
    assert len(list(differences({"a": written(values.float())}, expected, to_the_bit=False))) == 1


@pytest.mark.parametrize(
    ("found", "expected", "far"),
    [
        ([float("nan"), 1.0], [float("nan"), 1.0], 0),
        ([float("nan"), 1.0], [2.0, 1.0], float("inf")),
        ([0.0, 0.0], [0.0, 0.0], 0),
        ([0.0, 1e-9], [0.0, 0.0], float("inf")),
        ([1.0, -4.0], [1.0, -5.0], 0.2),
    ],
)
def test_the_distance_of_two_tensors(found, expected, far):
    assert distance(written(torch.tensor(found)), written(torch.tensor(expected))) == far


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"a": {"b": 1}}, "a.c: is gone, was [1, 2]"),
        ({"a": {"b": 1, "c": [1, 2], "d": 0}}, "a.d: is new: 0"),
        ({"a": {"b": 1, "c": [1, 3]}}, "a.c[1]: 3, was 2"),
        ({"a": {"b": 1, "c": [1]}}, "a.c: [1], was [1, 2]"),
        ({"a": {"b": True, "c": [1, 2]}}, "a.b: True, was 1"),
        ({"a": {"b": "1", "c": [1, 2]}}, "a.b: '1', was 1"),
    ],
)
def test_a_difference_is_told_with_its_place(found, line):
    expected = {"a": {"b": 1, "c": [1, 2]}}
    assert list(differences(found, expected, to_the_bit=False)) == [line]


def test_numbers_of_a_record_may_differ_in_their_last_digits_alone():
    assert not list(differences({"a": 0.1 + 1e-9}, {"a": 0.1}, to_the_bit=True))
    assert list(differences({"a": 0.1 + 1e-6}, {"a": 0.1}, to_the_bit=False))
