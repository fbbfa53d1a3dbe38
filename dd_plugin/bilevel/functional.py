"""A network as a pure function: every tensor that matters is an argument, nothing is changed.

First in the flow of the engine. `FunctionalModel` sorts the tensors of a module by the role they
have in an inner training run:

| role | what | in the recursion |
|---|---|---|
| ``parameters`` | what the inner optimizer trains | θ |
| ``statistics`` | floating buffers that each training step moves (running mean and variance) | s |
| ``counters`` | integer buffers that each step moves (``num_batches_tracked``) | beside s |
| ``constants`` | held, with a gradient: learned or frozen statistics, tracking scalars | none |
| ``fixed`` | everything else: index tables, frozen weights | none |

It works on a private copy of the module's structure that shares the tensors, so flags, caches and
buffers of the model that was passed in stay as they are whatever happens.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dd_plugin.bilevel.copying import copy_structure
from dd_plugin.bilevel.foreign_models.batchnorm import (
    StatisticsRecord,
    differentiable_batch_norm,
    recording,
)
from dd_plugin.bilevel.foreign_models.draws import Draws, drawing_from
from dd_plugin.bilevel.foreign_models.replay import replayed
from dd_plugin.bilevel.foreign_models.second_order import second_order
from dd_plugin.bilevel.messages import level_of_caller
from dd_plugin.bilevel.optimizers import Tensors
from dd_plugin.bilevel.tracing.writes import WrittenTensors
from dd_plugin.bn import converted_layers, statistics_in_graph
from dd_plugin.bn.variants import BATCH_NORMS
from dd_plugin.private import COMPILED_MODULE, has_gradient_hook

StockStatistics = Literal["tracked", "constant"]


# What wraps models elsewhere, and where it keeps them.
_WRAPPERS = {
    "OptimizedModule": COMPILED_MODULE,
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}


def logits_of(output: Any) -> Tensor:
    """Return the logits in a model's output: a tensor, or an object or mapping with ``logits``.

    Raises:
        TypeError: neither.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else None
    if logits is None:
        logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model must return a tensor or an output with `logits`, got {type(output)}; "
            "wrap it in a module that returns the logits"
        )
    return logits


def check_has_values(model: nn.Module) -> None:
    """Check that no tensor of a model is on the meta device, which keeps shapes only.

    Raises:
        ValueError: one is.
    """
    for layer in converted_layers(model).values():
        layer.materialize_corrections()
    tensors = (*model.named_parameters(), *model.named_buffers())
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise ValueError(
            f"`model` must have values in its weights, got {empty[0]!r} on the meta device "
            f"({len(empty)} of {len(tensors)} tensors); load a checkpoint with "
            "`model.load_state_dict(..., assign=True)`, or build the model outside of "
            '`torch.device("meta")` and `init_empty_weights()`'
        )


