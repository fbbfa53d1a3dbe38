"""The reads of a run by the host: every wait for a GPU in one place.

Used by `driver` and `hypergradient`. A run computes without any of it; what is read decides whether
there is a way back, and whether what came out can be trusted. Labels are read by `checks`, before
the run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from dd_plugin.bilevel.plan import Plan
from dd_plugin.bilevel.step_values import SweptStep, leaves_of
from dd_plugin.bilevel.trajectory import ForwardRun
from dd_plugin.bilevel.verification import verify


class HostReads:
    """The reads of one run.

    Attributes:
        finite: whether all losses are finite; None before they were read.
        first_nonfinite: the first step with an inner loss that is not, or None.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.finite: bool | None = None
        self.first_nonfinite: int | None = None
        # Steps that were run twice: number, both losses, and whether they are alike.
        self._run_again: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def losses_are_finite(self, losses: list[Tensor], outer_loss: Tensor) -> bool:
        """Return whether all inner losses and the outer loss are finite."""
        fine = torch.stack(losses).isfinite().reshape(len(losses), -1).all(1)
        # One value, for which a GPU is waited for.
        self.finite = bool(fine.all() & outer_loss.isfinite().all())
        if not self.finite and not bool(fine.all()):
            self.first_nonfinite = int((~fine).nonzero()[0])
        return self.finite

    def result_is_finite(self, result: Any) -> bool:
        """Return whether all losses and all tensors of a result are finite."""
        tensors = [t for t in leaves_of(result) if isinstance(t, Tensor) and t.numel()]
        # NaN and infinity make the largest entry so. One value, for which a GPU is waited for.
        return bool(self.finite) and bool(get_total_norm(tensors, float("inf")).isfinite())

    def step_ran_again(self, k: int, loss: Tensor, before: Tensor) -> None:
        """Note the loss of a step that was run a second time; see `check_repeats`."""
        roundings = torch.finfo(loss.dtype).eps ** 0.75
        alike = ((loss - before).abs() <= roundings * (1 + before.abs())).all()
        self._run_again.append((k, loss, before, alike))

    def check_repeats(self) -> None:
        """Check that batches and steps that were asked for twice were the same both times.

        Once at the end of a run, since a GPU has to be waited for, and before a verification.

        Raises:
            ValueError: a batch was not.
            RuntimeError: the loss of a step was not.
        """
        self._plan.batches.check_repeats()
        again, self._run_again = self._run_again, []
        if not again or bool(torch.stack([alike for *_, alike in again]).all()):
            return
        k, loss, before = next((k, loss, before) for k, loss, before, alike in again if not alike)
        raise RuntimeError(
            f"step {k} gave another loss when it was run again, {loss} after {before}; the "
            "model and the loss must do the same each time (random numbers from torch's global "
            "generators are replayed, those of a generator of their own are not), or pass a "
            "storage that runs no step again, such as `Device()`"
        )

    def verify(self, run: ForwardRun, step: SweptStep) -> None:
        """Verify a sweep, if it is the first of its kind.

        Raises:
            VerificationError: it is wrong.
        """
        problem, batch = self._plan.problem, (step.inputs.images, step.inputs.labels)
        kind = (step.method, problem.compiling, *((t.shape, t.dtype) for t in batch))
        if not problem.verify or kind in problem.verified:
            return
        # Another batch than in the forward run would be taken for a wrong sweep.
        self.check_repeats()
        computed: dict[str, Any] = {"gradients": step.gradients, "loss": run.losses[step.k]}
        if step.k == len(run.losses) - 1:
            computed |= {"statistics": run.final.statistics, "counters": run.final.counters}
        is_verified = verify(
            problem,
            step=step.k,
            inputs=step.inputs,
            bars=step.bars,
            computed=(computed, step.swept),
        )
        if is_verified:
            problem.verified.add(kind)
