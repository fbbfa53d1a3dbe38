"""The seconds that the steps of a run take, measured on throw-away copies before it begins.

Used for the plan of a run. Nothing of the run is changed: its steps draw their random numbers by
purpose, and generators, networks and data are put back. What is traced and verified here is not
traced and verified again by the first step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dd_plugin.bn import revert_bn
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.head_course import HeadCourse, features_with_pullback
from dd_plugin.distiller.outer_step import OuterStep
from dd_plugin.evaluation.ordinary import accuracy_of_module, train_on_real
from dd_plugin.evaluation.preparation import training_input
from dd_plugin.networks import Backbone
from dd_plugin.seeds import Purpose, mix, untouched_generators

# Images of the two batches by which ordinary training is measured.
_FEW, _MORE = 2, 16


@dataclass(frozen=True)
class Measured:
    """Seconds, as they were measured.

    Attributes:
        step: an outer step; of a run for heads without the objective among features.
        training: a step of ordinary training, however few its images are.
        per_image: what each image adds to that.
        testing: passing an image through a network.
    """

    step: float
    training: float
    per_image: float
    testing: float

    def training_step(self, images: int) -> float:
        """Return the seconds of a step of ordinary training on so many images."""
        return self.training + images * self.per_image


def measure(step: OuterStep, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """Measure the steps of a run; each is done twice, and the second one counts.

    Args:
        step: that of the run, which is not taken.
        clock: seconds; a test gives its own.
    """
    networks, device = step.state.networks, step.run.accelerator.device

    def seconds(work: Callable[[], object]) -> float:
        _wait(device)
        began = clock()
        work()
        _wait(device)
        return clock() - began

    with untouched_generators():
        if isinstance(networks, HeadCourse):
            return _measured_heads(step, networks, seconds)
        outer = _outer_step(step, len(networks.members), seconds)
        each = [_ordinary(step, networks, place, seconds) for place in range(len(networks.members))]
    training, per_image, testing = (sum(values) / len(each) for values in zip(*each, strict=True))
    return Measured(outer, training, per_image, testing)


_Seconds = Callable[[Callable[[], object]], float]


def _outer_step(step: OuterStep, architectures: int, seconds: _Seconds) -> float:
    """The mean over as many steps as there are architectures, which take turns in them."""
    taken = []
    for number in range(architectures):
        position = replace(step.state.position, global_step=number)
        trial = replace(step, state=replace(step.state, position=position))
        trial.try_out()  # with tracing and verification, which the run then has done
        taken.append(seconds(trial.try_out))
    return sum(taken) / len(taken)


def _ordinary(
    step: OuterStep, architectures: Architectures, place: int, seconds: _Seconds
) -> tuple[float, float, float]:
    """Fixed seconds of a training step, seconds per image, and seconds of a test per image."""
    networks, few, more = architectures.members[place], _batch(step, _FEW), _batch(step, _MORE)
    network = revert_bn(networks.new_model(mix(networks.seed, Purpose.MEASURED_STEPS)))

    def trained(batch: tuple[Tensor, Tensor]) -> float:
        def work() -> None:
            train_on_real(network, lambda _: batch, 1)

        work()
        return min(seconds(work), seconds(work))

    with_few, with_more = trained(few), trained(more)
    per_image = max(with_more - with_few, 0.0) / (_MORE - _FEW)
    accuracy_of_module(network, [more])
    testing = seconds(lambda: accuracy_of_module(network, [more])) / _MORE
    return max(with_few - _FEW * per_image, 0.0), per_image, testing


def _measured_heads(step: OuterStep, course: HeadCourse, seconds: _Seconds) -> Measured:
    """Of the frozen networks, through which the images pass; heads take little beside them."""
    images = step.state.synthetic.images().detach()
    autocast = step.state.synthetic.recipe.autocast
    some, _ = _batch(step, _MORE)
    outer, testing = 0.0, 0.0
    for backbone in course.backbones:

        def there_and_back(backbone: Backbone = backbone) -> None:
            features, pull_back = features_with_pullback(
                backbone, images, course.batch_size, autocast
            )
            pull_back(torch.ones_like(features))

        def forward(backbone: Backbone = backbone) -> None:
            with torch.no_grad():
                backbone(some)

        there_and_back()
        outer += seconds(there_and_back) / len(course.backbones)
        forward()
        testing += seconds(forward) / len(some)
    return Measured(outer * step.run.networks_per_step, 0.0, 0.0, testing)


def _batch(step: OuterStep, size: int) -> tuple[Tensor, Tensor]:
    """Images as network input, and labels: those of the set, again and again."""
    synthetic = step.state.synthetic
    rows = torch.arange(size, device=synthetic.labels.device) % len(synthetic.labels)
    images = synthetic.images().detach()[rows]
    seed = mix(step.run.config.seed, Purpose.MEASURED_STEPS)
    return training_input(synthetic, images, seed).detach(), synthetic.labels[rows]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
