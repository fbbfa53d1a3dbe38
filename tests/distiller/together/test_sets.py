"""Sets of the trainer in the hands of others: the same accuracies come out, and nothing is lost."""

import json

import pytest
import torch
from torch import nn

from dd_plugin import DistilledDataset
from dd_plugin.data import RealData
from dd_plugin.distiller import published_names
from dd_plugin.evaluation import OtherArchitectureWarning
from dd_plugin.hub.comparison import Request, compare
from tests.distiller.toy import head_distiller, toy_dataset, toy_distiller
from tests.evaluation.short import shorten
from tests.hub.networks import hf_resnet, scaled
from tests.hub.toy import change_record

LONGER = {"inner_steps": 12, "inner_lr": 0.1, "max_steps": 2, "learning_rate": 0.05}


def distilled_in(folder, **options):
    distiller = toy_distiller(folder, **{**LONGER, **options})
    distiller.train()
    distiller.compare()
    distiller.save_model()
    return distiller, DistilledDataset.from_pretrained(folder)


@pytest.fixture(scope="module")
def tested():
    return toy_dataset(30, seed=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": "fixed"},
        {"statistics": "frozen", "soft_labels": True, "step_sizes": "shared"},
        {"soft_labels": True, "label_form": "weights", "label_lr": 0.1},
        {"step_sizes": "per_layer", "step_size_lr": 0.2},
        {"statistics": "learned", "normalization": "zca", "parametrization": "upsampled"},
        {"train_with": "running", "inner_optimizer": "adam", "inner_lr": 0.01},
        {"batching": "minibatches", "batch_size": 3, "images_per_class": 2, "augmentation": "dsa"},
        {"batching": "groups", "groups": 2, "images_per_class": 2, "dtype": "float32"},
        {"mixed_precision": "bf16", "dtype": "float32", "inner_steps": 20},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_the_recipe_gives_the_accuracies_of_its_author(tmp_path, tested, options):
    distiller, distilled = distilled_in(tmp_path, **options)
    scores = distilled.evaluate(dataset=tested, networks=2)
    assert scores == distiller.results["distilled"]
    # In eval mode a network's accuracy does not depend on the company of an image.
    assert distilled.evaluate(dataset=tested, networks=2, batch_size=7) == scores


def test_step_sizes_per_layer_are_of_their_network(tmp_path):
    _, distilled = distilled_in(tmp_path, step_sizes="per_layer", max_steps=1)
    names = distilled.recipe.step_size_parameters
    assert distilled.step_sizes.shape == (12, len(names))
    assert set(names) >= {"blocks.0.conv.weight", "head.weight", "head.bias"}
    assert "learned, one per step and parameter tensor of the network" in (
        tmp_path / "README.md"
    ).read_text().replace("\n", " ")
    with (
        pytest.warns(OtherArchitectureWarning),
        pytest.raises(ValueError, match="as on real images"),
    ):
        distilled.fit("timm/test_resnet", protocol="recipe")
    # Trained as on real images it needs none of them, and learns the three images by heart.
    network = distilled.fit("timm/test_resnet").train()
    with torch.no_grad():
        logits = network(distilled._synthetic.transform(distilled.images))
    assert logits.argmax(1).tolist() == [0, 1, 2]


def test_a_network_of_a_local_folder_is_named_by_its_configuration(tmp_path, caplog):
    hf_resnet().save_pretrained(tmp_path / "net")
    options = {"model": str(tmp_path / "net"), "model_args": None}
    _, distilled = distilled_in(tmp_path / "set", **{**LONGER, **options, "max_steps": 1})
    assert "so the recipe does not name it" not in caplog.text
    card = (tmp_path / "set" / "README.md").read_text()
    assert "`transformers/resnet`" in card
    assert str(tmp_path) not in card + json.dumps(distilled.record)
    assert type(distilled.fit()) is type(hf_resnet())
    assert distilled.evaluate(dataset=toy_dataset(30, 1), networks=1).mean > 0


def test_a_network_without_a_name_is_told_of_and_its_path_is_not(tmp_path, caplog, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(published_names, "configured_record", lambda *_: None)
    hf_resnet().save_pretrained(tmp_path / "net")
    options = {"model": str(tmp_path / "net"), "model_args": None}
    _, distilled = distilled_in(tmp_path / "set", **{**LONGER, **options, "max_steps": 1})
    assert "so the recipe does not name it" in caplog.text
    parameters = sum(p.numel() for p in hf_resnet().parameters())
    card = (tmp_path / "set" / "README.md").read_text()
    assert f"a `ResNetForImageClassification` with {parameters:,} trained parameters" in card
    assert str(tmp_path) not in card + json.dumps(distilled.record)
    with pytest.raises(ValueError, match=rf"\(its class 'ResNetFor.*{parameters}\); pass a funct"):
        distilled.fit()
    assert distilled.evaluate(hf_resnet, toy_dataset(30, 1), networks=1).mean > 0


def test_a_fixed_start_belongs_to_one_network(tmp_path):
    _, distilled = distilled_in(tmp_path, init="fixed")
    assert distilled.initial
    # One start, one course of training.
    first, second = (next(distilled.fit(seed=seed).parameters()) for seed in (0, 1))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="was distilled for one initialization, whose"):
        distilled.fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))


