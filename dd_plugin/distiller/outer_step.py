"""An outer step: average the gradients of networks over all processes, and move the set.

The heart of the loop in `distiller`. Every process differentiates its own networks on its own real
batches, and one sum over the processes carries gradients, losses and flags. Whatever is random is a
function of the seed, the step and the index of the network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from dd_plugin.bilevel import (
    AdaptingWindow,
    Hypergradient,
    Storage,
    Window,
    hypergradient,
    hypergradients,
)
from dd_plugin.bilevel.batches import Batch
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.clipping import clip_by_moving_norm, gradient_norms
from dd_plugin.distiller.head_course import HeadCourse, HeadStep
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.skipped_steps import skip
from dd_plugin.distiller.stopping import StopSignal
from dd_plugin.memory import memory_of_gpu
from dd_plugin.seeds import Purpose, mix, untouched_generators

# The share of a GPU's memory that the batches of an inner run may take together.
_SHARE_FOR_BATCHES: Final = 1 / 64


@dataclass(frozen=True)
class _Average:
    """The mean over the networks of a step, or the part of one process in it.

    Attributes:
        gradients: for the leaves, in their order.
        outer_loss: 0-d.
        finite: whether every loss and every gradient is.
        inner_losses: of each inner step that was run, if the window adapts to them; else empty.
        stop: whether a process was asked to end.
    """

    gradients: list[Tensor]
    outer_loss: Tensor
    finite: bool
    inner_losses: Tensor
    stop: bool


@dataclass(frozen=True)
class OuterStep:
    """Takes the outer steps of a run.

    Attributes:
        run: the settings and the processes.
        state: what a step changes.
        real_batch: the real images on which a network of a step is judged, by step and index.
        window: the inner steps that are differentiated.
        storage: where the states of an inner run are kept.
    """

    run: Run
    state: TrainState
    real_batch: Callable[[int, int], tuple[Tensor, Tensor]]
    window: Window
    storage: Storage

    def take(self, signal: StopSignal) -> float:
        """Average the networks' gradients and move the synthetic set.

        Args:
            signal: a signal that came by the time of the average is noted in the position of the
                run, on all processes in the same step.

        Returns:
            The mean outer loss, not finite if the step was skipped.

        Raises:
            NonFiniteError: too many steps in a row were not finite.
        """
        state, position = self.state, self.state.position
        leaves = [leaf for group in state.synthetic.leaves().values() for leaf in group]
        average = self._all_processes(self._this_process(leaves, signal))
        if average.stop:
            position.interrupted = signal.name or "a signal to another process"
        if not average.finite:
            skip(position, self.run.config.max_skipped_steps)
        else:
            position.consecutive_skipped = 0
            resting = self._resting(position.global_step)
            for leaf, gradient in zip(leaves, average.gradients, strict=True):
                leaf.grad = None if id(leaf) in resting else gradient
        norms = gradient_norms(state.optimizer)
        # All at once: the host waits for a GPU each time that it reads a value.
        *read, outer_loss = torch.stack([*norms.values(), average.outer_loss]).tolist()
        clip_by_moving_norm(
            state.optimizer,
            dict(zip(norms, read, strict=True)),
            position.gradient_norms,
            self.run.config.max_grad_norm,
        )
        if average.finite and isinstance(window := self.window_now, AdaptingWindow):
            seen = window.after(average.inner_losses.tolist(), float(outer_loss))
            position.window = seen.state_dict()
        # Without gradients, after a step that was left out, nothing moves.
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.synthetic.constrain_()
        state.lr_scheduler.step()
        position.global_step += 1
        return float(outer_loss)

    def try_out(self) -> None:
        """Compute what a step does in this process and drop it: the state stays as it is."""
        state = self.state
        networks, data = state.networks.state_dict(), state.train_data.state_dict()
        aside = replace(self, state=replace(state, position=copy.deepcopy(state.position)))
        leaves = [leaf for group in state.synthetic.leaves().values() for leaf in group]
        try:
            with untouched_generators():
                aside._this_process(leaves, StopSignal())
        finally:
            state.networks.load_state_dict(networks)
            state.train_data.load_state_dict(data)

    def _this_process(self, leaves: Sequence[Tensor], signal: StopSignal) -> _Average:
        count, step = self.run.networks_per_step, self.state.position.global_step
        total = [torch.zeros_like(leaf) for leaf in leaves]
        device = self.run.accelerator.device
        outer_loss = torch.zeros((), dtype=self.run.dtype, device=device)
        inner_losses = torch.zeros(0, dtype=self.run.dtype, device=device)
        adapts, finite = isinstance(self.window, AdaptingWindow), True
        for indices in self._groups(step, self.run.share(count)):
            if len(indices) == 1:
                mean = self.gradient(step, indices[0], leaves)
            else:
                mean = self._batched(step, indices, leaves)
            finite &= mean.finite
            size = len(indices)
            outer_loss += mean.outer_loss * size / count
            if adapts and isinstance(mean, Hypergradient):
                # Of each network where several were run as one.
                part = mean.inner_losses.reshape(mean.stop, -1).mean(1) * size / count
                inner_losses = inner_losses + part if len(inner_losses) else part
            total = [sum_ + g * size / count for sum_, g in zip(total, mean.leaves, strict=True)]
        return _Average(total, outer_loss, finite, inner_losses, stop=signal.name is not None)

    def _groups(self, step: int, indices: Sequence[int]) -> list[list[int]]:
        """Some networks of a step, those together that are run as one."""
        architectures = self.state.networks
        if isinstance(architectures, HeadCourse) or not self.run.config.batch_networks:
            return [[index] for index in indices]
        groups: dict[int, list[int]] = {}
        for index in indices:
            groups.setdefault(architectures.choice(self._turn(step, index)), []).append(index)
        return list(groups.values())

    def _all_processes(self, part: _Average) -> _Average:
        """Return the sum of the parts of all processes, in one exchange."""
        accelerator = self.run.accelerator
        if accelerator.num_processes == 1:
            return part
        flags = torch.tensor(
            [not part.finite, part.stop], dtype=self.run.dtype, device=accelerator.device
        )
        gradients = (g.flatten() for g in part.gradients)
        flat = torch.cat([flags, part.outer_loss.reshape(1), part.inner_losses, *gradients])
        flat = torch.as_tensor(accelerator.reduce(flat, reduction="sum"))
        unusable, stop = (flat[:2] > 0).tolist()
        sizes = [len(part.inner_losses), *(g.numel() for g in part.gradients)]
        inner_losses, *pieces = flat[3:].split(sizes)
        total = [p.view_as(g) for p, g in zip(pieces, part.gradients, strict=True)]
        return _Average(total, flat[2], not unusable, inner_losses, stop=stop)

    @property
    def window_now(self) -> Window:
        """The window of the step: an adaptive one with what it has seen so far."""
        if isinstance(self.window, AdaptingWindow):
            return self.window.with_state(self.state.position.window)
        return self.window

    def gradient(self, step: int, index: int, leaves: Sequence[Tensor]) -> Hypergradient | HeadStep:
        """Return the gradient of one network's outer loss for some leaves of the set.

        Args:
            step: the outer step.
            index: of the network, among those of the step.
            leaves: tensors of the synthetic set.
        """
        networks, turn = self.state.networks, self._turn(step, index)
        if isinstance(networks, HeadCourse):
            networks.prepare()
            return networks.gradient(self.state.synthetic, step, index, leaves, turn=turn)
        return self._unrolled(networks, step, index, leaves, turn=turn)

    def _unrolled(
        self,
        architectures: Architectures,
        step: int,
        index: int,
        leaves: Sequence[Tensor],
        *,
        turn: int,
    ) -> Hypergradient:
        """Return the gradient through the inner training of the architecture whose turn it is."""
        which = architectures.choice(turn)
        networks = architectures.members[which]
        start = networks.take(step, index)
        age = networks.age(index)
        result = hypergradient(
            networks.problem(),
            # A network of the pool goes on where its training by the recipe is.
            self._batches(step, age),
            self.real_batch(step, index),
            initial=start,
            **self._options(step, index, which, age=age),
            leaves=leaves,
        )
        networks.give_back(index, result.final, age + result.stop)
        self.state.position.inner_steps += result.stop
        return result

    def _batches(self, step: int, age: int) -> Sequence[Batch] | Callable[[int], Batch]:
        """Return the batches of an inner run that begins after ``age`` inner steps.

        On a GPU all at once, where they take little of its memory: launching the operations of each
        batch would take longer than they do.
        """
        synthetic, steps = self.state.synthetic, self.run.config.inner_steps
        memory = memory_of_gpu(self.run.accelerator.device)
        if memory is not None:
            images = len(synthetic.indices(0, 0)) * synthetic.copies_per_step
            values = steps * images * math.prod(synthetic.recipe.shape)
            if values * self.run.dtype.itemsize <= memory * _SHARE_FOR_BATCHES:
                return synthetic.batches_at_once(range(age, age + steps), self._seed(step))
        batches = synthetic.batches(self._seed(step))
        return lambda k: batches(age + k)

    def _batched(
        self, step: int, indices: Sequence[int], leaves: Sequence[Tensor]
    ) -> Hypergradient:
        """The same for the mean loss of several networks of one architecture, run as one."""
        architectures = self.state.networks
        assert isinstance(architectures, Architectures)
        which = architectures.choice(self._turn(step, indices[0]))
        networks = architectures.members[which]
        images, labels = zip(*(self.real_batch(step, index) for index in indices), strict=True)
        try:
            result = hypergradients(
                networks.problem(),
                self._batches(step, age=0),
                (torch.cat(images), torch.cat(labels)),
                [networks.take(step, index) for index in indices],
                mode="batched",
                split_outer_batch=True,
                **self._options(step, indices[0], which),
                leaves=leaves,
            ).mean
        except (NotImplementedError, RuntimeError) as error:
            error.add_note("without `batch_networks` the networks run one after the other")
            raise
        self.state.position.inner_steps += result.stop * len(indices)
        return result

    def _options(self, step: int, index: int, which: int, *, age: int = 0) -> dict[str, Any]:
        """How networks of a step are trained and differentiated, as arguments of the engine.

        Args:
            step: the outer step.
            index: of the first of the networks.
            which: the place of their architecture.
            age: inner steps that they have had.
        """
        config, synthetic = self.run.config, self.state.synthetic
        return {
            "step_size": synthetic.step_size(age, config.inner_steps),
            "steps": config.inner_steps,
            "window": self.window_now,
            "method": config.method,
            "storage": self.storage,
            "seed": self._seed(step),
            "model_seed": mix(config.seed, Purpose.MODEL_NOISE, step, index),
            "constants": synthetic.constants(which) or None,
            # A set may hold what the settings leave without effect.
            "allow_unused": True,
        }

    def _seed(self, step: int) -> int:
        """Decides the batches and the window of a step, alike for all of its networks."""
        return mix(self.run.config.seed, Purpose.INNER_RUN, step)

    def _turn(self, step: int, index: int = 0) -> int:
        """Return the number of an inner run, counted over all outer steps."""
        return step * self.run.networks_per_step + index

    def _resting(self, step: int) -> set[int]:
        """Return the `id` of the tensors of architectures that a step does not use.

        The step says nothing about these tensors, so the outer optimizer leaves them alone.
        """
        networks = self.state.networks
        if isinstance(networks, HeadCourse):
            return set()
        turns = range(self._turn(step), self._turn(step + 1))
        places = networks.resting(turns)
        return {id(t) for place in places for t in self.state.synthetic.constants(place).values()}
