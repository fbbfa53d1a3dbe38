"""Everything a converted model has to do, checked on one model with random weights.

`check_model` is what the sweep (``python -m tests.compatibility``) and the representative tests
run per model. Weights and running statistics are random, so that no check holds by an accident of
the initial values. Each check gives its worst error and whether that is within its tolerance; an
exception fails the check and is recorded, since the sweep has to go on.
"""

import contextlib
import copy
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dd_plugin.bilevel.foreign_models.second_order import second_order
from dd_plugin.bn import convert_bn, converted_layers, revert_bn, statistics_in_graph
from dd_plugin.bn.plan import find_batch_norms

Inputs = dict[str, Tensor]
Build = Callable[[], tuple[nn.Module, Inputs]]

EVAL_TOLERANCE = 1e-5  # float32, relative to the largest output
TRAIN_TOLERANCE = 1e-9  # float64
DERIVATIVE_TOLERANCE = 1e-8  # float64, relative to the largest entry

CHECKS = {
    "eval": "eval outputs equal the stock model's (float32)",
    "train": "train outputs and the statistics tracked equal the stock model's (float64)",
    "keys": "state_dict keys equal, strict loading both ways gives equal tensors",
    "revert": "revert_bn restores classes, order of keys, buffers and outputs to the bit",
    "gradient": "gradient of every statistic is its closed form (float64)",
    "eval_2nd": "eval mode: jvp of grad equals double backward (float64)",
    "train_2nd": "train mode, of outputs and tracked statistics: the same (float64)",
    "transform": "outputs under these transforms equal the stock model's (float64)",
}


@dataclass
class Check:
    """The outcome of one check; `error` is None where there is nothing to measure."""

    passed: bool
    error: float | None = None
    note: str = ""


@dataclass
class Result:
    """One row of the table."""

    name: str
    layers: dict[str, int] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks.values())

    def failures(self) -> dict[str, Check]:
        return {name: check for name, check in self.checks.items() if not check.passed}


def check_model(
    name: str, build: Build, only: Iterable[str] = tuple(CHECKS), *, reraise: bool = False
) -> Result:
    """Run the checks on the model that ``build`` makes, with the inputs it makes for it.

    Args:
        name: of the row.
        build: makes the model, with random weights, and its keyword inputs.
        only: names from `CHECKS`.
        reraise: let exceptions through instead of recording them.
    """
    begin = time.perf_counter()
    result = Result(name)
    try:
        torch.manual_seed(0)
        model, inputs = build()
        subject = Subject(model, inputs)
        result.layers = subject.layers
    except Exception as error:
        if reraise:
            raise
        result.checks["build"] = Check(False, None, _describe(error))
        return result
    for check in only:
        try:
            result.checks[check] = getattr(subject, f"check_{check}")()
        except Exception as error:
            if reraise:
                raise
            result.checks[check] = Check(False, None, _describe(error))
    result.seconds = time.perf_counter() - begin
    return result


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


