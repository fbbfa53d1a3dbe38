"""`dd_plugin.distiller.saved_runs`: a run resumes with its own settings, wherever it lies now."""

import json
import re
import subprocess
import sys

import pytest

from dd_plugin.distiller.saved_runs import FREE, SavedRun, checkpoints
from dd_plugin.distiller.settings import GROUPS
from tests.distiller.saved import write_checkpoint

ENDLESS = {"lr_scheduler_type": "constant", "max_steps": 4}


def test_the_newest_checkpoint_of_a_folder_or_the_one_that_is_named(tmp_path):
    for step in (2, 10, 9):
        write_checkpoint(tmp_path / "run", step)
    (tmp_path / "run" / "left-checkpoint-12").mkdir()
    assert [path.name for path in checkpoints(tmp_path / "run")] == [
        "checkpoint-2",
        "checkpoint-9",
        "checkpoint-10",
    ]
    assert SavedRun.at(tmp_path / "run").step == 10
    one = SavedRun.at(str(tmp_path / "run" / "checkpoint-9"))
    assert (one.step, one.folder) == (9, tmp_path / "run")


def test_the_settings_are_those_of_the_run_in_the_folder_where_it_is_now(tmp_path):
    path = write_checkpoint(
        tmp_path / "run",
        more={"recipe_name": "mnist_ipc1"},
        seed=3,
        model_args={"width": 4},
        overwrite_output_dir=True,
    )
    config = SavedRun.at(path).config({})
    assert (config.seed, config.model_args, config.recipe_name) == (3, {"width": 4}, "mnist_ipc1")
    assert config.output_dir == str(tmp_path / "run")
    assert config.resume_from_checkpoint == str(path)
    # It would lose the very run.
    assert config.overwrite_output_dir is False


def test_settings_that_leave_the_run_as_it_is_are_taken(tmp_path):
    run = SavedRun.at(write_checkpoint(tmp_path / "run"))
    config = run.config({"save_steps": "7", "eval_steps": 0, "output_dir": "new", "seed": "0"})
    assert (config.save_steps, config.eval_steps, config.output_dir) == (7, 0, "new")


def test_all_others_are_listed_with_what_they_were(tmp_path):
    run = SavedRun.at(write_checkpoint(tmp_path / "run", inner_steps=5))
    changes = {"inner_steps": 6, "compile": "no", "model_args": '{"width": 8}', "save_steps": 3}
    listed = re.escape(
        '`compile` no, which was auto; `inner_steps` 6, which was 5; `model_args` {"width": 8}, '
        'which was {"width": 32, "depth": 2, "norm_layer": "batchnorm2d"}. Leave'
    )
    with pytest.raises(ValueError, match=listed):
        run.config(changes)


def test_more_steps_where_the_schedule_has_no_end(tmp_path):
    run = SavedRun.at(write_checkpoint(tmp_path / "run", **ENDLESS))
    assert run.config({"max_steps": 9}).max_steps == 9
    with pytest.raises(ValueError, match=r"`max_steps` 1, which was 4 \(2 are done\)"):
        run.config({"max_steps": 1})
    ends = SavedRun.at(write_checkpoint(tmp_path / "other", max_steps=4))
    with pytest.raises(ValueError, match=r"`max_steps` 9, which was 4 \(the cosine schedule ends"):
        ends.config({"max_steps": 9})


def test_paths_are_those_of_the_directory_where_the_run_began(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "net").mkdir()
    models = ["net", "timm/resnet18"]
    path = write_checkpoint(tmp_path / "run", dataset="photos", model=models)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    config = SavedRun.at(path).config({})
    assert config.dataset == str(tmp_path / "photos")
    assert config.model == [str(tmp_path / "net"), "timm/resnet18"]
    monkeypatch.chdir(tmp_path)
    assert SavedRun.at(path).config({}).dataset == "photos"


def test_one_process_may_resume_a_run_of_several(tmp_path):
    more = {"processes": 3, "networks_per_step": 3}
    path = write_checkpoint(tmp_path / "run", more=more)
    assert SavedRun.at(path).config({}).networks_per_step == 3
    alone = write_checkpoint(tmp_path / "alone")
    assert SavedRun.at(alone).config({}).networks_per_step is None


def test_a_checkpoint_of_an_earlier_version_has_fewer_settings_and_facts(tmp_path):
    path = write_checkpoint(tmp_path / "run")
    state = json.loads((path / "state.json").read_text())
    for name in ("recipe_name", "directory"):
        del state[name]
    del state["config"]["head"], state["config"]["statistics_corrections"]
    (path / "state.json").write_text(json.dumps(state))
    config = SavedRun.at(path).config({})
    assert (config.recipe_name, config.head) == (None, "ridge")
    assert config.statistics_corrections is None
    state["config"]["step_sizes"] = "constant"
    (path / "state.json").write_text(json.dumps(state))
    assert SavedRun.at(path).config({}).statistics_corrections == "learned"


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no folder '.*nowhere'; give the folder of a run"):
        SavedRun.at(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        SavedRun.at(tmp_path)
    later = write_checkpoint(tmp_path / "later")
    state = json.loads((later / "state.json").read_text())
    state["config"]["of_tomorrow"] = 1
    (later / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"another version of dd_plugin, .* of_tomorrow"):
        SavedRun.at(later).config({})
    for text in ("", "[]", '{"config": 3}', '{"config": {}, "state": {}}'):
        (later / "state.json").write_text(text)
        with pytest.raises(ValueError, match="not a checkpoint that can be read"):
            SavedRun.at(later)


def test_the_free_settings_are_settings():
    from dataclasses import fields

    assert {field.name for group in GROUPS.values() for field in fields(group)} >= FREE


def test_a_run_is_read_without_torch(tmp_path):
    path = write_checkpoint(tmp_path / "run")
    code = """
import sys
from dd_plugin.distiller.saved_runs import SavedRun
print(SavedRun.at(sys.argv[1]).config({}).seed, "torch" in sys.modules)
"""
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == ["0", "False"]
