"""Random module trees through random conversions: nothing is lost, nothing moves unasked.

Trees nest containers and custom modules, share layers, mix layer families, dtypes, policies of the
stock layer and hooks. What is compared is written down in `Snapshot`.
"""

import copy
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from dd_plugin.bn import (
    NoBatchNormFoundError,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
    tracking_tensors,
)
from dd_plugin.bn.policy import STATISTICS, TRAIN_WITH

CHANNELS = 3
PROFILE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# --- random models -----------------------------------------------------------------------------


class Residual(nn.Module):
    """A parent that uses each of its layers by attribute, one of them under two names."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.again = first
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x + self.scale.to(x.dtype) * self.again(self.second(self.first(x)))


class Bag(nn.Module):
    """A parent that keeps its layers in a list and a dictionary."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.listed = nn.ModuleList(modules)
        self.by_name = nn.ModuleDict({f"n{i}": m for i, m in enumerate(modules[::2])})

    def forward(self, x):
        for module in self.listed:
            x = module(x)
        for module in self.by_name.values():
            x = module(x)
        return x


STOCK = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@st.composite
def batch_norms(draw, dims):
    kinds = ["plain", "sync"]
    if dims == 2:
        kinds += ["act", "frozen", "frozen act"]
    kind = draw(st.sampled_from(kinds))
    eps = draw(st.sampled_from([1e-5, 1e-3]))
    if kind == "frozen":
        layer: nn.Module = FrozenBatchNorm2d(CHANNELS, eps=eps)
    elif kind == "frozen act":
        layer = FrozenBatchNormAct2d(CHANNELS, eps=eps)
    else:
        options = {
            "eps": eps,
            "momentum": draw(st.sampled_from([0.1, 0.7, 1.0, None])),
            "affine": draw(st.booleans()),
            "track_running_stats": draw(st.sampled_from([True, True, False])),
        }
        if kind == "act":
            layer = BatchNormAct2d(CHANNELS, act_layer=nn.GELU, **options)
        elif kind == "sync":
            layer = nn.SyncBatchNorm(CHANNELS, **options)
        else:
            # torch's newest layers can leave out the bias alone; so does assigning None.
            layer = STOCK[dims](CHANNELS, **options)
            if options["affine"] and draw(st.booleans()):
                layer.bias = None
    if layer._parameters.get("weight") is not None and draw(st.booleans()):
        layer.weight.requires_grad_(False)
    if draw(st.booleans()):
        layer.eval()
    return layer


def trees(dims):
    leaves = st.one_of(batch_norms(dims), batch_norms(dims), st.just(None).map(lambda _: nn.ReLU()))

    def parents(children):
        several = st.lists(children, min_size=1, max_size=3)
        return st.one_of(
            several.map(lambda modules: nn.Sequential(*modules)),
            several.map(Bag),
            st.tuples(children, children).map(lambda pair: Residual(*pair)),
            children.map(lambda m: nn.Sequential(OrderedDict(one=m, other=nn.Tanh(), one_more=m))),
        )

    return st.recursive(leaves, parents, max_leaves=5)


@st.composite
def models(draw):
    """A model, whose layers have statistics as after some training, and an input for it."""
    dims = draw(st.sampled_from([1, 2, 3]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    tree = draw(trees(dims))
    model = nn.Sequential(draw(batch_norms(dims)), tree).to(dtype)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator).to(dtype) + 0.5
    x = torch.randn(4, CHANNELS, *[3] * dims, generator=generator).to(dtype)
    event(f"{dims}d, {dtype}")
    return model, x


# --- what must survive -------------------------------------------------------------------------


class Snapshot:
    """Everything a conversion has to give back, tensors copied, objects by identity."""

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        self.modules = {name: id(module) for name, module in modules.items()}
        self.classes = {name: type(module) for name, module in modules.items()}
        self.training = {name: module.training for name, module in modules.items()}
        self.parameters = {
            name: (id(p), p.requires_grad, p.data_ptr())
            for name, p in model.named_parameters(remove_duplicate=False)
        }
        self.buffers = {
            name: (b.requires_grad, b.dtype, b.data_ptr())
            for name, b in model.named_buffers(remove_duplicate=False)
        }
        self.parameter_order = list(self.parameters)
        self.buffer_order = list(self.buffers)
        self.keys = list(model.state_dict())
        self.attributes = {
            name: {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None)}
            for name, module in modules.items()
        }
        self.hooks = {
            name: [list(vars(module)[kind].items()) for kind in vars(module) if "_hooks" in kind]
            for name, module in modules.items()
        }
        self.non_persistent = {
            name: set(module._non_persistent_buffers_set) for name, module in modules.items()
        }
        self.attribute_names = {name: set(vars(module)) for name, module in modules.items()}
        self.values = {name: value.clone() for name, value in model.state_dict().items()}

    def check(self, model: nn.Module, values: bool = True) -> None:
        now = Snapshot(model)
        for part in vars(self):
            if part != "values":
                assert getattr(now, part) == getattr(self, part), part
        if values:
            self.check_values(model)

    def check_values(self, model: nn.Module) -> None:
        now = model.state_dict()
        assert list(now) == list(self.values)
        for name, value in self.values.items():
            assert torch.equal(now[name], value), name


