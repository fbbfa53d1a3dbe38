"""The net under the engine: the first sweep of a problem against double backward of the same step.

For `host_reads`. A sweep rests on what no code can see beforehand: that the inner gradient has a
symmetric derivative, that every forward-mode rule is right, that a trace has lost nothing, and that
a step does the same each time it is run. Whatever breaks one of these gives a wrong gradient and no
error. Double backward of one step needs none of the first three, and runs the step once more, so
the two are compared once for every kind of step (its shapes, and how it is run).

The tolerance is that of the precision. Where two exact computations may differ by more, because the
step itself is sensitive to rounding, both are computed again from weights that differ in their last
bits. What that changes in the reference is allowed as well. And one activation on the corner of a
ReLU has two derivatives, of which each computation may take another: where they agree next to the
corner, neither is wrong. A wrong derivative is wrong there, too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.foreign_models.report import missing_rule_operation
from dd_plugin.bilevel.messages import level_of_caller
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.step_values import (
    GradientResult,
    StepBars,
    StepInputs,
    SweepResult,
    leaves_of,
)
from dd_plugin.text import first_line

# Relative errors that are taken for rounding. On ConvNets, a ViT, a ResNet and a MobileNet they
# were below 2e-14 in float64 and 5e-6 in float32, where rounding moved no activation across the
# corner of a ReLU.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 0.05,
    torch.float16: 0.02,
}
# Roundings that a difference of two sums may come from, whatever is left of them.
_ROUNDINGS = {torch.float64: 100, torch.float32: 100, torch.bfloat16: 8, torch.float16: 8}
# How far weights are moved to see how sensitive a step is, in units of the last place, the multiple
# of what that changes which is allowed, and how often they are moved.
_MOVED, _ALLOWED, _TRIALS = 16, 10, 3
# The share of the tolerance that roundings alone take, next to a corner that explains an error.
_OF_TOLERANCE = 0.1

Pair = tuple[GradientResult, SweepResult]


class VerificationError(RuntimeError):
    """The backward sweep and double backward of the same step do not agree."""


class VerificationWarning(UserWarning):
    """A problem could not be verified; the engine goes on without."""


def verify(
    problem: BilevelProblem,
    step: int,
    inputs: StepInputs,
    bars: StepBars,
    computed: tuple[dict[str, Any], SweepResult],
    again: Callable[[StepInputs], Pair],
) -> bool:
    """Compare what the engine computed for a step with double backward.

    Args:
        problem: what the step belongs to.
        step: its number, for the message.
        inputs: what it starts from.
        bars: the adjoints of what it makes.
        computed: parts of the `GradientResult` of the step as the forward run had them, by name;
            and what the sweep returned.
        again: computes the same from other inputs.

    Returns:
        Whether there was something to compare: not where the adjoints are zero or not finite.

    Raises:
        VerificationError: they do not agree.
    """
    forward, swept = computed
    if not _norm(bars) > 0 or not _finite((bars, swept._asdict(), forward)):
        return False
    reference = _reference(problem, inputs, bars)
    if reference is None:
        return True
    compare = _Comparison(problem, inputs, bars, reference)
    wrong = compare.wrong(forward, swept)
    repeated = not wrong or compare.step_repeats_itself()
    if wrong and repeated:
        wrong = compare.wrong_nearby(wrong, forward, again)
    if wrong:
        name = max(wrong, key=wrong.__getitem__)
        raise VerificationError(
            f"step {step}: {name} of the engine and of double backward differ by "
            f"{_percent(wrong[name])}, where {_percent(compare.tolerance)} would be rounding. "
            f"{compare.causes(wrong) if repeated else _NOT_REPEATED} If you know the difference "
            "and want to go on, pass verify=False."
        )
    return True


def rounded_like(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype whose roundings a computation has.

    In float32 torch may round the factors of products to fewer digits: on a GPU to TF32, by default
    in convolutions, which has those of float16; anywhere if `set_float32_matmul_precision` says so.
    Two exact computations then differ by as much, where they choose other algorithms.
    """
    if dtype != torch.float32:
        return dtype
    try:
        precision = torch.get_float32_matmul_precision()
        tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    except RuntimeError:
        # Torch's older and newer settings of it were both used, and it does not tell.
        precision, tf32 = "highest", device.type == "cuda"
    if precision == "medium":
        return torch.bfloat16
    return torch.float16 if tf32 or precision == "high" else dtype


