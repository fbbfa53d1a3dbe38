"""`dd_plugin.cli.planning`: the plan before a run, and `--dry_run`."""

from dd_plugin.cli import main

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
    assert "as measured" not in told
    words += ["--overwrite_output_dir", "--real_batch_size=10"]
    assert main([*words, "--max_steps=50"]) == 0
    assert "as measured" in capsys.readouterr().err


def test_settings_are_spelled_as_options(tmp_path, capsys, digits):
    words = [f"--output_dir={tmp_path / 'out'}", "--image_size=4", "--max_steps=7", *SHORT]
    assert main(["distill", "--dry_run", *words]) == 0
    assert "4 x 4, gray, by --image_size" in capsys.readouterr().out
