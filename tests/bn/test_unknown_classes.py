"""Layers that are nearly BatchNorm, arguments that are nearly right: converted, or told why not."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.nn.utils import parametrize

from dd_plugin.bn import (
    ConversionUndoneWarning,
    NoBatchNormFoundError,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
)


class Doubled(nn.BatchNorm2d):
    """A user's subclass that ends in its base's forward."""

    def __init__(self, channels, factor=2.0):
        super().__init__(channels)
        self.factor = factor

    def forward(self, x):
        return self.factor * super().forward(x)


class DoubledOldStyle(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super(DoubledOldStyle, self).forward(x)  # noqa: UP008 - what is tested


class DoubledTwice(Doubled):
    def forward(self, x):
        return 2 * super().forward(x)


class ByItself(nn.BatchNorm2d):
    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var)


class ByName(nn.BatchNorm2d):
    def forward(self, x):
        return nn.BatchNorm2d.forward(self, x)


class MyBatchNorm(nn.Module):
    """No relative of torch's; only the name and the buffers say what it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, x):
        return x


class NoSubclasses(nn.BatchNorm2d):
    def __init_subclass__(cls, **kwargs):
        raise TypeError("NoSubclasses cannot be subclassed")


def images():
    return torch.randn(4, 3, 5, 5)


@pytest.mark.parametrize("kind", [Doubled, DoubledOldStyle, DoubledTwice])
@pytest.mark.parametrize("statistics", ["learned", "tracked", "frozen"])
def test_subclass_that_ends_in_its_base(kind, statistics):
    torch.manual_seed(0)
    layer, stock, x = kind(3), kind(3), images()
    assert convert_bn(layer, statistics) is layer
    assert isinstance(layer, kind)
    assert type(layer).__name__ == f"Learnable{kind.__name__}"
    for training in (False, True):  # eval first: stock statistics move in train mode
        expected = stock.train(training)(x)
        torch.testing.assert_close(layer.train(training)(x), expected)
    if statistics == "learned":
        layer.eval()(x).square().sum().backward()
        assert layer.running_mean.grad.abs().sum() > 0
    assert type(revert_bn(layer)) is kind


def test_subclass_that_overwrites_its_statistics_attribute_stays_frozen_when_asked():
    layer = convert_bn(Doubled(3, factor=3.0), "frozen")
    before = layer.running_mean.clone()
    layer.train()(images())
    assert torch.equal(layer.running_mean, before)
    assert layer.factor == 3.0


def _parametrized():
    layer = nn.BatchNorm2d(3)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    return layer


def _hooked_on_the_instance():
    layer = nn.BatchNorm2d(3)
    layer.forward = lambda x: x
    return layer


def _made_in_inference_mode():
    with torch.inference_mode():
        return nn.BatchNorm2d(3)


def _statistics_not_saved():
    layer = nn.BatchNorm2d(3)
    layer._non_persistent_buffers_set.add("running_mean")
    return layer


