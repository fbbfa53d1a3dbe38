"""`Distiller`: what a run does to the synthetic set, what it leaves behind, what it refuses."""

import gc
import json

import pytest
import torch
from datasets import load_dataset
from torch import nn

from dd_plugin.bilevel import VerificationError, hypergradient
from dd_plugin.hub import PushError, PushResult
from tests.bilevel.problems import WrongTangent
from tests.distiller.toy import CLASSES, SHALLOW, toy_distiller


def test_distilling_beats_the_images_it_started_from(tmp_path):
    options = {"max_steps": 40, "learning_rate": 0.05, "step_size_lr": 0.05, "image_init": "noise"}
    distiller = toy_distiller(tmp_path, **options)
    before = distiller.evaluate(networks=4)
    distiller.train()
    after = distiller.evaluate(networks=4)
    # Three classes; noise images teach nothing, 40 outer steps do.
    assert before["accuracy_mean"] < 0.6
    assert after["accuracy_mean"] > before["accuracy_mean"] + 0.2
    losses = [line["outer_loss"] for line in distiller.state.log_history if "outer_loss" in line]
    assert losses[-1] < losses[0]


def test_what_a_run_leaves_behind(tmp_path):
    distiller = toy_distiller(tmp_path, soft_labels=True, eval_steps=2, save_steps=2)
    distiller.train()
    distiller.compare()
    assert distiller.save_model() == tmp_path
    names = {p.name for p in tmp_path.iterdir()}
    assert {"tensors.safetensors", "recipe.json", "preview.png", "results.md", "log.jsonl"} <= names
    assert {"checkpoint-2", "checkpoint-4"} <= names
    assert not any(".partial" in name for name in names)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["recipe"]["class_names"] == list(CLASSES)
    assert record["results"]["distilled"]["mean"] == distiller.results["distilled"].mean
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "outer_loss" in line] == [2, 4]
    # An ordinary image data set, to whoever loads it.
    loaded = load_dataset(str(tmp_path / "data"), split="train", cache_dir=tmp_path / "cache")
    assert loaded.features["label"].names == list(CLASSES)
    assert loaded["label"] == [0, 1, 2]
    assert loaded[0]["image"].size == (8, 8)
    assert sum(loaded[0]["soft_label"]) == pytest.approx(1)


@pytest.mark.parametrize("storage", ["device", "recompute"])
def test_no_tensor_outlives_its_step(tmp_path, storage):
    distiller = toy_distiller(
        tmp_path, storage=storage, inner_steps=10, compile="trace", model_args=SHALLOW
    )
    distiller.training_step()

    def alive():
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    gc.collect()
    gc.disable()  # what only the collector would free is left over, too
    try:
        before = alive()
        distiller.training_step()
        assert alive() == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "options",
    [
        {"init": "fixed"},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2},
        {"window": "random", "window_length": 2},
        {"batching": "groups", "groups": 2, "images_per_class": 2},
        {"batching": "minibatches", "batch_size": 3, "images_per_class": 2},
        {"parametrization": "upsampled"},
        {"parametrization": "upsampled", "batching": "groups", "groups": 2},
        {"parametrization": "upsampled_pyramid"},
        {"image_init": "mean", "step_sizes": "shared"},
        {"step_sizes": "per_layer", "inner_optimizer_args": {"momentum": 0.5}},
        {"step_sizes": "per_layer", "window": "random", "window_length": 2},
        {"step_sizes": "constant", "inner_optimizer": "adam"},
        {"normalization": "zca", "augmentation": "flip_rotate"},
        {"networks_per_step": 2, "inner_optimizer_args": {"momentum": 0.5}},
        {"statistics": "frozen", "train_with": "running"},
        {"storage": "recompute", "method": "reverse"},
        {"mixed_precision": "bf16", "dtype": "float32"},
        {"model_args": {"width": 4, "depth": 2}},  # InstanceNorm: nothing to convert
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::dd_plugin.distiller.NoEffectWarning")
def test_every_mode_runs_moves_the_images_and_is_reproducible(tmp_path, options):
    finals = []
    for name in "ab":
        distiller = toy_distiller(tmp_path / name, max_steps=2, **options)
        start = distiller.synthetic.images().detach().clone()
        distiller.train()
        finals.append({k: t.clone() for k, t in distiller.synthetic.state_dict().items()})
        assert distiller.state.skipped_steps == 0
        assert not torch.equal(distiller.synthetic.images(), start)
    assert all(torch.equal(finals[0][k], finals[1][k]) for k in finals[0])


@pytest.mark.parametrize(
    "options",
    [
        {"init": "fixed"},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2},
        {"batching": "groups", "groups": 2, "images_per_class": 2},
        {"step_sizes": "per_layer", "inner_optimizer_args": {"momentum": 0.5}},
        {"inner_optimizer": "adam", "networks_per_step": 2},
        {"statistics": "frozen", "train_with": "running", "augmentation": "flip_rotate"},
        {"storage": "recompute", "method": "reverse"},
    ],
    ids=str,
)
def test_a_traced_run_is_the_one_without_a_trace(tmp_path, options):
    finals = []
    for compile in ("no", "trace"):
        how = {"compile": compile, "model_args": SHALLOW}
        distiller = toy_distiller(tmp_path / compile, max_steps=2, **how, **options)
        distiller.train()
        assert distiller.state.skipped_steps == 0
        finals.append(distiller.synthetic.state_dict())
    for name, tensor in finals[0].items():
        torch.testing.assert_close(tensor, finals[1][name])


