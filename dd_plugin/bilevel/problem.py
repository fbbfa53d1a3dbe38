"""A bilevel problem as five pure functions of tensors; the driver strings them together.

Between `functional` and `optimizers`, which it combines, and `hypergradient`, which calls it. The
functions (`gradient`, `update`, `pull`, `sweep`, `outer`) take and return trees of tensors and
know nothing of steps, windows or storage, so they can be compiled (`compile.py`) or batched over
several networks (`ensembles.py`) as they are. The notation is that of ``docs/concepts/engine.md``:
θ weights, o optimizer state, s statistics, b the batch, U the optimizer, S what moves s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp
from torch.nn import functional as F

from dd_plugin.bilevel.compile import Compile
from dd_plugin.bilevel.functional import FunctionalModel, StockStatistics
from dd_plugin.bilevel.inputs import describe
from dd_plugin.bilevel.optimizers import Optimizer, State, Tensors, sgd
from dd_plugin.bilevel.randomness import Draws

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy; labels are class indices ``(N,)`` or probabilities ``(N, classes)``."""
    if labels.is_floating_point():
        # Plain arithmetic: the built-in loss with probabilities is this, in more operations.
        return -(labels * F.log_softmax(logits, 1)).sum(1).mean()
    return F.cross_entropy(logits, labels)


class RunState(NamedTuple):
    """The state of an inner run before a step: θ, o, s and the integer buffers beside s."""

    parameters: Tensors
    optimizer: State
    statistics: Tensors
    counters: Tensors


class SweepResult(NamedTuple):
    """Adjoints that a step hands to its inputs through its gradient and its statistics."""

    parameters: Tensors
    statistics: Tensors
    constants: Tensors
    images: Tensor
    labels: Tensor | None


class PullResult(NamedTuple):
    """Adjoints that a step hands to its inputs through the optimizer."""

    gradients: Tensors
    optimizer: Any
    parameters: Tensors
    step_size: Any
    hyperparameters: dict[str, Any]