def hooked(model):
    """Adds hooks of every kind to every BatchNorm and to the root; returns the list they fill."""
    calls: list[str] = []
    for name, module in [*model.named_modules()]:
        if module is model or "running_var" in module._buffers:
            module.register_forward_hook(lambda *_, n=name: calls.append(f"forward {n}"))
            module.register_forward_pre_hook(lambda *_, n=name: calls.append(f"before {n}"))
            module.register_full_backward_hook(lambda *_, n=name: calls.append(f"backward {n}"))
            module._register_state_dict_hook(lambda *_, n=name: calls.append(f"save {n}"))
            module.register_load_state_dict_post_hook(lambda *_, n=name: calls.append(f"load {n}"))
    return calls


@torch.no_grad()
def evaluate(model, x):
    """The outputs in eval mode; training flags as before."""
    flags = {module: module.training for module in model.modules()}
    y = model.eval()(x)
    for module, flag in flags.items():
        module.training = flag
    return y


def check_same_outputs(model, found, expected):
    """Bit by bit, but for frozen layers: their stock classes multiply in another order."""
    if any("FrozenBatchNorm" in type(module).__name__ for module in model.modules()):
        # A few units in the last place, grown over some layers.
        tolerance = 64 * torch.finfo(expected.dtype).eps
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    else:
        assert torch.equal(found, expected)


statistics_policies = st.sampled_from(STATISTICS)
train_with_policies = st.sampled_from(TRAIN_WITH)

# --- properties --------------------------------------------------------------------------------


@PROFILE
@given(models(), statistics_policies, train_with_policies)
def test_round_trip_loses_nothing(model_and_input, statistics, train_with):
    model, x = model_and_input
    calls = hooked(model)
    before = Snapshot(model)
    calls_of_saving = list(calls)
    y = evaluate(model, x)

    assert convert_bn(model, statistics, train_with) is model
    check_same_outputs(model, evaluate(model, x), y)
    assert list(model.state_dict()) == before.keys
    before.check_values(model)
    for name, module in model.named_modules(remove_duplicate=False):
        assert id(module) == before.modules[name]
        assert isinstance(module, before.classes[name])
        assert module.training == before.training[name]
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in before.parameters:
            assert (id(parameter), parameter.requires_grad) == before.parameters[name][:2]
        else:
            assert statistics == "learned"
            assert name.rpartition(".")[2] in ("running_mean", "running_var")

    assert revert_bn(model) is model
    before.check(model)
    assert torch.equal(evaluate(model, x), y)
    assert set(calls_of_saving) <= set(calls)


@PROFILE
@given(models(), statistics_policies, train_with_policies)
def test_hooks_run_as_often_and_in_the_same_order(model_and_input, statistics, train_with):
    model, x = model_and_input
    model = model.double()
    x = x.double()
    calls = hooked(model)

    def run():
        calls.clear()
        leaf = x.clone().requires_grad_()
        y = model.eval()(leaf)
        y.square().sum().backward()
        model.load_state_dict(model.state_dict())
        return list(calls), leaf.grad

    expected, expected_grad = run()
    assert any(call.startswith("backward") for call in expected)
    convert_bn(model, statistics, train_with)
    found, grad = run()
    assert found == expected
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-12)


@PROFILE
@given(models(), st.lists(st.tuples(statistics_policies, train_with_policies), max_size=5))
def test_switching_policies_changes_no_output(model_and_input, policies):
    model, x = model_and_input
    before = Snapshot(model)
    stock = evaluate(model, x)
    y = evaluate(convert_bn(model), x)
    check_same_outputs(model, y, stock)
    for statistics, train_with in policies:
        convert_bn(model, statistics, train_with)
        first = {name: id(p) for name, p in model.named_parameters()}
        convert_bn(model, statistics, train_with)
        assert {name: id(p) for name, p in model.named_parameters()} == first
        assert torch.equal(evaluate(model, x), y)
        before.check_values(model)
        assert len(list(model.parameters())) == len(before_parameters(model, statistics))
    revert_bn(model)
    before.check(model)


def before_parameters(model, statistics):
    """The parameters the model should have now: affine ones, and statistics if learned."""
    names = [n for n, _ in model.named_parameters() if "running_" not in n]
    if statistics == "learned":
        for name, layer in converted_layers(model).items():
            names += [f"{name}.{kind}" for kind in layer.present_statistics()]
    return names


