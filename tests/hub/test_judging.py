"""`dd_plugin.hub.judging`: the package `ddranking` itself on an export of ours.

It is skipped where the package is not installed. The real images are made here under the name of
CIFAR-10, since the package would download those; everything else is its own.
"""

import importlib.util
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dd_plugin.data import Normalization
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.hub import judging
from dd_plugin.hub.judging import Hearing, JudgeMissingError, judged

needs_the_judge = pytest.mark.skipif(
    importlib.util.find_spec("ddranking") is None,
    reason="DD-Ranking is not installed (pip install --no-deps ddranking==0.2.0, and the extra "
    "`judge`)",
)


def pictures(count, seed, faint=0):
    """Noise with a bright band, whose place is the class; of so many of each ten it is faint."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    images = random.integers(0, 120, (count, 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 100 if random.random() >= faint else 0
    return images.astype(np.uint8), labels.tolist()


class MadeHere(torch.utils.data.Dataset):
    """Real images in the form of torchvision's CIFAR-10, of which four in five show nothing."""

    def __init__(self, root, train, download, transform):
        self.data, self.targets = pictures(200 if train else 50, int(train), 0.8 if train else 0)
        self.transform = transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return self.transform(Image.fromarray(self.data[row])), self.targets[row]


def synthetic_set(classes=10, **options):
    images, labels = pictures(classes, 7)
    return SyntheticSet(
        Recipe(shape=(3, 32, 32), class_names=tuple("abcdefghij"[:classes]), steps=2),
        Pixels(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255),
        torch.tensor(labels),
        torch.tensor([0.1, 0.2]),
        transform=Normalization([0.5] * 3, [0.25] * 3),
        **options,
    )


def hearing(folder, **changes):
    values = {"model": "LeNet", "runs": 2, "epochs": 20, "full_data": 90.0, **changes}
    return Hearing(dataset="CIFAR10", real_data=folder, **values)


@pytest.fixture
def real(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", MadeHere)


@needs_the_judge
@pytest.mark.parametrize("soft_labels", [False, "weights"])
def test_the_package_judges_a_set_on_its_own_terms(real, tmp_path, soft_labels, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    judgement = judged(synthetic_set(soft_labels=soft_labels), hearing(tmp_path))
    assert judgement.judge.startswith("ddranking 0.")
    assert (judgement.dataset, judgement.model, judgement.epochs) == ("CIFAR10", "LeNet", 20)
    lists = (judgement.hard_label_recovery, judgement.improvement_over_random)
    lists += (judgement.augmented, judgement.plain)
    assert all(len(scores) == 2 for scores in lists)
    # Every accuracy is one on fifty images, so the differences are multiples of two points.
    for score in (one for scores in lists for one in scores):
        assert score == pytest.approx(2 * round(score / 2), abs=1e-6)
        assert -100 <= score <= 100
    # A set that shows its classes is ahead of real images that mostly do not.
    assert sum(judgement.improvement_over_random) > 0
    assert all(0 < score < 1 for score in judgement.label_robust + judgement.augmentation_robust)
    # Nothing is left behind: no files, no draws, nothing of ours in the package.
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state)
    from ddranking.metrics import hard_label

    assert hard_label.save_results.__module__ == "ddranking.utils.misc"
    assert "CIFAR10-LeNet" not in hard_label.REAL_DATA_ACC_CACHE


@needs_the_judge
def test_the_fault_that_is_worked_around_is_still_there(real, tmp_path, monkeypatch):
    """Where this fails, a release without the fault is out: use its own scores then."""
    from ddranking import LabelRobustScoreHard
    from ddranking.metrics import hard_label

    monkeypatch.setattr(hard_label, "REAL_DATA_ACC_CACHE", {"CIFAR10-LeNet": 90.0})
    options = judging._options(synthetic_set(), hearing(tmp_path, runs=1), tmp_path)
    evaluator = LabelRobustScoreHard(
        **options, aug_params=dict(judging._DSA), random_data_path=str(tmp_path / "random")
    )
    with judging._quiet(), pytest.raises(ValueError, match="same length"):
        evaluator.compute_metrics(image_tensor=torch.zeros(10, 3, 32, 32))


@needs_the_judge
@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"epochs": 19}, 10, "`epochs` must be at least 20"),
        ({"runs": 0}, 10, "`runs` must be at least 1"),
        ({"full_data": None}, 10, "does not know how to train LeNet on all of CIFAR10"),
        ({}, 5, "must have the 10 classes of DD-Ranking's CIFAR10, got 5"),
    ],
)
def test_what_does_not_fit_is_said_before_it_trains(real, tmp_path, changes, classes, message):
    with pytest.raises(ValueError, match=message):
        judged(synthetic_set(classes), hearing(tmp_path, **changes))


