"""`dd_plugin.distiller.head_parts`: data of one class, and losses that the user wrote."""

import warnings

import pytest
from torch.nn import functional as F

from dd_plugin.data import DataError
from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.distiller.setting_checks import NoEffectWarning
from tests.distiller.toy import Small, head_distiller, toy_dataset


def test_data_of_one_class_is_refused_before_any_work(tmp_path):
    data = toy_dataset().filter(lambda row: row["label"] == 0)
    with pytest.raises((DataError, ValueError), match="class"):
        head_distiller(tmp_path, data=data)


def test_evaluation_images_of_one_class_are_told_before_the_run(tmp_path):
    config = DistillerConfig(
        trainable="head", normalization="none", output_dir=str(tmp_path / "out")
    )
    one = toy_dataset(seed=1).filter(lambda row: row["label"] == 0)
    with pytest.raises(DataError, match="at least two classes"):
        Distiller(Small(), config, toy_dataset(), one)


class OwnInner(Distiller):
    def compute_inner_loss(self, logits, labels):
        return 2 * F.cross_entropy(logits, labels)


class OwnOuter(Distiller):
    def compute_outer_loss(self, logits, labels):
        return 3 * F.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("kind", "settings", "told", "noted"),
    [
        (OwnInner, {}, "your inner loss has no effect", "cross_entropy"),
        (OwnInner, {"head": "unroll", "inner_steps": 3}, "", "custom"),
        (OwnOuter, {}, "", "cross_entropy"),
        (OwnOuter, {"head": "unroll", "inner_steps": 3}, "", "cross_entropy"),
        (OwnOuter, {"objective": "gradient_matching"}, "your outer loss", "cross_entropy"),
    ],
)
def test_a_loss_of_the_users_is_used_or_he_is_told(tmp_path, kind, settings, told, noted):
    def made(kind, place):
        config = DistillerConfig(
            trainable="head",
            normalization="none",
            real_batch_size=16,
            output_dir=str(tmp_path / place),
            **settings,
        )
        return kind(Small(), config, toy_dataset(), toy_dataset(seed=1))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = made(kind, "own")
    assert [str(w.message) for w in caught if w.category is NoEffectWarning] == [
        str(w.message) for w in caught if told and told in str(w.message)
    ]
    assert bool(told) == any(w.category is NoEffectWarning for w in caught)
    assert run.synthetic.recipe.loss == noted
    plain = made(Distiller, "plain")
    losses = []
    for one in (run, plain):
        one.head.prepare()
        leaves = [leaf for group in one.synthetic.leaves().values() for leaf in group]
        losses.append(float(one._outer_step.gradient(0, 0, leaves).outer_loss))
    assert (losses[0] == losses[1]) == bool(told)
