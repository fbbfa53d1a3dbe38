"""Several networks at once: the hypergradient of their mean outer loss.

An outer step is usually averaged over several initializations of the network, all trained on the
same synthetic batches. `sequential` runs them one after the other, in the memory of one. `batched`
runs them as one, with `torch.func.vmap` over the functions of the problem: fewer and larger
operations, which pays where single ones are too small to fill the device, at the memory of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from dd_plugin.bilevel.adjoints import ForwardOverReverse, method_of
from dd_plugin.bilevel.batches import Batch
from dd_plugin.bilevel.checks import check_outer_batches
from dd_plugin.bilevel.foreign_models.draws import DrawSpec
from dd_plugin.bilevel.hypergradient import hypergradient
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.problem import BilevelProblem
from dd_plugin.bilevel.results import BatchGradient, Hypergradient
from dd_plugin.bilevel.step_values import (
    GradientResult,
    RunState,
    StepInputs,
    SweepResult,
    tree_map,
)
from dd_plugin.seeds import InnerPurpose, mix, nth_seed


@dataclass(frozen=True)
class EnsembleHypergradient:
    """What `hypergradients` returns.

    Attributes:
        mean: the gradients of the mean outer loss for everything that the networks share;
            ``parameters``, ``statistics``, ``optimizer_state`` and ``final`` are the first
            network's with ``mode="sequential"``, and stacked with ``"batched"``.
        outer_losses: one per network.
        finals: the final state of each network.
        parameters: the gradient for each network's initial weights, of its own outer loss.
        statistics: the same for its initial statistics.
    """

    mean: Hypergradient
    outer_losses: Tensor
    finals: list[RunState]
    parameters: list[Tensors]
    statistics: list[Tensors]


def hypergradients(
    problem: BilevelProblem,
    batches: Sequence[Batch] | Callable[[int], Batch],
    outer_batch: Batch | Sequence[Batch],
    networks: Sequence[RunState],
    *,
    mode: str = "sequential",
    split_outer_batch: bool = False,
    seed: int = 0,
    **options: Any,
) -> EnsembleHypergradient:
    """`hypergradient` of the mean outer loss over several networks.

    Args:
        problem: shared by the networks.
        batches: shared by the networks.
        outer_batch: shared by the networks, or divided among them with ``split_outer_batch``.
        networks: the state each starts from; see `initial_state`.
        mode: ``"sequential"`` (default) or ``"batched"``; ``docs/benchmarks/outer-step.md`` has
            what they cost.
        split_outer_batch: judge each network on its own part of an outer batch: the batch holds
            equally many images for every network, in the order of ``networks``.
        seed: network i draws its random numbers from a seed of its own in sequential mode. A
            function ``batches`` and a random window use ``seed`` in both, so they are shared.
        **options: as for `hypergradient`.

    Returns:
        Means over the networks, and what each has of its own.

    Raises:
        ValueError: no network, an unknown mode, or an outer batch that cannot be divided; what
            `hypergradient` raises.
    """
    if not networks:
        raise ValueError("`networks` must hold at least one state, got none")
    for state in networks:
        problem.check_state(state)
    outer_batches = check_outer_batches(outer_batch)
    if split_outer_batch:
        _check_divisible(outer_batches, len(networks))
    if mode == "batched":
        options |= {"outer_batch": outer_batches, "batches": batches, "seed": seed}
        return _batched(problem, networks, split_outer_batch, options)
    if mode != "sequential":
        raise ValueError(f'`mode` must be "sequential" or "batched", got {mode!r}')
    results = [
        hypergradient(
            problem,
            batches,
            _part(outer_batches, index, len(networks)) if split_outer_batch else outer_batches,
            initial=state,
            seed=seed,
            model_seed=mix(seed, InnerPurpose.ENSEMBLE_NETWORK, index),
            **options,
        )
        for index, state in enumerate(networks)
    ]
    return EnsembleHypergradient(
        mean=_mean(results),
        outer_losses=torch.stack([r.outer_loss for r in results]),
        finals=[r.final for r in results],
        parameters=[r.parameters for r in results],
        statistics=[r.statistics for r in results],
    )


def _check_divisible(outer_batches: Sequence[Batch], networks: int) -> None:
    for images, _ in outer_batches:
        if len(images) % networks:
            raise ValueError(
                f"`outer_batch` must hold equally many images for each of the {networks} networks "
                f"with `split_outer_batch`, got {len(images)}"
            )


def _part(outer_batches: Sequence[Batch], index: int, networks: int) -> list[Batch]:
    """What one of several networks is judged on."""
    return [(x.chunk(networks)[index], y.chunk(networks)[index]) for x, y in outer_batches]


def initial_state(problem: BilevelProblem, model: torch.nn.Module | None = None) -> RunState:
    """The state at which a run starts, for weights and statistics of another model of that kind.

    Args:
        problem: its optimizer gives the optimizer state, its model the roles of the tensors.
        model: a model of the same architecture; by default the problem's own.
    """
    prototype = problem.model
    tensors: dict[str, Tensor] = {}
    if model is not None:
        tensors = {
            n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())
        }

    def pick(role: Tensors) -> Tensors:
        return {n: tensors.get(n, t) for n, t in role.items()}

    parameters = pick(prototype.parameters)
    return RunState(
        parameters=parameters,
        optimizer=problem.optimizer.init(parameters),
        statistics=pick(prototype.statistics),
        counters=pick(prototype.counters),
    )


def _average(trees: Sequence[Any]) -> Any:
    return tree_map(lambda *t: torch.stack(t).mean(0), *trees)


def _mean(results: Sequence[Hypergradient]) -> Hypergradient:
    first = results[0]
    broken = [r.first_nonfinite for r in results if r.first_nonfinite is not None]
    batches = {}
    for k, bar in first.batches.items():
        labels = None
        if bar.labels is not None:
            labels = _average([r.batches[k].labels for r in results])
        batches[k] = BatchGradient(_average([r.batches[k].images for r in results]), labels)
    return replace(
        first,
        outer_loss=_average([r.outer_loss for r in results]),
        inner_losses=torch.stack([r.inner_losses for r in results], 1),
        finite=all(r.finite for r in results),
        first_nonfinite=min(broken) if broken else None,
        batches=batches,
        leaves=tuple(_average([r.leaves for r in results])) if first.leaves else (),
        step_size=_average([r.step_size for r in results]),
        hyperparameters=_average([r.hyperparameters for r in results]),
        constants=_average([r.constants for r in results]),
        trajectory_bytes=max(r.trajectory_bytes for r in results),
    )


# What each network has of its own, and what they share, of the tensors that a step takes.
_STACKED = ("parameters", "statistics", "counters")
_SHARED = ("constants", "images", "labels")
# The dimension of the networks in each of them, for `vmap`.
_roles: dict[str, Any] = {
    role: 0 if role in (*_STACKED, "noise") else None for role in StepInputs._fields
}
_DIMS = StepInputs(**_roles)
_SPLIT_DIMS = StepInputs(**{**_roles, "images": 0, "labels": 0})


class BatchedProblem(BilevelProblem):
    """A problem whose states hold several networks along a first dimension.

    Its functions take the same arguments; what networks share is shared, adjoints of it are
    summed, and losses come as ``(networks,)``. The optimizer is elementwise and needs no change.
    """

    def __init__(self, problem: BilevelProblem, networks: int, split_outer_batch: bool) -> None:
        self.__dict__.update(problem.__dict__)
        self.networks = networks
        self.split_outer_batch = split_outer_batch
        self.compiled, self.probes = {}, dict(problem.probes)
        self.runs_eagerly, self.verified = set(), set()

    def _fits(self, stacked: Tensor, of_one: Tensor) -> bool:
        if of_one.dim() == 0 and stacked.dim() == 0:
            return stacked.dtype == of_one.dtype
        return stacked.shape == (self.networks, *of_one.shape) and stacked.dtype == of_one.dtype

    def numbers(self, specs: Sequence[DrawSpec], noise: int) -> list[Tensor]:
        """See `BilevelProblem.numbers`; every network has its own."""
        one = super().numbers
        drawn = [one(specs, nth_seed(noise, index)) for index in range(self.networks)]
        return [torch.stack(numbers) for numbers in zip(*drawn, strict=True)]

    def _drawn(self, inputs: StepInputs) -> StepInputs:
        """The inputs with random numbers of every network in the place of their seed."""
        if not isinstance(inputs.noise, int):
            return inputs
        return inputs._replace(noise=self.numbers(self.draws(inputs.images), inputs.noise))

    def gradient(self, inputs: StepInputs) -> Any:
        """See `BilevelProblem.gradient`; the losses are ``(networks,)``."""
        return vmap(super().gradient, in_dims=(_DIMS,))(self._drawn(inputs))

    def gradient_eager(self, inputs: StepInputs) -> Any:
        """As `gradient`: torch's own autograd knows no batches of networks."""
        return self.gradient(inputs)

    def gradient_and_sweep(self, inputs: StepInputs, *bars: Any) -> Any:
        """See `BilevelProblem.gradient_and_sweep`; adjoints of what is shared are summed."""

        def run(*args: Any) -> Any:
            first, of_one = super(BatchedProblem, self).gradient_and_sweep(*args)
            return first, {k: v for k, v in of_one._asdict().items() if v is not None}

        first, swept = vmap(run, in_dims=(_DIMS, 0, 0))(self._drawn(inputs), *bars)
        shared: dict[str, Any] = {
            k: tree_map(lambda t: t.sum(0), swept[k]) for k in _SHARED if k in swept
        }
        return first, SweepResult(**{**swept, **shared})

    def sweep_reverse(self, *args: Any) -> SweepResult:
        """Not batched.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError('method="reverse" runs networks one by one; use mode="sequential"')

    def gradient_and_sweep_reverse(self, inputs: StepInputs, *bars: Any) -> Any:
        """See `BilevelProblem.gradient_and_sweep_reverse`, of one network after the other."""
        steps = []
        for index in range(self.networks):
            of_one = {
                role: tree_map(lambda t, i=index: t[i], getattr(inputs, role)) for role in _STACKED
            }
            one = inputs._replace(**of_one)
            if isinstance(inputs.noise, int):
                one = one._replace(noise=nth_seed(inputs.noise, index))
            bars_of_one = tree_map(lambda t, i=index: t[i], bars)
            steps.append(super().gradient_and_sweep_reverse(one, *bars_of_one))
        first = [
            tree_map(lambda *t: torch.stack(t), *parts)
            for parts in zip(*(f for f, _ in steps), strict=True)
        ]
        swept = [s._asdict() for _, s in steps]
        roles: dict[str, Any] = {}
        for role in swept[0]:
            if swept[0][role] is not None:
                stacked = tree_map(lambda *t: torch.stack(t), *(s[role] for s in swept))
                shared = role in _SHARED
                roles[role] = tree_map(lambda t: t.sum(0), stacked) if shared else stacked
        return GradientResult._make(first), SweepResult(**roles)

    def _judged(self, inputs: StepInputs) -> tuple[StepInputs, StepInputs]:
        """The inputs of the outer loss, and the dimension of the networks in each of them."""
        if not self.split_outer_batch:
            return inputs._replace(noise=[]), _DIMS
        parts = (self.networks, -1)
        inputs = inputs._replace(
            images=inputs.images.unflatten(0, parts),
            labels=inputs.labels.unflatten(0, parts),
            noise=[],
        )
        return inputs, _SPLIT_DIMS

    def outer(self, inputs: StepInputs) -> Any:
        """See `BilevelProblem.outer`; losses ``(networks,)``, adjoints of their mean."""
        inputs, dims = self._judged(inputs)
        run: Any = vmap(super().outer, in_dims=(dims,))
        value, theta, s, c = run(inputs)
        c = tree_map(lambda t: t.sum(0), c)
        bars = tree_map(lambda t: t / self.networks, (theta, s, c))
        return value, *bars

    def outer_eager(self, inputs: StepInputs) -> Any:
        """As `outer`."""
        return self.outer(inputs)

    def outer_value(self, inputs: StepInputs) -> Tensor:
        """The mean of the networks' losses."""
        inputs, dims = self._judged(inputs)
        run: Any = vmap(super().outer_value, in_dims=(dims,))
        return run(inputs).mean()


