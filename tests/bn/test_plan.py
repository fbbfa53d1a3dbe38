"""What a conversion takes and what it refuses, with the model left as it was."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.nn.utils import parametrize

from dd_plugin.bn import (
    NoBatchNormFoundError,
    UnsupportedBatchNormError,
    convert_bn,
    converted_layers,
    revert_bn,
)
from tests.bn.networks import nested


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


def pixels():
    return torch.randn(4, 3, 5, 5)


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


def test_lazy_layer_converts_once_it_knows_its_channels():
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(pixels())
    assert list(converted_layers(convert_bn(model))) == ["0"]
    assert type(revert_bn(model)[0]) is nn.BatchNorm2d


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(UnsupportedBatchNormError, match=r"TorchScript.*convert the Python model"):
        convert_bn(scripted)
    traced = torch.jit.trace(nn.Sequential(nn.BatchNorm2d(3)).eval(), pixels())
    # The advice that the message gives; `test_jit_trace` has the other half.
    converted = convert_bn(nn.Sequential(nn.BatchNorm2d(3)).eval(), "tracked")
    with torch.no_grad():
        converted[0].var_correction.fill_(0.3)
    x = pixels()
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


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"include": "1"}, ["1"]),
        ({"include": "2"}, ["2.0"]),
        ({"include": ["1", "2.*"]}, ["1", "2.0"]),
        ({"exclude": "2"}, ["1"]),
        ({"include": "*", "exclude": "1"}, ["2.0"]),
    ],
)
def test_selection_by_name(selection, expected):
    model = convert_bn(nested(), **selection)
    assert [*converted_layers(model)] == expected


def test_no_batch_norm_names_the_norms_there_are():
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.LayerNorm(3))
    with pytest.raises(NoBatchNormFoundError, match=r"1 GroupNorm, 2 LayerNorm.*missing_ok"):
        convert_bn(model)
    assert convert_bn(model, missing_ok=True) is model
    assert issubclass(NoBatchNormFoundError, ValueError)


def test_a_pattern_that_matches_nothing_is_told():
    with pytest.raises(NoBatchNormFoundError, match=r"'layer9'.*are: 1, 2\.0"):
        convert_bn(nested(), include=["1", "layer9"])


class OwnForward(nn.BatchNorm2d):
    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True)


def parametrized():
    layer = nn.BatchNorm2d(4)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    return layer


def hooked():
    layer = nn.BatchNorm2d(4)
    original = layer.forward
    layer.forward = lambda x: original(x)
    return layer


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OwnForward(4), r"OwnForward.*forward of its own.*exclude"),
        (nn.LazyBatchNorm2d, r"lazy.*run one batch"),
        (lambda: torch.jit.script(nn.BatchNorm2d(4)), r"TorchScript.*after revert_bn"),
        (parametrized, r"parametrizations.*remove_parametrizations"),
        (hooked, r"forward was replaced.*remove the hook"),
        (lambda: nn.DataParallel(nn.BatchNorm2d(4)), r"wrapped in DataParallel.*model\.module"),
    ],
)
def test_a_model_that_cannot_be_converted_is_untouched(make, message):
    model = nn.Sequential(nn.BatchNorm2d(4), make())
    classes = [type(m) for m in model.modules()]
    with pytest.raises(UnsupportedBatchNormError, match=message):
        convert_bn(model)
    assert [type(m) for m in model.modules()] == classes
    assert not isinstance(model[0].running_mean, nn.Parameter)


@pytest.mark.parametrize("model", [None, "resnet18", nn.BatchNorm2d])
def test_something_that_is_no_module(model):
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        convert_bn(model)
