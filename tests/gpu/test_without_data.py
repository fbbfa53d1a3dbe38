"""No mix of devices and no new host read, on the paths that the command takes, without a GPU."""

import pytest
import timm
import torch

from dd_plugin import Distiller, DistillerConfig, bilevel
from dd_plugin.bilevel import functional
from dd_plugin.bilevel.adjoints import DoubleBackward, ForwardOverReverse
from dd_plugin.bilevel.driver import differentiate
from dd_plugin.bilevel.plan import make_plan, started
from dd_plugin.distiller import network_checks, networks
from tests.gpu import hypergradients
from tests.gpu.quality import settings
from tests.gpu.runs import pictures
from tests.gpu.without_data import META, MetaAccelerator, MixedDevicesError, WithoutData


class Autocast(torch.autocast):
    """`torch.autocast`, which knows no `meta`."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


@pytest.fixture(autouse=True)
def _meta_stands_for_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "autocast", Autocast)
    # A model without values is refused, rightly but for here.
    for user in (functional, network_checks, networks):
        monkeypatch.setattr(user, "check_has_values", lambda model: None, raising=False)


def hypergradient_of(model, how, optimizer="sgd", storage="device", window="full"):
    network = hypergradients.make_model(model, "toy").to(META)
    problem = bilevel.BilevelProblem(
        network,
        compile=hypergradients.COMPILE[how],
        optimizer=hypergradients.OPTIMIZERS[optimizer](),
    )
    x, y, real, real_y = (t.to(META) for t in hypergradients.inputs_of({}, "toy"))
    pixels = x.float().requires_grad_()
    with WithoutData() as mode:
        for _ in range(2):
            mode.operations.clear()
            mode.reads.clear()
            result = bilevel.hypergradient(
                problem,
                [(pixels, y)] * 3,
                (real.float(), real_y),
                step_size=torch.ones(3, device=META),
                window=hypergradients.WINDOWS[window],
                storage=hypergradients.STORAGES[storage],
                leaves=[pixels],
            )
    assert result.leaves[0].shape == pixels.shape
    return mode


@pytest.mark.parametrize(
    ("model", "how", "more"),
    [
        ("convnet", "eager", {}),
        ("convnet", "traced", {"optimizer": "adam", "storage": "recompute"}),
        ("convnet", "eager", {"window": "random"}),
        ("resnet18", "eager", {}),
        ("vit", "traced", {"optimizer": "adam"}),
    ],
)
def test_a_hypergradient_stays_on_its_device(model, how, more):
    mode = hypergradient_of(model, how, **more)
    assert sum(mode.operations.values()) > 100
    # A second run, whose first step was verified, reads the labels before it, and at its end
    # whether losses and gradients are finite and whether losses repeat themselves.
    assert mode.reads == {"aten::_to_copy": 2}


@pytest.mark.parametrize("storage", ["device", "recompute"])
@pytest.mark.parametrize("how", ["eager", "traced"])
@pytest.mark.parametrize("method", [ForwardOverReverse(), DoubleBackward()])
def test_forward_judge_and_backward_read_nothing(method, how, storage):
    network = hypergradients.make_model("convnet", "toy").to(META)
    problem = bilevel.BilevelProblem(network, compile=hypergradients.COMPILE[how])
    x, y, real, real_y = (t.to(META) for t in hypergradients.inputs_of({}, "toy"))
    plan = make_plan(
        problem,
        [(x.float(), y)] * 3,
        (real.float(), real_y),
        step_size=torch.ones(3, device=META),
        steps=None,
        seed=0,
        model_seed=None,
        hyperparameters=None,
        window=bilevel.Full(),
        storage=hypergradients.STORAGES[storage],
    )
    given = {"parameters": None, "statistics": None, "constants": None}
    taken = {}
    with WithoutData() as mode, started(plan, None, given) as (steps, state):
        for _ in range(2):  # the first run traces
            mode.operations.clear()
            mode.reads.clear()
            differentiate(steps, plan, state, method, taken.__setitem__)
    assert sum(mode.operations.values()) > 100
    assert not mode.reads
    assert sorted(taken) == [0, 1, 2]


def test_storage_on_the_host_is_what_copies_to_the_host():
    assert hypergradient_of("convnet", "traced", storage="host").reads["aten::_to_copy"] > 0


TOY = {
    "model_args": {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"},
    "inner_steps": 3,
    "real_batch_size": 16,
    "max_steps": 2,
    "eval_steps": 0,
    "save_steps": 0,
    "baselines": False,
    "disable_tqdm": True,
}
# Host reads of an outer step. Each is one wait for the GPU, whether a value is read (`item`) or
# several are copied to the host at once: whether the run is finite, and norms and loss of the step.
# A pool asks whether the network that it takes back is finite as well, and an augmentation for the
# classes of the real images.
RUNS = {
    "default": ({}, 2),
    "eager": ({"compile": "no"}, 2),
    "bf16": ({"mixed_precision": "bf16"}, 2),
    "groups": ({"batching": "groups", "groups": 2, "images_per_class": 2}, 2),
    "augmented minibatches": (
        {
            "batching": "minibatches",
            "batch_size": 4,
            "images_per_class": 2,
            "augmentation": "flip",
            "soft_labels": True,
        },
        3,
    ),
    "pool": ({"init": "pool", "window": "last", "window_length": 2, "pool_max_steps": 6}, 3),
}


def outer_step(config):
    """The counts of the second outer step, in which nothing is traced."""
    with WithoutData() as mode:
        run = Distiller(
            None, config, pictures(60, 0), pictures(20, 1), accelerator=MetaAccelerator()
        )
        run.training_step()
        mode.operations.clear()
        mode.reads.clear()
        run.training_step()
    assert run.state.skipped_steps == 0
    return mode


@pytest.mark.parametrize("name", RUNS)
def test_an_outer_step_stays_on_its_device_and_reads_no_more_than_before(name, tmp_path):
    more, reads = RUNS[name]
    mode = outer_step(DistillerConfig(output_dir=str(tmp_path / "out"), **{**TOY, **more}))
    assert mode.operations.total() > 500
    assert mode.reads.total() == reads


@pytest.mark.parametrize("recipe", ["at_instancenorm", "rat_batchnorm"])
def test_the_recipes_of_the_command_stay_on_their_device(recipe, tmp_path):
    mode = outer_step(settings(recipe, "toy", "trace", tmp_path / "out"))
    assert mode.operations.total() > 500


def test_a_mix_of_devices_and_a_host_read_are_found():
    model = timm.create_model("dd_convnet", width=4, depth=2).to(META)

    def plain(logits, labels):
        return logits.sum() + 0 * labels.sum()

    def mixing(logits, labels):
        return (logits * torch.ones(4, 10)).sum() + 0 * labels.sum()

    def reading(logits, labels):
        return logits.sum() * float(logits.detach().mean()) + 0 * labels.sum()

    x, y = torch.empty(4, 3, 32, 32, device=META), torch.zeros(4, dtype=torch.long, device=META)
    counts = []
    for loss in (plain, reading, mixing):
        problem = bilevel.BilevelProblem(model, inner_loss=loss)
        with WithoutData() as mode:
            if loss is mixing:
                with pytest.raises(MixedDevicesError, match="two devices"):
                    bilevel.unroll(problem, [(x, y)], step_size=0.1)
            else:
                bilevel.unroll(problem, [(x, y)], step_size=0.1)
        counts.append(mode.reads.total())
    assert counts[1] > counts[0]


def test_the_counts_see_what_a_gpu_would_do():
    with WithoutData() as mode:
        a = torch.zeros(3, device=META)
        b = (a + 1).view(3, 1)
        c = b.cpu() * 2
        a.copy_(torch.ones(3))
        float(a.sum())
        torch.ones(3) + 1
        a * torch.tensor(2.0)
    assert dict(mode.reads) == {"aten::_to_copy": 1, "aten::_local_scalar_dense": 1}
    assert c.tolist() == [[2.0]] * 3
    assert {n: mode.operations[f"aten::{n}"] for n in ("add", "mul", "sum")} == {
        "add": 1,
        "mul": 1,
        "sum": 1,
    }
