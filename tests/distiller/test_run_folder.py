"""What cannot be written at the end of a run: the set is not lost, and pictures cost a warning."""

import errno
import json
import subprocess
import sys
import types

import pytest
import torch

from dd_plugin.cli import distill, main
from dd_plugin.cli.errors import CommandError
from dd_plugin.distiller import SaveError, report, run_folder
from dd_plugin.hub import DistilledDataset
from tests.distiller.toy import toy_distiller
from tests.repository import ROOT


def trained(folder, **options):
    distiller = toy_distiller(folder, **{"max_steps": 2, **options})
    distiller.train()
    return distiller


@pytest.fixture
def disk(monkeypatch):
    """A disk on which folders are full as long as their names are in the set."""
    full, write_set, write_whole = set(), report.write_set, report.write_whole

    def check(path):
        if full & set(path.parts):
            raise OSError(errno.ENOSPC, "No space left on device")

    def guarded_set(folder, *args, **kwargs):
        check(folder)
        write_set(folder, *args, **kwargs)

    def guarded_file(path, content):
        check(path)
        write_whole(path, content)

    monkeypatch.setattr(report, "write_set", guarded_set)
    monkeypatch.setattr(report, "write_whole", guarded_file)
    return full


def test_the_error_names_the_folder_and_the_newest_checkpoint(tmp_path, disk):
    distiller = trained(tmp_path / "out", save_steps=1)
    disk.add("out")
    with pytest.raises(SaveError) as caught:
        distiller.save_model()
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(tmp_path / "out"), "No space left on device", "checkpoint-2", "`resume_from_"):
        assert part in text
    disk.clear()
    # The set is still there to be written.
    assert len(DistilledDataset.from_pretrained(distiller.save_model())) == 3


def test_a_run_without_checkpoints_says_so(tmp_path, disk):
    distiller = trained(tmp_path / "out")
    disk.add("out")
    with pytest.raises(SaveError, match="There is no checkpoint in"):
        distiller.save_model()


def test_the_set_goes_to_the_other_folder(tmp_path, disk, caplog):
    distiller = trained(tmp_path / "out", rescue_dir=str(tmp_path / "rescue"))
    (tmp_path / "rescue" / "out").mkdir()
    (tmp_path / "rescue" / "out" / "notes").write_text("of somebody's")
    disk.add("out")
    place = distiller.save_model()
    assert place == tmp_path / "rescue" / "out-2"
    assert "No space left on device" in caplog.text
    assert str(place) in caplog.text
    rescued = DistilledDataset.from_pretrained(place)
    assert torch.equal(rescued.images, distiller.synthetic.images().detach())
    # Once more, with results: into the same folder.
    distiller.compare()
    assert distiller.save_model() == place
    record = json.loads((place / "recipe.json").read_text())
    assert record["results"]
    # A path of this machine, which is not published.
    assert "rescue_dir" not in record["about"]["config"]
    assert str(tmp_path) not in json.dumps(record)


def test_both_folders_full(tmp_path, disk):
    distiller = trained(tmp_path / "out", rescue_dir=str(tmp_path / "rescue"))
    disk |= {"out", "rescue"}
    with pytest.raises(SaveError, match="nor to `rescue_dir`"):
        distiller.save_model()
    assert list((tmp_path / "rescue").iterdir()) == []


def test_an_unwritable_second_folder_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`rescue_dir` .* cannot be written"):
        toy_distiller(tmp_path / "out", rescue_dir=str(tmp_path / "file" / "inside"))


def test_it_waits_for_room(tmp_path, disk, monkeypatch):
    distiller = trained(tmp_path / "out", wait_for_room=100)
    disk.add("out")
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            disk.clear()

    monkeypatch.setattr(run_folder.time, "sleep", sleep)
    assert distiller.save_model() == tmp_path / "out"
    assert waited == [run_folder._PAUSE] * 3
    DistilledDataset.from_pretrained(tmp_path / "out")


