"""`dd_plugin.distiller.evaluating`: the baselines beside the distilled set."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dd_plugin import DistilledDataset
from dd_plugin.distiller.evaluating import shared_out
from dd_plugin.evaluation import comparison
from dd_plugin.evaluation.kept_baselines import BASELINES, NOTHING_KEPT, KeptBaselines
from dd_plugin.evaluation.training_images import BASELINES as ALL_BASELINES
from dd_plugin.hub.comparison import Request, compare
from dd_plugin.hub.remote.published import published_files
from tests.distiller.toy import toy_dataset, toy_distiller
from tests.evaluation.short import shorten
from tests.processes import run_on_two


class Noisy(nn.Module):
    """Dropout, and stochastic depth that draws with Python's generator."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = nn.functional.dropout(self.first(x.flatten(1)).relu(), 0.5, self.training)
        skipped = self.training and random.random() < 0.3
        return self.head(hidden * 0.5 if skipped else hidden)


@pytest.mark.parametrize("init", ["random", "fixed"])
def test_baselines_are_functions_of_their_seeds(tmp_path, monkeypatch, init):
    shorten(monkeypatch, 20)
    trained = []

    def noted(network, batches):
        trained.append({name: t.detach().clone() for name, t in network.state_dict().items()})
        return 0.5

    monkeypatch.setattr(comparison, "accuracy_of_module", noted)
    given = Noisy if init == "random" else Noisy()
    distiller = toy_distiller(tmp_path, model_init=given, init=init, baselines=True)
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - it is the global one that is looked at
        before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])  # noqa: NPY002
        distiller.compare()
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002
    first, again = trained[: len(trained) // 2], trained[len(trained) // 2 :]
    assert len(first) == 2 * distiller.config.final_eval_networks
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    weights = torch.stack([network["head.weight"] for network in first])
    assert len(torch.unique(weights, dim=0)) == len(first)


@pytest.mark.parametrize(
    ("costs", "processes", "shares"),
    [
        ([], 2, [[], []]),
        ([5, 5, 5], 1, [[0, 1, 2]]),
        # Three long ones and three short ones: nobody waits for a third long one.
        ([1, 1, 1, 3, 3, 3], 2, [[3, 5], [4, 0, 1, 2]]),
        ([2, 2], 3, [[0], [1], []]),
    ],
)
def test_long_trainings_are_given_out_first(costs, processes, shares):
    assert shared_out(costs, processes) == shares


NAMED = {"dtype": "float32", "baselines": True, "max_steps": 1, "final_eval_networks": 3}

RUN = """
import json, sys
from dd_plugin.evaluation import ordinary
from tests.distiller.test_evaluating import NAMED
from tests.distiller.toy import toy_distiller

ordinary.MOST_STEPS = 10
distiller = toy_distiller(sys.argv[1], **NAMED)
assert distiller.accelerator.num_processes == 2
distiller.train()
distiller.compare()
distiller.save_model()
distiller.accelerator.end_training()
"""


def compared(folder, **options):
    distiller = toy_distiller(folder, **{**NAMED, **options})
    distiller.train()
    distiller.compare()
    distiller.save_model()
    return distiller


def test_two_processes_give_the_accuracies_of_one(tmp_path, monkeypatch):
    out = tmp_path / "two"
    done = run_on_two(RUN, out, out)
    assert done.returncode == 0, done.stderr[-3000:]
    shorten(monkeypatch, 10)
    # An outer step of two networks, as two processes take it.
    alone = compared(tmp_path / "one", networks_per_step=2)
    results = json.loads((out / "recipe.json").read_text())["results"]
    for kind in ("random real", "full data"):
        assert tuple(results[kind]["accuracies"]) == alone.results[kind].accuracies
        assert results[kind]["seeds"] == list(alone.results[kind].seeds)
    assert len(results["distilled"]["accuracies"]) == 3
    # Both processes have kept theirs, with the same keys.
    kept = [json.loads((folder / BASELINES).read_text()) for folder in (out, tmp_path / "one")]
    assert kept[0]["accuracies"] == kept[1]["accuracies"]
    assert len(kept[0]["accuracies"]) == 6


def test_baselines_of_a_run_are_trained_once(tmp_path, monkeypatch):
    shorten(monkeypatch, 10)
    first = compared(tmp_path)
    content = (tmp_path / BASELINES).read_bytes()

    def not_again(*args, **options):
        raise AssertionError("a baseline is trained again")

    for name in ("train_on_random_real", "train_on_all"):
        monkeypatch.setattr(comparison, name, not_again)
    again = compared(tmp_path, overwrite_output_dir=True)
    assert again.results["full data"] == first.results["full data"]
    assert again.results["random real"] == first.results["random real"]
    # What evaluates the set from its folder knows them, too.
    distilled = DistilledDataset.from_pretrained(tmp_path)
    train, test = map(distilled.real_data, (toy_dataset(), toy_dataset(30, seed=1)))
    kept = KeptBaselines.in_folder(tmp_path)
    request = Request(models=["timm/dd_convnet"], test=test, train=train, networks=3, kept=kept)
    rows = {row.trained_on: row.accuracies for row in compare(distilled, request)}
    assert rows["random real images"] == first.results["random real"].accuracies
    assert rows["all real images"] == first.results["full data"].accuracies
    assert (tmp_path / BASELINES).read_bytes() == content
    assert BASELINES not in published_files(tmp_path)
    # With other images to test on nothing is known.
    other = distilled.real_data(toy_dataset(30, seed=2))
    with pytest.raises(AssertionError, match="trained again"):
        compare(distilled, replace(request, test=other))


def test_the_baselines_are_those_that_were_chosen(tmp_path, monkeypatch):
    shorten(monkeypatch, 10)
    distiller = compared(tmp_path, baselines=["herding", "random_real"])
    results = distiller.results
    assert list(results) == ["distilled", "random real", "herding"]
    assert len(results["herding"].accuracies) == 3
    assert "| real images by herding" in str(results)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["about"]["config"]["baselines"] == ["random_real", "herding"]
    assert record["results"]["herding"]["accuracies"] == list(results["herding"].accuracies)
    assert "real images by herding" in (tmp_path / "README.md").read_text()


def test_every_control_stands_in_the_table_and_on_the_card(tmp_path, monkeypatch):
    shorten(monkeypatch, 10)
    distiller = compared(tmp_path, baselines="all", soft_labels=True, label_form="weights")
    results = distiller.results
    assert list(results) == ["distilled", *ALL_BASELINES]
    assert all(len(scores.accuracies) == 3 for scores in results.values())
    record = json.loads((tmp_path / "recipe.json").read_text())
    card = (tmp_path / "README.md").read_text()
    for images in ALL_BASELINES:
        assert record["results"][images]["accuracies"] == list(results[images].accuracies)
    words = ["distilled images, hard labels", "random real images, learned labels"]
    words += ["easiest real images by EL2N", "hardest real images by EL2N"]
    assert all(f"| {word}" in str(results) for word in words)
    assert all(word in card for word in [*words[1:], "hard labels"])
    # What evaluates the set from its folder finds those of real images kept. Step sizes and labels
    # of the folder differ by rounding, so what is trained as the set is trained again, once.
    distilled = DistilledDataset.from_pretrained(tmp_path)
    train, test = map(distilled.real_data, (toy_dataset(), toy_dataset(30, seed=1)))
    kept = KeptBaselines.in_folder(tmp_path)
    content = (tmp_path / BASELINES).read_bytes()
    request = Request(
        models=["timm/dd_convnet"],
        test=test,
        train=train,
        networks=3,
        kept=kept,
        kinds=ALL_BASELINES,
    )
    rows = {(row.trained_on, row.pixels): row for row in compare(distilled, request)}
    for images in ALL_BASELINES:
        row = rows[images.in_words, images.pixels]
        assert row.accuracies == results[images].accuracies
        assert row.protocol == ("recipe" if images.is_trained_as_set else "standard")
    entries = json.loads((tmp_path / BASELINES).read_text())["accuracies"]
    assert len(entries) - len(json.loads(content)["accuracies"]) <= 2 * 3
    compare(distilled, request)
    assert json.loads((tmp_path / BASELINES).read_text())["accuracies"] == entries
    # Trained again without what was kept, they are the same.
    again = {row.trained_on: row for row in compare(distilled, replace(request, kept=NOTHING_KEPT))}
    for images in ALL_BASELINES:
        assert again[images.in_words].accuracies == results[images].accuracies
