"""`DistilledDataset`: what comes out of a folder, and networks that are trained on it."""

import functools
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from torch import nn

from dd_plugin import DistilledDataset
from dd_plugin.bn import converted_layers
from dd_plugin.data import DataError, RealData
from dd_plugin.evaluation import OtherArchitectureWarning, training
from dd_plugin.hub.folder import to_bytes
from tests.distiller.toy import toy_dataset
from tests.hub.sets import toy_set
from tests.hub.toy import change_record, write_toy


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """As on real images, and not for long."""
    few = functools.partial(training.train_on_few, steps=60)
    monkeypatch.setattr(training, "train_on_few", few)


@pytest.fixture(scope="module")
def tested():
    return toy_dataset(30, seed=1)


@pytest.mark.parametrize(("form", "taken"), [("probabilities", True), ("weights", False)])
def test_training_as_usual_takes_learned_probabilities_and_no_weights(tmp_path, form, taken):
    distilled = DistilledDataset.from_pretrained(write_toy(tmp_path, soft_labels=form))
    first = distilled.fit(protocol="standard").state_dict()
    distilled._synthetic.set_targets(distilled.soft_labels.flip(1))
    again = distilled.fit(protocol="standard").state_dict()
    assert any(not torch.equal(first[name], again[name]) for name in first) == taken


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return DistilledDataset.from_pretrained(toy_set(tmp_path_factory.mktemp("set")))


def test_what_is_in_it(distilled):
    assert len(distilled) == 3
    assert distilled.class_names == ("left", "right", "middle")
    assert distilled.images.shape == (3, 1, 8, 8)
    assert distilled.labels.tolist() == [0, 1, 2]
    assert distilled.soft_labels is None
    assert distilled.step_sizes.shape == (12,)
    assert distilled.results["distilled"]["accuracies"]
    rows = distilled.to_dataset()
    assert rows.features["label"].names == ["left", "right", "middle"]
    pixels = torch.stack([torch.from_numpy(np.array(row["image"])) for row in rows])
    assert torch.equal(pixels.view(3, 1, 8, 8).to(torch.uint8), to_bytes(distilled.images))


def test_fit_gives_an_ordinary_network_that_depends_on_the_seed_alone(distilled):
    state = torch.random.get_rng_state()
    first, again, other = (distilled.fit(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.training
    assert not converted_layers(first)
    weights = [next(network.parameters()) for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_8_bit_images_are_others_and_close(distilled):
    networks = [distilled.fit(pixels=pixels) for pixels in ("exact", "png")]
    exact, png = (next(network.parameters()).detach() for network in networks)
    assert 0 < float((exact - png).abs().max()) < 0.1 * float(exact.abs().max())


def hf_resnet():
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3
    )
    return transformers.AutoModelForImageClassification.from_config(config)


OTHERS = {
    "a name": "timm/test_resnet",
    "a function": hf_resnet,
    "a module": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    "timm": lambda: timm.create_model("test_resnet", in_chans=1, num_classes=3),
}


@pytest.mark.parametrize("protocol", ["recipe", "standard"])
@pytest.mark.parametrize("model", sorted(OTHERS))
def test_any_network_can_be_trained_on_it(distilled, model, protocol):
    made = OTHERS[model]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherArchitectureWarning)
        network = distilled.fit(made, protocol=protocol)
    assert not network.training
    assert not converted_layers(network)
    ((images, _),) = distilled.test_batches(distilled.real_data(toy_dataset(30, 1)), 30)
    with torch.no_grad():
        found = network(images)
    found = getattr(found, "logits", found)
    assert found.shape == (30, 3)
    assert bool(found.isfinite().all())
    if isinstance(made, nn.Module):
        assert network is not made
    if protocol == "standard" and model == "a module":
        # Three images, learned by heart. The others have layers that normalise one value of each
        # of three images at the end, whose variance eval mode takes half as large again.
        with torch.no_grad():
            own = network(distilled._synthetic.transform(distilled.images))
        assert getattr(own, "logits", own).argmax(1).tolist() == [0, 1, 2]


def test_what_was_learned_for_another_architecture_is_not_used_in_the_dark(distilled):
    with pytest.warns(OtherArchitectureWarning, match="belongs to timm/dd_convnet"):
        network = distilled.fit(hf_resnet, protocol="recipe")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    # Taken from the synthetic images: neither the start values nor moving averages.
    assert norms
    assert all(m.momentum == 0.1 for m in norms)
    images = distilled._synthetic.transform(distilled.images)
    first = []
    hook = norms[0].register_forward_pre_hook(lambda module, args: first.append(args[0]))
    with torch.no_grad():
        network(images)
    hook.remove()
    torch.testing.assert_close(norms[0].running_mean, first[0].mean((0, 2, 3)))


def test_auto_is_the_recipe_for_its_own_network_and_ordinary_training_for_others(distilled):
    assert distilled.protocol_for("auto", None) == "recipe"
    assert distilled.protocol_for("auto", "timm/dd_convnet") == "recipe"
    assert distilled.protocol_for("auto", "timm/resnet18") == "standard"
    assert distilled.protocol_for("auto", hf_resnet) == "recipe"


def test_more_networks_than_the_author_had(distilled, tested):
    noted = distilled.record["results"]["distilled"]["seeds"]
    assert distilled.seeds(1) == noted[:1]
    more = distilled.seeds(4)
    assert more[:2] == noted
    assert len(set(more)) == 4
    assert len(set(more) & set(distilled.seeds(4, seed=9))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "best"}, "`protocol` must be"),
        ({"pixels": "jpeg"}, "`pixels` must be"),
        ({"model": "timm/no_such"}, "timm has no architecture"),
    ],
)
def test_wrong_arguments_of_fit(distilled, options, message):
    with pytest.raises(ValueError, match=message):
        distilled.fit(**options)


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