def test_writing_over_a_set_keeps_the_words_of_its_owner(tmp_path):
    distiller, _ = distilled_in(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(card.read_text() + "\n## Notes\n\nMine.\n")
    distiller.save_model()
    assert "## Notes\n\nMine." in card.read_text()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["source"]["dataset"] is None
    assert record["protocol"]["images"] == 30
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("statistics", ["frozen", "learned", "tracked"])
def test_a_fixed_start_brings_what_is_not_trained(tmp_path, tested, statistics):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    start = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    start[0].requires_grad_(False)
    norm.running_mean.normal_()
    distiller = toy_distiller(tmp_path, model_init=start, statistics=statistics, **LONGER)
    distiller.train()
    distiller.compare()
    distiller.save_model()

    def another():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )

    distilled = DistilledDataset.from_pretrained(tmp_path)
    frozen = another()
    frozen[0].requires_grad_(False)
    assert distilled.evaluate(frozen, tested) == distiller.results["distilled"]
    assert torch.equal(distilled.fit(frozen)[0].weight.float(), start[0].weight)


def test_saving_again_keeps_evaluations_and_drops_what_is_of_another_set(tmp_path):
    distiller, _ = distilled_in(tmp_path)
    change_record(tmp_path, lambda record: record["evaluations"].append({"model": "x"}))
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["evaluations"] == [{"model": "x"}]
    assert (tmp_path / "results.md").exists()
    distiller.results.clear()
    with torch.no_grad():
        distiller.synthetic.parametrization.pixels.mul_(0.5)
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["evaluations"] == []
    assert not (tmp_path / "results.md").exists()


def made_set(folder, model=None, **settings):
    run = head_distiller(folder, model, **settings)
    run.train()
    return run, run.save_model()


def test_each_network_without_a_name_has_the_normalization_that_it_was_distilled_with(tmp_path):
    networks = [scaled(0, 0.5, 0.5), scaled(1, 0.1, 0.9)]
    run, folder = made_set(tmp_path, networks, normalization="auto", image_size=32)
    expected = run.compare()["distilled"].accuracies
    opened = DistilledDataset.from_pretrained(folder)
    for network, accuracy in zip(networks, expected, strict=True):
        assert (
            opened.backbone(network).normalization.mean == [network.pretrained_cfg["mean"][0]] * 3
        )
        assert opened.evaluate(network, toy_dataset(seed=1)).accuracies == (accuracy,)


def test_an_upsampled_set_is_compared_with_as_much_storage_as_the_trainer_did(
    tmp_path, monkeypatch
):
    shorten(monkeypatch)
    options = {"parametrization": "upsampled", "max_steps": 1, "baselines": True}
    distiller = toy_distiller(tmp_path, dtype="float32", **options)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    distilled = DistilledDataset.from_pretrained(tmp_path)
    # Twelve images at a quarter of the pixels: one real image of each class.
    assert (len(distilled), distilled.images_per_class) == (12, 1)
    lines = (tmp_path / "results.md").read_text().splitlines()
    cells = [line.split("|")[2].strip() for line in (lines[0], *lines[2:])]
    assert cells[1:] == ["12, stored as 3", "3", "all"]
    assert lines[3].startswith("| random real images of that storage |")
    test, train = (RealData.from_dataset(data) for data in (toy_dataset(30, seed=1), toy_dataset()))
    request = Request(models=["timm/dd_convnet"], test=test, train=train, networks=2)
    rows = compare(distilled, request)
    found = {(row.trained_on, row.pixels): row.accuracies for row in rows}
    noted = {name: scores.accuracies for name, scores in distiller.results.items()}
    assert found["distilled images", "exact"] == noted["distilled"]
    assert found["random real images", None] == noted["random real"]
    assert found["all real images", None] == noted["full data"]
