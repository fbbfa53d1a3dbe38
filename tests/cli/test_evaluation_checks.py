"""What `dd-plugin evaluate` refuses, before anything is trained."""

import re

import pytest

from dd_plugin.cli import main


# The two networks cannot take images of 8x8.
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model", "timm/test_vit"],
            r"timm/test_vit cannot be trained on .*patch size \(16\); l",
        ),
        (["--model", "timm/test_convnext"], "timm/test_convnext cannot be trained on .*of 1x8x8"),
        (["--output", "none/x.json"], "--output must be in a folder that is there, got none/x.js"),
        (["--output", "."], "--output must be a file, got the folder"),
        (
            ["--output", __file__],
            "--output must be a new file or one of an evaluation, got",
        ),
        (["--device", "nonsense"], "--device must be one that works here, got nonsense: "),
        (["--device", "meta"], "--device must be one that works here, got meta: "),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    run, real, words, message, capsys, monkeypatch
):
    def trained(*args, **options):
        raise AssertionError("it began")

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", trained)
    before = (run / "recipe.json").read_text()
    words = ["evaluate", str(run), "--dataset", str(real), "--model", "timm/dd_convnet", *words]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert re.search(message, line)
    assert (run / "recipe.json").read_text() == before
