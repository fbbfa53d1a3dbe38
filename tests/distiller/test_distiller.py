"""`Distiller`: what a run does to the synthetic set, what it leaves behind, what it refuses."""

import gc
import json

import pytest
import torch
from datasets import DatasetDict, Value, load_dataset
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from dd_plugin.bilevel import VerificationError, hypergradient
from dd_plugin.data import DataError
from dd_plugin.distiller import Distiller, DistillerCallback, NonFiniteError
from dd_plugin.distiller.clipping import clip_by_moving_norm
from dd_plugin.distiller.output_folder import check_output_dir
from dd_plugin.hub import PushError, PushResult
from tests.bilevel.problems import WrongTangent
from tests.distiller.toy import CLASSES, toy_config, toy_dataset, toy_distiller


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
    distiller = toy_distiller(tmp_path, storage=storage, inner_steps=10)
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


@pytest.mark.parametrize("compile", ["no", "trace"])
def test_step_sizes_per_layer_share_out_the_gradient_of_those_per_step(tmp_path, compile):
    found = {}
    for kind in ("per_step", "per_layer"):
        distiller = toy_distiller(tmp_path, init="fixed", step_sizes=kind, compile=compile)
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


def test_images_of_a_class_that_begin_as_means_differ(tmp_path):
    images = toy_distiller(tmp_path, image_init="mean", images_per_class=2).synthetic.images()
    for one, other in images.view(3, 2, *images.shape[1:]):
        assert (one - other).abs().max() > 1e-3


def test_a_module_is_a_fixed_initialisation_and_stays_as_it_is(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = network[1].weight.detach().clone()
    distiller = toy_distiller(tmp_path, model_init=network)
    assert distiller.networks.mode == "fixed"
    distiller.train()
    assert torch.equal(network[1].weight, before)


def test_the_normalization_of_a_model_of_the_hub_is_fetched(tmp_path, monkeypatch):
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=3
    )

    def make_network():
        network = ResNetForImageClassification(config)
        network.config._name_or_path = "someone/net"
        return network

    processor = ViTImageProcessor(image_mean=[0.125], image_std=[0.375])
    monkeypatch.setattr(
        AutoImageProcessor,
        "from_pretrained",
        lambda name, local_files_only, **options: None if local_files_only else processor,
    )
    transform = toy_distiller(tmp_path, model_init=make_network).transform
    assert (transform.mean, transform.std) == ([0.125], [0.375])


def test_losses_are_arguments_or_methods(tmp_path):
    def mean_square(logits, labels):
        return (logits - (labels[:, None] == torch.arange(3)).float()).square().mean()

    class MeanSquare(Distiller):
        def compute_outer_loss(self, logits, labels):
            return mean_square(logits, labels)

    overridden = toy_distiller(tmp_path / "a", kind=MeanSquare)
    overridden.train()
    given = Distiller(
        None, toy_config(tmp_path / "b"), toy_dataset(), toy_dataset(30, 1), outer_loss=mean_square
    )
    given.train()
    assert torch.equal(overridden.synthetic.images(), given.synthetic.images())
    # A loss of one's own need not do the same in every step, so it is not traced unless asked.
    assert (
        overridden.architectures.problems[0].compile
        is given.architectures.problems[0].compile
        is False
    )
    asked = toy_distiller(tmp_path / "d", kind=MeanSquare, compile="trace")
    asked.train()
    assert asked.architectures.problems[0].compile == "trace"
    torch.testing.assert_close(asked.synthetic.images(), given.synthetic.images())
    plain = toy_distiller(tmp_path / "c")
    assert plain.architectures.problems[0].compile == "trace"
    plain.train()
    assert not torch.equal(overridden.synthetic.images(), plain.synthetic.images())


