"""A run for the head of frozen networks: its gradient, its course, and the set that comes out."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dd_plugin import DistilledDataset, DistillerConfig
from dd_plugin.distiller.setting_checks import NoEffectWarning
from dd_plugin.evaluation.coresets import nearest_to_centroid
from dd_plugin.seeds import Purpose, mix
from tests.distiller.toy import Small, head_distiller, toy_dataset


@pytest.mark.parametrize("batch", [128, 2])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_is_that_of_one_graph_through_backbone_and_head(tmp_path, batch, soft):
    network = Small().double().eval()
    run = head_distiller(
        tmp_path,
        network,
        dtype="float64",
        soft_labels=soft,
        backbone_batch_size=batch,
    )
    run.head.prepare()
    leaves = [leaf for group in run.synthetic.leaves().values() for leaf in group]
    found = run._outer_step.gradient(0, 0, leaves)
    # The same real features, and everything else by plain autograd in one graph.
    real, labels = run.head.train[0].batch(16, mix(0, Purpose.HEAD_REAL_BATCH, 0, 0))
    backbone = run.head.backbones[0]
    f = network.features(backbone.network_input(run.synthetic.images()))
    head = run.head.head.fit(
        f,
        run.synthetic.targets(),
        num_classes=run.synthetic.recipe.num_classes,
        step_sizes=run.synthetic.step_sizes(),
        constants=run.synthetic.constants(),
    )
    loss = F.cross_entropy(head.logits(real.double()), labels)
    expected = torch.autograd.grad(loss, leaves)
    assert found.finite
    torch.testing.assert_close(found.outer_loss, loss.detach())
    for a, b in zip(found.leaves, expected, strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()


def test_a_run_learns_and_leaves_the_network_as_it_was(tmp_path):
    network = Small(16)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    run = head_distiller(tmp_path, network, max_steps=40, learning_rate=0.05, image_init="noise")
    start = run.evaluate()["accuracy_mean"]
    run.train()
    assert run.evaluate()["accuracy_mean"] > start + 0.1
    for name, t in network.state_dict().items():
        assert torch.equal(t, before[name]), name


@pytest.mark.parametrize("head", ["ridge", "unroll"])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, head):
    settings = {"head": head, "soft_labels": True, "max_steps": 4, "save_steps": 2}
    if head == "unroll":
        settings["inner_steps"] = 3
    models = [Small(6, seed=1), Small(5, seed=2)]
    whole = head_distiller(tmp_path / "a", models, **settings)
    whole.train()
    first = head_distiller(tmp_path / "b", models, **settings)
    first.train()
    again = head_distiller(tmp_path / "b", models, **settings)
    with pytest.warns(UserWarning, match="goes back to step 2"):
        again.train(resume_from_checkpoint=first.output_dir / "checkpoint-2")
    for name, t in whole.synthetic.state_dict().items():
        assert torch.equal(t, again.synthetic.state_dict()[name]), name


@pytest.mark.parametrize("head", ["ridge", "unroll"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_set_is_read_back_and_gives_the_same_accuracies(tmp_path, head, soft):
    network = Small(8)
    settings = {"head": head, "soft_labels": soft}
    if head == "unroll":
        settings["inner_steps"] = 3
    run = head_distiller(tmp_path, network, **settings)
    run.train()
    results = run.compare()
    folder = run.save_model()
    opened = DistilledDataset.from_pretrained(folder)
    assert opened.recipe == run.synthetic.recipe
    assert opened.recipe.backbones[0].num_features == 8
    again = opened.evaluate(network, toy_dataset(seed=1))
    assert again.accuracies == results["distilled"].accuracies
    names = [
        "distilled",
        "distilled, 8-bit",
        "random real",
        "nearest to the centroid",
        "herding",
        "k-center",
    ]
    assert list(results) == [*names, "full data"]
    # The ordinary network, its head trained, ready for its own input.
    model = opened.fit(network)
    assert type(model) is Small
    assert model.fc.out_features == opened.recipe.num_classes
    data = opened.real_data(toy_dataset(seed=1))
    right = 0
    for images, labels in data.batches(16):
        backbone = opened.backbone(network)
        right += (model(backbone.network_input(images)).argmax(1) == labels).sum().item()
    assert right / len(data) == pytest.approx(again.mean)
    one = toy_dataset(seed=1)[0]["image"]
    told = opened.predict(model, one)
    assert sum(told.values()) == pytest.approx(1)
    assert set(told) == set(opened.class_names)
    assert len(opened.predict(model, [one, one], top=1)) == 2


def test_the_record_says_which_weights_and_the_card_what_is_trained(tmp_path):
    run = head_distiller(tmp_path)
    run.train()
    folder = run.save_model()
    record = json.loads((folder / "recipe.json").read_text())
    noted = record["recipe"]["backbones"][0]
    assert noted["fingerprint"] == run.head.backbones[0].fingerprint
    assert record["recipe"]["trainable"] == "head"
    card = (folder / "README.md").read_text()
    assert "the head of a pretrained network" in card
    assert noted["fingerprint"][:12] in card
    assert "ridge regression" in card


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batching": "groups"}, "`batching` must be"),
        ({"step_sizes": "per_layer"}, "`step_sizes` must be"),
    ],
)
def test_what_a_head_has_no_use_for_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillerConfig(trainable="head", **settings)


def test_settings_without_effect_on_a_head_are_told():
    with pytest.warns(NoEffectWarning, match="`inner_steps`"):
        DistillerConfig(trainable="head", inner_steps=5)
    with pytest.warns(NoEffectWarning, match="`objective`"):
        DistillerConfig(objective="gradient_matching")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DistillerConfig(trainable="head", head="unroll", inner_steps=5)


def test_two_names_on_the_command_line_and_an_evaluation_of_a_third(tmp_path, capsys, monkeypatch):
    """Networks of timm with random weights: `pretrained` is false."""
    from dd_plugin.cli import main

    out = str(tmp_path / "out")
    common = ["--dataset", "digits", "--image_size", "32", "--real_batch_size", "32"]
    models = ["--model", "timm/test_resnet", "timm/test_vit", "--trainable", "head"]
    more = ["--max_steps", "2", "--eval_steps", "0", "--disable_tqdm", "true"]
    arguments = ["--model_args", '{"pretrained": false}', "--output_dir", out]
    torch.manual_seed(0)
    assert main(["distill", *common, *models, *more, *arguments]) == 0
    table = capsys.readouterr().out
    assert "real images nearest to the centroid" in table
    record = json.loads((tmp_path / "out" / "recipe.json").read_text())
    names = [b["model"] for b in record["recipe"]["backbones"]]
    assert names == ["timm/test_resnet", "timm/test_vit"]


def test_a_ridge_regression_of_scikit_learn_on_the_png_files_gives_the_accuracy_of_the_card(
    tmp_path,
):
    """Without dd_plugin: `load_dataset`, the network, and the strength that is noted."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    from datasets import load_dataset
    from safetensors.torch import load_file
    from torchvision.transforms.functional import pil_to_tensor

    network = Small(8).eval()
    run = head_distiller(tmp_path, network, max_steps=10)
    run.train()
    results = run.compare()
    folder = run.save_model()

    def features(rows):
        images = [pil_to_tensor(row["image"].convert("RGB")) / 255 for row in rows]
        with torch.no_grad():
            return network.features(torch.stack(images)).double().numpy()

    images = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    x, y = features(images), np.array(images["label"])
    strength = load_file(folder / "tensors.safetensors")["constants.ridge_log_strength"].exp()
    alpha = float(strength) * np.square(x - x.mean(0)).sum() / len(x)
    probe = linear_model.Ridge(alpha=alpha).fit(x, np.eye(3)[y])
    test = toy_dataset(seed=1)
    accuracy = (probe.predict(features(test)).argmax(1) == np.array(test["label"])).mean()
    assert accuracy == pytest.approx(results["distilled, 8-bit"].mean)
    assert accuracy > 0.4


