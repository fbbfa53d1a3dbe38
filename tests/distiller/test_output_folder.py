"""The folder of a run: nothing of anybody else's is replaced in it."""

import pytest

from dd_plugin.distiller import Distiller
from dd_plugin.distiller.output_folder import check_output_dir
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


def test_a_folder_with_another_run_is_not_overwritten_unless_asked(tmp_path):
    distiller = toy_distiller(tmp_path, save_steps=2)
    distiller.train()
    distiller.save_model()
    before = (tmp_path / "tensors.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run; choose another folder"):
        toy_distiller(tmp_path, save_steps=2).train()
    assert (tmp_path / "tensors.safetensors").read_bytes() == before
    again = toy_distiller(tmp_path, save_steps=3, overwrite_output_dir=True)
    again.train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
    ]


def test_the_set_that_a_run_starts_from_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = toy_config(tmp_path / "set", start_from="set", overwrite_output_dir=True)
    with pytest.raises(ValueError, match="is the set of `start_from`, which would be replaced"):
        check_output_dir(config)
    check_output_dir(toy_config(tmp_path / "other", start_from="set"))


def test_files_of_a_data_set_are_not_replaced(tmp_path):
    mine = tmp_path / "mine" / "data"
    mine.mkdir(parents=True)
    (mine / "train-00000-of-00001.parquet").write_bytes(b"mine")
    for options in ({}, {"overwrite_output_dir": True}):
        with pytest.raises(ValueError, match="must have no files that a distilled set"):
            check_output_dir(toy_config(tmp_path / "mine", **options))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"with README\.md, and no set that they belong to"):
        check_output_dir(toy_config(tmp_path / "project"))
    with pytest.raises(ValueError, match="is the folder of the real images"):
        check_output_dir(toy_config(tmp_path / "mine", dataset=str(tmp_path / "mine")))
    # A checkpoint of elsewhere is no leave to write over the run that is here.
    toy_distiller(tmp_path / "run").save_model()
    elsewhere = str(tmp_path / "other" / "checkpoint-2")
    with pytest.raises(ValueError, match="holds another run"):
        check_output_dir(toy_config(tmp_path / "run", resume_from_checkpoint=elsewhere))
    inside = str(tmp_path / "run" / "checkpoint-2")
    check_output_dir(toy_config(tmp_path / "run", resume_from_checkpoint=inside))


def test_nothing_is_written_among_the_real_images(tmp_path):
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    inside = images / "a" / "distilled"
    with pytest.raises(ValueError, match="is inside of the folder of the real images"):
        check_output_dir(toy_config(inside, dataset=str(images)))
    with pytest.raises(ValueError, match="is inside of the folder of the real images"):
        Distiller(None, toy_config(inside), toy_dataset(), images)
    check_output_dir(toy_config(tmp_path / "images-distilled", dataset=str(images)))