def test_callbacks_see_everything_and_can_end_the_run(tmp_path):
    class Recorder(DistillerCallback):
        def __init__(self):
            self.events = []

        def on_train_begin(self, config, state, control, **kwargs):
            self.events.append("begin")

        def on_step_end(self, config, state, control, **kwargs):
            self.events.append(f"step {state.global_step}")
            control.should_training_stop |= state.global_step == 3
            control.should_evaluate |= state.global_step == 1

        def on_log(self, config, state, control, **kwargs):
            self.events.append("log " + " ".join(sorted(kwargs["logs"]))[:14])

        def on_evaluate(self, config, state, control, **kwargs):
            assert 0 <= kwargs["metrics"]["accuracy_mean"] <= 1
            self.events.append("evaluate")

        def on_train_end(self, config, state, control, **kwargs):
            assert isinstance(kwargs["distiller"], Distiller)
            self.events.append("end")

    recorder = Recorder()
    toy_distiller(tmp_path, callbacks=[recorder], max_steps=9).train()
    assert recorder.events[0] == "begin"
    assert recorder.events[-1] == "end"
    assert [e for e in recorder.events if e.startswith("step")] == ["step 1", "step 2", "step 3"]
    assert recorder.events.index("evaluate") < recorder.events.index("step 2")


def test_a_step_that_is_not_finite_is_left_out_and_persisting_ends_the_run(tmp_path):
    class Broken(Distiller):
        broken = (1,)

        def real_batch(self, step, index):
            images, labels = super().real_batch(step, index)
            return (images * float("nan") if step in self.broken else images), labels

    distiller = toy_distiller(tmp_path / "a", kind=Broken)
    distiller.train()
    assert distiller.state.skipped_steps == 1
    assert bool(torch.isfinite(distiller.synthetic.images()).all())

    class AllBroken(Broken):
        broken = range(100)

    distiller = toy_distiller(tmp_path / "b", kind=AllBroken, max_skipped_steps=2)
    with pytest.raises(NonFiniteError, match=r"2 outer steps in a row .* Lower `inner_lr`"):
        distiller.train()


def test_a_loss_that_does_not_take_its_labels_is_told_before_the_first_step(tmp_path):
    def for_indices(logits, labels):
        return logits.logsumexp(1).mean() - logits.gather(1, labels[:, None]).mean()

    def distiller(folder, **options):
        losses = {k: options.pop(k) for k in ("inner_loss", "outer_loss") if k in options}
        return Distiller(None, toy_config(tmp_path / folder, **options), toy_dataset(), **losses)

    soft = distiller("a", inner_loss=for_indices, soft_labels=True)
    with pytest.raises(ValueError, match=r"the inner loss must take .*\(2, 3\) \(soft_labels=True"):
        soft.train()
    assert soft.state.global_step == 0
    distiller("b", inner_loss=for_indices).train()
    distiller("c", outer_loss=for_indices, soft_labels=True).train()
    many = distiller("d", outer_loss=lambda x, y: F.cross_entropy(x, y, reduction="none"))
    with pytest.raises(ValueError, match=r"outer loss must return one number .*got \(2,\)"):
        many.train()


def test_gradients_far_over_their_moving_norm_are_clipped(tmp_path):
    class Spiky(Distiller):
        def compute_outer_loss(self, logits, labels):
            scale = 1e6 if self.state.global_step == 2 else 1.0
            return super().compute_outer_loss(logits, labels) * scale

    distiller = toy_distiller(tmp_path, kind=Spiky, max_grad_norm=2.0, logging_steps=1)
    distiller.train()
    norms = [line["grad_norm_images"] for line in distiller.state.log_history]
    # One step counts for a twentieth: at most 0.95 + 0.05 * 2 times what it was.
    assert norms[2] <= norms[1] * 1.05 + 1e-12


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