class Subject:
    """A stock model with random weights and statistics, and its inputs, in two precisions."""

    def __init__(self, model: nn.Module, inputs: Inputs):
        randomise(model)
        self.layers = dict(Counter(type(p.layer).__name__ for p in find_batch_norms(model)))
        self.inputs = inputs
        self.stock = model.float().eval()
        self.inputs64 = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        self.stock64 = copy.deepcopy(model).double()
        self.transformed: dict[bool, list[Tensor]] = {}  # outputs by training flag

    def converted(self, statistics="learned", *, double=True):
        return convert_bn(copy.deepcopy(self.stock64 if double else self.stock), statistics)

    # First order.

    def check_eval(self):
        with torch.no_grad():
            expected = outputs_of(self.stock(**self.inputs))
            error = 0.0
            for statistics in ("learned", "tracked", "frozen"):
                converted = self.converted(statistics, double=False)
                found = outputs_of(converted(**self.inputs))
                error = max(error, difference(found, expected))
        passed = error <= EVAL_TOLERANCE
        return Check(passed, error, "" if passed else sensitivity(self.stock, self.inputs))

    def check_train(self):
        stock = copy.deepcopy(self.stock64).train()
        learned, tracked = (self.converted(s).train() for s in ("learned", "tracked"))
        with in_double():
            expected = run(stock, self.inputs64)
            error = max(difference(run(m, self.inputs64), expected) for m in (learned, tracked))
        new = dict(stock.named_buffers())
        moved = {k: v for k, v in tracked.named_buffers() if k in new}
        if moved.keys() != new.keys():
            return Check(False, error, "buffers differ")
        error = max(error, difference(list(moved.values()), list(new.values())))
        passed = error <= TRAIN_TOLERANCE
        return Check(passed, error, "" if passed else self._sensitivity64())

    def check_keys(self):
        converted = self.converted(double=False)
        stock, fresh = copy.deepcopy(self.stock), self.converted(double=False)
        reference = self.stock.state_dict()
        if list(converted.state_dict()) != list(reference) and (
            converted.state_dict().keys() != reference.keys()
        ):
            return Check(False, None, "keys differ")
        for target, source in ((stock, converted), (fresh, self.stock)):
            with torch.no_grad():
                for tensor in target.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.add_(1.0)
            target.load_state_dict(source.state_dict(), strict=True)
            note = unequal_tensors(target.state_dict(), reference)
            if note:
                return Check(False, None, f"after loading: {note}")
        return Check(True)

    def check_revert(self):
        for statistics in ("learned", "tracked", "frozen"):
            model = copy.deepcopy(self.stock)
            parameters = dict(model.named_parameters())
            revert_bn(convert_bn(model, statistics))
            if {n: id(p) for n, p in model.named_parameters()} != {
                n: id(p) for n, p in parameters.items()
            }:
                return Check(False, None, "parameters are not the same objects")
            for got, expected in zip(model.modules(), self.stock.modules(), strict=True):
                if type(got) is not type(expected):
                    return Check(False, None, f"{type(got).__name__} is not the stock class")
                if list(got._buffers) != list(expected._buffers):
                    return Check(False, None, f"buffers of {type(got).__name__} differ")
                if vars(got).keys() != vars(expected).keys():
                    return Check(False, None, f"attributes of {type(got).__name__} differ")
            if list(model.state_dict()) != list(self.stock.state_dict()):
                return Check(False, None, "order of keys differs")
            note = unequal_tensors(model.state_dict(), self.stock.state_dict())
            if note:
                return Check(False, None, note)
        with torch.no_grad():
            found = outputs_of(model(**self.inputs))
            error = difference(found, outputs_of(self.stock(**self.inputs)))
        return Check(error == 0.0, error)

    def check_gradient(self):
        """d/d running_mean = -w rstd d/d bias, d/d running_var = -w / (2 (var + eps)) d/d weight.

        From y = (x - mean) rstd w + b with rstd = (var + eps)^(-1/2): both statistics and the
        affine parameters enter a channel through the same two numbers, scale and offset, so each
        gradient of a statistic is a multiple of one that stock BatchNorm computes.
        """
        model = self.converted().eval()
        layers = converted_layers(model).values()
        affine = [t for m in layers for t in (m.weight, m.bias) if t is not None]
        for tensor in affine:
            tensor.requires_grad_()
        with in_double():
            output = outputs_of(model(**self.inputs64))
        statistics = [getattr(m, n) for m in layers for n in m.present_statistics()]
        leaves = [*statistics, *affine]
        grads = torch.autograd.grad(smooth_loss(output), leaves, allow_unused=True)
        gradient = {id(t): g for t, g in zip(leaves, grads, strict=True)}
        error, reached = 0.0, 0
        for layer in layers:
            for name in layer.present_statistics():
                got = gradient[id(getattr(layer, name))]
                reached += got is not None and bool((got != 0).any())
                if got is not None and not bool(got.isfinite().all()):
                    return Check(False, None, "a gradient is not finite")
                if len(layer.present_statistics()) != 2 or layer.weight is None:
                    continue  # EvoNorm, or no affine parameters: no such relation
                scale = layer.weight / (layer.running_var + layer.eps).sqrt()
                if name == "running_mean":
                    other, factor = gradient[id(layer.bias)], -scale
                else:
                    other, factor = gradient[id(layer.weight)], -scale.square() / (2 * layer.weight)
                if (got is None) != (other is None):
                    return Check(False, None, f"{name} and the affine parameter disagree")
                if got is not None:
                    error = max(error, difference([got], [factor * other]))
        note = f"{reached} of {len(statistics)} nonzero"
        passed = error <= DERIVATIVE_TOLERANCE and reached > 0
        return Check(passed, error, note)

    # Second order.

    def check_eval_2nd(self):
        return self._second_order(self.converted().eval())

    def check_train_2nd(self):
        return self._second_order(self.converted("tracked").train())

    def check_transform(self):
        """On the outputs of the forward passes that the second derivatives were taken of."""
        error = 0.0
        for training in (False, True):
            if training not in self.transformed:
                return Check(False, None, "no outputs: the second derivative failed")
            stock = copy.deepcopy(self.stock64).train(training)
            # Fused attention draws the mask of its dropout by itself; the formula for it does not.
            with second_order(stock), same_dropout(), in_double():
                expected = run(stock, self.inputs64)
            error = max(error, difference(self.transformed[training], expected))
        passed = error <= TRAIN_TOLERANCE
        return Check(passed, error, "" if passed else self._sensitivity64())

    def _sensitivity64(self):
        with in_double():
            return " and ".join(
                f"{'train' if training else 'eval'}: "
                + sensitivity(copy.deepcopy(self.stock64).train(training), self.inputs64)
                for training in (False, True)
            )

    def _second_order(self, model):
        tensors = tensors_of(model)
        names = [n for n, _ in model.named_parameters() if tensors[n].is_floating_point()]
        tracked = [
            f"{name}.{statistic}" if name else statistic
            for name, layer in converted_layers(model).items()
            for statistic in layer.present_statistics()
            if layer.statistics == "tracked" and layer.looks_at_batch
        ]
        scales = None

        def loss(parameters):
            nonlocal scales
            torch.manual_seed(1)
            current = tensors | parameters
            with statistics_in_graph(), same_dropout(), in_double():
                output = outputs_of(functional_call(model, current, kwargs=self.inputs64))
            if scales is None:
                scales = scales_of(output)
            value = smooth_loss(output, scales)
            value = value + sum(torch.log1p(current[name].square()).mean() for name in tracked)
            return value, output

        generator = torch.Generator().manual_seed(2)
        point = {n: tensors[n] for n in names}
        tangent = {
            n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in point.items()
        }
        with second_order(model):
            with torch.no_grad():
                loss(point)  # fixes the scales
            gradient = torch.func.grad(loss, has_aux=True)
            _, forward, self.transformed[model.training] = torch.func.jvp(
                gradient, (point,), (tangent,), has_aux=True
            )
            leaves = {n: t.detach().clone().requires_grad_() for n, t in point.items()}
            first = torch.autograd.grad(
                loss(leaves)[0], list(leaves.values()), create_graph=True, materialize_grads=True
            )
            product = sum((g * tangent[n]).sum() for n, g in zip(names, first, strict=True))
            double = torch.autograd.grad(product, list(leaves.values()), materialize_grads=True)
        largest = max(float(h.abs().max()) for h in double if h.numel())
        worst = max(
            float((forward[n] - h).abs().max())
            for n, h in zip(names, double, strict=True)
            if h.numel()
        )
        if not largest > 0:
            return Check(False, None, "the second derivative is zero")
        error = worst / largest
        return Check(error <= DERIVATIVE_TOLERANCE, error)