def split_state(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """An optimizer state as its differentiable part and its counters."""
    counts = {k: v for k, v in state.items() if isinstance(v, Tensor) and not v.is_floating_point()}
    return {k: v for k, v in state.items() if k not in counts}, counts


class BilevelProblem:
    """A model, how it is trained and how the trained network is judged.

    Make one and keep it when many hypergradients of the same problem are taken: it holds what has
    been compiled.

    Args:
        model: the network, or a `FunctionalModel` of it.
        optimizer: the inner optimizer.
        inner_loss: ``(logits, labels) -> scalar``, minimised by the inner run.
        outer_loss: the same, of the trained network on the outer batch.
        outer_training: take the outer loss in train mode instead of eval mode.
        compile: compile the functions below with ``torch.compile``, or only trace them once and run
            the traced operations (``"trace"``: ready in seconds, without a compiler); they fall
            back to eager with a warning.
        stock_statistics: see `FunctionalModel`.
        autocast: see `FunctionalModel`.
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
        stock_statistics: StockStatistics = "tracked",
        autocast: torch.dtype | None = None,
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
        self.compiled: dict[Any, Any] = {}
        self.probes: dict[Any, Any] = {}

    def probe_key(self, images: Tensor) -> tuple[Any, ...]:
        """The key in ``probes`` for images of that kind."""
        return tuple(images.shape), images.dtype, images.device

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
            own, given = getattr(model, role), getattr(state, role)
            wrong = sorted(set(own) ^ set(given)) or [
                name for name, t in own.items() if not self._fits(given[name], t)
            ]
            if wrong:
                raise ValueError(
                    f"`initial.{role}` must have the names, shapes and dtypes of the model's "
                    f"{role}, which {wrong[0]!r} has not; it seems to be of another model"
                )
        kept = set(self.optimizer.init({n: p.to("meta") for n, p in model.parameters.items()}))
        if kept != set(state.optimizer):
            raise ValueError(
                f"`initial.optimizer` must have what {self.optimizer.name} keeps, {sorted(kept)}, "
                f"got {sorted(state.optimizer)}; to start it afresh pass "
                "`initial_state(problem)._replace(parameters=...)`"
            )

    def _fits(self, given: Tensor, own: Tensor) -> bool:
        return given.shape == own.shape and given.dtype == own.dtype

    def _loss(
        self,
        loss: Loss,
        state: tuple[Tensors, Tensors, Tensors, Tensors],
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
        training: bool,
        in_graph: bool,
    ) -> tuple[Tensor, tuple[Tensors, Tensors]]:
        """The loss, and (new statistics, new counters); noise: a seed, or the drawn numbers."""
        draws = Draws(noise) if isinstance(noise, int) else Draws(supplied=noise)
        logits, statistics, counters = self.model(
            *state, fixed, images, training=training, in_graph=in_graph, draws=draws
        )
        value = loss(logits, labels)
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise ValueError(
                f"the loss must return a scalar tensor, got {describe(value)}; reduce it with "
                "`.mean()`, and do not take `.item()` of it"
            )
        return value, (statistics, counters)

    def gradient(
        self,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
    ) -> tuple[Tensors, Tensors, Tensors, Tensor]:
        """g, the new s and counters, and the loss, as a function that can be transformed."""

        def loss(parameters: Tensors, statistics: Tensors) -> Any:
            value, moved = self._loss(
                self.inner_loss,
                (parameters, statistics, counters, constants),
                fixed,
                images,
                labels,
                noise,
                True,
                True,
            )
            return value, (*moved, value)

        differentiate: Any = grad(loss, has_aux=True)
        found: Any = differentiate(parameters, statistics)
        g, (new_statistics, new_counters, value) = found
        return g, new_statistics, new_counters, value

    def gradient_eager(
        self,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
    ) -> tuple[Tensors, Tensors, Tensors, Tensor]:
        """As `gradient`, by torch's own autograd and fused kernels: plain training."""
        with torch.enable_grad():
            leaves = {n: p.detach().requires_grad_() for n, p in parameters.items()}
            value, (new_statistics, new_counters) = self._loss(
                self.inner_loss,
                (leaves, statistics, counters, constants),
                fixed,
                images,
                labels,
                noise,
                True,
                False,
            )
            g = gradients_of(value, leaves, "inner")
        return (
            g,
            {n: t.detach() for n, t in new_statistics.items()},
            new_counters,
            value.detach(),
        )

    def update(
        self,
        gradients: Tensors,
        state: State,
        parameters: Tensors,
        step_size: Any,
        hyperparameters: Mapping[str, Any],
    ) -> tuple[Tensors, State]:
        """U."""
        return self.optimizer.update(gradients, state, parameters, step_size, hyperparameters)

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
        """(θ̄, ō) through U."""
        floats, counts = split_state(state)

        def step(g: Tensors, floats: Any, theta: Tensors, alpha: Any, hyper: Any) -> Any:
            new, new_state = self.optimizer.update(g, {**floats, **counts}, theta, alpha, hyper)
            return new, split_state(new_state)[0]

        pulled: Any = vjp(step, gradients, floats, parameters, step_size, hyperparameters)
        return PullResult(*pulled[1]((parameters_bar, state_bar)))

    def sweep(self, *args: Any) -> SweepResult:
        """One forward-over-reverse sweep: jvp of ∇(θ,s,c,b) [loss + τ <s̄, S>] along (ḡ, τ = 1).

        It takes what `gradient_and_sweep` takes.
        """
        return self.gradient_and_sweep(*args)[1]

    def gradient_and_sweep(
        self,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
        gradients_bar: Tensors,
        statistics_bar: Tensors,
    ) -> tuple[tuple[Tensors, Tensors, Tensors, Tensor], SweepResult]:
        """What `gradient` returns and what `sweep` returns: the jvp computes both."""
        soft = labels.is_floating_point()
        # At least one of these tangents is the engine's; τ makes <s̄, S> enter only as a tangent.
        tau = images.new_zeros((), dtype=next(iter(parameters.values())).dtype)

        def gradient(theta: Tensors, tau: Tensor) -> Any:
            def objective(theta: Tensors, extra: dict[str, Any]) -> Any:
                value, (new, moved) = self._loss(
                    self.inner_loss,
                    (theta, extra["statistics"], counters, extra["constants"]),
                    fixed,
                    extra["images"],
                    extra["labels"] if soft else labels,
                    noise,
                    True,
                    True,
                )
                total = value
                for name, bar in statistics_bar.items():
                    total = total + tau * (bar * new[name]).sum()
                return total, (new, moved, value)

            extra = {"statistics": statistics, "constants": constants, "images": images}
            if soft:
                extra["labels"] = labels
            differentiate: Any = grad(objective, argnums=(0, 1), has_aux=True)
            return differentiate(theta, extra)

        tangents = (gradients_bar, torch.ones_like(tau))
        swept: Any = jvp(gradient, (parameters, tau), tangents, has_aux=True)
        (g, _), (theta_bar, extra_bar), after = swept
        return (g, *after), SweepResult(
            theta_bar,
            extra_bar["statistics"],
            extra_bar["constants"],
            extra_bar["images"],
            extra_bar.get("labels"),
        )

    def sweep_reverse(
        self,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
        gradients_bar: Tensors,
        statistics_bar: Tensors,
    ) -> SweepResult:
        """The same by double backward: the gradient of <ḡ, g> + <s̄, S>."""
        soft = labels.is_floating_point()
        with torch.enable_grad():
            theta, s, c = (
                {n: t.detach().requires_grad_() for n, t in tree.items()}
                for tree in (parameters, statistics, constants)
            )
            x = images.detach().requires_grad_()
            y = labels.detach().requires_grad_(soft)
            value, (new, _) = self._loss(
                self.inner_loss, (theta, s, counters, c), fixed, x, y, noise, True, True
            )
            g = torch.autograd.grad(
                value, list(theta.values()), create_graph=True, allow_unused=True
            )
            pairing = value * 0.0
            for slope, bar in zip(g, gradients_bar.values(), strict=True):
                if slope is not None and slope.requires_grad:
                    pairing = pairing + (slope * bar).sum()
            for name, bar in statistics_bar.items():
                pairing = pairing + (new[name] * bar).sum()
            wanted = [*theta.values(), *s.values(), *c.values(), x, *([y] if soft else [])]
            found = torch.autograd.grad(pairing, wanted, allow_unused=True)
        slopes = iter(
            torch.zeros_like(w) if f is None else f for f, w in zip(found, wanted, strict=True)
        )
        return SweepResult(
            {n: next(slopes) for n in theta},
            {n: next(slopes) for n in s},
            {n: next(slopes) for n in c},
            next(slopes),
            next(slopes) if soft else None,
        )

    def outer(
        self,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
    ) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """Λ and its gradient for θ, s and the constants, as a function to be transformed."""

        def loss(theta: Tensors, s: Tensors, c: Tensors) -> Any:
            value, _ = self._loss(
                self.outer_loss,
                (theta, s, counters, c),
                fixed,
                images,
                labels,
                noise,
                self.outer_training,
                True,
            )
            return value, value

        bars, value = grad(loss, argnums=(0, 1, 2), has_aux=True)(parameters, statistics, constants)
        return value, *bars

    def outer_eager(
        self,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        labels: Tensor,
        noise: Sequence[Tensor] | int,
    ) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """As `outer`, by torch's own autograd."""
        with torch.enable_grad():
            theta, s, c = (
                {n: t.detach().requires_grad_() for n, t in tree.items()}
                for tree in (parameters, statistics, constants)
            )
            state = (theta, s, counters, c)
            value, _ = self._loss(
                self.outer_loss, state, fixed, images, labels, noise, self.outer_training, True
            )
            wanted = [*theta.values(), *s.values(), *c.values()]
            slopes = iter(gradients_of(value, dict(enumerate(wanted)), "outer").values())
        return (
            value.detach(),
            {n: next(slopes) for n in theta},
            {n: next(slopes) for n in s},
            {n: next(slopes) for n in c},
        )


def gradients_of(
    value: Tensor, leaves: dict[Any, Tensor], which: str, create_graph: bool = False
) -> dict[Any, Tensor]:
    """The gradient of a loss for ``leaves``, 0 for those that it does not reach.

    Raises:
        ValueError: it reaches none of them.
    """
    found: Any = [None] * len(leaves)
    if value.requires_grad:
        found = torch.autograd.grad(
            value, list(leaves.values()), create_graph=create_graph, allow_unused=True
        )
    if all(slope is None for slope in found):
        raise ValueError(
            f"the {which} loss does not depend on any trainable parameter; neither the model nor "
            "the loss may detach it or take something without a derivative (argmax, rounding) of "
            "it, and the layers that are trained must have requires_grad"
        )
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), found, strict=True)
    }
