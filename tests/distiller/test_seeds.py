"""No two purposes of a run share their random numbers."""

import ast
import importlib
from collections import defaultdict

import pytest
import torch

from dd_plugin.bilevel.foreign_models import replay as randomness
from dd_plugin.data import RealData
from dd_plugin.distiller import Networks
from tests.distiller.toy import toy_dataset, toy_distiller
from tests.repository import ROOT, repository_file

# Where a seed of the run itself, or of one network of an evaluation, is mixed with a purpose. Where
# a purpose is mixed into a seed that has one already, the first tells the two apart.
FOLDERS = ("data", "distiller", "evaluation", "networks")


def purposes():
    """Purpose -> the places that use it, of every call of `mix` with one."""
    found = defaultdict(set)
    for folder in FOLDERS:
        repository_file(f"dd_plugin/{folder}/__init__.py")
        for path in sorted((ROOT / "dd_plugin" / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or getattr(node.func, "id", None) != "mix":
                    continue
                purpose = node.args[1]
                if isinstance(purpose, ast.Constant):
                    found[purpose.value].add((path.name, ast.unparse(node.args[0])))
                elif isinstance(purpose, ast.Name) and purpose.id.isupper():
                    value = getattr(importlib.import_module(name), purpose.id)
                    found[value].add((path.name, purpose.id))
    return found


def test_every_purpose_has_a_number_of_its_own():
    found = purposes()
    assert len(found) > 12
    # The batches of a set are seeded by a seed with a purpose, 7.
    nested = {("synthetic.py", "seed")}
    shared = {number: places - nested for number, places in found.items()}
    assert {number: places for number, places in shared.items() if len(places) > 1} == {}


def test_the_first_images_are_not_those_that_networks_are_tried_with(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "dd_plugin.distiller.networks.check_outputs",
        lambda model, images, classes: tried.append(images.clone()),
    )
    distiller = toy_distiller(tmp_path, image_init="noise")
    start = distiller.synthetic.images().detach()
    assert tried[0].shape == start[:2].shape
    assert not torch.equal(tried[0], start[:2])
    assert (tried[0] - start[:2]).abs().max() > 0.01


@pytest.mark.parametrize("init", ["random", "pool"])
def test_no_seed_is_made_for_two_purposes(tmp_path, monkeypatch, init):
    """Seeds that a whole run makes, by the place that makes them."""
    import sys

    made = defaultdict(set)
    mix = randomness.mix

    def noting(*values):
        seed = mix(*values)
        frame = sys._getframe(1)
        made[seed].add((frame.f_code.co_filename, frame.f_code.co_name, values))
        return seed

    for name, module in list(sys.modules.items()):
        if name.startswith("dd_plugin.") and getattr(module, "mix", None) is mix:
            monkeypatch.setattr(module, "mix", noting)
    pool = {"window": "last", "window_length": 2, "pool_size": 2} if init == "pool" else {}
    distiller = toy_distiller(
        tmp_path,
        init=init,
        image_init="noise",
        augmentation="flip_rotate",
        augmentations_per_step=3,
        max_steps=2,
        **pool,
    )
    distiller.train()
    distiller.compare()
    assert len(made) > 20
    # The network that is redrawn in place is compared with the one that was made of its seed.
    again = {"__init__", "_check_factory"}
    shared = {
        seed: places
        for seed, places in made.items()
        if len({(file, name) for file, name, _ in places if name not in again}) > 1
    }
    assert shared == {}


def test_a_stream_has_numbers_of_its_own():
    examples = toy_dataset().to_iterable_dataset()
    stream = RealData.from_dataset(examples, buffer_size=10, seed=0)._rows
    # On the ninth pass, from a row on, it had those of a network of an evaluation.
    stream._epoch, stream._row = 9, 2
    assert stream._generator().initial_seed() != randomness.mix(0, 9, 2)


def test_a_network_whose_train_returns_nothing_is_taken():
    class Detector(torch.nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

    def make():
        return Detector(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    networks = Networks(make, num_classes=3, shape=(1, 8, 8))
    assert networks.mode == "random"
