"""The functions of a problem as the driver calls them: eager or compiled.

Between `problem` and `driver`. It decides how each function is run: eagerly, the forward
run is plain training with torch's autograd and fused kernels, and random numbers are drawn on the
way; compiled, they are drawn beforehand and passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.foreign_models.second_order import missing_rule_operation
from dd_plugin.bilevel.optimizers import State, Tensors
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.step_values import (
    GradientResult,
    Noise,
    PullResult,
    RunState,
    StepInputs,
    SweepResult,
    leaves_of,
    rebuilt,
)
from dd_plugin.bilevel.tracing.compile import (
    CompiledFunction,
    CompiledHalves,
    is_not_of_the_compiler,
    warn_of_failure,
)


class Steps:
    """The five functions of a problem in one run, each run eagerly or compiled.

    Args:
        problem: what they belong to.
        constants: what the run holds constant.
        fixed: the tensors that the model holds fixed; by default its own.
    """

    def __init__(
        self, problem: BilevelProblem, constants: Tensors, fixed: Tensors | None = None
    ) -> None:
        self.problem = problem
        self.constants = constants
        self.fixed = fixed

    def inputs(self, state: RunState, batch: Batch, noise: Noise) -> StepInputs:
        """Return what the functions take, of the network in a state."""
        inputs = self.problem.inputs(state, self.constants, batch, noise)
        return inputs if self.fixed is None else inputs._replace(fixed=self.fixed)

    def _run(
        self, name: str, eager: Callable[..., Any], *args: Any, form: tuple[Any, ...] = ()
    ) -> Any:
        """Run a function compiled, if the problem is to be compiled and it can be.

        Args:
            name: of the function.
            eager: the same, to be run as it is.
            *args: its arguments, trees whose tensors are in the same order each time.
            form: what else tells trees of the same tensors apart.
        """
        problem = self.problem
        if not problem.compiling:
            return self._eagerly(eager, *args)
        # The outer loss is compiled in eval mode, where models draw nothing.
        drawn = tuple(
            self._drawn(arg, none=name == "outer") if isinstance(arg, StepInputs) else arg
            for arg in args
        )
        leaves = leaves_of(drawn)
        kinds = [(leaf.shape, leaf.dtype) for leaf in leaves if isinstance(leaf, Tensor)]
        key = (name, problem.way, form, len(leaves), *kinds)

        def compiled() -> Any:
            if key not in problem.compiled:
                function = getattr(problem, name)
                problem.compiled[key] = CompiledFunction(
                    function, drawn, problem.way, problem.memory_pool
                )
            return problem.compiled[key].of_leaves(leaves)

        return self._or_eagerly(name, compiled, lambda: self._eagerly(eager, *args))

    def _eagerly(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function as it is. A model may be written for contiguous tensors."""
        if self.problem.channels_last and self.problem.compile:
            leaves = (t.contiguous() if isinstance(t, Tensor) else t for t in leaves_of(args))
            args = rebuilt(args, leaves)
        return function(*args)

    def _or_eagerly(self, name: str, compiled: Callable[[], Any], eager: Callable[[], Any]) -> Any:
        try:
            return compiled()
        except Exception as error:
            if is_not_of_the_compiler(error):
                raise
            if name == "sweep" and missing_rule_operation(error) is not None:
                raise
            failure: BaseException = error
        # Eager still runs, or raises what is the matter by itself.
        result = eager()
        warn_of_failure(name, failure)
        self.problem.runs_eagerly.add(self.problem.way)
        return result

    def gradient(self, inputs: StepInputs) -> GradientResult:
        """Return `BilevelProblem.gradient` of a step."""
        return self._run("gradient", self.problem.gradient_eager, inputs)

    def kept_bytes(self, inputs: StepInputs) -> int | None:
        """Return how much `gradient_keeping` would keep of each step; None where it has no use."""
        problem = self.problem
        if not problem.compiling:
            return None
        key = self._key_of_halves(inputs)
        if key not in problem.compiled:
            early = (self._drawn(inputs),)
            late = (inputs.parameters, inputs.statistics)
            halves: CompiledHalves | None = None
            try:
                halves = CompiledHalves(
                    problem.gradient_and_sweep,
                    early,
                    late,
                    way=problem.way,
                    pool=problem.memory_pool,
                )
            except Exception as error:
                if is_not_of_the_compiler(error):
                    raise
                # It goes wrong again in the sweep, which says what is the matter.
            problem.compiled[key] = halves
        halves = problem.compiled[key]
        return None if halves is None else halves.kept_bytes

    def _key_of_halves(self, inputs: StepInputs) -> tuple[Any, ...]:
        batch = (inputs.images, inputs.labels)
        return ("halves", self.problem.way, *((t.shape, t.dtype) for t in batch))

    def gradient_keeping(self, inputs: StepInputs) -> tuple[GradientResult, list[Tensor]]:
        """Return `gradient` of a step, and the values that `sweep_kept` takes over."""
        halves: CompiledHalves = self.problem.compiled[self._key_of_halves(inputs)]
        return self._or_eagerly(
            "gradient",
            lambda: halves.first(self._drawn(inputs)),
            lambda: (self._eagerly(self.problem.gradient_eager, inputs), []),
        )

    def sweep_kept(
        self, kept: list[Tensor], inputs: StepInputs, g_bar: Tensors, s_bar: Tensors
    ) -> SweepResult:
        """Return `sweep` of a step, from what `gradient_keeping` kept."""
        halves: CompiledHalves = self.problem.compiled[self._key_of_halves(inputs)]
        return self._or_eagerly(
            "sweep",
            lambda: halves.second(kept, self._drawn(inputs), g_bar, s_bar),
            lambda: self._eagerly(self.problem.sweep, inputs, g_bar, s_bar),
        )

    def update(
        self, gradients: Tensors, state: RunState, step_size: Any, hyperparameters: dict[str, Any]
    ) -> tuple[Tensors, State]:
        """Return (θ, o) after a step."""
        optimizer, parameters = state.optimizer, state.parameters
        return self._run(
            "update",
            self.problem.update,
            *(gradients, optimizer, parameters, step_size, hyperparameters),
            form=form_of(step_size, hyperparameters),
        )

    def pull(
        self,
        gradients: Tensors,
        state: RunState,
        step_size: Any,
        hyperparameters: dict[str, Any],
        *,
        parameters_bar: Tensors,
        optimizer_bar: Any,
    ) -> PullResult:
        """Return `BilevelProblem.pull` of a step."""
        optimizer, parameters = state.optimizer, state.parameters
        return self._run(
            "pull",
            self.problem.pull,
            *(gradients, optimizer, parameters, step_size, hyperparameters),
            *(parameters_bar, optimizer_bar),
            form=form_of(step_size, hyperparameters),
        )

    def sweep(self, inputs: StepInputs, g_bar: Tensors, s_bar: Tensors) -> SweepResult:
        """Return `BilevelProblem.sweep` of a step."""
        return self._run("sweep", self.problem.sweep, inputs, g_bar, s_bar)

    def outer(self, inputs: StepInputs) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """Return `BilevelProblem.outer` of the trained network."""
        problem = self.problem
        if problem.outer_training and any(draws for _, draws in problem.probes.values()):
            # The random numbers that were noted have the shape of an inner batch.
            return self._eagerly(self.problem.outer_eager, inputs)
        return self._run("outer", self.problem.outer_eager, inputs)

    def _drawn(self, inputs: StepInputs, none: bool = False) -> StepInputs:
        """Return the inputs with the random numbers themselves in the place of their seed."""
        if none:
            return inputs._replace(noise=[])
        if not isinstance(inputs.noise, int):
            return inputs
        problem = self.problem
        numbers = problem.numbers(problem.draws(inputs.images), inputs.noise)
        return inputs._replace(noise=numbers)


def form_of(step_size: Any, hyperparameters: dict[str, Any]) -> tuple[Any, ...]:
    """Return the groups of a step size and of hyperparameters; None where one value is for all."""
    values = (step_size, *hyperparameters.values())
    return tuple(tuple(value) if isinstance(value, dict) else None for value in values)