class _Comparison:
    """The results of a step against the reference.

    Args:
        problem: as for `verify`, with the next two.
        inputs: see ``problem``.
        bars: see ``problem``.
        reference: the step by double backward.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        inputs: StepInputs,
        bars: StepBars,
        reference: Pair,
    ) -> None:
        self.problem, self.inputs, self.bars, self.reference = problem, inputs, bars, reference
        weight = next(iter(inputs.parameters.values()))
        autocast = problem.model.autocast
        self.dtype = rounded_like(weight.dtype, weight.device) if autocast is None else autocast
        known = self.dtype if self.dtype in TOLERANCES else torch.float32
        self.tolerance = TOLERANCES[known]
        # An adjoint times what it is of is of the size of this product of norms. Where the adjoint
        # is much smaller, it is what cancellation left of larger numbers and their roundings.
        first = reference[0]
        paired = _norm(bars.gradients) * _norm(first.gradients)
        paired += _norm(bars.statistics) * _norm(first.statistics)
        roundings = _ROUNDINGS[known] * torch.finfo(known).eps / self.tolerance
        sizes = {"gradients": (inputs.parameters, _norm(first.loss))}
        sizes |= {role: (getattr(inputs, role), paired) for role in SweepResult._fields}
        self._least = {
            role: roundings * product / (_norm(tensors) or 1.0)
            for role, (tensors, product) in sizes.items()
        }

    def errors(self, forward: dict[str, Any], swept: SweepResult) -> dict[str, float]:
        """Return the relative errors of a step, by the name of the result."""
        first, second = self.reference
        errors = {
            _NAMES[role]: _error(value, getattr(first, role), self._least.get(role, 0.0))
            for role, value in forward.items()
        }
        for role, value in swept._asdict().items():
            error = _error(value, getattr(second, role), self._least[role])
            errors[f"the adjoint of the {role}"] = error
        return errors

    def wrong(
        self, forward: dict[str, Any], swept: SweepResult, share: float = 1.0
    ) -> dict[str, float]:
        """Return those of the errors that are no rounding, as far as one step tells.

        Args:
            forward: see `verify`.
            swept: what the sweep returned.
            share: of the tolerance.
        """
        errors, most = self.errors(forward, swept), share * self.tolerance
        return {name: error for name, error in errors.items() if not error <= most}

    def wrong_nearby(
        self, wrong: dict[str, float], forward: dict[str, Any], again: Callable[[StepInputs], Pair]
    ) -> dict[str, float]:
        """Return those of the errors that neither roundings nor a corner explain.

        Args:
            wrong: the errors of the step.
            forward: see `verify`, as the next.
            again: see ``forward``.
        """
        for trial in range(_TRIALS):
            inputs = self.with_other_last_bits(trial)
            reference = _reference(self.problem, inputs, self.bars)
            if reference is None:
                return wrong
            if trial == 0:
                noise = self.errors(_named(reference[0], forward), reference[1])
                wrong = {n: e for n, e in wrong.items() if not e <= _ALLOWED * noise[n]}
                if not wrong:
                    return {}
            first, swept = again(inputs)
            moved = _Comparison(self.problem, inputs, self.bars, reference)
            if not moved.wrong(_named(first, forward), swept, share=_OF_TOLERANCE):
                return {}
        return wrong

    def with_other_last_bits(self, trial: int) -> StepInputs:
        """Return the inputs of the step, moved by a few units of their last place.

        Nothing of them is shared: a faulty step may write into what it gets.
        """
        size = _MOVED * torch.finfo(self.dtype).eps
        generator = torch.Generator().manual_seed(trial)

        def moved(t: Tensor) -> Tensor:
            signs = torch.randint(2, t.shape, generator=generator).to(t.device, t.dtype) * 2 - 1
            return t * (1 + size * signs)

        inputs = self.inputs
        return inputs._replace(
            parameters={name: moved(t) for name, t in inputs.parameters.items()},
            images=moved(inputs.images),
            statistics=_copied(inputs.statistics),
            counters=_copied(inputs.counters),
            constants=_copied(inputs.constants),
            fixed=_copied(inputs.fixed),
        )

    def step_repeats_itself(self) -> bool:
        """Return whether two runs of the step give the same gradient."""
        first, second = (self.problem.gradient_eager(self.inputs).gradients for _ in range(2))
        return _error(first, second, 0.0) <= self.tolerance

    def causes(self, wrong: dict[str, float]) -> str:
        """Return the likely cause and its remedy, for the message."""
        problem, inputs = self.problem, self.inputs
        if problem.compiling:
            try:
                again, swept = problem.gradient_and_sweep(inputs, *self.bars)
            except (RuntimeError, NotImplementedError) as error:
                if missing_rule_operation(error) is None:
                    raise
                again, swept = problem.gradient_and_sweep_reverse(inputs, *self.bars)
            if not self.wrong(again._asdict(), swept):
                return (
                    "Without a trace they agree: the recorded operations do not do what the Python "
                    "code does. Likely causes: a branch that depends on values, a number that "
                    "Python computes anew in each step, or a tensor that is written into where no "
                    "trace sees it. Pass compile=False."
                )
        if any(name in wrong for name in _NAMES.values()):
            return (
                "Already the forward run differs. Likely causes: state that a forward pass leaves "
                "behind outside of parameters and buffers, or code that does something else under "
                "function transforms or without gradients. Keep state in buffers."
            )
        return (
            "Likely causes: a custom autograd.Function whose `jvp` or `backward` is not the "
            "derivative of its `forward`, values that are changed in place after they were used, "
            "or a loss whose gradient is cut where torch's forward mode does not know of it. Pass "
            'method="reverse" to differentiate as torch does, or correct the function.'
        )


_NOT_REPEATED = (
    "The step does not do the same twice. Likely causes: random numbers from a generator of the "
    "model's or the loss's own, or state that a forward pass leaves behind outside of parameters "
    "and buffers. Draw with torch.rand and its like without `generator`, and keep state in buffers."
)
_NAMES = {
    "gradients": "the gradient",
    "loss": "the loss",
    "statistics": "what the step makes of its buffers",
    "counters": "what the step makes of its counters",
}


def _reference(problem: BilevelProblem, inputs: StepInputs, bars: StepBars) -> Pair | None:
    """Return the step by double backward; None where that fails."""
    try:
        return problem.gradient_and_sweep_reverse(inputs, *bars)
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        if missing_rule_operation(error) is not None:
            return None  # nothing to compare with, and nothing to be done about it
        warnings.warn(
            "this problem was not verified, since double backward of a step failed "
            f"({type(error).__name__}: {first_line(error)}). The result is what it would be "
            "with verify=False, which also turns this warning off.",
            VerificationWarning,
            stacklevel=level_of_caller(),
        )
        return None


def _copied(tensors: Tensors) -> Tensors:
    return {name: t.clone() for name, t in tensors.items()}


def _named(result: GradientResult, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(result, name) for name in names}


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves_of(tree) if isinstance(leaf, Tensor) and leaf.numel())


def _flat(t: Tensor) -> Tensor:
    return t.detach().to("cpu", torch.float64)


def _norm(tree: Any) -> float:
    return sum(float(_flat(t).square().sum()) for t in _tensors(tree)) ** 0.5


def _finite(tree: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in _tensors(tree))


def _error(value: Any, expected: Any, least: float) -> float:
    """Return |a - b| / |b| of two trees as a whole, with ``least`` for a smaller |b|."""
    pairs = zip(_tensors(value), _tensors(expected), strict=True)
    difference = sum(float((_flat(a) - _flat(b)).square().sum()) for a, b in pairs) ** 0.5
    size = max(_norm(expected), least)
    if not math.isfinite(difference) or not math.isfinite(size):
        return 0.0  # overflow, or a second derivative that torch does not define there
    return difference / size if size else float(difference > 0)


def _percent(error: float) -> str:
    return f"{100 * error:.2g} %"