# --- pieces -------------------------------------------------------------------------------------


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random running statistics, and every vector parameter off its initial value.

    Zero-initialised last gammas and layer scales of 1e-6 would hide the branches behind them.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(like):
        return torch.randn(like.shape, generator=generator).to(like.dtype)

    for parameter in model.parameters():
        if parameter.dim() <= 1 and parameter.is_floating_point():
            parameter.add_(0.1 * normal(parameter))
    for planned in find_batch_norms(model):
        buffers: dict[str, Any] = planned.layer._buffers
        for name in ("weight", "bias"):
            if buffers.get(name) is not None:
                buffers[name].add_(0.1 * normal(buffers[name]))
        if buffers.get("running_mean") is not None:
            buffers["running_mean"].copy_(0.1 * normal(buffers["running_mean"]))
        if buffers.get("running_var") is not None:
            uniform = torch.rand(buffers["running_var"].shape, generator=generator)
            buffers["running_var"].copy_(0.5 + uniform)
        if buffers.get("num_batches_tracked") is not None:
            buffers["num_batches_tracked"].zero_()


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The outputs without a graph; dropout draws the same numbers each time."""
    torch.manual_seed(1)
    with torch.no_grad():
        return outputs_of(model(**inputs))


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """What asks for float32 by name leaves float64 as it is, or makes float64.

    ``x.float()``, ``x.to(torch.float32)``, ``softmax(x, dtype=torch.float32)`` and
    ``torch.zeros(..., dtype=torch.float32)``. Some models compute a part of themselves in float32
    whatever their precision (the linear attention of EfficientViT, the RMSNorm of DEIMv2, the last
    softmax of the PP-OCR recognisers). It rounds what it passes on to 1e-7, in the second
    derivative too, and nothing could be seen below that; a hidden state that starts in float32
    (SLANet) does not run in float64 at all.
    """
    to_float, to, zeros = Tensor.float, Tensor.to, torch.zeros

    def keep_double(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self if self.dtype == torch.float64 else to_float(self, *args, **kwargs)

    def double(dtype: Any) -> Any:
        return torch.float64 if dtype is torch.float32 else dtype

    def to_in_double(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.dtype == torch.float64:
            args = tuple(map(double, args))
            kwargs = {name: double(value) for name, value in kwargs.items()}
        return to(self, *args, **kwargs)

    def zeros_in_double(*args: Any, **kwargs: Any) -> Tensor:
        return zeros(*args, **{name: double(value) for name, value in kwargs.items()})

    to_softmax = torch.nn.functional.softmax

    def softmax_in_double(
        input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Tensor:
        narrower = input.dtype == torch.float64 and dtype == torch.float32
        return to_softmax(input, dim, _stacklevel, None if narrower else dtype)

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for the tables that models make as they run
    try:
        with (
            unittest.mock.patch.object(Tensor, "float", keep_double),
            unittest.mock.patch.object(Tensor, "to", to_in_double),
            unittest.mock.patch.object(torch, "zeros", zeros_in_double),
            unittest.mock.patch.object(torch.nn.functional, "softmax", softmax_in_double),
        ):
            yield
    finally:
        torch.set_default_dtype(default)


@contextlib.contextmanager
def same_dropout() -> Iterator[None]:
    """Dropout whose masks depend on the order and the shapes of the calls alone.

    Torch's own draws a mask in the memory order of its input, and that is not the same inside and
    outside of a function transform: a seed is no replay for a permuted input.
    """
    generator = torch.Generator().manual_seed(4)

    def dropout(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        keep = torch.rand(input.shape, generator=generator) >= p
        return input * (keep.to(input.dtype) / (1 - p))

    with (
        unittest.mock.patch.object(F, "dropout", dropout),
        unittest.mock.patch.object(torch, "dropout", dropout),
    ):
        yield


def sensitivity(model: nn.Module, inputs: Inputs) -> str:
    """How far the outputs of a stock model move when its weights move by a rounding error.

    What is as large as an error that was found is the cause of it: a selection of the highest
    scores, or an unstable network, and not the conversion.
    """
    expected = run(model, inputs)
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in moved.parameters():
            if parameter.is_floating_point():
                sign = torch.randint(-1, 2, parameter.shape, generator=generator)
                parameter.mul_(1 + sign * torch.finfo(parameter.dtype).eps)
    found = difference(run(moved, inputs), expected)
    return f"the stock model moves by {found:.1e} when its weights move by one rounding error"


def outputs_of(output: object) -> list[Tensor]:
    """Every floating point tensor in what a model returned, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in outputs_of(part)]
    return []


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, detached copies."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference relative to the largest expected value, tensor by tensor."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"{a.dtype} {tuple(a.shape)} instead of {b.dtype} {tuple(b.shape)}")
        if not b.numel():
            continue
        a, b = a.detach(), b.detach()
        same = (a == b) | (a.isnan() & b.isnan())  # infinities: invalid places of some detectors
        if bool(same.all()):
            continue
        gap = torch.where(same, 0, a - b).abs().max()
        scale = torch.where(b.isfinite(), b, 0).abs().max()
        worst = max(worst, float(gap / scale) if scale > 0 else float("inf"))
        if not bool(gap.isfinite()):
            return float("inf")
    return worst