def _batched(
    problem: BilevelProblem,
    networks: Sequence[RunState],
    split_outer_batch: bool,
    options: dict[str, Any],
) -> EnsembleHypergradient:
    method = method_of(options.get("method", "mixed"))
    if not isinstance(method, ForwardOverReverse) or problem.outer_training:
        raise ValueError(
            'mode="batched" must go with method="mixed" and an outer loss in eval mode; use '
            'mode="sequential"'
        )
    count = len(networks)
    stacked = tree_map(lambda *t: torch.stack(t), *networks)
    # Counters of the optimizer are the same for all networks, and one for all.
    first = networks[0].optimizer
    shared = {k: v for k, v in first.items() if isinstance(v, Tensor) and v.dim() == 0}
    stacked = stacked._replace(optimizer={**stacked.optimizer, **shared})
    key = ("batched", count, split_outer_batch)
    if key not in problem.compiled:
        problem.compiled[key] = BatchedProblem(problem, count, split_outer_batch)
    batched = problem.compiled[key]
    try:
        result = hypergradient(batched, initial=stacked, **options)
    except (RuntimeError, NotImplementedError) as error:
        if "vmap" in str(error) or "atching rule" in str(error):
            error.add_note(
                'mode="batched" runs the networks as one by torch.func.vmap, which does not know '
                'an operation of this problem; use mode="sequential"'
            )
        raise

    def each(tree: Any) -> list[Any]:
        return [
            tree_map(lambda t, i=i: t[i] if t.dim() and len(t) == count else t, tree)
            for i in range(count)
        ]

    bars = tree_map(lambda t: t * count, (result.parameters, result.statistics))
    return EnsembleHypergradient(
        mean=replace(result, outer_loss=result.outer_loss.mean()),
        outer_losses=result.outer_loss,
        finals=each(result.final),
        parameters=each(bars[0]),
        statistics=each(bars[1]),
    )
