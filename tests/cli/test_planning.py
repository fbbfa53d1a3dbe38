"""`dd_plugin.cli.planning`: the plan before a run, and `--dry_run`."""

from dd_plugin.cli import main
from dd_plugin.cli.planning import tell_plan
from tests.distiller.toy import toy_distiller

SHORT = ("--inner_steps=1", "--save_steps=0", "--compile=no", "--eval_steps=0", "--baselines=false")


def test_a_dry_run_prints_the_plan_and_leaves_no_folder(tmp_path, capsys, digits):
    folder = tmp_path / "around" / "out"
    assert main(["distill", f"--output_dir={folder}", "--dry_run", "--max_steps=7", *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "data        1,085 images of digits in 10 classes" in printed
    assert "steps       7 of 1 inner steps" in printed
    assert "as measured" in printed
    assert list(tmp_path.iterdir()) == []
    # A folder that is there stays, and so does what is in it.
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    assert main(["distill", f"--output_dir={folder}", "--dry-run", "--max_steps=7", *SHORT]) == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_dry_run_fails_as_the_run_would(tmp_path, capsys, digits):
    words = ["distill", f"--output_dir={tmp_path / 'out'}", "--dry_run", "--eval_split=dev"]
    assert main(words) == 2
    assert "there is no split 'dev'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_its_plan_first_and_measures_only_if_that_pays(tmp_path, capsys, digits):
    words = ["distill", f"--output_dir={tmp_path}", *SHORT, "--final_eval_networks=1"]
    assert main([*words, "--max_steps=1", "--disable_tqdm"]) == 0
    told = capsys.readouterr().err
    assert "data        1,085 images of digits in 10 classes" in told
    assert "measur" not in told
    words += ["--overwrite_output_dir", "--real_batch_size=10"]
    assert main([*words, "--max_steps=50"]) == 0
    told = capsys.readouterr().err
    assert told.index("measuring two steps for the plan\n") < told.index("as measured")


def test_what_the_data_decided_is_spelled_as_options(tmp_path, capsys, digits, monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.defaults.BUDGET", 1e11)
    words = [f"--output_dir={tmp_path / 'out'}", "--max_steps=7", "--compile=no"]
    assert main(["distill", "--dry_run", *words]) == 0
    printed = capsys.readouterr().out
    assert "\nby the data  --inner_steps " in printed
    assert "\nto evaluate  --eval_networks " in printed
    # Written down, it is taken, also where it is the default.
    assert main(["distill", "--dry_run", *words, "--inner_steps=20", "--real_batch_size=256"]) == 0
    assert "by the data  " not in capsys.readouterr().out


def test_settings_are_spelled_as_options(tmp_path, capsys, digits):
    words = [f"--output_dir={tmp_path / 'out'}", "--image_size=4", "--max_steps=7", *SHORT]
    assert main(["distill", "--dry_run", *words]) == 0
    assert "4 x 4, gray, by --image_size" in capsys.readouterr().out


def test_a_plan_leaves_the_trainer_as_it_was(tmp_path, capsys, monkeypatch):
    distiller = toy_distiller(tmp_path, max_steps=50, disable_tqdm=False)
    monkeypatch.setattr("dd_plugin.distiller.storage_choice.free_memory", lambda device: 1)
    tell_plan(distiller)
    told = capsys.readouterr().err
    # With next to no memory, the measured steps kept nothing either.
    assert "storage: recompute, by the free memory" in told
    assert "as measured" in told
    assert (distiller.state.global_step, distiller.state.choices) == (0, {})


def test_a_resumed_run_has_no_plan(tmp_path, capsys):
    distiller = toy_distiller(tmp_path)
    distiller.config.resume_from_checkpoint = "latest"
    tell_plan(distiller)
    assert capsys.readouterr().err == ""
