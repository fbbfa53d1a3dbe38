"""`DistilledDataset`: what has to be given, and what the files of a set are to others."""

import datasets
import pytest
import torch
from torch import nn

from dd_plugin import DistilledDataset
from tests.hub.toy import change_record, write_toy


def test_what_a_record_does_not_say_has_to_be_given(tmp_path):
    def without(record):
        record["recipe"] |= {"model": None, "model_args": {}, "loss": "custom"}

    change_record(write_toy(tmp_path), without)
    distilled = DistilledDataset.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model` must be given"):
        distilled.fit()
    with pytest.raises(ValueError, match="`loss` must be given"):
        distilled.fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    distilled.fit(network, loss=nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="`dataset` must be given"):
        distilled.evaluate(network)
    with pytest.raises(ValueError, match="`networks` must be at least 1, got 0"):
        distilled.evaluate(network, networks=0)


def test_the_folder_is_an_ordinary_data_set(distilled, tmp_path):
    loaded = datasets.load_dataset(
        str(distilled.folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["label"] == [0, 1, 2]
    assert loaded.features["label"].names == ["left", "right", "middle"]


def test_exports(distilled, tmp_path):
    distilled.export_image_folder(tmp_path / "images")
    assert len(list((tmp_path / "images").rglob("*.png"))) == 3
    distilled.export_dd_ranking(tmp_path / "ranking")
    images = torch.load(tmp_path / "ranking" / "images.pt", weights_only=True)
    torch.testing.assert_close(images, distilled._synthetic.transform(distilled.images).float())


def test_a_step_size_of_another_optimizer_is_no_step_size_of_sgd(tmp_path):
    write_toy(tmp_path / "set", optimizer="adamw")
    distilled = DistilledDataset.from_pretrained(tmp_path / "set")
    with pytest.warns(UserWarning, match="must be a step size of SGD .* got one of adamw, for whi"):
        distilled.export_dd_ranking(tmp_path / "ranking")
    assert (tmp_path / "ranking" / "lr.pt").exists()


def test_a_card_that_cannot_be_merged_is_kept_aside(tmp_path):
    write_toy(tmp_path)
    broken = "---\ntags: [\n---\nmine\n"
    (tmp_path / "README.md").write_text(broken)
    with pytest.warns(UserWarning, match="the old one is"):
        write_toy(tmp_path)
    assert (tmp_path / "README.old.md").read_text() == broken
    assert "mine" not in (tmp_path / "README.md").read_text()
