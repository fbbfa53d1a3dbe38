"""How a run is differentiated: the three methods as objects, and the sweeps of one run.

Used by `driver`. A method of sweeps hands the adjoints of one step to the inputs of that step;
`driver` strings the steps together. `WholeGraph` has no sweeps: it takes the run as one graph.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dd_plugin.bilevel.foreign_models import no_grad
from dd_plugin.bilevel.foreign_models.second_order import missing_rule_operation
from dd_plugin.bilevel.messages import level_of_caller
from dd_plugin.bilevel.step_values import (
    GradientResult,
    StepBars,
    StepInputs,
    SweepResult,
    SweptStep,
)
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.trajectory import StepRecord
from dd_plugin.choices import MethodName as MethodName


class MissingRuleWarning(UserWarning):
    """An operation has no forward-mode rule, so the slower ``method="reverse"`` was used."""


class NoForwardRuleError(Exception):
    """An operation has no forward-mode rule; the message is its name."""


class SweepMethod(ABC):
    """A method that differentiates a run one step at a time.

    Attributes:
        name: as `hypergradient` takes it.
        keeps_activations: whether a sweep can take over activations of the forward run.
    """

    name: ClassVar[str]
    keeps_activations: ClassVar[bool]

    @abstractmethod
    def sweep(
        self, steps: Steps, inputs: StepInputs, bars: StepBars, kept: list[Tensor] | None = None
    ) -> SweepResult:
        """Return the adjoints that a step hands to its inputs.

        Args:
            steps: the functions of the run's steps.
            inputs: what the step begins with.
            bars: the adjoints of what it makes.
            kept: the activations of the forward run, if it kept them.
        """


@dataclass(frozen=True)
class ForwardOverReverse(SweepMethod):
    """``"mixed"``: one forward-over-reverse sweep per step, the jvp of its gradient.

    Cost: the activations of one step. 9 operations of the size of a convolution per layer and step,
    8 where the sweep is traced or compiled, and 6 for a step whose activations are kept; plain
    training takes 3. Source: MixFlow-MG (arXiv 2505.00793). An operation that lacks a forward-mode
    rule is warned of, and the run goes on by `DoubleBackward`, with the same result.
    """

    name: ClassVar[str] = "mixed"
    keeps_activations: ClassVar[bool] = True

    def sweep(
        self, steps: Steps, inputs: StepInputs, bars: StepBars, kept: list[Tensor] | None = None
    ) -> SweepResult:
        """Return the adjoints that a step hands to its inputs.

        Raises:
            NoForwardRuleError: an operation of the step has no forward-mode rule.
        """
        if kept:
            return steps.sweep_kept(kept, inputs, *bars)
        if not no_grad.RESPECTED:
            raise NoForwardRuleError("`no_grad` of this version of torch")
        try:
            return steps.sweep(inputs, *bars)
        except (RuntimeError, NotImplementedError) as error:
            operation = missing_rule_operation(error)
            if operation is None:
                raise
            raise NoForwardRuleError(operation) from error


@dataclass(frozen=True)
class DoubleBackward(SweepMethod):
    """``"reverse"``: each step is run again with its graph and differentiated twice.

    Cost: the activations of one step and of its backward pass, and no step is compiled. For models
    with operations that lack forward-mode rules. Source: gradient-based hyperparameter optimization
    through reversible learning (arXiv 1502.03492), with kept states instead of reversed ones.
    """

    name: ClassVar[str] = "reverse"
    keeps_activations: ClassVar[bool] = False

    def sweep(
        self, steps: Steps, inputs: StepInputs, bars: StepBars, kept: list[Tensor] | None = None
    ) -> SweepResult:
        """Return the adjoints that a step hands to its inputs; takes over no activations.

        Raises:
            RuntimeError: an operation of the step has no second derivative at all.
        """
        try:
            return steps.problem.sweep_reverse(inputs, *bars)
        except (RuntimeError, NotImplementedError) as error:
            operation = missing_rule_operation(error)
            if operation is None:
                raise
            raise RuntimeError(
                f"{operation} has no second derivative in torch, so no hypergradient goes "
                "through it; replace it in the model by operations that have one"
            ) from error


@dataclass(frozen=True)
class WholeGraph:
    """``"autograd"``: the whole window as one graph, differentiated in one go.

    Cost: the activations of all steps, eagerly. To check the others: it is what a user writes by
    hand with ``create_graph=True``, as the first data set distillation did (arXiv 1811.10959).
    """

    name: ClassVar[str] = "autograd"


Method = SweepMethod | WholeGraph
_METHODS: tuple[Method, ...] = (ForwardOverReverse(), DoubleBackward(), WholeGraph())


def method_of(method: MethodName | Method) -> Method:
    """Return the method of a name; a method is returned as it is.

    Raises:
        ValueError: neither a method nor the name of one.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        for known in _METHODS:
            if known.name == method:
                return known
    raise ValueError(f'`method` must be "mixed", "reverse" or "autograd", got {method!r}')


class Sweeps:
    """The sweeps of one run, from the last step to the first.

    Args:
        steps: the functions of the run's steps.
        method: how each is differentiated. `DoubleBackward` takes its place once an operation lacks
            a forward-mode rule.
        look_at: gets every sweep with what went into it, to verify it.

    Attributes:
        method: the method that is used now.
    """

    def __init__(
        self,
        steps: Steps,
        method: SweepMethod,
        look_at: Callable[[SweptStep], Any] | None = None,
    ) -> None:
        self.steps, self.method, self._look_at = steps, method, look_at

    def __call__(
        self, k: int, record: StepRecord, inputs: StepInputs, bars: StepBars
    ) -> SweepResult:
        """Return the adjoints that step k hands to its inputs."""
        keeps = record.activations is not None

        def again(other: StepInputs) -> tuple[GradientResult, SweepResult]:
            result, kept = (
                self.steps.gradient_keeping(other) if keeps else (self.steps.gradient(other), None)
            )
            return result, self._swept(other, bars, kept)

        swept = self._swept(inputs, bars, record.activations)
        if self._look_at is not None:
            self._look_at(
                SweptStep(
                    k=k,
                    gradients=record.gradients,
                    inputs=inputs,
                    bars=bars,
                    swept=swept,
                    method=self.method.name,
                    again=again,
                )
            )
        return swept

    def _swept(
        self, inputs: StepInputs, bars: StepBars, activations: list[Tensor] | None
    ) -> SweepResult:
        try:
            return self.method.sweep(self.steps, inputs, bars, activations)
        except NoForwardRuleError as missing:
            operation = str(missing)
        warnings.warn(
            f'{operation} has no forward-mode rule: method="reverse" is used instead of '
            '"mixed", with the same result, slower and with more memory per step. Pass '
            'method="reverse" to choose it without this warning.',
            MissingRuleWarning,
            stacklevel=level_of_caller(),
        )
        self.method = DoubleBackward()
        return self.method.sweep(self.steps, inputs, bars)
