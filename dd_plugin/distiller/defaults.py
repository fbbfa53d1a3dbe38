"""The network and the settings of a run that names none, by its images and classes.

One rule for all data; the digits are one case of it. `architectures` asks for the network, `parts`
for the settings. The network is the benchmark ConvNet of the field with BatchNorm: each block
halves the images, and four rows and columns are left, as in the papers on 32x32 and 64x64. The
settings are those of the digits if the multiply-adds of the run are within a budget. If not, they
are lowered step by step. Nothing is timed, so the same data give the same run everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dd_plugin.choices import BaselineName
from dd_plugin.distiller.baseline_names import (
    AUTO,
    BY_DIFFICULTY,
    LABEL_CONTROLS,
    compared_with,
)
from dd_plugin.distiller.by_data import is_left_alone, marked
from dd_plugin.distiller.settings import Settings
from dd_plugin.evaluation.difficulty import YOUNG_NETWORKS, early_steps
from dd_plugin.evaluation.ordinary import batch_size, training_steps

_WIDTHS: Final = (32, 64, 128)
_FEWEST_BLOCKS, _MOST_BLOCKS = 2, 5
_ROWS_LEFT: Final = 4

# A core does this many multiply-adds a second at least, in convolutions of such networks.
A_SECOND: Final = 10**10
# Of the run, and of all networks that are trained to evaluate it.
BUDGET: Final = 300 * A_SECOND
# A GPU is no slower than this many cores.
GPU: Final = 100

# Forward passes that a step of training is worth, and a step that is differentiated afterwards.
_TRAINED, _DIFFERENTIATED = 3, 7
# What a step takes beside its images: the launching of its operations. Without a trace every layer
# goes through Python, forward and in each of its derivatives.
_FIXED, _FIXED_DIFFERENTIATED = 0.005 * A_SECOND, 0.015 * A_SECOND
_FIXED_UNTRACED: Final = 0.1 * A_SECOND

# Synthetic images of an inner step, and how often each of them is trained on at least.
_LARGEST_STEP, _FEWEST_TURNS = 100, 2


class Course(NamedTuple):
    """The outer steps of a run, the inner steps of each, and the real images of each."""

    max_steps: int
    inner_steps: int
    real_batch_size: int


class Networks(NamedTuple):
    """Fresh networks at the end and per evaluation, and whether all real images are compared."""

    final_eval_networks: int
    eval_networks: int
    full_data: bool


# Each takes less than the one before. The first that is within the budget is taken, or the last.
COURSES: Final = (
    Course(300, 20, 256),
    Course(250, 20, 256),
    Course(200, 20, 256),
    Course(200, 15, 128),
    Course(200, 10, 128),
    Course(150, 10, 128),
    Course(100, 10, 128),
    Course(100, 10, 64),
    Course(100, 5, 64),
    Course(70, 5, 64),
    Course(50, 5, 32),
)
NETWORKS: Final = (
    Networks(5, 3, True),
    Networks(3, 2, True),
    Networks(2, 1, True),
    Networks(2, 1, False),
    Networks(1, 1, False),
)


def default_arguments(shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Return the arguments of `timm/dd_convnet`.

    Args:
        shape: channels, height and width of the images.
        num_classes: how many; there are no fewer channels than classes, up to 128.
    """
    side = min(shape[1:])
    blocks = round(math.log2(side / _ROWS_LEFT))
    # A block needs two rows and columns.
    possible = max(1, int(math.log2(side)))
    return {
        "width": next((width for width in _WIDTHS if width >= num_classes), _WIDTHS[-1]),
        "depth": min(max(blocks, _FEWEST_BLOCKS), _MOST_BLOCKS, possible),
        "norm_layer": "batchnorm2d",
    }


@dataclass(frozen=True)
class Amounts:
    """What a run is on, in numbers.

    Attributes:
        multiply_adds: of a forward pass of an image, as the mean over the architectures.
        architectures: how many there are.
        classes: how many there are.
        images: real ones that are distilled; None of a stream.
        tested: real ones to evaluate on; 0 for none, None of a stream.
        on_gpu: whether a GPU computes.
        is_traced: whether inner steps run as recorded operations.
    """

    multiply_adds: float
    architectures: int
    classes: int
    images: int | None
    tested: int | None
    on_gpu: bool = False
    is_traced: bool = True

    @property
    def budget(self) -> float:
        """Multiply-adds of the run, and of its evaluations."""
        return BUDGET * (GPU if self.on_gpu else 1)


