"""A bilevel problem as five pure functions of tensors, which the driver connects.

Between `functional` and `optimizers`, which it combines, and `hypergradient`, which calls it. The
functions (`gradient`, `update`, `pull`, `sweep`, `outer`) take and return trees of tensors and
know nothing of steps, windows or storage, so they can be compiled (`compile.py`) or batched over
several networks (`ensembles.py`) as they are. The notation is that of ``docs/concepts/engine.md``:
θ weights, o optimizer state, s statistics, b the batch, U the optimizer, S what moves s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp
from torch.nn import functional as F

from dd_plugin.bilevel.autograd import as_leaves, gradients_of, swept_roles
from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.foreign_models.draws import Draws, DrawSpec, predraw
from dd_plugin.bilevel.foreign_models.no_grad import (
    no_grad_in_forward_mode,
    once_differentiable_refused,
)
from dd_plugin.bilevel.functional import FunctionalModel, StockStatistics
from dd_plugin.bilevel.messages import describe
from dd_plugin.bilevel.optimizers import Optimizer, State, Tensors, sgd
from dd_plugin.bilevel.step_values import (
    GradientResult,
    Noise,
    PullResult,
    RunState,
    StepInputs,
    SweepResult,
    leaves_of,
    rebuilt,
    split_state,
)
from dd_plugin.bilevel.tracing.recorded import MemoryPool, Recordings
from dd_plugin.bilevel.tracing.way import Compile, Way

# torch counts the levels of forward mode per process, not per thread.
_one_jvp_at_a_time = threading.RLock()

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy.

    Args:
        logits: ``(N, classes)``.
        labels: class indices ``(N,)``, or probabilities ``(N, classes)``.
    """
    if labels.is_floating_point():
        # Plain arithmetic: the built-in loss with probabilities is this, in more operations.
        return -(labels * F.log_softmax(logits, 1)).sum(1).mean()
    return F.cross_entropy(logits, labels)


