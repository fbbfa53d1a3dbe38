"""`dd-plugin distill --resume RUN`: no other option is needed, and those that differ are judged.

Runs are ended as users and machines end them, and resumed by the very command that was printed.
"""

import shutil
import signal

import pytest
from safetensors.torch import load_file

from dd_plugin.cli import main
from dd_plugin.cli.resumed import resume_hint
from dd_plugin.distiller.local_note import NOTE
from dd_plugin.hub.reading import read_record
from tests.cli.photos import SHORT, options, pasted, write_photos
from tests.distiller.saved import write_checkpoint
from tests.distiller.test_checkpoint import check_same
from tests.processes import start_prepared

COMMAND = "import sys; from dd_plugin.cli import main; sys.exit(main(sys.argv[1:]))"
# Of the interrupted run, which does not come that far, and of the one that resumes it.
FAR, STEPS = 5000, 14


def begun(place, *words, name="my run"):
    """A run in a process of its own, in the folder `place`, after a few steps."""
    words = ["distill", "--dataset=my photos", f"--output_dir={name}", *options(**SHORT), *words]
    words += [f"--max_steps={FAR}"]
    process = start_prepared(COMMAND, *words, folder=place / "program", where=place)
    process.wait_for(f" 5/{FAR}")
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tensors of the run that nobody ended."""
    place = tmp_path_factory.mktemp("undisturbed")
    photos = write_photos(place / "my photos")
    words = [f"--dataset={photos}", f"--output_dir={place / 'run'}", *options(**SHORT)]
    assert main(["distill", *words, f"--max_steps={STEPS}", "--disable_tqdm"]) == 0
    return load_file(place / "run" / "tensors.safetensors")


@pytest.fixture
def place(tmp_path):
    write_photos(tmp_path / "my photos")
    return tmp_path


def test_the_printed_command_resumes_to_the_same_bits(place, undisturbed):
    process = begun(place)
    process.send_signal(signal.SIGINT)
    done = process.ended()
    assert done.returncode == 130
    said = done.stderr.strip().splitlines()[-1]
    assert f"of {FAR} steps; resume with: dd-plugin distill --resume 'my run'" in said
    command = said.partition("resume with: ")[2]
    again = pasted(command, place, f"--max_steps {STEPS} --save_steps 50 --disable_tqdm")
    assert again.returncode == 0, again.stderr
    check_same(load_file(place / "my run" / "tensors.safetensors"), undisturbed)
    # Nothing is asked for by the command that compares, either.
    compared = pasted("dd-plugin evaluate 'my run' --networks 1 --no_baselines", place)
    assert compared.returncode == 0, compared.stderr
    assert "distilled images" in compared.stdout


def test_a_killed_run_resumes_from_anywhere(place, undisturbed, tmp_path, monkeypatch):
    assert begun(place).kill().returncode == -signal.SIGKILL
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    words = ["--disable_tqdm", f"--max_steps={STEPS}"]
    assert main(["distill", "--resume", str(place / "my run"), *words]) == 0
    check_same(load_file(place / "my run" / "tensors.safetensors"), undisturbed)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The place of a finished run, with the checkpoints 3 and 6 of 6, which no test changes."""
    place = tmp_path_factory.mktemp("ended")
    photos = write_photos(place / "photos")
    words = [f"--dataset={photos}", f"--output_dir={place / 'run'}", *options(**SHORT)]
    assert main(["distill", *words, "--max_steps=6", "--disable_tqdm"]) == 0
    return place


@pytest.fixture
def run(tmp_path, ended):
    """A copy of that run for one test."""
    return shutil.copytree(ended / "run", tmp_path / "run")


def resume(place, *words):
    return main(["distill", "--resume", str(place), "--disable_tqdm", *words])


def test_a_checkpoint_and_another_folder_may_be_named(run, tmp_path):
    assert resume(run / "checkpoint-3", f"--output_dir={tmp_path / 'new'}") == 0
    tensors = [load_file(folder / "tensors.safetensors") for folder in (run, tmp_path / "new")]
    check_same(*tensors)
    assert (tmp_path / "new" / NOTE).exists()