def test_it_does_not_wait_for_ever(tmp_path, disk, monkeypatch):
    distiller = trained(tmp_path / "out", wait_for_room=12)
    disk.add("out")
    now = [0.0]
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_folder.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    with pytest.raises(SaveError):
        distiller.save_model()
    assert now[0] == 12


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EFBIG, "File too large"),
    PermissionError("fonts"),
    RuntimeError("no backend"),
    ValueError("image size"),
    KeyError("font"),
    AttributeError("numpy"),
    OverflowError("too many ticks"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("what", ["training_curve", "results_table"])
def test_a_picture_that_fails_costs_a_warning(tmp_path, monkeypatch, error, what):
    distiller = trained(tmp_path, max_steps=1)
    distiller.results = {"distilled": report.Scores((0.5, 0.6))}

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(report, what, fails)
    name = {"training_curve": "curve.png", "results_table": "results.md"}[what]
    (tmp_path / name).write_text("of an earlier set")
    with pytest.warns(UserWarning, match=f"is whole, but it lacks {name}"):
        distiller.save_model()
    assert not (tmp_path / name).exists()
    assert (tmp_path / "log.jsonl").exists()
    DistilledDataset.from_pretrained(tmp_path)


def test_files_beside_the_set_cost_a_warning(tmp_path, monkeypatch):
    distiller = trained(tmp_path, max_steps=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_whole", full)
    with pytest.warns(UserWarning, match=r"it lacks log\.jsonl .*, curve\.png"):
        distiller.save_model()
    DistilledDataset.from_pretrained(tmp_path)


def test_trackers_that_cannot_be_written_to_cost_one_warning(tmp_path, monkeypatch):
    distiller = toy_distiller(tmp_path, logging_steps=1, max_steps=3, eval_steps=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(distiller.accelerator, "log", full)
    monkeypatch.setattr(distiller.accelerator, "end_training", full)
    with pytest.warns(UserWarning, match="the trackers .* cannot be written to .*No space") as told:
        distiller.train()
    assert len(told) == 1
    assert distiller.state.global_step == 3
    assert [h["step"] for h in distiller.state.log_history if "outer_loss" in h] == [1, 2, 3]
    with pytest.warns(UserWarning, match="the trackers could not be closed"):
        distiller.end()


LIMITED = """
import resource, sys
from dd_plugin.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (9 * 1024, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""
SMALL = ["--max_steps", "2", "--inner_steps", "2", "--no_baselines", "--eval_steps", "0"]
SMALL += [
    "--final_eval_networks",
    "1",
    "--disable_tqdm",
    "--model_args",
    '{"width": 4, "depth": 1}',
]


def limited(folder, *words):
    """The command in a process none of whose files may pass 9 KB."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, "distill", "--output_dir", str(folder), *SMALL, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_ends_with_one_line(tmp_path):
    pytest.importorskip("sklearn")
    done = limited(tmp_path / "out", "--images_per_class", "10", "--save_steps", "1")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dd-plugin distill: error: the distilled set could not be written to ")
    assert str(tmp_path / "out") in last
    assert "File too large" in last
    assert "There is no checkpoint" in last  # they did not fit either
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_curve_that_does_not_fit_leaves_the_run_a_success(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = limited(tmp_path / "out", "--save_steps", "0", "--logging_steps", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "it lacks curve.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(DistilledDataset.from_pretrained(tmp_path / "out")) == 10
    assert "accuracy" in done.stdout


def test_tensorboard_on_a_full_disk(tmp_path):
    pytest.importorskip("tensorboard")
    script = """
import resource, sys
from tests.distiller.toy import toy_distiller
distiller = toy_distiller(
    sys.argv[1], report_to=["tensorboard"], logging_steps=1, max_steps=40, eval_steps=1
)
resource.setrlimit(resource.RLIMIT_FSIZE, (9 * 1024, resource.RLIM_INFINITY))
print("steps", distiller.train().global_step, len(distiller.state.log_history), flush=True)
distiller.end()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps 40 79" in done.stdout  # a line per step, and one per evaluation but at the end
    assert "UserWarning: the trackers " in done.stderr


class Fake:
    """A distiller whose set finds room at the third attempt."""

    def __init__(self, processes=1):
        self.accelerator = types.SimpleNamespace(num_processes=processes)
        self.asked = []

    def save_model(self, place):
        self.asked.append(place)
        if len(self.asked) < 3:
            raise SaveError("the distilled set could not be written; `output_dir` is full")
        return place


def at_a_terminal(monkeypatch, lines):
    lines = iter(lines)
    stdin = types.SimpleNamespace(isatty=lambda: True, readline=lambda: next(lines, ""))
    monkeypatch.setattr(distill.sys, "stdin", stdin)
    monkeypatch.setattr(distill.sys.stderr, "isatty", lambda: True, raising=False)


def test_at_a_terminal_the_command_asks(monkeypatch, capsys):
    at_a_terminal(monkeypatch, ["\n", "/elsewhere\n"])
    fake = Fake()
    assert distill._saved(fake) == "/elsewhere"
    assert fake.asked == [None, None, "/elsewhere"]
    told = capsys.readouterr().err
    assert told.count("Make room and press Enter") == 2
    assert "--output_dir is full" in told


@pytest.mark.parametrize(("lines", "processes"), [([], 1), (["\n"] * 3, 2)])
def test_with_nobody_to_ask_it_ends(monkeypatch, lines, processes):
    at_a_terminal(monkeypatch, lines)
    fake = Fake(processes)
    with pytest.raises(CommandError, match="--output_dir is full"):
        distill._saved(fake)
    assert fake.asked == [None]


def test_accuracies_that_cannot_be_added_leave_the_set(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    from dd_plugin.distiller import Distiller

    save, saved = Distiller.save_model, []

    def once(self, place=None):
        if saved:
            raise SaveError("No space left on device")
        saved.append(save(self, place))
        return saved[0]

    monkeypatch.setattr(Distiller, "save_model", once)
    words = ["distill", "--output_dir", str(tmp_path / "out"), "--save_steps", "0", *SMALL]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "its accuracies could not be added: No space left on device" in printed.err
    assert "distilled images" in printed.out  # the table


def test_a_full_disk_under_stdout(monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(distill, "run", full)
    assert main(["distill"]) == 2
    assert "dd-plugin distill: error: [Errno 28] No space left" in capsys.readouterr().err
    with pytest.raises(OSError, match="No space"):
        main(["distill", "--debug"])