operations = st.lists(
    st.one_of(
        st.tuples(st.just("convert"), statistics_policies, train_with_policies),
        st.just(("revert",)),
        st.just(("train",)),
        st.just(("copy",)),
    ),
    min_size=2,
    max_size=7,
)


@PROFILE
@given(models(), operations)
def test_any_sequence_of_operations_ends_in_a_stock_model(model_and_input, sequence):
    model, x = model_and_input
    before = Snapshot(model)
    copied = False
    for name, *arguments in sequence:
        y = evaluate(model, x)
        if name == "convert":
            convert_bn(model, *arguments)
        elif name == "revert":
            revert_bn(model)
        elif name == "copy":
            model, copied = copy.deepcopy(model), True
        elif name == "train":
            parameters = [p for p in model.parameters() if p.requires_grad]
            if not parameters:
                continue
            optimizer = torch.optim.SGD(parameters, lr=1e-3)
            for module in model.modules():
                module.training = True
            model(x).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            for key, module in model.named_modules(remove_duplicate=False):
                module.training = before.training[key]
            continue
        check_same_outputs(model, evaluate(model, x), y)  # nothing but training changes them
    revert_bn(model)
    if copied:
        assert list(model.state_dict()) == before.keys
        classes = {n: type(m) for n, m in model.named_modules(remove_duplicate=False)}
        assert classes == before.classes
    else:
        before.check(model, values=False)


@PROFILE
@given(models(), st.data())
def test_partial_conversion_touches_what_is_selected(model_and_input, data):
    model, x = model_and_input
    before = Snapshot(model)
    y = evaluate(model, x)
    convert_bn(model)
    names = list(converted_layers(model))
    revert_bn(model)
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    how = data.draw(st.sampled_from(["include", "exclude"]))
    expected = {name for name in names if (name in chosen) == (how == "include")}
    if not expected:
        with pytest.raises(NoBatchNormFoundError, match="select none of this model's"):
            convert_bn(model, exclude=chosen)
        before.check(model)
        return
    convert_bn(model, "tracked", **{how: chosen})
    assert set(converted_layers(model)) == expected
    assert {name.rpartition(".")[0] for name in tracking_tensors(model)} <= expected
    check_same_outputs(model, evaluate(model, x), y)
    convert_bn(model, "learned")  # the others join, all under one policy
    assert set(converted_layers(model)) == set(names)
    assert not tracking_tensors(model)
    revert_bn(model)
    before.check(model)


class Unknown(nn.BatchNorm2d):
    """Normalises by itself."""

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var)


@PROFILE
@given(models(), st.data(), statistics_policies)
def test_failed_conversion_changes_nothing(model_and_input, data, statistics):
    model, x = model_and_input
    if data.draw(st.booleans()):
        convert_bn(model, "tracked")
    obstacle = data.draw(st.sampled_from([Unknown(CHANNELS), nn.LazyBatchNorm2d()]))
    where = data.draw(st.integers(0, 2))
    modules = list(model)
    modules.insert(where, obstacle)
    broken = nn.Sequential(*modules)
    before = Snapshot(model)
    own = dict(vars(broken))
    with pytest.raises(UnsupportedBatchNormError, match=f"cannot convert '{where}'"):
        convert_bn(broken, statistics)
    before.check(model)
    assert vars(broken) == own
    assert type(obstacle) in (Unknown, nn.LazyBatchNorm2d)
    evaluate(model, x)


@PROFILE
@given(models(), statistics_policies)
def test_state_dict_goes_both_ways(model_and_input, statistics):
    model, x = model_and_input
    other = copy.deepcopy(model)
    for buffer in other.buffers():
        if buffer.is_floating_point():
            buffer.mul_(2)
    y = evaluate(model, x)
    converted = convert_bn(copy.deepcopy(other), statistics)
    converted.load_state_dict(model.state_dict(), strict=True)
    check_same_outputs(model, evaluate(converted, x), y)
    other.load_state_dict(converted.state_dict(), strict=True)
    assert torch.equal(evaluate(other, x), y)


@PROFILE
@given(models(), train_with_policies)
def test_shared_layers_stay_shared_and_are_converted_once(model_and_input, train_with):
    model, _ = model_and_input
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if {"running_mean"} <= module._buffers.keys():
            names.setdefault(id(module), []).append(name)
    convert_bn(model, "learned", train_with)
    layers = dict(model.named_modules(remove_duplicate=False))
    for group in names.values():
        assert len({id(layers[name]) for name in group}) == 1
    assert len(converted_layers(model)) == len(names)
    parameters = list(model.parameters())
    assert len({id(p) for p in parameters}) == len(parameters)