class BilevelProblem:
    """A model, how it is trained and how the trained network is judged.

    Make one and keep it when many hypergradients of the same problem are taken: it holds what has
    been compiled.

    Args:
        model: the network, or a `FunctionalModel` of it.
        optimizer: the inner optimizer.
        inner_loss: ``(logits, labels) -> scalar``, minimized by the inner run.
        outer_loss: the same, of the trained network on the outer batch.
        outer_training: take the outer loss in train mode instead of eval mode.
        compile: compile the functions below with ``torch.compile``, or only trace them once and run
            the traced operations (``"trace"``: ready in seconds, without a compiler); they fall
            back to eager with a warning.
        channels_last: traced and compiled functions compute in that memory layout: images, and
            weights of convolutions. It takes less time for most networks of convolutions on a
            processor, in bfloat16 above all; results differ by rounding.
        stock_statistics: see `FunctionalModel`.
        autocast: see `FunctionalModel`.
        verify: compare the first backward sweep with double backward of the same step, once for
            every kind of batch, and raise `VerificationError` where they do not agree. Costs one
            sweep by ``method="reverse"``.
    """

    def __init__(
        self,
        model: nn.Module | FunctionalModel,
        *,
        optimizer: Optimizer | None = None,
        inner_loss: Loss = cross_entropy,
        outer_loss: Loss = cross_entropy,
        outer_training: bool = False,
        compile: Compile = False,
        channels_last: bool = False,
        stock_statistics: StockStatistics = "tracked",
        autocast: torch.dtype | None = None,
        verify: bool = True,
    ) -> None:
        if not isinstance(model, FunctionalModel):
            model = FunctionalModel(model, stock_statistics=stock_statistics, autocast=autocast)
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(
                "`optimizer` must be one of the engine's, such as `sgd(0.9)` or `adam()`, got "
                f"{describe(optimizer)}; those of torch.optim change weights in place"
            )
        for name, loss in (("inner_loss", inner_loss), ("outer_loss", outer_loss)):
            if not callable(loss):
                raise TypeError(
                    f"`{name}` must be a function (logits, labels) -> scalar, got {loss!r}"
                )
        if compile not in (True, False, "trace"):
            raise ValueError(f'`compile` must be True, False or "trace", got {compile!r}')
        self.model = model
        self.optimizer = sgd() if optimizer is None else optimizer
        self.inner_loss = inner_loss
        self.outer_loss = outer_loss
        self.outer_training = outer_training
        self.compile: Compile = compile
        self.channels_last = channels_last
        self.verify = verify
        self.verified: set[Any] = set()
        # The ways in which the compiler has failed.
        self.runs_eagerly: set[Way] = set()
        self.compiled: dict[Any, Any] = {}
        self.probes: dict[Any, Any] = {}
        self.memory_pool = MemoryPool()
        self.recordings = Recordings()

    @property
    def way(self) -> Way:
        """Return how functions are to be run."""
        return Way(self.compile, self.channels_last)

    @property
    def compiling(self) -> Compile:
        """Return ``compile``, or False where the compiler has failed and steps run eagerly."""
        return False if self.way in self.runs_eagerly else self.compile

    def numbers(self, specs: Sequence[DrawSpec], noise: int) -> list[Tensor]:
        """Return the random numbers of a training forward, drawn beforehand for compiled code."""
        return predraw(specs, noise)

    def probe_key(self, images: Tensor) -> tuple[Any, ...]:
        """Return the key in ``probes`` for images of that kind."""
        return tuple(images.shape), images.dtype, images.device

    def draws(self, images: Tensor) -> Sequence[DrawSpec]:
        """Return which random numbers a training forward takes on images that were probed."""
        specs: Sequence[DrawSpec] = self.probes[self.probe_key(images)][1]
        return specs

    def check_state(self, state: RunState) -> None:
        """Check that a run of this problem can start from a state.

        Raises:
            TypeError: not a `RunState`.
            ValueError: it is of another model or another optimizer.
        """
        if not isinstance(state, RunState):
            raise TypeError(
                "`initial` must be a RunState, such as the `final` of another run or what "
                f"`initial_state` returns, got {describe(state)}"
            )
        model = self.model
        for role in ("parameters", "statistics", "counters"):
            expected, tensors = getattr(model, role), getattr(state, role)
            wrong = sorted(set(expected) ^ set(tensors)) or [
                name for name, t in expected.items() if not self._fits(tensors[name], t)
            ]
            if wrong:
                raise ValueError(
                    f"`initial.{role}` must have the names, shapes and dtypes of the model's "
                    f"{role}, but {wrong[0]!r} differs; it seems to be of another model"
                )
        kept = set(self.optimizer_structure())
        if kept != set(state.optimizer):
            raise ValueError(
                f"`initial.optimizer` must have what {self.optimizer.name} keeps, {sorted(kept)}, "
                f"got {sorted(state.optimizer)}; to start it afresh pass "
                "`initial_state(problem)._replace(parameters=...)`"
            )

    def optimizer_structure(self) -> State:
        """Return what the optimizer keeps of the model's parameters, without data."""
        return self.optimizer.init({n: p.to("meta") for n, p in self.model.parameters.items()})

    def _fits(self, tensor: Tensor, expected: Tensor) -> bool:
        return tensor.shape == expected.shape and tensor.dtype == expected.dtype

    def inputs(self, state: RunState, constants: Tensors, batch: Batch, noise: Noise) -> StepInputs:
        """Return what the functions below take, of the network in a state."""
        images, labels = batch
        return StepInputs(
            parameters=state.parameters,
            statistics=state.statistics,
            counters=state.counters,
            constants=constants,
            fixed=self.model.fixed,
            images=images,
            labels=labels,
            noise=noise,
        )

    def loss(
        self, inputs: StepInputs, *, outer: bool = False, in_graph: bool = True
    ) -> tuple[Tensor, tuple[Tensors, Tensors]]:
        """Return the inner or the outer loss, and (new statistics, new counters).

        Raises:
            ValueError: the loss is no scalar.
        """
        noise = inputs.noise
        draws = Draws(noise) if isinstance(noise, int) else Draws(supplied=noise)
        training = self.outer_training if outer else True
        logits, statistics, counters = self.model(
            parameters=inputs.parameters,
            statistics=inputs.statistics,
            counters=inputs.counters,
            constants=inputs.constants,
            fixed=inputs.fixed,
            images=inputs.images,
            training=training,
            in_graph=in_graph,
            draws=draws,
        )
        value = (self.outer_loss if outer else self.inner_loss)(logits, inputs.labels)
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise ValueError(
                f"the loss must return a scalar tensor, got {describe(value)}; reduce it with "
                "`.mean()`, and do not take `.item()` of it"
            )
        return value, (statistics, counters)

    def gradient(self, inputs: StepInputs) -> GradientResult:
        """Return g, the new s and counters, and the loss, by a function that can be transformed."""

        def loss(parameters: Tensors, statistics: Tensors) -> Any:
            value, moved = self.loss(inputs._replace(parameters=parameters, statistics=statistics))
            return value, (*moved, value)

        differentiate: Any = grad(loss, has_aux=True)
        g, after = differentiate(inputs.parameters, inputs.statistics)
        return GradientResult(g, *after)

    def gradient_eager(self, inputs: StepInputs) -> GradientResult:
        """Return `gradient`, by torch's own autograd and fused kernels: plain training."""
        with torch.enable_grad():
            leaves = as_leaves(inputs, ["parameters"])
            value, (s, counters) = self.loss(inputs._replace(**leaves), in_graph=False)
            g = gradients_of(value, leaves["parameters"], "inner")
        return GradientResult(g, {n: t.detach() for n, t in s.items()}, counters, value.detach())

    def update(self, *args: Any) -> tuple[Tensors, State]:
        """Return (θ, o) after U: see `Optimizer.update`."""
        return self.optimizer.update(*args)

    def pull(
        self,
        gradients: Tensors,
        state: State,
        parameters: Tensors,
        step_size: Any,
        hyperparameters: dict[str, Any],
        parameters_bar: Tensors,
        state_bar: Any,
    ) -> PullResult:
        """Carry (θ̄, ō) back through U."""
        floats, counts = split_state(state)

        def step(g: Tensors, floats: Any, theta: Tensors, alpha: Any, hyper: Any) -> Any:
            new, new_state = self.optimizer.update(
                gradients=g,
                state={**floats, **counts},
                parameters=theta,
                step_size=alpha,
                hyperparameters=hyper,
            )
            return new, split_state(new_state)[0]

        pulled: Any = vjp(step, gradients, floats, parameters, step_size, hyperparameters)
        return PullResult(*pulled[1]((parameters_bar, state_bar)))

    def sweep(
        self, inputs: StepInputs, gradients_bar: Tensors, statistics_bar: Tensors
    ) -> SweepResult:
        """Sweep forward over reverse: jvp of ∇(θ,s,c,b) [loss + τ <s̄, S>] along (ḡ, τ = 1)."""
        return self.gradient_and_sweep(inputs, gradients_bar, statistics_bar)[1]

    def gradient_and_sweep(
        self, inputs: StepInputs, gradients_bar: Tensors, statistics_bar: Tensors
    ) -> tuple[GradientResult, SweepResult]:
        """Return what `gradient` and what `sweep` return: the jvp computes both."""
        # At least one of these tangents is the engine's; τ makes <s̄, S> enter only as a tangent.
        tau = inputs.images.new_zeros((), dtype=next(iter(inputs.parameters.values())).dtype)

        def gradient(theta: Tensors, tau: Tensor) -> Any:
            def objective(theta: Tensors, others: dict[str, Any]) -> Any:
                value, (new, moved) = self.loss(inputs._replace(parameters=theta, **others))
                total = value
                for name, bar in statistics_bar.items():
                    total = total + tau * (bar * new[name]).sum()
                return total, (new, moved, value)

            _, *roles = swept_roles(inputs)
            others = {role: getattr(inputs, role) for role in roles}
            differentiate: Any = grad(objective, argnums=(0, 1), has_aux=True)
            with no_grad_in_forward_mode(), once_differentiable_refused():
                return differentiate(theta, others)

        tangents = (gradients_bar, torch.ones_like(tau))
        with _one_jvp_at_a_time:
            swept: Any = jvp(gradient, (inputs.parameters, tau), tangents, has_aux=True)
        (g, _), (theta_bar, other_bars), after = swept
        return GradientResult(g, *after), SweepResult(theta_bar, **other_bars)

    def sweep_reverse(
        self, inputs: StepInputs, gradients_bar: Tensors, statistics_bar: Tensors
    ) -> SweepResult:
        """Return the same by double backward: the gradient of <ḡ, g> + <s̄, S>."""
        return self.gradient_and_sweep_reverse(inputs, gradients_bar, statistics_bar)[1]

    def gradient_and_sweep_reverse(
        self, inputs: StepInputs, gradients_bar: Tensors, statistics_bar: Tensors
    ) -> tuple[GradientResult, SweepResult]:
        """Return what `gradient_and_sweep` does, by double backward."""
        with torch.enable_grad(), once_differentiable_refused():
            leaves = as_leaves(inputs, swept_roles(inputs))
            theta = list(leaves["parameters"].values())
            value, (new, counters) = self.loss(inputs._replace(**leaves))
            g = torch.autograd.grad(value, theta, create_graph=True, allow_unused=True)
            pairing = value * 0.0
            for slope, bar in zip(g, gradients_bar.values(), strict=True):
                if slope is not None and slope.requires_grad:
                    pairing = pairing + (slope * bar).sum()
            for name, bar in statistics_bar.items():
                pairing = pairing + (new[name] * bar).sum()
            wanted = leaves_of(leaves)
            slopes = torch.autograd.grad(pairing, wanted, allow_unused=True)
        bars = [
            torch.zeros_like(leaf) if slope is None else slope
            for slope, leaf in zip(slopes, wanted, strict=True)
        ]
        gradients = {
            name: torch.zeros_like(leaf) if slope is None else slope.detach()
            for (name, leaf), slope in zip(leaves["parameters"].items(), g, strict=True)
        }
        statistics = {name: t.detach() for name, t in new.items()}
        first = GradientResult(gradients, statistics, counters, value.detach())
        return first, SweepResult(**rebuilt(leaves, iter(bars)))

    def outer(self, inputs: StepInputs) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """Return Λ and its gradient for θ, s and the constants, by a function to be transformed."""

        def loss(theta: Tensors, s: Tensors, c: Tensors) -> Any:
            state = inputs._replace(parameters=theta, statistics=s, constants=c)
            value, _ = self.loss(state, outer=True)
            return value, value

        of = (inputs.parameters, inputs.statistics, inputs.constants)
        bars, value = grad(loss, argnums=(0, 1, 2), has_aux=True)(*of)
        return value, *bars

    def outer_eager(self, inputs: StepInputs) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """Return `outer`, by torch's own autograd."""
        with torch.enable_grad():
            leaves = as_leaves(inputs, ["parameters", "statistics", "constants"])
            value, _ = self.loss(inputs._replace(**leaves), outer=True)
            wanted = leaves_of(leaves)
            slopes = gradients_of(value, dict(enumerate(wanted)), "outer")
        theta, s, c = rebuilt(leaves, iter(slopes.values())).values()
        return value.detach(), theta, s, c

    def outer_value(self, inputs: StepInputs) -> Tensor:
        """Return Λ alone, 0-d."""
        return self.loss(inputs, outer=True)[0]

    def outer_batch(self, inputs: StepInputs, roles: Sequence[str]) -> list[Tensor | None]:
        """Return the gradient of Λ for its images, labels or both, by torch's own autograd."""
        with torch.enable_grad():
            leaves = list(as_leaves(inputs, roles).values())
            value = self.outer_value(inputs._replace(**dict(zip(roles, leaves, strict=True))))
            if not value.requires_grad:
                return [None] * len(leaves)
            return list(torch.autograd.grad(value, leaves, allow_unused=True))