def test_without_the_package_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ddranking", None)
    with pytest.raises(JudgeMissingError, match=r"pip install --no-deps ddranking==0\.2\.0"):
        judged(synthetic_set(), hearing(tmp_path))


class Package:
    """What the judge's evaluators do with us, without their training."""

    def __init__(self):
        self.given, package = [], self

        class Evaluator:
            num_classes, dataset, test_loader_syn = 10, "CIFAR10", None

            def __init__(self, **options):
                package.given.append(options)

        class LabelRobustScoreHard(Evaluator):
            def compute_metrics(self, image_tensor):
                package.images = image_tensor
                scores = {"hard_label_recovery": [40, 44.0], "improvement_over_random": [10, 14.0]}
                Module.save_results({**scores, "lrs": [0] * 4}, "scores.csv")

        class AugmentationRobustScore(Evaluator):
            def compute_metrics(self, image_tensor):
                scores = {"with_aug_scores": [6.0, 6.0], "without_aug_scores": [4.0, 2.0]}
                Module.save_results(scores, "scores.csv")

        self.LabelRobustScoreHard = LabelRobustScoreHard
        self.AugmentationRobustScore = AugmentationRobustScore


Module = SimpleNamespace(
    REAL_DATA_ACC_CACHE={},
    REAL_DATA_TRAINING_CONFIG={"CIFAR10-ConvNet-3": {}},
    save_results=None,
)


@pytest.fixture
def package(monkeypatch):
    package = Package()
    monkeypatch.setattr(
        judging, "import_module", lambda name: package if name == "ddranking" else Module
    )
    return package


def test_the_judge_gets_the_export_with_hard_labels(package, tmp_path):
    synthetic = synthetic_set(soft_labels="weights")
    judgement = judged(synthetic, hearing(tmp_path, model="ConvNet-3", full_data=None))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in judging.DD_RANKING_NORMALIZATION["CIFAR10"])
    torch.testing.assert_close(package.images, (synthetic.images() - mean) / std)
    label, augmentation = package.given
    assert (label["ipc"], label["im_size"], label["eval_full_data"]) == (1, (32, 32), True)
    assert (label["num_eval"], label["num_epochs"]) == (2, 20)
    assert (augmentation["label_type"], augmentation["random_data_format"]) == ("hard", "image")
    assert judgement.hard_label_recovery == (40.0, 44.0)
    assert judgement.plain == (4.0, 2.0)
    assert Module.save_results is None
    # A known accuracy on all real images is taken.
    assert judged(synthetic, hearing(tmp_path)).full_data == 90.0
    assert not package.given[2]["eval_full_data"]
    assert Module.REAL_DATA_ACC_CACHE == {}


def test_the_scores_are_those_of_the_paper(package, tmp_path):
    judgement = judged(synthetic_set(), hearing(tmp_path))
    # Half of 0.1 - 0.4 and of 0.06 + 0.04, in (e^a - 1/e) / (e - 1/e).
    label, augmentation = judgement.label_robust[0], judgement.augmentation_robust[0]
    assert label == pytest.approx((math.exp(-0.15) - 1 / math.e) / (math.e - 1 / math.e))
    assert augmentation == pytest.approx((math.exp(0.05) - 1 / math.e) / (math.e - 1 / math.e))
