"""`dd-plugin distill`: flags and YAML to a finished folder, and what it says when it cannot."""

import json
import signal

import pytest
from PIL import Image

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from dd_plugin.hub.reading import read_record
from tests.evaluation.short import shorten
from tests.processes import start_prepared

SMALL = [
    "--max_steps=60",
    "--eval_steps=30",
    "--eval_networks=1",
    "--final_eval_networks=3",
    "--disable_tqdm",
]


def test_the_digits_beat_random_real_images(tmp_path, capsys, monkeypatch, digits):
    shorten(monkeypatch, 200)
    folder = tmp_path / "out"
    assert main(["distill", f"--output_dir={folder}", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "distilled images" in printed
    assert "as many random real images" in printed
    results = json.loads((folder / "recipe.json").read_text())["results"]
    # Ten images: margins that three networks cannot reach by luck (spread about 0.04).
    assert results["distilled"]["mean"] > results["random real"]["mean"] + 0.05
    assert results["full data"]["mean"] > 0.9
    assert (folder / "preview.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("inner_steps: 0", "`inner_steps` must be at least 1"),
        ("dataset: /nowhere/at/all", "/nowhere/at/all"),
        ("model: timm/resnet18x", "no architecture 'resnet18x'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path, capsys, content, message, digits):
    settings = tmp_path / "run.yaml"
    settings.write_text(content)
    assert main(["distill", str(settings), f"--output_dir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("dd-plugin distill: error: ")


def test_a_folder_with_another_run_is_left_alone(tmp_path, capsys, digits):
    (tmp_path / "recipe.json").write_text("{}")
    assert main(["distill", f"--output_dir={tmp_path}"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (tmp_path / "recipe.json").read_text() == "{}"


def test_ctrl_c_in_the_comparison_keeps_the_set(tmp_path, capsys, monkeypatch, digits):
    from dd_plugin.distiller import Distiller

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Distiller, "compare", interrupted)
    words = [f"--output_dir={tmp_path}", "--max_steps=1", "--inner_steps=1", "--disable_tqdm"]
    assert main(["distill", *words, "--save_steps=0", "--compile=no"]) == 130
    assert "the comparison is left out; the distilled set is in" in capsys.readouterr().err
    # `dd-plugin evaluate`, which that line names, finds the images that the run had.
    record = read_record(tmp_path)
    assert record.results == {}
    assert record.protocol.dataset == "digits"
    distilled = DistilledDataset.from_pretrained(tmp_path)
    assert len(distilled.real_data()) == record.protocol.images
    assert record.protocol.command is None


def test_a_second_ctrl_c_says_what_is_left(tmp_path, capsys, monkeypatch, digits):
    from dd_plugin.distiller import Distiller

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Distiller, "train", interrupted)
    words = ["distill", f"--output_dir={tmp_path}", "--max_steps=1", "--inner_steps=1"]
    assert main([*words, "--disable_tqdm", "--compile=no"]) == 130
    said = capsys.readouterr().err
    assert "ended at once; it cannot be resumed: there is no checkpoint" in said


def test_data_without_a_split_to_evaluate_on_are_told(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            shade = (60 * i, 200 - 60 * i)[name == "b"]
            Image.new("L", (8, 8), shade).save(tmp_path / "images" / name / f"{i}.png")
    words = [f"--dataset={tmp_path / 'images'}", f"--output_dir={tmp_path / 'out'}"]
    words += ["--max_steps=1", "--inner_steps=1", "--disable_tqdm", "--save_steps=0"]
    words += ["--compile=no", "--real_batch_size=4", "--validation_fraction=0"]
    assert main(["distill", *words]) == 0
    assert "there is no split validation or test" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, digits):
    words = ["--max_steps=500", "--logging_steps=1", "--save_steps=1000", "--compile=no"]
    code = "import sys; from dd_plugin.cli import main; sys.exit(main(sys.argv[1:]))"
    out = tmp_path / "out"
    words = ["distill", f"--output_dir={out}", *words]
    process = start_prepared(code, *words, folder=tmp_path / "program")
    process.wait_for(" 3/500")
    process.send_signal(signal.SIGINT)
    done = process.ended()
    assert done.returncode == 130
    assert "resume with: dd-plugin distill --resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.glob("checkpoint-*"))