def test_bad_input_is_told_before_any_work(tmp_path):
    data = toy_dataset()
    cases = [
        (data.remove_columns("label"), {}, "label"),
        (data, {"images_per_class": 50}, "left"),
        (data, {"image_size": 2}, "2"),
        (data, {"model": "timm/no_such_net", "model_args": None}, "no architecture 'no_such_net'"),
    ]
    for dataset, options, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            Distiller(None, toy_config(tmp_path, **options), dataset).train()
    wrong_head = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(ValueError, match="7"):
        Distiller(wrong_head, toy_config(tmp_path), data)
    with pytest.raises(ValueError, match="no evaluation data"):
        Distiller(None, toy_config(tmp_path / "e"), data).evaluate()


def test_trackers_get_values_and_the_picture(tmp_path):
    pytest.importorskip("tensorboard", reason="the tracker comes with the extra demo")
    distiller = toy_distiller(tmp_path, report_to=["tensorboard"], eval_steps=2)
    distiller.train()
    distiller.accelerator.end_training()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = [p.parent for p in tmp_path.rglob("events.out.*") if b"outer_loss" in p.read_bytes()]
    events = EventAccumulator(str(log), {"images": 0, "scalars": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("outer_loss")] == [2, 4]
    assert [e.step for e in events.Images("distilled")] == [2]


def test_publishing_needs_a_name_and_a_token(tmp_path, monkeypatch):
    # That it goes up as it should is tested with a Hub, in tests/hub.
    with pytest.raises(ValueError, match="`repo_id` must be given"):
        toy_distiller(tmp_path / "a").push_to_hub()
    monkeypatch.setattr("dd_plugin.hub.remote.target.get_token", lambda: None)
    with pytest.raises(PushError, match="needs a token of the Hub, got none"):
        toy_distiller(tmp_path / "b", push_to_hub=True, hub_dataset_id="me/toy")
    assert not (tmp_path / "b" / "recipe.json").exists()


def test_a_license_that_is_given_is_on_the_card(tmp_path):
    for name, given, expected in (("a", None, []), ("b", "cc-by-4.0", ["cc-by-4.0"])):
        folder = toy_distiller(tmp_path / name, license=given).save_model()
        assert json.loads((folder / "recipe.json").read_text())["source"]["licenses"] == expected
        assert ("\nlicense: cc-by-4.0\n" in (folder / "README.md").read_text()) == bool(expected)


def test_what_is_published_goes_where_it_is_meant_to(tmp_path, monkeypatch):
    asked = []

    def note(*place, **options):
        asked.append((place, {k: options[k] for k in ("token", "private", "revision")}))
        return PushResult("address", "oid")

    for name in ("check_target", "push_folder"):
        monkeypatch.setattr(f"dd_plugin.distiller.publishing.{name}", note)
    where = {"hub_dataset_id": "me/toy", "hub_revision": "second", "hub_token": "mine"}
    options = {**where, "push_to_hub": True, "hub_private_repo": True}
    assert toy_distiller(tmp_path, **options).push_to_hub() == "address"
    how = {"token": "mine", "private": True, "revision": "second"}
    assert asked == [(("me/toy",), how), ((tmp_path, "me/toy"), how)]


def test_the_progress_bar_can_be_left_out(tmp_path, capsys):
    for name, disabled in (("a", True), ("b", False)):
        toy_distiller(tmp_path / name, disable_tqdm=disabled).train()
        assert ("distill: 100%" in capsys.readouterr().err) != disabled


def test_an_evaluation_is_told_with_the_bar_and_without(tmp_path, capsys):
    for name, disabled in (("a", True), ("b", False)):
        distiller = toy_distiller(tmp_path / name, disable_tqdm=disabled, eval_steps=2)
        distiller.train()
        metrics = next(log for log in distiller.state.log_history if "eval_networks" in log)
        mean, std = (f"{100 * metrics[f'eval_accuracy_{part}']:.1f}" for part in ("mean", "std"))
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        assert f"step 2 of 4: accuracy {mean} ± {std} % (2 networks)" in lines


def test_a_name_is_the_network_of_the_recipe(tmp_path):
    config = toy_config(tmp_path, max_steps=1, model_args=None)
    distiller = Distiller("timm/test_resnet", config, toy_dataset(), toy_dataset(30, 1))
    assert distiller.synthetic.recipe.model == "timm/test_resnet"
    assert distiller.config.models == ("timm/test_resnet",)


def test_what_could_not_be_read_back_is_told_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="could load other files or code"):
        toy_distiller(tmp_path, model="timm/test_resnet", model_args={"pretrained_cfg": None})


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


