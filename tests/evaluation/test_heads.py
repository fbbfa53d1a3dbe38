"""Heads that are trained on a few images, and the ones that they are compared with."""

from dataclasses import replace

import pytest
import torch

from dd_plugin import DistilledDataset
from dd_plugin.data import RealData
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.coresets import easiest, hardest
from dd_plugin.evaluation.heads import HeadTest, probe_on, train_head
from dd_plugin.evaluation.probe import fit_probe
from dd_plugin.evaluation.training_images import OF_HEADS, TrainingImages
from dd_plugin.networks import LinearHead
from dd_plugin.networks.features import features_of
from dd_plugin.networks.head_solvers import RidgeHead
from tests.distiller.toy import Small, toy_dataset
from tests.hub.sets import head_set


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return DistilledDataset.from_pretrained(head_set(tmp_path_factory.mktemp("set"), Small(8)))


@pytest.fixture(scope="module")
def judge(opened):
    backbone = opened.backbone(Small(8))
    train, test = (
        RealData.from_dataset(toy_dataset(seed=seed), channels=3, image_size=8) for seed in (0, 1)
    )
    return HeadTest(
        backbone, RidgeHead(), features_of(backbone, train), features_of(backbone, test)
    )


def test_a_head_is_fitted_to_the_features_of_the_set(opened, judge):
    synthetic = opened._synthetic
    with torch.no_grad():
        features = judge.backbone(synthetic.images())
    found = train_head(judge.backbone, judge.head, synthetic, batch_size=2)
    expected = RidgeHead().fit(
        features,
        synthetic.targets(),
        num_classes=3,
        step_sizes=synthetic.step_sizes(),
        constants=synthetic.constants(),
    )
    torch.testing.assert_close(found.weight, expected.weight.detach(), rtol=1e-3, atol=1e-3)
    eight_bit = train_head(judge.backbone, judge.head, synthetic, eight_bit=True)
    assert 0 < (eight_bit.weight - found.weight).abs().max() < 0.1 * found.weight.abs().max()
    # And its accuracy is the share of test images that it has right.
    logits = judge.test.values[0] @ found.weight.T.float() + found.bias.float()
    share = (logits.argmax(1) == judge.test.labels).double().mean()
    assert judge.distilled(synthetic) == pytest.approx(float(share))


def test_a_probe_is_the_one_of_the_classes(opened, judge):
    synthetic = opened._synthetic
    with torch.no_grad():
        features = judge.backbone(synthetic.images())
    expected = fit_probe(features, synthetic.labels, 3)
    assert torch.equal(probe_on(judge.backbone, synthetic).weight, expected.weight)


def test_controls_are_as_many_images_and_all(opened, judge):
    controls = dict(judge.controls(opened._synthetic, 1, [1, 2, 3]))
    assert next(iter(controls)) == TrainingImages.RANDOM
    assert list(controls)[-1] == TrainingImages.ALL
    assert [len(scores.accuracies) for scores in controls.values()] == [3, 1, 1, 1, 1]
    # All images teach more than three of them.
    assert controls[TrainingImages.ALL].mean > controls[TrainingImages.RANDOM].mean
    few = [kind for kind in OF_HEADS if kind is not TrainingImages.ALL]
    again = dict(judge.controls(opened._synthetic, 1, [1, 2, 3], kinds=few))
    assert TrainingImages.ALL not in again
    assert again[TrainingImages.RANDOM] == controls[TrainingImages.RANDOM]
    for kind in OF_HEADS:
        assert dict(judge.controls(opened._synthetic, 1, [1, 2, 3], kinds=[kind])) == {
            kind: controls[kind]
        }


def test_the_easiest_and_the_hardest_are_those_of_heads(opened, judge, monkeypatch):
    chosen = []

    def train(synthetic, features, labels):
        chosen.append(labels)
        return LinearHead(torch.zeros(3, 8), torch.zeros(3))

    monkeypatch.setattr(judge, "_train", train)
    kinds = [TrainingImages.HARDEST, TrainingImages.EASIEST]
    rows = dict(judge.controls(opened._synthetic, 2, [1, 2], kinds=kinds))
    assert list(rows) == [TrainingImages.EASIEST, TrainingImages.HARDEST]
    assert [labels.tolist() for labels in chosen] == [[0, 0, 1, 1, 2, 2]] * 2
    features, labels = judge.train.values[0], judge.train.labels
    scores = difficulty.of_features(features, labels, 3)
    assert scores[easiest(scores, labels, 2)].max() < scores[hardest(scores, labels, 2)].min()


@pytest.mark.parametrize(("as_probe", "count"), [(False, 2), (True, 0)])
def test_what_learned_labels_are_worth_to_a_head(opened, judge, as_probe, count):
    images = RealData.from_dataset(toy_dataset(seed=0), channels=3, image_size=8)
    whole = replace(judge, images=images, as_probe=as_probe)
    old = opened._synthetic
    # Labels that say the next class: no head learns the classes from them.
    synthetic = SyntheticSet(
        old.recipe,
        Pixels(old.images().detach()),
        old.labels,
        old.step_sizes().detach(),
        transform=old.transform,
        soft_labels=True,
        constants=old.constants(),
    )
    synthetic.set_targets(torch.eye(3)[(old.labels + 1) % 3])
    controls = [TrainingImages.HARD_LABELS, TrainingImages.LABELED_RANDOM]
    rows = dict(whole.controls(synthetic, 1, [1, 2], kinds=controls))
    assert list(rows) == controls[:count]
    if count:
        hard, labeled = rows.values()
        assert hard.accuracies == (judge.distilled(old),)
        assert len(labeled.accuracies) == 2
        assert labeled.mean < 0.2 < hard.mean