def chosen_settings(config: Settings, amounts: Amounts) -> dict[str, Any]:
    """Return the settings that a user left alone and that are not as they are by default.

    Settings that were written down stay as they are, and the others are chosen around them. A
    number of outer steps that was written down lowers no other setting: more of them are a wish for
    a longer run.

    Args:
        config: the settings, of which some are left alone; see `by_data`.
        amounts: what the run is on.

    Returns:
        Values by name, with the mark of `by_data` where the setting has one.
    """
    chosen = _Rule(config, amounts).chosen()
    return {
        name: value if value is None or not is_left_alone(getattr(config, name)) else marked(value)
        for name, value in chosen.items()
        if value != getattr(config, name)
    }


def run_multiply_adds(config: Settings, amounts: Amounts) -> float:
    """Return the multiply-adds of all outer steps, as the rule counts them."""
    course = Course(config.max_steps, config.inner_steps, config.real_batch_size)
    return _Rule(config, amounts).run(course)


def evaluation_multiply_adds(config: Settings, amounts: Amounts) -> float:
    """Return those of all networks that are trained to evaluate."""
    course = Course(config.max_steps, config.inner_steps, config.real_batch_size)
    has_all = "full_data" in compared_with(config.baselines)
    networks = Networks(config.final_eval_networks, config.eval_networks, has_all)
    return _Rule(config, amounts).evaluations(course, networks)