def test_images_are_not_tested_on_what_they_were_learned_from(tmp_path):
    splits = DatasetDict(train=toy_dataset(), validation=toy_dataset(30, 1))
    config = toy_config(tmp_path, train_split="validation", eval_split="validation")
    with pytest.raises(ValueError, match="`eval_split` must not be the split that is distilled"):
        Distiller(None, config, splits)
    # Found by itself, it is another one, or none.
    distiller = Distiller(None, toy_config(tmp_path, train_split="validation"), splits)
    assert distiller.eval_data is None
    config = toy_config(tmp_path, eval_split="train")
    assert Distiller(None, config, toy_dataset(), splits).eval_split == "train"


def test_the_command_of_the_card_asks_for_data_that_have_no_name(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=1)
    distiller.compare()
    record = json.loads((distiller.save_model() / "recipe.json").read_text())
    command = f"dd-plugin evaluate {tmp_path.name} --dataset FOLDER"
    assert record["protocol"]["command"] == command


def test_callbacks_may_be_classes(tmp_path):
    class Ends(DistillerCallback):
        def on_step_end(self, config, state, control, **kwargs):
            control.should_training_stop = True

    assert toy_distiller(tmp_path, callbacks=[Ends]).train().global_step == 1
    for wrong, message in ((Ends(), "must be a list"), ([print], "must be of DistillerCallback")):
        with pytest.raises(TypeError, match=message):
            toy_distiller(tmp_path, callbacks=wrong)


def test_a_damaged_validation_split_is_not_passed_over(tmp_path):
    damaged = toy_dataset(30, 1).cast_column("label", Value("int64"))
    damaged = damaged.map(lambda row: {"label": -1})
    splits = DatasetDict(train=toy_dataset(), validation=damaged, test=toy_dataset(30, 2))
    with pytest.raises(DataError):
        Distiller(None, toy_config(tmp_path), splits, splits)
    splits.pop("validation")
    assert Distiller(None, toy_config(tmp_path), splits, splits).eval_split == "test"


def test_a_single_split_from_disk_is_what_is_distilled(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "one")
    named = toy_config(tmp_path / "out", dataset=str(tmp_path / "one"))
    distiller = Distiller(config=named)
    assert (distiller.train_split, distiller.eval_split) == ("train", None)
    with pytest.raises(ValueError, match="there is no evaluation data"):
        distiller.evaluate()
    # What is to be tested on has to be said of it, as of other data with `train` only.
    with pytest.raises(DataError, match="there is no split 'test'"):
        Distiller(None, named, toy_dataset(), str(tmp_path / "one"))
    with pytest.raises(DataError, match="there is no split 'dev'"):
        Distiller(config=toy_config(tmp_path / "out", dataset=named.dataset, eval_split="dev"))
    tested = toy_config(tmp_path / "out", eval_split="train")
    for place in (tmp_path / "one", str(tmp_path / "one")):
        assert Distiller(None, tested, toy_dataset(), place).eval_split == "train"


def test_a_kind_of_gradient_that_began_at_zero_still_moves():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [parameter], "name": "images", "lr": 1.0}])
    norms = {}
    parameter.grad = torch.zeros(2)
    clip_by_moving_norm(optimizer, norms, 2.0)
    parameter.grad = torch.ones(2)
    clip_by_moving_norm(optimizer, norms, 2.0)
    assert torch.equal(parameter.grad, torch.ones(2))


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