class FunctionalModel:
    """A module as a function of its tensors; see the roles above.

    The dicts hold detached tensors that share memory with the model's.

    Args:
        model: any classifier that takes images; timm's, Hugging Face's, converted or not.
        stock_statistics: what the statistics of BatchNorm layers that were not converted are:
            ``"tracked"``, their moving average is part of the run and differentiated; or
            ``"constant"``, they keep their initial values.
        autocast: run the forward pass in this dtype where `torch.autocast` allows it; weights,
            statistics and logits keep theirs.

    Raises:
        TypeError: not an `nn.Module`, or one whose structure cannot be copied.
        ValueError: no trainable parameter, or a tensor without values (on the meta device).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stock_statistics: StockStatistics = "tracked",
        autocast: torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
        for wrapper, inside in _WRAPPERS.items():
            if type(model).__name__ == wrapper and hasattr(model, inside):
                raise TypeError(
                    f"`model` must be the plain module, got it inside of a {wrapper}; pass "
                    f"`model.{inside}` (the engine compiles by itself with `compile=True`)"
                )
        if autocast is not None and not isinstance(autocast, torch.dtype):
            raise TypeError(
                f"`autocast` must be a dtype such as torch.bfloat16 or None, got {autocast!r}"
            )
        if stock_statistics not in ("tracked", "constant"):
            raise ValueError(
                f'`stock_statistics` must be "tracked" or "constant", got {stock_statistics!r}'
            )
        self.autocast = autocast
        self.stock_statistics = stock_statistics
        self.parameters: Tensors = {}
        self.statistics: Tensors = {}
        self.counters: Tensors = {}
        self.constants: Tensors = {}
        self.fixed: Tensors = {}
        # What a forward pass may write into.
        self._written: list[str] = []
        self._module = copy_structure(model)
        check_has_values(self._module)
        self._sort()
        if not self.parameters:
            raise ValueError(
                "the model has no trainable parameter; call `model.requires_grad_()` on what the "
                "inner optimizer should train"
            )
        _warn_of_hooks(model)
        device = next(iter(self.parameters.values())).device
        self.device_type = device.type

    def _sort(self) -> None:
        roles: dict[str, str] = {}
        for prefix, module in self._module.named_modules():
            stem = f"{prefix}." if prefix else ""
            if isinstance(module, BATCH_NORMS):
                tracked = self.stock_statistics == "tracked" and module.track_running_stats
                role = "statistics" if tracked else "constants"
                roles |= dict.fromkeys((f"{stem}running_mean", f"{stem}running_var"), role)
                roles[f"{stem}num_batches_tracked"] = "counters" if tracked else "fixed"
        for prefix, layer in converted_layers(self._module).items():
            stem = f"{prefix}." if prefix else ""
            tracked = layer.statistics == "tracked" and layer.looks_at_batch
            trained = layer.statistics == "learned" and (
                layer.train_with == "running" or not layer.looks_at_batch
            )
            role = "statistics" if tracked else "parameters" if trained else "constants"
            roles |= dict.fromkeys((f"{stem}{n}" for n in layer.present_statistics()), role)
            roles[f"{stem}num_batches_tracked"] = "counters" if tracked else "fixed"
            if layer.statistics == "tracked":
                roles |= dict.fromkeys(
                    (f"{stem}{n}" for n in layer.correction_names()), "constants"
                )
        for name, p in self._module.named_parameters():
            role = roles.get(name, "parameters")
            if not p.requires_grad and role == "parameters":
                role = "fixed"
            getattr(self, role)[name] = p.detach()
        # In this order everywhere: it is that of a traced graph, and decides how sums round.
        self._written = [name for name, _ in self._module.named_buffers()]
        for name, buffer in self._module.named_buffers():
            role = roles.get(name, "constants" if buffer.requires_grad else "fixed")
            getattr(self, role)[name] = buffer.detach()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Enter before the first call: the model can then be differentiated twice."""
        with second_order(self._module), replayed(), differentiable_batch_norm():
            yield

    @property
    def convolutions(self) -> int:
        """Return the number of two-dimensional convolutions."""
        return sum(isinstance(module, nn.Conv2d) for module in self._module.modules())

    def __call__(
        self,
        *,
        parameters: Tensors,
        statistics: Tensors,
        counters: Tensors,
        constants: Tensors,
        fixed: Tensors,
        images: Tensor,
        training: bool,
        in_graph: bool = True,
        draws: Draws | None = None,
        autocast: bool = True,
    ) -> tuple[Tensor, Tensors, Tensors]:
        """Run one forward pass, inside `ready`.

        Args:
            parameters: like the attribute of that name, as the next four.
            statistics: see ``parameters``.
            counters: see ``parameters``.
            constants: see ``parameters``.
            fixed: see ``parameters``.
            images: what the model takes, ``(N, ...)``.
            training: train or eval mode.
            in_graph: keep the new statistics differentiable; without it they are values only,
                which lets layers use their fused kernels.
            draws: where random numbers come from.
            autocast: False for the full precision of the weights in any case.

        Returns:
            Logits ``(N, classes)``, the new statistics and the new counters.
        """
        module = self._module
        module.train(training)  # an override of it may return nothing
        # Clones, for layers that write into their buffers.
        tensors = {**fixed, **constants, **statistics, **counters, **parameters}
        tensors |= {n: tensors[n].clone() for n in self._written if n in tensors}
        before = dict(tensors)
        record = StatisticsRecord() if in_graph else None
        graph = statistics_in_graph() if in_graph else contextlib.nullcontext()
        # The cache of autocast would hand a tensor of one transform to another.
        cast = torch.autocast(
            self.device_type,
            dtype=self.autocast,
            enabled=autocast and self.autocast is not None,
            cache_enabled=False,
        )
        # A copy, for models that begin with an operation in place.
        with graph, recording(record), drawing_from(draws), cast:
            logits = logits_of(functional_call(module, tensors, (images.clone(),)))
        if self.autocast is not None:
            logits = logits.to(next(iter(parameters.values())).dtype)
        if not training:
            return logits, statistics, counters
        if record is not None:
            for name in statistics:
                if tensors[name] is before[name]:  # a converted layer has rebound it
                    tensors[name] = record.latest(before[name])
        return (
            logits,
            {name: tensors[name] for name in statistics},
            {name: tensors[name] for name in counters},
        )

    def probe(self, images: Tensor, draws: Draws) -> Tensor:
        """Run one training forward on values only, to find out what the model does.

        What it writes into beside the statistics of its normalization layers (power iteration
        vectors, a moving average of its own, the weights of a teacher) become ``statistics`` or
        ``counters``.

        Returns:
            The logits; ``draws.specs`` is what random numbers it took.

        Raises:
            ValueError: it writes into a parameter that is trained.
        """
        moving = {**self.statistics, **self.counters, **self.constants}
        before = {**self.fixed, **self.parameters, **moving}
        passed = {name: t.clone() for name, t in before.items()}
        tensors = dict(passed)
        module = self._module
        module.train(True)
        with torch.no_grad(), drawing_from(draws), WrittenTensors() as written:
            logits = logits_of(functional_call(module, tensors, (images.clone(),)))
        for name, t in before.items():
            rebound = tensors[name] is not passed[name]
            if not (rebound or passed[name] in written or not _same(passed[name], t)):
                continue
            if name in self.parameters:
                raise ValueError(
                    f"the model writes into its parameter {name!r} in its forward pass, where only "
                    "the inner optimizer may change it; use a parametrization "
                    "(torch.nn.utils.parametrize) instead of `max_norm` or an assignment"
                )
            if name in self.fixed and not name.endswith("num_batches_tracked"):
                moved = self.fixed.pop(name)
                (self.statistics if moved.is_floating_point() else self.counters)[name] = moved
                if name not in self._written:
                    self._written.append(name)
        return logits


def _warn_of_hooks(model: nn.Module) -> None:
    """Warn of hooks on the gradients of parameters: the engine's gradients do not pass them."""
    hooked = [name for name, p in model.named_parameters() if has_gradient_hook(p)]
    if hooked:
        warnings.warn(
            f"hooks on the gradients of parameters are not run in inner training, and "
            f"{hooked[0]!r} has one ({len(hooked)} parameters in all); if they change the gradient "
            "(a mask, a scale), multiply the parameter in the forward pass instead, or freeze it",
            stacklevel=level_of_caller(),
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(a.isnan().any())
