"""Accuracies that are kept: found again for the same, and for nothing else."""

import importlib
import json
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from dd_plugin.data import Normalization, RealData
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.evaluation import kept_baselines, ordinary
from dd_plugin.evaluation.kept_baselines import BASELINES, NOTHING_KEPT, KeptBaselines, Training
from dd_plugin.evaluation.training_images import TrainingImages
from tests.distiller.toy import toy_dataset
from tests.hub.toy import synthetic_set


@pytest.fixture(autouse=True)
def _say_again():
    kept_baselines._say_once.cache_clear()


def real(count=30, seed=0, **options):
    return RealData.from_dataset(toy_dataset(count, seed), **options)


def training(**changes):
    whole = Training(
        model="a", images=TrainingImages.ALL, count=30, seed=1, train=real(), test=real(12, 1)
    )
    return replace(whole, **changes)


def network(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


def frozen():
    made = network()
    made[1].bias.requires_grad_(False)
    return made


def other_transform():
    synthetic = synthetic_set()
    synthetic.transform = Normalization([0.5], [0.5])
    return synthetic


class Gamma:
    """An augmentation with no more than what the trainer asks for."""

    names = ("gamma",)

    def __call__(self, images, seed, *, groups=None):
        return images**0.5


class OwnFlip(Augmentation):
    """One that looks like the package's."""

    def __call__(self, images, seed, *, groups=None):
        return images


class OwnNormalization(Normalization):
    """A transform that looks like the package's."""

    def __call__(self, images):
        return super().__call__(images) ** 3


def with_own(**parts):
    synthetic = synthetic_set()
    vars(synthetic).update(parts)
    return synthetic


# Name -> training, network, synthetic set.
CHANGES = {
    "model": lambda: (training(model="b"), network(), synthetic_set()),
    "kind": lambda: (training(images=TrainingImages.RANDOM), network(), synthetic_set()),
    "number of images": lambda: (training(count=6), network(), synthetic_set()),
    "seed": lambda: (training(seed=2), network(), synthetic_set()),
    "a pixel to train on": lambda: (training(train=real(seed=5)), network(), synthetic_set()),
    "fewer images to train on": lambda: (training(train=real(27)), network(), synthetic_set()),
    "images to test on": lambda: (training(test=real(12, 2)), network(), synthetic_set()),
    "weights": lambda: (training(), network(seed=1), synthetic_set()),
    "shape": lambda: (training(), network(width=4), synthetic_set()),
    "what is trained": lambda: (training(), frozen(), synthetic_set()),
    "dtype": lambda: (training(), network().double(), synthetic_set(dtype=torch.float64)),
    "augmentation": lambda: (training(), network(), synthetic_set(augmentation="flip")),
    "precision": lambda: (training(), network(), synthetic_set(mixed_precision="bf16")),
    "transform": lambda: (training(), network(), other_transform()),
}


def test_the_same_has_the_same_key():
    assert training().key(network(), synthetic_set()) == training().key(network(), synthetic_set())


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_whatever_matters_changes_the_key(change):
    changed, changed_network, synthetic = CHANGES[change]()
    key = training().key(network(), synthetic_set())
    assert changed.key(changed_network, synthetic) not in (key, None)


def other_labels():
    synthetic = synthetic_set(soft_labels=True)
    with torch.no_grad():
        synthetic.learned_labels[0, 0] += 1
    return synthetic


# Name -> protocol, synthetic set.
SETS = {
    "protocol": lambda: ("standard", synthetic_set(soft_labels=True)),
    "labels": lambda: ("recipe", other_labels()),
    "form": lambda: ("recipe", synthetic_set(soft_labels="weights")),
    "recipe": lambda: ("recipe", synthetic_set(soft_labels=True, batching="groups", groups=2)),
}


@pytest.mark.parametrize("change", sorted(SETS))
def test_what_is_trained_as_the_set_is_kept_for_this_set(change):
    same = (training(on_set="recipe").key(network(), synthetic_set(soft_labels=True)) for _ in "ab")
    key, again = same
    assert key == again
    protocol, synthetic = SETS[change]()
    assert training(on_set=protocol).key(network(), synthetic) not in (key, None)
    assert training().key(network(), synthetic_set(soft_labels=True)) != key


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (ordinary, "FEWEST_STEPS", 100),
        (ordinary, "LARGEST_BATCH", 16),
        (kept_baselines, "package_checksum", lambda: "other code"),
        (kept_baselines, "_version_of", lambda package: "other version"),
    ],
)
def test_steps_and_code_change_the_key(monkeypatch, module, name, value):
    key = training().key(network(), synthetic_set())
    monkeypatch.setattr(module, name, value)
    assert training().key(network(), synthetic_set()) not in (key, None)