def test_a_step_sees_several_augmented_copies(tmp_path):
    run = head_distiller(tmp_path, augmentation="flip+noise", augmentations_per_step=3)
    run.head.prepare()
    seen = []
    run.head.backbones[0].register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    run.training_step()
    assert [len(images) for images in seen] == [9]
    copies = seen[0].detach().unflatten(0, (3, 3))
    assert not torch.equal(copies[0], copies[1])
    assert run.synthetic.recipe.augmentations_per_step == 3


COPIED = {"augmentation": "flip+noise", "augmentations_per_step": 2, "head_copies": 3}


def features_with_copies(run, images):
    """Those of images, then of each augmented copy, by plain calls."""
    made = [images]
    for copy in range(3):
        made.append(run.synthetic.augmentation(images, mix(0, Purpose.HEAD_COPIES, copy)))
    with torch.no_grad():
        return torch.cat([run.head.backbones[0](part) for part in made])


@pytest.mark.parametrize("soft", [False, True])
def test_a_head_is_trained_on_augmented_copies_as_well(tmp_path, soft):
    run = head_distiller(tmp_path, Small(8), soft_labels=soft, **COPIED)
    run.train()
    results = run.compare()
    synthetic, test = run.synthetic, run.head.tests[0]
    learned = {
        "num_classes": synthetic.recipe.num_classes,
        "step_sizes": synthetic.step_sizes(),
        "constants": synthetic.constants(),
    }
    targets = synthetic.targets()
    copies = features_with_copies(run, synthetic.images().detach())
    head = run.head.head.fit(copies, torch.cat([targets] * 4), **learned)
    assert results["distilled"].accuracies == (test.accuracy(head),)
    alone = run.head.head.fit(copies[: len(targets)], targets, **learned)
    assert not torch.allclose(head.weight, alone.weight)
    # Real images get as many.
    features, labels = test.train.values[0], test.train.labels
    rows = nearest_to_centroid(features, labels, 1, num_classes=learned["num_classes"])
    every = torch.cat([images for images, _ in run.train_data.batches(7)])
    copies = features_with_copies(run, every[rows])
    head = run.head.head.fit(copies, labels[rows].repeat(4), **learned)
    assert results["nearest to the centroid"].accuracies == (test.accuracy(head),)
    # And so do heads of the set when it is read back, by the same copies.
    folder = run.save_model()
    opened = DistilledDataset.from_pretrained(folder)
    assert opened.recipe.head_copies == 3
    again = opened.evaluate(Small(8), toy_dataset(seed=1))
    assert again.accuracies == results["distilled"].accuracies
    card = (folder / "README.md").read_text()
    assert "on each image and 3 augmented copies of it (`flip+noise`)" in card


def test_copies_without_augmentation_or_a_head_have_no_effect(tmp_path):
    with pytest.raises(ValueError, match="`head_copies` must not be negative, got -1"):
        DistillerConfig(trainable="head", model=["timm/resnet18.a1_in1k"], head_copies=-1)
    with pytest.raises(ValueError, match="`head_copies` must be at most"):
        DistillerConfig(trainable="head", model=["timm/resnet18.a1_in1k"], head_copies=10**9)
    with pytest.warns(NoEffectWarning, match="head_copies"):
        DistillerConfig(head_copies=2)
    with pytest.warns(NoEffectWarning, match="head_copies"):
        run = head_distiller(tmp_path, Small(8), head_copies=2)
    run.head.prepare(to_test=True)
    plain = head_distiller(tmp_path / "plain", Small(8))
    plain.head.prepare(to_test=True)
    pairs = zip(run.head.tests, plain.head.tests, strict=True)
    assert all(a.distilled(run.synthetic) == b.distilled(plain.synthetic) for a, b in pairs)
