"""The reads of a run by the host: every wait for a GPU in one place.

Used by `driver` and `hypergradient`. A run computes without any of it; what is read decides whether
what came out can be trusted, and on a CPU whether there is a way back. Labels are read by `checks`,
before the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from dd_plugin.bilevel.plan import Plan
from dd_plugin.bilevel.step_values import SweptStep, leaves_of
from dd_plugin.bilevel.trajectory import ForwardRun
from dd_plugin.bilevel.verification import verify


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return whether no entry of tensors is NaN or infinite, as a tensor.

    A CPU looks for the largest and the least entry, which are NaN where any is: torch has fast
    kernels for both there, and for the norm, which a GPU takes in few launches, a slow one.
    """
    if not tensors or any(t.device.type != "cpu" or t.is_complex() for t in tensors):
        return get_total_norm(tensors, float("inf")).isfinite()
    return torch.stack([end.isfinite() for t in tensors for end in (t.amin(), t.amax())]).all()


class HostReads:
    """The reads of one run: one at its end, where nothing has to be verified.

    Attributes:
        finite: whether all losses are finite; None before they were read.
        first_nonfinite: the first step with an inner loss that is not, or None.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.finite: bool | None = None
        self.first_nonfinite: int | None = None
        # Whether the losses of the steps and the outer loss are finite: (steps + 1,).
        self._fine: Tensor | None = None
        # Steps that were run twice: number, both losses, and whether they are alike.
        self._run_again: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def is_to_stop(self, losses: list[Tensor], outer_loss: Tensor) -> bool:
        """Note the losses of a run; return whether there need not be a way back.

        On a CPU, where reading is free. A GPU goes on meanwhile, and is waited for at the end.
        """
        fine = torch.stack(losses).isfinite().reshape(len(losses), -1).all(1)
        self._fine = torch.cat([fine, outer_loss.isfinite().all().reshape(1)])
        return self._fine.device.type == "cpu" and not self._losses_are_finite()

    def _losses_are_finite(self) -> bool:
        if self.finite is None:
            assert self._fine is not None
            self._note_losses(self._fine.tolist())
        return bool(self.finite)

    def _note_losses(self, read: list[Any]) -> None:
        self.finite = all(read)
        self.first_nonfinite = next((k for k, fine in enumerate(read[:-1]) if not fine), None)

    def finish(self, result: Any) -> bool:
        """Return whether all losses and all tensors of a result are finite, with one read.

        Raises:
            ValueError: a batch that was asked for twice was not the same both times.
            RuntimeError: the loss of a step that was run twice was not.
        """
        assert self._fine is not None
        tensors = [t for t in leaves_of(result) if isinstance(t, Tensor) and t.numel()]
        repeats = self._repeats()
        read = torch.cat(
            [self._fine, all_finite(tensors).reshape(1), *(t.reshape(1) for t in repeats)]
        ).tolist()
        steps = len(self._fine)
        self._note_losses(read[:steps])
        self._check_repeats(read[steps + 1 :])
        return bool(self.finite and read[steps])

    def step_ran_again(self, k: int, loss: Tensor, before: Tensor) -> None:
        """Note the loss of a step that was run a second time; it is compared by `finish`."""
        roundings = torch.finfo(loss.dtype).eps ** 0.75
        alike = ((loss - before).abs() <= roundings * (1 + before.abs())).all()
        self._run_again.append((k, loss, before, alike))

    def _repeats(self) -> list[Tensor]:
        """Return whether what was asked for twice was the same: batches, then steps."""
        return [*self._plan.batches.repeats(), *(alike for *_, alike in self._run_again)]

    def _check_repeats(self, read: list[Any]) -> None:
        """Check that batches and steps that were asked for twice were the same both times."""
        again, self._run_again = self._run_again, []
        batches = len(read) - len(again)
        self._plan.batches.check_repeats(read[:batches])
        for (k, loss, before, _), alike in zip(again, read[batches:], strict=True):
            if not alike:
                raise RuntimeError(
                    f"step {k} gave another loss when it was run again, {loss} after {before}; the "
                    "model and the loss must do the same each time (random numbers from torch's "
                    "global generators are replayed, those of a generator of their own are not), "
                    "or pass a storage that runs no step again, such as `Device()`"
                )

    def verify(self, run: ForwardRun, step: SweptStep) -> None:
        """Verify a sweep, if it is the first of its kind.

        Raises:
            VerificationError: it is wrong.
        """
        problem, batch = self._plan.problem, (step.inputs.images, step.inputs.labels)
        way = problem.way if problem.compiling else None
        # What is kept for a sweep comes from another graph.
        is_cut = any(key[0] == "halves" and key[1] == way for key in problem.compiled)
        kind = (step.method, way, is_cut, *((t.shape, t.dtype) for t in batch))
        if not problem.verify or kind in problem.verified or not self._losses_are_finite():
            return
        # Another batch than in the forward run would be taken for a wrong sweep.
        repeats = self._repeats()
        self._check_repeats(torch.stack(repeats).tolist() if repeats else [])
        computed: dict[str, Any] = {"gradients": step.gradients, "loss": run.losses[step.k]}
        if step.k == len(run.losses) - 1:
            computed |= {"statistics": run.final.statistics, "counters": run.final.counters}
        is_verified = verify(
            problem,
            step=step.k,
            inputs=step.inputs,
            bars=step.bars,
            computed=(computed, step.swept),
            again=step.again,
        )
        if is_verified:
            problem.verified.add(kind)
