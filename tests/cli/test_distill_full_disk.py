"""`dd-plugin distill` on a full disk: the set is not lost, and the command ends with one line."""

import errno
import types

import pytest

from dd_plugin.cli import distill, main
from dd_plugin.cli.errors import CommandError
from dd_plugin.distiller import SaveError
from dd_plugin.hub import DistilledDataset
from tests.processes import run_prepared

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
    "--compile",
    "no",
]


def limited(folder, *words):
    """The command in a process none of whose files may pass 9 KB."""
    words = ["distill", "--output_dir", folder, *SMALL, *words]
    return run_prepared(LIMITED, *words, folder=folder.parent / "program")


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
