"""The benchmark of changed recipes: a toy run of its command."""

import json

import pytest

from tests.benchmarks import recipe_changes


def test_every_change_is_a_run_and_runs_that_are_in_the_file_are_not_made_again(
    tmp_path, monkeypatch
):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    small = {
        "inner_steps": 3,
        "groups": 1,
        "images_per_class": 1,
        "real_batch_size": 20,
        "compile": "no",
        "model_args": {"width": 4, "depth": 1, "norm_layer": "batchnorm2d"},
    }
    changes = [json.dumps(small), json.dumps({**small, "inner_steps": 2})]
    path = tmp_path / "changes.json"
    words = ["mnist_random_ipc10", "digits", "--json", str(path), "--seconds", "0.01"]
    words += ["--networks", "1", "--changes", *changes]
    recipe_changes.main(words)
    rows = json.loads(path.read_text())["rows"]
    assert [row["changes"] for row in rows] == changes
    assert all(row["outer_steps"] >= 2 and len(row["accuracies"]) == 1 for row in rows)
    monkeypatch.setattr(recipe_changes, "measure", lambda *_: pytest.fail("made again"))
    recipe_changes.main(words)
