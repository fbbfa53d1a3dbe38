"""Step sizes and hyperparameters of an inner run, and the tensors that its inputs came from.

Used by `plan` and `input_adjoints`. `Schedule` accepts a number, a sequence or a mapping from
parameter group to these, and gives the engine one detached tensor per step. On the way back,
`Leaves` pulls the adjoints of all inputs into the tensors from which the caller made them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.messages import describe


class Schedule:
    """A value, or a value per group, that may differ from step to step.

    Args:
        value: a number, a 0-d tensor, a tensor or sequence ``(steps,)``, or a mapping from group
            to these.
        steps: the length of the run.
        like: a tensor with the dtype and device that the values get.
        what: its name in messages.
        per_step: whether tensors ``(steps,)`` are allowed.
    """

    def __init__(
        self, value: Any, steps: int, like: Tensor, what: str, per_step: bool = True
    ) -> None:
        self.grouped = isinstance(value, Mapping)
        # In one order, however the caller's mapping is ordered: traced steps go by places.
        items = dict(sorted(value.items())) if self.grouped else {"": value}
        self._sources: dict[str, Any] = items
        self._values: dict[str, Tensor] = {}
        for group, item in list(items.items()):
            if isinstance(item, (list, tuple)) and any(isinstance(v, Tensor) for v in item):
                # Not `as_tensor`, which would drop the graphs of the entries.
                with torch.enable_grad():
                    item = torch.stack([self._tensor(v, like, what) for v in item])
                items[group] = item
            t = self._tensor(item, like, what).detach()
            allowed = [(), (steps,)] if per_step else [()]
            if tuple(t.shape) not in allowed:
                raise ValueError(
                    f"`{what}` must be a number, a 0-d tensor"
                    + (f" or a tensor of shape ({steps},), one per step" if per_step else "")
                    + f", got shape {tuple(t.shape)}"
                )
            self._values[group] = t.clone()

    @staticmethod
    def _tensor(item: Any, like: Tensor, what: str) -> Tensor:
        try:
            if isinstance(item, Tensor) and item.is_complex():
                raise TypeError("complex")
            return torch.as_tensor(item, dtype=like.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"`{what}` must be a number, a tensor, a sequence of numbers, or a mapping from "
                f"parameter group to these, got {describe(item)}"
            ) from error

    def at(self, step: int) -> Any:
        """Return the value of a step: a 0-d tensor, or a dict of these."""
        values = {g: t if t.dim() == 0 else t[step].clone() for g, t in self._values.items()}
        return values if self.grouped else values[""]

    def zeros(self) -> Any:
        """Return zeros in the shape of the value."""
        zeros = {group: torch.zeros_like(t) for group, t in self._values.items()}
        return zeros if self.grouped else zeros[""]

    def gradient(self, bars: Mapping[int, Any]) -> Any:
        """Return the adjoint of the whole value, in its shape.

        Args:
            bars: the adjoints of the values of steps, by step; zero for those left out.
        """
        total = self.zeros()
        whole = self._by_group(total)
        for step, bar in bars.items():
            for group, part in self._by_group(bar).items():
                if whole[group].dim() == 0:
                    whole[group] += part
                else:
                    whole[group][step] += part
        return total

    def pairs(self, gradient: Any) -> list[tuple[Tensor, Tensor]]:
        """Return the caller's tensors that have a graph or require a gradient, with adjoints."""
        bars = self._by_group(gradient)
        return [
            (item, bars[group].to(item.dtype).to(item.device))
            for group, item in self._sources.items()
            if isinstance(item, Tensor) and item.requires_grad
        ]

    def _by_group(self, value: Any) -> dict[str, Any]:
        return value if self.grouped else {"": value}


class Leaves:
    """Tensors from which the caller made the inputs, and their gradients so far."""

    def __init__(self, leaves: Any) -> None:
        if isinstance(leaves, Tensor) or not isinstance(leaves, Iterable):
            raise TypeError(
                f"`leaves` must be a list of tensors, got {describe(leaves)}; put it into a list"
            )
        self.tensors = list(leaves)
        for index, leaf in enumerate(self.tensors):
            if not isinstance(leaf, Tensor) or not leaf.requires_grad:
                raise ValueError(
                    f"`leaves[{index}]` must be a tensor that requires a gradient; "
                    "call `requires_grad_()` on it before the batches are made from it"
                )
        self.gradients = [torch.zeros_like(t, requires_grad=False) for t in self.tensors]
        self._unused = set(range(len(self.tensors)))

    def check_used(self, others: Iterable[Iterable[Tensor]]) -> None:
        """Check that something was computed from every leaf.

        Args:
            others: what else the run was given, in groups, asked for as long as a leaf is missing.

        Raises:
            ValueError: a leaf that nothing was computed from.
        """
        if not self._unused:
            return
        for tensors in others:
            graphs = [t for t in tensors if t.requires_grad]
            if graphs:
                zeros = [torch.zeros_like(t) for t in graphs]
                self._note(self._gradients(graphs, zeros))
            if not self._unused:
                return
        index = min(self._unused)
        raise ValueError(
            f"`leaves[{index}]`, {describe(self.tensors[index])}, must be what an input of the run "
            "was computed from, but none depends on it; compute the batches, the step sizes or "
            "whatever it stands for from it (not from a copy made with `.detach()` or under "
            "no_grad), or pass allow_unused=True for a gradient of zeros"
        )

    def _gradients(self, tensors: list[Tensor], bars: list[Tensor]) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            tensors, self.tensors, bars, allow_unused=True, retain_graph=True
        )

    def _note(self, gradients: Sequence[Tensor | None]) -> None:
        self._unused -= {index for index, part in enumerate(gradients) if part is not None}

    def pull(self, pairs: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Add what pairs of a tensor and its adjoint give for the leaves; their graphs are kept."""
        wanted = [(t, bar) for t, bar in pairs if bar is not None and t.requires_grad]
        if not wanted or not self.tensors:
            return
        gradients = self._gradients([t for t, _ in wanted], [bar for _, bar in wanted])
        self._note(gradients)
        for total, part in zip(self.gradients, gradients, strict=True):
            if part is not None:
                total += part
