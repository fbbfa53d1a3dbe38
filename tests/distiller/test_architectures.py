"""Networks by architecture: which has its turn, what is refused, and what is told before a step."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import VerificationError
from dd_plugin.convnet import dd_convnet
from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.models import ModelLoadError
from tests.distiller.several import (
    NARROW,
    PLAIN,
    POOL,
    TWO,
    check_same,
    narrow,
    plain,
    tensors,
)
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


def runs_of(monkeypatch):
    """The parameters of the networks that a run's inner runs train, as they come."""
    from dd_plugin.distiller import outer_step as module

    seen, original = [], module.hypergradient

    def noting(problem, *args, **kwargs):
        seen.append(sum(t.numel() for t in problem.model.parameters.values()))
        return original(problem, *args, **kwargs)

    monkeypatch.setattr(module, "hypergradient", noting)
    return seen


def test_outer_steps_take_the_networks_in_turn(tmp_path, monkeypatch):
    seen = runs_of(monkeypatch)
    run = toy_distiller(tmp_path, **TWO, networks_per_step=2, max_steps=3)
    run.train()
    sizes = [sum(p.numel() for p in make().parameters()) for make in (narrow, plain)]
    assert seen == [sizes[run.architectures.choice(turn)] for turn in range(6)]
    # As many per step as there are: each step has both.
    assert all({*seen[step : step + 2]} == {*sizes} for step in (0, 2, 4))
    assert run.state.skipped_steps == 0


def test_what_is_learned_about_a_resting_network_stays(tmp_path):
    run = toy_distiller(tmp_path, model_init=[narrow, plain], max_steps=6)
    assert run.synthetic.constants(0)
    assert not run.synthetic.constants(1)
    assert all(name.startswith("0.") for name in run.synthetic.constants())
    moved = []
    for step in range(6):
        before = {n: t.detach().clone() for n, t in run.synthetic.constants().items()}
        run.training_step()
        after = run.synthetic.constants()
        moved.append(
            (
                run.architectures.choice(step),
                any(not torch.equal(before[n], after[n]) for n in after),
            )
        )
    assert {which for which, _ in moved} == {0, 1}
    assert all(changed == (which == 0) for which, changed in moved)


def test_modules_among_functions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`model_init` must be modules only"):
        toy_distiller(tmp_path, model_init=[narrow(), plain])


def test_names_among_functions_are_named(tmp_path):
    run = toy_distiller(tmp_path, model_init=["timm/dd_convnet", plain], model_args=NARROW)
    assert run.synthetic.recipe.network_labels == ("timm/dd_convnet", "network 2")
    assert run.synthetic.recipe.model_args == NARROW


def test_one_dictionary_of_arguments_is_for_all(tmp_path):
    settings = {"model": ["timm/dd_convnet", "timm/test_resnet"], "model_args": {"num_classes": 3}}
    run = toy_distiller(tmp_path, **settings)
    assert [one.model_args for one in run.synthetic.recipe.networks] == [{"num_classes": 3}] * 2
    assert DistillerConfig(**TWO).networks == (
        ("timm/dd_convnet", NARROW),
        ("timm/dd_convnet", PLAIN),
    )


def test_a_network_that_does_not_fit_is_told_before_any_step(tmp_path):
    def two_classes():
        return dd_convnet(num_classes=2, in_chans=1, img_size=8, **PLAIN)

    with pytest.raises(ValueError, match=r"network 2 of `model_init`.* each of the 3 classes"):
        toy_distiller(tmp_path, model_init=[narrow, two_classes])
    with pytest.raises(ModelLoadError, match="no architecture 'nope'"):
        toy_distiller(tmp_path, model=["timm/test_resnet", "timm/nope"], model_args=None)


class Wrong(torch.autograd.Function):
    """The identity with a derivative that is not that of its forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, bar):
        return bar


class Crooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(Wrong.apply(self.first(x.flatten(1)).tanh()))


def test_a_network_whose_gradient_is_wrong_is_told_before_any_step(tmp_path):
    run = toy_distiller(tmp_path, model_init=[plain, narrow, Crooked])
    # Its turn would come later.
    assert run.architectures.choice(0) != 2
    with pytest.raises(VerificationError, match=r"^network 3: "):
        run.train()
    assert run.state.global_step == 0


def test_the_trial_of_the_networks_leaves_no_trace(tmp_path):
    finals = []
    for verify in (True, False):
        run = toy_distiller(tmp_path / str(verify), **TWO, **POOL, verify=verify)
        run.train()
        finals.append(tensors(run))
    check_same(*finals)


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    run = toy_distiller(tmp_path / "a", model_init=[narrow, plain], save_steps=2)
    run.train()
    for models in ([plain, narrow], [narrow]):
        other = toy_distiller(tmp_path / "b", model_init=models, overwrite_output_dir=True)
        with pytest.raises(ValueError, match="with other networks or another order"):
            other.train(resume_from_checkpoint=tmp_path / "a" / "checkpoint-2")


def test_a_distiller_takes_a_list_of_names(tmp_path):
    config = toy_config(tmp_path, model_args=None)
    run = Distiller(["timm/dd_convnet", "timm/test_resnet"], config, toy_dataset())
    assert run.synthetic.recipe.network_labels == ("timm/dd_convnet", "timm/test_resnet")