REFUSED = {
    "own forward": (lambda: ByItself(3), r"in a forward of its own.*`exclude`"),
    "base by name": (lambda: ByName(3), r"in a forward of its own.*`exclude`"),
    "no relative": (MyBatchNorm, r"class is not known here.*dd_plugin\.bn\.variants"),
    "lazy": (lambda: nn.LazyBatchNorm2d(), r"lazy.*run one batch through the model first"),
    "lazy, nothing to fill": (
        lambda: nn.LazyBatchNorm2d(affine=False, track_running_stats=False),
        r"lazy.*run one batch through the model first",
    ),
    "parametrized": (_parametrized, r"parametrizations.*remove_parametrizations first"),
    "forward replaced": (_hooked_on_the_instance, r"accelerate.*remove the hook, convert"),
    "inference": (_made_in_inference_mode, r"inference_mode.*build or load the model outside"),
    "not saved": (_statistics_not_saved, r"not in its state_dict.*`exclude`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_layers_leave_the_model_as_it_was(name):
    make, message = REFUSED[name]
    refused = make()
    model = nn.Sequential(nn.BatchNorm2d(3), refused, nn.BatchNorm2d(3))
    classes = [type(m) for m in model.modules()]
    attributes = [set(vars(m)) for m in model.modules()]
    names = [n for n, _ in model.named_parameters()]
    pattern = rf"(?s)cannot convert '1' \({type(refused).__name__}\): .*{message}"
    with pytest.raises(UnsupportedBatchNormError, match=pattern):
        convert_bn(model)
    assert [type(m) for m in model.modules()] == classes
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert [n for n, _ in model.named_parameters()] == names
    # The way out that the message names: everything else can be converted.
    convert_bn(model, exclude="1")
    assert list(converted_layers(model)) == ["0", "2"]
    revert_bn(model)
    assert [type(m) for m in model.modules()] == classes


def test_class_that_refuses_subclasses_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(3))
    model.append(nn.BatchNorm2d(3))
    layer = NoSubclasses(3)
    model.append(layer)
    with pytest.raises(TypeError, match="NoSubclasses cannot be subclassed"):
        convert_bn(model)
    assert [type(m) for m in model] == [nn.BatchNorm2d, nn.BatchNorm2d, NoSubclasses]
    assert [n for n, _ in model.named_parameters() if "running" in n] == []


def test_lazy_layer_converts_once_it_knows_its_channels():
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(images())
    assert list(converted_layers(convert_bn(model))) == ["0"]
    assert type(revert_bn(model)[0]) is nn.BatchNorm2d


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(UnsupportedBatchNormError, match=r"TorchScript.*convert the Python model"):
        convert_bn(scripted)
    traced = torch.jit.trace(nn.Sequential(nn.BatchNorm2d(3)).eval(), images())
    # The advice that the message gives; `test_jit_trace` has the other half.
    converted = convert_bn(nn.Sequential(nn.BatchNorm2d(3)).eval(), "tracked")
    with torch.no_grad():
        converted[0].var_correction.fill_(0.3)
    x = images()
    y = converted(x)
    torch.testing.assert_close(torch.jit.script(revert_bn(converted))(x), y)
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot convert '0\.0'.*TorchScript"):
        convert_bn(nn.Sequential(traced))


def test_wrapped_models_are_refused():
    model = nn.Sequential(nn.BatchNorm2d(3))
    wrapped = DataParallel(model)
    with pytest.raises(UnsupportedBatchNormError, match=r"DataParallel.*`model\.module`"):
        convert_bn(wrapped)
    with pytest.raises(UnsupportedBatchNormError, match=r"^0 is wrapped in DataParallel"):
        convert_bn(nn.Sequential(wrapped))
    assert type(model[0]) is nn.BatchNorm2d
    convert_bn(wrapped.module)
    assert list(converted_layers(wrapped)) == ["module.0"]


ARGUMENTS = {
    "model": (([nn.BatchNorm2d(3)],), {}, TypeError, "`model` must be a torch.nn.Module, got list"),
    "statistics": ((None, "learnt"), {}, ValueError, "`statistics` must be one of .*got 'learnt'"),
    "no statistics": ((None, None), {}, ValueError, "`statistics` must be one of .*got None"),
    "train_with": ((None, "learned", "eval"), {}, ValueError, "`train_with` must be .*got 'eval'"),
    "include": ((None,), {"include": 3}, TypeError, "`include` must be a name pattern .*got 3"),
    "exclude": ((None,), {"exclude": [1]}, TypeError, r"`exclude` must be .*got \[1\]"),
    "nothing": ((None,), {"include": []}, TypeError, r"`include` must be .*non-empty.*got \[\]"),
    "no match": (
        (None,),
        {"include": "layer9"},
        NoBatchNormFoundError,
        "select none of this model's BatchNorm layers, which are: 0, 1.0$",
    ),
    "one does not match": (
        (None,),
        {"include": ["1", "layer9.*"]},
        NoBatchNormFoundError,
        r"the pattern 'layer9\.\*' matches none .*: 0, 1\.0$",
    ),
    "all excluded": ((None,), {"exclude": "*"}, NoBatchNormFoundError, "select none"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments(name):
    (first, *others), keywords, error, message = ARGUMENTS[name]
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(error, match=message):
        convert_bn(model if first is None else first, *others, **keywords)
    assert not converted_layers(model)


def test_model_without_batch_norm_is_told_what_it_has():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.LayerNorm(2), nn.GroupNorm(1, 2))
    with pytest.raises(NoBatchNormFoundError, match=r"1 GroupNorm, 2 LayerNorm.*missing_ok=True"):
        convert_bn(model)
    assert convert_bn(model, missing_ok=True) is model
    with pytest.raises(NoBatchNormFoundError, match="normalization layers it has are: none"):
        convert_bn(nn.Linear(2, 2))


def test_revert_refuses_what_it_would_break():
    model = convert_bn(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)))
    model[1].forward = lambda x: x
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot revert '1'.*remove the hook"):
        revert_bn(model)
    assert list(converted_layers(model)) == ["0", "1"]
    del model[1].forward
    parametrize.register_parametrization(model[1], "weight", nn.Identity())
    with pytest.raises(UnsupportedBatchNormError, match=r"cannot revert '1'.*remove_param"):
        revert_bn(model)
    assert list(converted_layers(model)) == ["0", "1"]
    parametrize.remove_parametrizations(model[1], "weight")
    assert [type(m) for m in revert_bn(model)] == [nn.BatchNorm2d, nn.BatchNorm2d]
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got str"):
        revert_bn("model")


def test_reverting_a_part_is_no_conversion_undone():
    model = convert_bn(nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))))
    revert_bn(model[1])
    convert_bn(model)  # a warning would be an error here
    assert list(converted_layers(model)) == ["0", "1.0"]
    revert_bn(model[1])
    revert_bn(model)


def test_replaced_layers_are_seen_below_a_converted_part():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)))
    convert_bn(model[1], "tracked")
    model[1][0] = nn.BatchNorm2d(3)
    with pytest.warns(ConversionUndoneWarning, match=r"'1\.0' for one is a BatchNorm2d now"):
        convert_bn(model)
    convert_bn(model)  # said once
    assert list(converted_layers(model)) == ["0", "1.0"]


def test_layer_without_a_batch_counter():
    # Momentum None divides by the counter; without one the stock layer stands still.
    layer = nn.BatchNorm2d(3, momentum=None)
    layer.num_batches_tracked = None
    convert_bn(layer, "tracked")(images())
    assert torch.equal(layer.running_mean, torch.zeros(3))