@pytest.mark.parametrize("compile", ["no", "trace"])
def test_step_sizes_per_layer_share_out_the_gradient_of_those_per_step(tmp_path, compile):
    found = {}
    for kind in ("per_step", "per_layer"):
        distiller = toy_distiller(
            tmp_path, init="fixed", step_sizes=kind, compile=compile, model_args=SHALLOW
        )
        leaf = distiller.synthetic.log_step_sizes
        found[kind] = distiller._outer_step.gradient(0, 0, [leaf])
    assert found["per_step"].outer_loss == found["per_layer"].outer_loss
    (whole,), (parts,) = (found[kind].leaves for kind in ("per_step", "per_layer"))
    assert parts.shape == (3, len(distiller.synthetic.recipe.step_size_parameters))
    assert (parts != 0).sum() > parts.numel() / 2
    torch.testing.assert_close(parts.sum(1), whole)


def test_networks_of_a_step_draw_random_numbers_of_their_own(tmp_path, monkeypatch):
    from dd_plugin.distiller import outer_step as module

    calls, run = [], module.hypergradient

    def noting(*args, seed, model_seed, **kwargs):
        calls.append((seed, model_seed))
        return run(*args, seed=seed, model_seed=model_seed, **kwargs)

    distiller = toy_distiller(tmp_path, max_steps=2, networks_per_step=2)
    monkeypatch.setattr(module, "hypergradient", noting)
    distiller.train()
    # The networks of a step share the course of the batches, and nothing else.
    assert calls[0][0] == calls[1][0] != calls[2][0] == calls[3][0]
    assert len(calls) == len({model_seed for _, model_seed in calls}) == 4


def test_a_network_of_the_pool_goes_on_where_its_training_is(tmp_path, monkeypatch):
    options = {"init": "pool", "window": "last", "window_length": 2, "pool_size": 1}
    options |= {"batching": "groups", "groups": 2, "images_per_class": 2}
    distiller = toy_distiller(tmp_path, step_size_lr=1e-12, pool_max_steps=8, **options)
    assert distiller.synthetic.recipe.steps == 8
    with torch.no_grad():
        distiller.synthetic.log_step_sizes.copy_((0.01 * torch.arange(1.0, 9.0)).log())
    seen = []

    def noting(problem, batches, *args, step_size, **kwargs):
        first = [torch.equal(batches(0)[0], distiller.synthetic.batch(g, 0)[0]) for g in (0, 1)]
        seen.append((first.index(True), [round(100 * s.item()) for s in step_size]))
        return hypergradient(problem, batches, *args, step_size=step_size, **kwargs)

    monkeypatch.setattr("dd_plugin.distiller.outer_step.hypergradient", noting)
    distiller.train()
    # Three steps each; the last step size stays; a fresh network after eight steps or more.
    assert seen == [(0, [1, 2, 3]), (1, [4, 5, 6]), (0, [7, 8, 8]), (0, [1, 2, 3])]


def test_a_module_is_a_fixed_initialisation_and_stays_as_it_is(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = network[1].weight.detach().clone()
    distiller = toy_distiller(tmp_path, model_init=network)
    assert distiller.networks.mode == "fixed"
    distiller.train()
    assert torch.equal(network[1].weight, before)


def test_publishing_needs_a_name_and_a_token(tmp_path, monkeypatch):
    # That it goes up as it should is tested with a Hub, in tests/hub.
    with pytest.raises(ValueError, match="`repo_id` must be given"):
        toy_distiller(tmp_path / "a").push_to_hub()
    monkeypatch.setattr("dd_plugin.hub.remote.target.get_token", lambda: None)
    with pytest.raises(PushError, match="needs a token of the Hub, got none"):
        toy_distiller(tmp_path / "b", push_to_hub=True, hub_dataset_id="me/toy")
    assert not (tmp_path / "b" / "recipe.json").exists()


def test_what_is_published_goes_where_it_is_meant_to(tmp_path, monkeypatch):
    asked = []

    def note(*place, **options):
        asked.append((place, {k: options[k] for k in ("token", "private", "revision")}))
        return PushResult("address", "oid")

    for name in ("check_target", "push_folder"):
        monkeypatch.setattr(f"dd_plugin.hub.{name}", note)
    where = {"hub_dataset_id": "me/toy", "hub_revision": "second", "hub_token": "mine"}
    options = {**where, "push_to_hub": True, "hub_private_repo": True}
    assert toy_distiller(tmp_path, **options).push_to_hub() == "address"
    how = {"token": "mine", "private": True, "revision": "second"}
    assert asked == [(("me/toy",), how), ((tmp_path, "me/toy"), how)]


class _WrongNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(WrongTangent.apply(x.flatten(1) * self.head.weight.sum()))


def test_a_wrong_gradient_ends_the_run_unless_it_is_asked_for(tmp_path):
    options = {"model_init": _WrongNetwork, "max_steps": 1}
    with pytest.raises(VerificationError, match="verify=False"):
        toy_distiller(tmp_path / "a", **options).train()
    toy_distiller(tmp_path / "b", verify=False, **options).train()
    toy_distiller(tmp_path / "c", method="reverse", **options).train()


@pytest.mark.parametrize("networks", [0, -1])
def test_no_networks_are_not_the_default(tmp_path, networks):
    distiller = toy_distiller(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=rf"`networks` must be at least 1, got {networks}"):
        distiller.evaluate(networks)
    assert distiller.evaluate(1)["networks"] == 1


def test_empty_names_are_not_the_default(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=1, push_to_hub=False, hub_dataset_id=None)
    distiller.config.hub_dataset_id = "me/it"
    with pytest.raises(ValueError, match="`repo_id` must be given"):
        distiller.push_to_hub("")
    with pytest.raises(ValueError, match="`output_dir` must be a folder, got ''"):
        distiller.save_model("")