@dataclass(frozen=True)
class _Rule:
    """The rule, applied to some settings and data."""

    config: Settings
    amounts: Amounts

    def chosen(self) -> dict[str, Any]:
        """Return all settings that the rule is about and may choose."""
        fitting = (c for c in COURSES if self.run(c) <= self.amounts.budget)
        course = self._around_settings(next(fitting, COURSES[-1]))
        may_choose = {
            name: value
            for name, value in course._asdict().items()
            if is_left_alone(getattr(self.config, name))
        }
        images = self.amounts.images
        if images is not None and images <= course.real_batch_size:
            may_choose.pop("real_batch_size", None)  # a step takes all of them anyway
        may_choose |= {name: self._between(course, name) for name in ("eval_steps", "save_steps")}
        if self.config.trainable == "head":
            return {**may_choose, **self._batching(course.inner_steps)}
        return {**may_choose, **self._batching(course.inner_steps), **self._networks(course)}

    def _around_settings(self, course: Course) -> Course:
        """Return a course with what was written down, and with what it says for the rest."""
        config, values = self.config, course._asdict()
        for name in ("inner_steps", "real_batch_size"):
            if not is_left_alone(getattr(config, name)):
                values[name] = getattr(config, name)
        if config.window != "full" or config.init == "pool":
            values["inner_steps"] = config.inner_steps  # they fit each other
        if config.trainable == "head":
            # Neither passes through the frozen network.
            values |= {"inner_steps": config.inner_steps, "real_batch_size": config.real_batch_size}
        return Course(**values)

    def _between(self, course: Course, name: str) -> int:
        """The steps between two evaluations or checkpoints: a third where the run is shortened."""
        said: int = getattr(self.config, name)
        is_shortened = is_left_alone(self.config.max_steps) and (
            course.max_steps < COURSES[0].max_steps
        )
        if not is_left_alone(said) or not is_shortened:
            return said
        return math.ceil(course.max_steps / 30) * 10

    # Multiply-adds.

    def run(self, course: Course) -> float:
        """Return those of the outer steps of a course."""
        course, per_image = self._around_settings(course), self.amounts.multiply_adds
        if self.config.trainable == "head":
            step = _TRAINED * per_image * self._synthetic
            return course.max_steps * (step * self._copies + _FIXED_DIFFERENTIATED)
        real = course.real_batch_size
        if self.amounts.images is not None:
            real = min(real, self.amounts.images)
        fixed = _FIXED_DIFFERENTIATED if self.amounts.is_traced else _FIXED_UNTRACED
        inner = _DIFFERENTIATED * per_image * self._shown(course) + fixed
        return course.max_steps * (course.inner_steps * inner + _TRAINED * per_image * real)

    def evaluations(self, course: Course, networks: Networks) -> float:
        """Return those of everything that is trained to evaluate."""
        if self.amounts.tested == 0:
            return 0.0
        config, per_image = self.config, self.amounts.multiply_adds
        inner = config.pool_max_steps if config.init == "pool" else course.inner_steps
        test = per_image * (self.amounts.tested or 0)
        distilled = test + inner * (_TRAINED * per_image * self._shown(course) + _FIXED)
        stored = config.images_per_class * self.amounts.classes
        names = self._baselines(networks)
        compared = 0.0
        for name in names:
            if name in LABEL_CONTROLS:
                compared += distilled * config.soft_labels
            else:
                images = self.amounts.images if name == "full_data" else stored
                compared += test + self._ordinary(images)
        chosen = self._difficulty() if set(BY_DIFFICULTY) & set(names) else 0.0
        often = _times(course.max_steps, self._between(course, "eval_steps"))
        often += config.load_best_model_at_end
        each = often * networks.eval_networks * distilled
        each += networks.final_eval_networks * (distilled + compared) + chosen
        return self.amounts.architectures * each

    def _ordinary(self, images: int | None) -> float:
        of_batch = _TRAINED * self.amounts.multiply_adds * batch_size(images)
        return training_steps(images) * (of_batch + _FIXED)

    def _difficulty(self) -> float:
        """Of the young networks that say how hard each image is."""
        images, per_image = self.amounts.images, self.amounts.multiply_adds
        step = _TRAINED * per_image * batch_size(images) + _FIXED
        return YOUNG_NETWORKS * (early_steps(images) * step + per_image * (images or 0))

    def _baselines(self, networks: Networks) -> list[BaselineName]:
        """The names of what networks are trained on, to compare with."""
        names: Any = self.config.baselines
        if is_left_alone(names):
            names = AUTO if networks.full_data else "random_real"
        return compared_with(names)

    @property
    def _synthetic(self) -> int:
        return self.config.trained_per_class * self.amounts.classes

    @property
    def _copies(self) -> int:
        return self.config.augmentations_per_step if self.config.is_augmented else 1

    def _shown(self, course: Course) -> int:
        """The images of an inner step."""
        batching = self._batching(course.inner_steps)
        kind = batching.get("batching", self.config.batching)
        images = self._synthetic
        if kind == "groups":
            images //= batching.get("groups", self.config.groups)
        elif kind == "minibatches":
            images = min(images, batching.get("batch_size") or self.config.batch_size or images)
        return images * self._copies

    # What is chosen beside the course.

    def _batching(self, inner_steps: int) -> dict[str, Any]:
        """Groups for many images, or minibatches where the images of a class do not divide."""
        config, images = self.config, self._synthetic
        is_said = any(
            value not in (1, None) and not is_left_alone(value)
            for value in (config.groups, config.batch_size)
        )
        if not is_left_alone(config.batching) or is_said:
            return {}
        largest = max(_LARGEST_STEP, math.ceil(_FEWEST_TURNS * images / inner_steps))
        if images <= largest or config.trainable == "head":
            return {"batching": "all", "groups": 1, "batch_size": None}
        per_class = config.trained_per_class
        for groups in range(2, min(per_class, inner_steps // _FEWEST_TURNS) + 1):
            if per_class % groups == 0 and images / groups <= largest:
                return {"batching": "groups", "groups": marked(groups), "batch_size": None}
        return {"batching": "minibatches", "groups": 1, "batch_size": marked(largest)}

    def _networks(self, course: Course) -> dict[str, Any]:
        """The networks of the evaluations, and the real images that they compare with."""
        if self.amounts.tested == 0:
            return {}
        fitting = (n for n in NETWORKS if self._are_in_time(course, self._with_said(n)))
        networks = next(fitting, NETWORKS[-1])
        chosen: dict[str, Any] = {
            name: getattr(networks, name)
            for name in ("final_eval_networks", "eval_networks")
            if is_left_alone(getattr(self.config, name))
        }
        if is_left_alone(self.config.baselines):
            chosen["baselines"] = [AUTO] if networks.full_data else ["random_real"]
        return chosen

    def _are_in_time(self, course: Course, networks: Networks) -> bool:
        return self.evaluations(course, networks) <= self.amounts.budget

    def _with_said(self, networks: Networks) -> Networks:
        """Networks with what was written down, and with the rest as it is."""
        said = {
            name: getattr(self.config, name)
            for name in ("final_eval_networks", "eval_networks")
            if not is_left_alone(getattr(self.config, name))
        }
        return networks._replace(**said)


def _times(steps: int, between: int) -> int:
    """How often something is done in a run, before its end."""
    return (steps - 1) // between if between else 0
