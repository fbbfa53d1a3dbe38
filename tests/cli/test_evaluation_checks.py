"""What `dd-plugin evaluate` refuses, before anything is trained."""

import re
from types import SimpleNamespace

import pytest

from dd_plugin.cli import main
from dd_plugin.cli.evaluation_checks import check_counts
from dd_plugin.data import DataError


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


@pytest.mark.parametrize("baselines", [["auto"], ["easiest", "full_data"]])
def test_too_few_real_images_are_told_before_training(baselines):
    record = SimpleNamespace(images=SimpleNamespace(stored_per_class=3.0))
    images = SimpleNamespace(class_counts=lambda: [5, 2], class_names=["cat", "dog"])
    with pytest.raises(DataError, match=r"need 3 real images of each class.* 2 of 'dog'; give"):
        check_counts(record, images, baselines)
    check_counts(record, images, ["hard_labels", "full_data"])
    record.images.stored_per_class = 2.0
    check_counts(record, images, baselines)