def test_a_layer_whose_code_changes_changes_the_key(tmp_path, monkeypatch):
    source = "from torch import nn\nclass Mine(nn.Flatten):\n    pass\n"
    (tmp_path / "layers_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    layers_of_mine = importlib.import_module("layers_of_mine")
    made = nn.Sequential(layers_of_mine.Mine(), nn.Linear(64, 3))
    key = training().key(made, synthetic_set())
    (tmp_path / "layers_of_mine.py").write_text(source + "# else\n")
    assert training().key(made, synthetic_set()) not in (key, None)
    (tmp_path / "layers_of_mine.py").unlink()
    assert training().key(made, synthetic_set()) is None


# Name -> training, synthetic set.
UNCERTAIN = {
    "nameless": lambda: (training(model=None), synthetic_set()),
    "stream": lambda: (
        training(
            train=RealData.from_dataset(toy_dataset().to_iterable_dataset(), buffer_size=10),
            count=None,
        ),
        synthetic_set(),
    ),
    "on demand": lambda: (training(test=real(max_bytes=100)), synthetic_set()),
    "own augmentation": lambda: (training(), with_own(augmentation=Gamma())),
    "augmentation of a subclass": lambda: (training(), with_own(augmentation=OwnFlip("flip"))),
    "transform of a subclass": lambda: (
        training(),
        with_own(transform=OwnNormalization([0.5], [0.5])),
    ),
}


@pytest.mark.parametrize("cause", sorted(UNCERTAIN))
def test_what_is_not_certain_is_not_kept(cause, tmp_path):
    given, synthetic = UNCERTAIN[cause]()
    assert given.key(network(), synthetic) is None
    kept = KeptBaselines.in_folder(tmp_path)
    values = iter([0.25, 0.5])
    measured = [kept.accuracy(given, network(), synthetic, values.__next__) for _ in "ab"]
    assert measured == [0.25, 0.5]
    assert not list(tmp_path.iterdir())


def test_an_accuracy_is_measured_once(tmp_path):
    kept, synthetic, values = KeptBaselines.in_folder(tmp_path), synthetic_set(), iter([1 / 3, 0.5])
    for _ in range(2):
        assert kept.accuracy(training(), network(), synthetic, values.__next__) == 1 / 3
    assert kept.accuracy(training(seed=2), network(), synthetic, values.__next__) == 0.5
    # A process of its own finds what this one has kept, and what it says can be read.
    content = json.loads((tmp_path / BASELINES).read_text())
    entries = list(content["accuracies"].values())
    assert [entry["seed"] for entry in entries] == [1, 2]
    assert entries[0] == {
        "accuracy": 1 / 3,
        "model": "a",
        "trained on": "full data",
        "images": 30,
        "seed": 1,
    }


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"accuracies": {}}', '{"format": "mine"}', "[" * 10_000, "\udcff"],
)
def test_a_damaged_or_foreign_file_is_left_alone_with_a_word(tmp_path, content, caplog):
    path = tmp_path / BASELINES
    path.write_bytes(content.encode(errors="surrogateescape"))
    kept, values = KeptBaselines(path), iter([0.25, 0.5])
    with caplog.at_level(logging.WARNING):
        for expected in (0.25, 0.5):
            assert (
                kept.accuracy(training(), network(), synthetic_set(), values.__next__) == expected
            )
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    assert path.read_bytes() == content.encode(errors="surrogateescape")


@pytest.mark.parametrize("entry", [None, 0.5, {}, {"accuracy": "1"}, {"accuracy": 2.0}, [0.5]])
def test_an_entry_that_is_no_accuracy_is_measured_again(tmp_path, entry):
    kept = KeptBaselines.in_folder(tmp_path)
    kept.accuracy(training(), network(), synthetic_set(), lambda: 0.25)
    content = json.loads(kept.path.read_text())
    (key,) = content["accuracies"]
    for bad in (entry, {"accuracy": float("nan")}):
        content["accuracies"][key] = bad
        kept.path.write_text(json.dumps(content))
        assert kept.accuracy(training(), network(), synthetic_set(), lambda: 0.75) == 0.75


def test_a_folder_that_cannot_be_written_keeps_nothing_with_a_word(tmp_path, caplog, monkeypatch):
    def full(path, content):
        raise OSError("no space left on device")

    monkeypatch.setattr(kept_baselines, "write_whole", full)
    kept = KeptBaselines.in_folder(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert kept.accuracy(training(), network(), synthetic_set(), lambda: 0.25) == 0.25
    assert "no space left" in caplog.text
    gone = KeptBaselines.in_folder(tmp_path / "not there")
    assert gone.accuracy(training(), network(), synthetic_set(), lambda: 0.5) == 0.5


def test_without_a_file_everything_is_measured():
    values = iter([0.25, 0.5])
    args = (training(), network(), synthetic_set(), values.__next__)
    assert [NOTHING_KEPT.accuracy(*args) for _ in "ab"] == [0.25, 0.5]