def test_options_that_would_change_the_run_are_refused_in_one_line(run, capsys):
    before = sorted(run.iterdir())
    assert resume(run, "--inner_steps=3", "--seed", "9", "--save_steps=2", "--compile=no") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--inner_steps 3, which was 2; --seed 9, which was 3. Leave them out" in error
    assert "save_steps" not in error
    assert "compile" not in error
    assert sorted(run.iterdir()) == before


def test_settings_of_a_file_are_options_too(run, tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("seed: 3\ninner_steps: 7\n")
    words = ["distill", str(tmp_path / "settings.yaml"), "--resume", str(run)]
    assert main(words) == 2
    assert "--inner_steps 7, which was 2. Leave" in capsys.readouterr().err


def test_images_that_moved(ended, run, tmp_path, capsys):
    note = (run / NOTE).read_text()
    (run / NOTE).write_text(note.replace(str(ended / "photos"), str(tmp_path / "gone")))
    for step in (3, 6):
        state = run / f"checkpoint-{step}" / "state.json"
        state.write_text(state.read_text().replace(str(ended / "photos"), "gone"))
    assert resume(run, "--max_steps=8") == 2
    error = capsys.readouterr().err
    assert f"were in {tmp_path / 'gone'}, which is not there any more" in error
    assert "--dataset FOLDER" in error
    moved = shutil.copytree(ended / "photos", tmp_path / "moved")
    (moved / "train" / "cat" / "0.png").rename(tmp_path / "0.png")
    assert resume(run, "--max_steps=8", f"--dataset={moved}") == 2
    assert "on other real images (12 then, 11 now)" in capsys.readouterr().err
    (tmp_path / "0.png").rename(moved / "train" / "cat" / "0.png")
    assert resume(run, "--max_steps=8", f"--dataset={moved}") == 0
    # And it is remembered.
    assert resume(run, "--max_steps=9") == 0
    assert str(moved) in (run / NOTE).read_text()


def test_the_record_names_the_recipe_still(tmp_path, digits):
    out = tmp_path / "out"
    words = ["distill", "recipe:mnist_random_ipc1", "--dataset=digits", f"--output_dir={out}"]
    words += [
        "--inner_steps=2",
        "--window=full",
        "--init=random",
        "--save_steps=1",
        "--eval_steps=0",
    ]
    words += ["--max_steps=1", "--compile=no", "--disable_tqdm", "--no_baselines"]
    words += ["--lr_scheduler_type=constant", "--final_eval_networks=1", *options(augmentation="")]
    assert main(words) == 0
    assert read_record(out).about.recipe_name == "mnist_random_ipc1"
    assert resume(out, "--max_steps=2") == 0
    record = read_record(out)
    assert (record.about.recipe_name, record.about.outer_steps) == ("mnist_random_ipc1", 2)


def test_a_run_of_python_code_is_not_resumed_as_another(tmp_path, capsys, digits):
    from tests.distiller.toy import toy_distiller

    distiller = toy_distiller(tmp_path / "run", save_steps=1, max_steps=2, dataset="digits")
    distiller.train()
    assert resume(tmp_path / "run") == 2
    assert "belongs to a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "nowhere"], "there is no folder 'nowhere'"),
        (["--resume", "."], "'.' holds no checkpoint to resume from"),
        (["--resume", "run", "--resume_from_checkpoint=latest"], "say the same"),
        (["recipe:mnist_random_ipc1", "--resume", "run"], "leave the recipe out"),
        (["--resume", "run", "--save_steps=-1"], "--save_steps must not be negative"),
    ],
)
def test_what_cannot_be_resumed(tmp_path, monkeypatch, capsys, words, message):
    write_checkpoint(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["distill", *words]) == 2
    assert message in capsys.readouterr().err


def test_several_processes_are_told_to_come_together_again():
    assert resume_hint("run", 1) == "resume with: dd-plugin distill --resume run"
    assert "the same launcher for 4 processes" in resume_hint("run", 4)
