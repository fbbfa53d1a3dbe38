"""The set in a checkpoint: the same to the bit as the one that the run would have written."""

import pytest
import torch
from safetensors.torch import load_file

from dd_plugin import DistilledDataset
from dd_plugin.hub.in_checkpoint import export_checkpoint, is_checkpoint, open_checkpoint
from dd_plugin.hub.limits import DistilledFormatError, Limits
from tests.distiller.toy import head_distiller, toy_distiller
from tests.pins.runs import KEPT

RICH = {
    "soft_labels": True,
    "statistics": "learned",
    "inner_optimizer": "adam",
    "parametrization": "upsampled",
    "images_per_class": 1,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        RICH,
        {"init": "fixed", "parametrization": "pyramid"},
        {**RICH, "parametrization": "upsampled_pyramid"},
    ],
    ids=["plain", "rich", "fixed", "small pyramid"],
)
def test_an_exported_checkpoint_is_the_set_of_that_step(tmp_path, options):
    run = toy_distiller(tmp_path / "run", max_steps=2, save_steps=2, **options)
    run.train()
    saved = run.save_model(tmp_path / "saved")
    checkpoint, out = tmp_path / "run" / "checkpoint-2", tmp_path / "out"
    assert is_checkpoint(checkpoint)
    assert not is_checkpoint(saved)
    count = export_checkpoint(checkpoint, out, Limits())
    assert count == len(run.synthetic.labels)
    for name in ("tensors.safetensors", "preview.png", "data/train-00000-of-00001.parquet"):
        assert (out / name).read_bytes() == (saved / name).read_bytes()
    exported, original = (DistilledDataset.from_pretrained(folder) for folder in (out, saved))
    assert exported.recipe == original.recipe
    for name in ("transform", "images", "source"):
        assert exported.record[name] == original.record[name]
    assert exported.record["about"] == original.record["about"]
    assert "## How it was made" in (out / "README.md").read_text()
    assert torch.equal(open_checkpoint(checkpoint, Limits()).images, original.images)


def test_an_earlier_checkpoint_has_earlier_images_and_says_so(tmp_path):
    run = toy_distiller(tmp_path / "run", save_steps=2)
    run.train()
    export_checkpoint(tmp_path / "run" / "checkpoint-2", tmp_path / "two", Limits())
    two = DistilledDataset.from_pretrained(tmp_path / "two")
    assert two.record["about"]["outer_steps"] == 2
    assert two.record["about"]["unfinished"] is True
    state = load_file(tmp_path / "run" / "checkpoint-2" / "state.safetensors")
    assert torch.equal(two.images, state["synthetic.parametrization.pixels"])
    assert not torch.equal(two.images, run.synthetic.images())


def test_a_set_for_heads(tmp_path):
    run = head_distiller(tmp_path, max_steps=2, save_steps=2, soft_labels=True)
    run.train()
    export_checkpoint(tmp_path / "out" / "checkpoint-2", tmp_path / "set", Limits())
    exported = DistilledDataset.from_pretrained(tmp_path / "set")
    assert exported.recipe == run.synthetic.recipe
    assert torch.equal(exported.images, run.synthetic.images())


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(DistilledFormatError, match="is a checkpoint of an earlier version"):
        export_checkpoint(KEPT / "checkpoint-2", tmp_path / "out", Limits())
    run = toy_distiller(tmp_path / "run", max_steps=2, save_steps=2)
    run.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be new or empty"):
        export_checkpoint(checkpoint, tmp_path / "mine", Limits())
    tensors = checkpoint / "set" / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(DistilledFormatError, match="its checksum differs"):
        export_checkpoint(checkpoint, tmp_path / "out", Limits())
    assert not (tmp_path / "out").exists()