def test_a_copy_is_the_same_files(distilled, tmp_path):
    target = distilled.save_pretrained(tmp_path / "copy")
    names = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    assert {"recipe.json", "tensors.safetensors", "README.md", "preview.png"} <= names
    for name in names:
        assert (target / name).read_bytes() == (distilled.folder / name).read_bytes()
    with pytest.raises(ValueError, match="is where this set is already"):
        DistilledDataset.from_pretrained(target).save_pretrained(target)


FOREIGN = {
    "README.md": "mine",
    "log.jsonl": "{}",
    "results.md": "mine",
    "data/train-00000-of-00002.parquet": "real",
    "recipe.json": '{"flour": 500}',
}


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_copy_replaces_nothing_of_the_user_s(distilled, tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / name).write_text(FOREIGN[name])
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=rf"`folder` must .*, got '{tmp_path}' .*{name}.*; choose"):
        distilled.save_pretrained(tmp_path)
    assert files_of(tmp_path) == before
    # What has another name is not in the way.
    (tmp_path / name).rename(tmp_path / "mine")
    distilled.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    DistilledDataset.from_pretrained(tmp_path)


def test_a_copy_replaces_another_set(tmp_path):
    one = DistilledDataset.from_pretrained(write_toy(tmp_path / "one"))
    two = write_toy(tmp_path / "two", soft_labels=True)
    for name in ("curve.png", "results.md", "notes.txt"):
        (two / name).write_text("of the other")
    one.save_pretrained(two)
    assert {**files_of(one.folder), Path("notes.txt"): b"of the other"} == files_of(two)


def test_a_copy_that_finds_no_room_leaves_the_set_that_was_there(distilled, tmp_path, monkeypatch):
    write_toy(tmp_path)
    (tmp_path / "curve.png").write_text("of the other")
    before = files_of(tmp_path)
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        distilled.save_pretrained(tmp_path)
    assert files_of(tmp_path) == before


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


def test_real_images_of_another_kind_are_refused(distilled):
    other = RealData.from_dataset(toy_dataset(30, 1, size=16))
    with pytest.raises(DataError, match="the real images are"):
        distilled.evaluate(dataset=other)
