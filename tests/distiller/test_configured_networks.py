"""Networks of transformers without a name: the recipe has their configuration, and makes them."""

import json

import pytest
import torch
from torch import nn

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from dd_plugin.data import NetworkRecord
from dd_plugin.distiller import Distiller
from dd_plugin.distiller.configured_networks import configured_record
from dd_plugin.distiller.local_note import LocalNote
from dd_plugin.networks.names import factory_from
from tests.distiller.toy import toy_config, toy_dataset

transformers = pytest.importorskip("transformers")


def resnet(**fields):
    plain = {"num_channels": 1, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    plain |= {"layer_type": "basic", "num_labels": 3}
    config = transformers.ResNetConfig(**{**plain, **fields})
    return transformers.ResNetForImageClassification(config)


def vit():
    config = transformers.ViTConfig(
        num_channels=1,
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_act="relu",
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def test_only_what_differs_from_the_default_is_named():
    record = configured_record(resnet(), {})
    assert record == NetworkRecord(
        "transformers/resnet",
        {
            "num_channels": 1,
            "embedding_size": 4,
            "hidden_sizes": [4, 8],
            "depths": [1, 1],
            "layer_type": "basic",
        },
    )


@pytest.mark.parametrize("make", [resnet, vit, lambda: resnet(out_features=["stage1"])])
def test_the_record_makes_the_same_network(make):
    network = make()
    record = configured_record(network, {})
    again = factory_from(
        record.model, {**record.model_args, "num_classes": 3}, from_record=True, max_parameters=9999
    )()
    assert type(again) is type(network)
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again.eval()(images).logits, network.eval()(images).logits)


def test_a_folder_is_named_by_its_configuration(tmp_path):
    resnet().save_pretrained(tmp_path)
    assert configured_record(str(tmp_path), {"pretrained": True}) == configured_record(resnet(), {})
    wider = configured_record(str(tmp_path), {"embedding_size": 6})
    assert wider.model_args["embedding_size"] == 6


class Changed(nn.Module):
    """A network that has a configuration and is not what that says."""

    def __init__(self):
        super().__init__()
        self.config = resnet().config


def test_what_the_configuration_does_not_make_is_not_named(tmp_path):
    assert configured_record(Changed(), {}) is None
    changed = resnet()
    changed.classifier = nn.Linear(8, 3)
    assert configured_record(changed, {}) is None
    activated = resnet()
    activated.classifier.append(nn.Sigmoid())
    assert configured_record(activated, {}) is None
    own = type("Own", (transformers.ResNetForImageClassification,), {})
    assert configured_record(own(resnet().config), {}) is None
    assert configured_record(str(tmp_path), {}) is None


def test_code_of_a_folder_is_neither_run_nor_named(tmp_path):
    resnet().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "my-own"
    kinds = {"AutoConfig": "Config", "AutoModelForImageClassification": "Net"}
    config["auto_map"] = {kind: f"code.{name}" for kind, name in kinds.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('run')")
    assert configured_record(str(tmp_path), {}) is None


def short(folder, **options):
    settings = {"max_steps": 1, "inner_steps": 2, "dtype": "float32", **options}
    return toy_config(folder, **settings)


def test_a_set_for_an_object_makes_its_network(tmp_path):
    network = resnet()
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    distiller = Distiller(network, short(tmp_path / "set", init="fixed"), toy_dataset())
    distiller.train()
    distilled = DistilledDataset.from_pretrained(distiller.save_model())
    assert distilled.recipe.model == "transformers/resnet"
    fitted = distilled.fit()
    assert isinstance(fitted, transformers.ResNetForImageClassification)
    assert fitted.config.num_labels == 3
    assert start.keys() <= fitted.state_dict().keys()


def test_a_set_for_a_folder_is_evaluated_without_that_folder(tmp_path, capsys, caplog):
    resnet().save_pretrained(tmp_path / "net")
    config = short(tmp_path / "set", model=str(tmp_path / "net"), model_args=None)
    distiller = Distiller(None, config, toy_dataset(), toy_dataset(30, seed=1))
    distiller.train()
    folder = distiller.save_model()
    assert "the recipe does not name" not in caplog.text
    assert str(tmp_path) not in (folder / "recipe.json").read_text()
    (tmp_path / "net").rename(tmp_path / "gone")
    import datasets

    both = datasets.DatasetDict({"train": toy_dataset(), "test": toy_dataset(30, seed=1)})
    both.save_to_disk(tmp_path / "real")
    LocalNote.of(tmp_path / "real").write(folder)
    assert main(["evaluate", str(folder), "--networks=1", "--no_baselines", "--split=test"]) == 0
    assert "transformers/resnet" in capsys.readouterr().out
