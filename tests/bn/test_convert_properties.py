"""Random module trees through random conversions: nothing is lost, nothing moves unasked.

The trees are those of `trees`, with hooks. What is compared is written down in `Snapshot`.
"""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dd_plugin.bn import (
    NoBatchNormFoundError,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
    tracking_tensors,
)
from dd_plugin.bn.policy import STATISTICS, TRAIN_WITH
from tests.bn.trees import CHANNELS, models

PROFILE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


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
