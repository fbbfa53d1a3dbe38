"""Inner optimizers as pairs of pure functions: `init` makes a state, `update` takes one step.

Here is the U of the engine's recursion (``docs/concepts/engine.md``). `torch.optim` changes
weights in place and keeps its state out of any graph; these return new weights and new state, so
that a whole training run is a function that can be differentiated: in the weights, the state, the
step size and every hyperparameter. The values agree with `torch.optim` step by step.

Nothing branches on the value of a tensor. What a hyperparameter switches on (a momentum buffer,
weight decay) is decided when the optimizer is made: a plain ``0.0`` leaves it out, a tensor or any
other number puts it in.

To add one: write a function that returns an `Optimizer` and name it in ``OPTIMIZERS``; the
contract test runs over that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]
State: TypeAlias = dict[str, Any]
# Hyperparameters by name, resolved to one 0-d tensor per parameter.
Resolved: TypeAlias = dict[str, Tensors]
# One value for all parameters, or one per parameter group.
Grouped: TypeAlias = "float | Tensor | Mapping[str, float | Tensor]"


@dataclass(frozen=True)
class Optimizer:
    """An inner optimizer.

    Attributes:
        name: its name in messages.
        init: parameters to the first state, a dict whose values are tensors (counters, integer)
            or dicts like the parameters.
        step: ``(gradients, state, parameters, step_sizes, hyperparameters) -> (parameters,
            state)``, the last two arguments resolved to one 0-d tensor per parameter name; called
            by `update`.
        hyperparameters: name to initial value: a number, a 0-d tensor, or one of these per group.
        groups: parameter name to the name of its group; None if there are no groups.
    """

    name: str
    init: Callable[[Tensors], State]
    step: Callable[[Tensors, State, Tensors, Tensors, Resolved], tuple[Tensors, State]]
    hyperparameters: dict[str, Grouped] = field(default_factory=dict)
    groups: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        if self.groups is not None and not callable(self.groups):
            raise TypeError(
                "`groups` must be a function from parameter name to group name, got "
                f"{type(self.groups).__name__}; of a mapping pass its `get` method"
            )

    def update(
        self,
        gradients: Tensors,
        state: State,
        parameters: Tensors,
        step_size: Any,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> tuple[Tensors, State]:
        """Take one step.

        Args:
            gradients: like ``parameters``.
            state: from `init` or the step before.
            parameters: name to tensor.
            step_size: a number or 0-d tensor, or a mapping from group to these.
            hyperparameters: values to use instead of those the optimizer was made with.

        Returns:
            The new parameters and the new state; nothing is changed in place.

        Raises:
            ValueError: values per group that do not fit the groups.
        """
        values = {**self.hyperparameters, **(hyperparameters or {})}
        names = list(parameters)
        step_sizes = self._per_parameter(step_size, names, "step_size")
        resolved = {key: self._per_parameter(v, names, key) for key, v in values.items()}
        return self.step(gradients, state, parameters, step_sizes, resolved)

    def _per_parameter(self, value: Any, names: list[str], what: str) -> Any:
        if not isinstance(value, Mapping):
            return dict.fromkeys(names, value)
        if self.groups is None:
            raise ValueError(
                f"`{what}` has a value per group, but the optimizer was made without groups; pass "
                "`groups=` (a function from parameter name to group name) when making it"
            )
        groups = {name: self.groups(name) for name in names}
        missing = sorted(set(groups.values()) - set(value))
        if missing:
            raise ValueError(
                f"`{what}` must have a value for every group, got none for {missing}; "
                f"it has {sorted(value)}"
            )
        return {name: value[group] for name, group in groups.items()}


def _used(value: Grouped) -> bool:
    """Return whether a hyperparameter takes part: everything but a plain zero does."""
    if isinstance(value, Mapping):
        return any(_used(v) for v in value.values())
    return isinstance(value, Tensor) or value != 0


def _zeros(parameters: Tensors) -> Tensors:
    return {name: torch.zeros_like(p) for name, p in parameters.items()}


def _counter(parameters: Tensors) -> Tensor:
    device = next(iter(parameters.values())).device if parameters else None
    return torch.zeros((), dtype=torch.int64, device=device)


def _safe_sqrt(x: Tensor) -> Tensor:
    """Return the square root, with derivative 0 instead of infinity at 0.

    A parameter whose gradient has been 0 so far has a second moment of 0; its derivative is
    multiplied by that gradient and must not turn 0 into NaN.
    """
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def sgd(
    momentum: Grouped = 0.0,
    *,
    dampening: Grouped = 0.0,
    weight_decay: Grouped = 0.0,
    nesterov: bool = False,
    groups: Callable[[str], str] | None = None,
) -> Optimizer:
    """Stochastic gradient descent, as `torch.optim.SGD`.

    Args:
        momentum: factor of the momentum buffer; a plain 0 means no buffer.
        dampening: 1 minus the factor with which gradients enter the buffer, except the first.
        weight_decay: factor of the weights added to the gradient.
        nesterov: look ahead by one momentum step.
        groups: parameter name to group name, for values given per group.

    Raises:
        ValueError: ``nesterov`` without momentum or with dampening.
    """
    has_momentum, damped, decays = _used(momentum), _used(dampening), _used(weight_decay)
    if nesterov and (not has_momentum or damped):
        raise ValueError(
            "`nesterov` must go with a momentum and no dampening, got "
            f"momentum={momentum}, dampening={dampening}"
        )
    values: dict[str, Grouped] = {}
    if has_momentum:
        values["momentum"] = momentum
    if damped and has_momentum:
        values["dampening"] = dampening
    if decays:
        values["weight_decay"] = weight_decay

    def init(parameters: Tensors) -> State:
        state: State = {}
        if has_momentum:
            state["momentum"] = _zeros(parameters)
        if "dampening" in values:
            state["count"] = _counter(parameters)
        return state

    def step(
        gradients: Tensors, state: State, parameters: Tensors, step_sizes: Tensors, hyper: Resolved
    ) -> tuple[Tensors, State]:
        new_state: State = {}
        if "count" in state:
            new_state["count"] = state["count"] + 1
        if has_momentum:
            new_state["momentum"] = {}
        new_parameters: Tensors = {}
        for name, p in parameters.items():
            g = gradients[name]
            if decays:
                g = g + hyper["weight_decay"][name] * p
            if has_momentum:
                mu = hyper["momentum"][name]
                share: Any = g
                if "dampening" in hyper:
                    # The first gradient enters whole.
                    later = (state["count"] > 0).to(g.dtype)
                    share = (1 - hyper["dampening"][name] * later) * g
                buffer = mu * state["momentum"][name] + share
                new_state["momentum"][name] = buffer
                g = g + mu * buffer if nesterov else buffer
            new_parameters[name] = p - step_sizes[name] * g
        return new_parameters, new_state

    return Optimizer(name="sgd", init=init, step=step, hyperparameters=values, groups=groups)


def _adam(
    name: str,
    *,
    betas: tuple[Grouped, Grouped],
    eps: Grouped,
    weight_decay: Grouped,
    decoupled: bool,
    groups: Callable[[str], str] | None,
) -> Optimizer:
    decays = _used(weight_decay)
    values: dict[str, Grouped] = {"beta1": betas[0], "beta2": betas[1], "eps": eps}
    if decays:
        values["weight_decay"] = weight_decay

    def init(parameters: Tensors) -> State:
        return {
            "count": _counter(parameters),
            "mean": _zeros(parameters),
            "square": _zeros(parameters),
        }

    def step(
        gradients: Tensors, state: State, parameters: Tensors, step_sizes: Tensors, hyper: Resolved
    ) -> tuple[Tensors, State]:
        count = state["count"] + 1
        means: Tensors = {}
        squares: Tensors = {}
        new_parameters: Tensors = {}
        corrections: dict[tuple[int, int], tuple[Any, Any]] = {}
        for name, p in parameters.items():
            g, alpha = gradients[name], step_sizes[name]
            beta1, beta2 = hyper["beta1"][name], hyper["beta2"][name]
            if decays and decoupled:
                p = p * (1 - alpha * hyper["weight_decay"][name])
            elif decays:
                g = g + hyper["weight_decay"][name] * p
            mean = beta1 * state["mean"][name] + (1 - beta1) * g
            square = beta2 * state["square"][name] + (1 - beta2) * g * g
            key = (id(beta1), id(beta2))
            if key not in corrections:
                n = count.to(p.dtype)
                corrections[key] = (1 - beta1**n, (1 - beta2**n) ** 0.5)
            bias1, bias2 = corrections[key]
            denominator = _safe_sqrt(square) / bias2 + hyper["eps"][name]
            new_parameters[name] = p - (alpha / bias1) * (mean / denominator)
            means[name], squares[name] = mean, square
        return new_parameters, {"count": count, "mean": means, "square": squares}

    return Optimizer(name=name, init=init, step=step, hyperparameters=values, groups=groups)


def adam(
    betas: tuple[Grouped, Grouped] = (0.9, 0.999),
    *,
    eps: Grouped = 1e-8,
    weight_decay: Grouped = 0.0,
    groups: Callable[[str], str] | None = None,
) -> Optimizer:
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), as `torch.optim.Adam`.

    ``weight_decay`` adds that multiple of the weights to the gradient. The hyperparameters are
    called ``beta1``, ``beta2``, ``eps`` and ``weight_decay``.
    """
    return _adam(
        "adam", betas=betas, eps=eps, weight_decay=weight_decay, decoupled=False, groups=groups
    )


def adamw(
    betas: tuple[Grouped, Grouped] = (0.9, 0.999),
    *,
    eps: Grouped = 1e-8,
    weight_decay: Grouped = 0.01,
    groups: Callable[[str], str] | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2), as `torch.optim.AdamW`."""
    return _adam(
        "adamw", betas=betas, eps=eps, weight_decay=weight_decay, decoupled=True, groups=groups
    )


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
