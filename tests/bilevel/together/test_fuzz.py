"""Fifty cases of the fuzz; `python -m tests.bilevel.fuzz --cases 1000` runs more."""

import json

import pytest
import torch

from dd_plugin.bilevel import BilevelProblem
from tests.bilevel.fuzz import __main__ as command
from tests.bilevel.fuzz import cases, runner
from tests.bilevel.fuzz.losses import LOSSES
from tests.bilevel.fuzz.networks import POLICIES
from tests.bilevel.fuzz.runner import TOLERANCE, judge

CASES = range(50)
# A trace costs as much as ten cases without.
TRACED = (4, 13)


@pytest.mark.parametrize("number", CASES)
def test_a_random_problem_is_differentiated_exactly(number):
    outcome = judge(number, traced=number in TRACED)
    assert outcome.status == "passed", (str(cases.make(number)), outcome.trouble, outcome.refused)
    assert outcome.error < TOLERANCE
    # Methods refuse nothing; a trace that cannot be made is told, and vmap does not know all.
    assert set(outcome.refused) <= {"batched", "traced"}
    assert "ran eagerly" in outcome.refused.get("traced", "ran eagerly")


def test_a_case_is_a_function_of_its_number():
    torch.manual_seed(1)
    one = cases.make(7)
    torch.manual_seed(2)
    torch.rand(3)
    other = cases.make(7)
    assert str(one) == str(other)
    assert one.features == other.features
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert str(cases.make(8)) != str(one)


def test_the_grammar_reaches_everything():
    found = {feature for number in range(400) for feature in cases.make(number).features}
    assert {f"inner loss: {name}" for name in LOSSES} <= found
    assert {f"BatchNorm: {policy}" for policy in POLICIES} <= found
    assert set(cases.OPTIMIZERS) <= found


@pytest.fixture
def wrong(monkeypatch):
    """Every sweep forgets a hundred-millionth of the images' adjoint."""
    right = BilevelProblem.sweep

    def sweep(self, *args):
        swept = right(self, *args)
        return swept._replace(images=swept.images * (1 + 1e-8))

    monkeypatch.setattr(BilevelProblem, "sweep", sweep)


def test_a_small_error_is_seen_and_told(wrong, capsys, tmp_path):
    path = tmp_path / "fuzz.json"
    assert command.main(["--cases", "2", "--json", str(path)]) == 1
    said = capsys.readouterr().out
    assert "trouble, mixed" in said
    assert "Sequential(" in said
    rows = json.loads(path.read_text())
    assert rows["status"] == {"failed": 2}


def test_a_case_that_changes_the_model_has_failed(monkeypatch):
    def run(self):
        with torch.no_grad():
            next(iter(self.case.model.parameters())).add_(1)
        return self.outcome

    monkeypatch.setattr(runner.Judge, "run", run)
    outcome = judge(1)
    assert outcome.status == "failed"
    assert "unchanged" in outcome.trouble


def test_the_command_keeps_its_results(capsys, tmp_path):
    path = tmp_path / "fuzz.json"
    assert command.main(["--cases", "1", "--json", str(path)]) == 0
    first = command.stored(path)
    assert sorted(first) == [0]
    # What the file holds is not run again, so a result that is not true stays.
    first[0]["error"] = 0.25
    command.store(path, first)
    assert command.main(["--cases", "2", "--json", str(path)]) == 0
    assert "the worst error 2.5e-01" in capsys.readouterr().out
    assert sorted(command.stored(path)) == [0, 1]
    assert command.main(["--only", "1"]) == 0
    assert "features:" in capsys.readouterr().out
    # Out of time before the first case.
    assert command.main(["--cases", "9", "--minutes", "0", "--json", str(path)]) == 0
    assert sorted(command.stored(path)) == [0, 1]
