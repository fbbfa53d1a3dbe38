"""A set for several architectures, which take turns in the outer steps of a run."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from dd_plugin.convnet import dd_convnet
from dd_plugin.distiller import DistillerConfig
from dd_plugin.evaluation import OtherArchitectureWarning
from tests.distiller.several import (
    LABELS,
    NARROW,
    PLAIN,
    POOL,
    TWO,
    check_same,
    narrow,
    plain,
    tensors,
)
from tests.distiller.together.test_processes import two_processes
from tests.distiller.toy import SHALLOW, toy_dataset, toy_distiller
from tests.evaluation.short import shorten


@pytest.mark.parametrize("options", [{}, POOL], ids=["random", "pool"])
def test_a_list_of_one_is_that_network_alone(tmp_path, options):
    options = {**options, "compile": "no"}
    alone = toy_distiller(tmp_path / "a", model="timm/dd_convnet", **options)
    listed = toy_distiller(
        tmp_path / "b", model=["timm/dd_convnet"], model_args=[NARROW], **options
    )
    records = []
    for run in (alone, listed):
        run.train()
        run.compare()
        records.append(json.loads((run.save_model() / "recipe.json").read_text()))
    check_same(tensors(alone), tensors(listed))
    for part in ("recipe", "results"):
        assert records[0][part] == records[1][part]
    assert "networks" not in records[0]["recipe"]
    assert "by_model" not in records[0]["results"]["distilled"]
    assert records[0]["about"]["config"]["model_args"] == NARROW


def test_a_list_of_one_function_is_that_function_alone(tmp_path):
    alone = toy_distiller(tmp_path / "a", model_init=narrow)
    listed = toy_distiller(tmp_path / "b", model_init=[narrow])
    alone.train()
    listed.train()
    check_same(tensors(alone), tensors(listed))


@pytest.mark.parametrize(
    "options",
    [{}, POOL, {"networks_per_step": 2, "compile": "trace", "model_args": [SHALLOW, PLAIN]}],
    ids=["random", "pool", "two per step"],
)
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, options):
    settings = {**TWO, "max_steps": 4, "save_steps": 2, "soft_labels": True, **options}
    whole = toy_distiller(tmp_path / "a", **settings)
    whole.train()
    again = toy_distiller(tmp_path / "b", **settings)
    again.train(resume_from_checkpoint=tmp_path / "a" / "checkpoint-2")
    check_same(tensors(whole), tensors(again))


def test_two_processes_take_the_turns_of_one(tmp_path):
    options = {**TWO, "save_steps": 2}
    done = two_processes(tmp_path / "two", json.dumps(options))
    assert done.returncode == 0, done.stderr[-3000:]
    alone = toy_distiller(tmp_path / "one", networks_per_step=4, **options)
    alone.train()
    alone.compare()
    found = load_file(tmp_path / "two" / "out" / "tensors.safetensors")
    assert float((found["images"] - alone.synthetic.images()).abs().max().detach()) < 1e-10
    record = json.loads((tmp_path / "two" / "out" / "recipe.json").read_text())
    for label, scores in alone.results["distilled"].by_model.items():
        noted = record["results"]["distilled"]["by_model"][label]
        assert noted["accuracies"] == list(scores.accuracies)


def test_each_network_is_evaluated_and_the_mean_over_them_is_what_counts(tmp_path, monkeypatch):
    shorten(monkeypatch)
    run = toy_distiller(
        tmp_path,
        **TWO,
        eval_steps=2,
        load_best_model_at_end=True,
        baselines=True,
        max_steps=2,
        final_eval_networks=1,
    )
    run.train()
    line = next(h for h in run.state.log_history if "eval_accuracy_mean" in h)
    each = [line[f"eval_accuracy_mean/{label}"] for label in LABELS]
    assert line["eval_accuracy_mean"] == pytest.approx(sum(each) / 2)
    assert run.state.best_metric == line["eval_accuracy_mean"]
    assert line["eval_networks"] == 4
    results = run.compare()
    for scores in results.values():
        assert tuple(scores.by_model) == LABELS
        assert scores.accuracies == sum((s.accuracies for s in scores.by_model.values()), ())
    folder = run.save_model()
    card, table = ((folder / name).read_text() for name in ("README.md", "results.md"))
    for label in LABELS:
        assert f"| `{label}` " in card
        assert f"| {label} " in table
    assert 'each of `timm/dd_convnet` with `{"width": 4,' in card
    assert "here with the first of its networks" in card


def test_the_record_names_all_networks_and_each_is_trained_by_the_recipe(tmp_path):
    run = toy_distiller(tmp_path, **TWO)
    run.train()
    results = run.compare()
    folder = run.save_model()
    opened = DistilledDataset.from_pretrained(folder)
    assert opened.recipe == run.synthetic.recipe
    assert opened.recipe.network_labels == LABELS
    noted = [(one.model, one.model_args) for one in opened.recipe.architectures]
    assert noted == list(zip(TWO["model"], TWO["model_args"], strict=True))
    assert opened.record["about"]["config"]["model"] == TWO["model"]
    assert opened.record["about"]["config"]["model_args"] == TWO["model_args"]
    for label in LABELS:
        own = results["distilled"].by_model[label]
        assert opened.protocol_for("auto", label) == "recipe"
        found = opened.evaluate(label, toy_dataset(30, seed=1), networks=2)
        assert found.accuracies == own.accuracies
    # Without a model, and by the name that two have, it is the first.
    first = opened.fit()
    assert sum(p.numel() for p in first.parameters()) == sum(
        p.numel() for p in narrow().parameters()
    )
    assert {n: t.shape for n, t in opened.fit(TWO["model"][0]).state_dict().items()} == {
        n: t.shape for n, t in first.state_dict().items()
    }
    # A function stands for the network that it makes, by what was learned about its BatchNorm.
    opened.fit(plain)
    with pytest.warns(OtherArchitectureWarning):
        opened.fit(
            lambda: dd_convnet(
                num_classes=3, in_chans=1, img_size=8, width=5, norm_layer="batchnorm2d", depth=1
            )
        )


def test_modules_are_fixed_starts_of_their_own(tmp_path):
    torch.manual_seed(0)
    models = [plain(), narrow()]
    run = toy_distiller(tmp_path, model_init=models, init="fixed")
    run.train()
    results = run.compare()
    opened = DistilledDataset.from_pretrained(run.save_model())
    assert opened.recipe.init == "fixed"
    for place, model in enumerate(models):
        start = opened.recipe.of_network(place, opened.initial)
        assert all(torch.equal(start[n], p.double()) for n, p in model.named_parameters())
        found = opened.evaluate(model, toy_dataset(30, seed=1))
        own = results["distilled"].by_model[f"network {place + 1}"]
        assert found.accuracies == own.accuracies


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_args": [{}]}, "a list of 2, one for each model, got a list of 1"),
        ({"model_args": [{}, {}, {}]}, "got a list of 3"),
        ({"model_args": [{}, 3]}, "`model_args` must be a dictionary, got 3"),
        ({"model_args": [{}, {"token": "a"}]}, "must not have 'token'"),
        ({"model_args": None}, "timm/dd_convnet twice with the same"),
        ({"step_sizes": "per_layer"}, "`step_sizes` must be .* with 2 models"),
        ({"trainable": "head"}, "`model_args` must be one dictionary for all"),
    ],
)
def test_what_several_networks_cannot_have_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillerConfig(**{**TWO, **settings})


@pytest.mark.parametrize("repeated", [False, True])
def test_several_models_on_the_command_line(tmp_path, capsys, repeated):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    out = tmp_path / "out"
    names = ["timm/dd_convnet", "timm/test_resnet"]
    models = [word for name in names for word in ("--model", name)]
    words = [f"--output_dir={out}", "--max_steps=2", "--inner_steps=2", "--disable_tqdm"]
    words += [
        "--eval_steps=0",
        "--save_steps=0",
        "--final_eval_networks=1",
        "--baselines=false",
        "--compile=no",
    ]
    words += ["--model_args", '[{"width": 4, "depth": 1}, {}]', "--real_batch_size=16"]
    words += models if repeated else ["--model", *names]
    assert main(["distill", *words]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, "all of these"))
    record = json.loads((out / "recipe.json").read_text())
    assert [one["model"] for one in record["recipe"]["networks"]] == names
    if repeated:
        return
    assert main(["evaluate", str(out), "--networks=1", "--no_baselines"]) == 0
    rows = json.loads((out / "recipe.json").read_text())["evaluations"]
    assert [row["model"] for row in rows if row["pixels"] == "exact"] == names
    assert {row["protocol"] for row in rows} == {"recipe"}


def test_the_recipe_of_a_file_is_checked(tmp_path):
    from dd_plugin.data.recipe import Recipe

    run = toy_distiller(tmp_path, **TWO)
    values = run.synthetic.recipe.to_dict()
    assert Recipe.from_dict(json.loads(json.dumps(values))) == run.synthetic.recipe
    networks = values["networks"]
    for wrong in (
        networks[:1],
        networks[::-1],
        [*networks, {"model": 3, "model_args": {}}],
        [*networks, {"model": "a"}],
        [*networks, {"model": "a", "model_args": {"checkpoint_path": "x"}}],
        [*networks, {"model": "a", "model_args": {"x": object()}}],
        "ab",
    ):
        with pytest.raises(ValueError, match=r"`networks`|`model_args`"):
            Recipe.from_dict({**values, "networks": wrong})