def scales_of(output: list[Tensor]) -> list[Tensor]:
    """The root mean square of each output, of the entries a loss can use."""
    return [
        torch.where(usable(y), y, 0).detach().square().mean().sqrt().clamp_min(1e-300)
        for y in output
    ]


def usable(y: Tensor) -> Tensor:
    """Where an output is a number, not the stand-in for infinity in masked places."""
    return y.detach().abs() < 1e30


def smooth_loss(output: list[Tensor], scales: list[Tensor] | None = None) -> Tensor:
    """A loss that saturates nowhere: mean of r z + log(1 + z^2) / 2, z in units of its scale."""
    generator = torch.Generator().manual_seed(3)
    total: Tensor | None = None
    for y, scale in zip(output, scales_of(output) if scales is None else scales, strict=True):
        z = torch.where(usable(y), y, 0) / scale
        r = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
        value = (r * z + 0.5 * torch.log1p(z.square())).mean()
        total = value if total is None else total + value
    assert total is not None, "the model returned no floating point tensor"
    return total


def unequal_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Names of tensors that are not equal to the bit; empty if all are."""
    names = [
        name
        for name, tensor in expected.items()
        if found[name].dtype != tensor.dtype or not torch.equal(found[name], tensor)
    ]
    return f"{len(names)} tensors differ, {names[0]} the first" if names else ""
