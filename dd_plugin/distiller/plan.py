"""The plan of a run: what it is going to do, how long that takes, and what would shorten it.

Made of the settings, the data and the networks of a run, and of the times in `measuring`. Every
number of seconds is a measured one times a count. Settings are in backticks; the command line
spells them as options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from dd_plugin.data import RealData
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.baseline_names import BY_DIFFICULTY, LABEL_CONTROLS, compared_with
from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.defaults import default_arguments
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.machine import free_memory, has_bfloat16
from dd_plugin.distiller.measuring import Measured
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.settings import Settings
from dd_plugin.distiller.storage_choice import trajectory_bytes
from dd_plugin.evaluation.difficulty import YOUNG_NETWORKS, early_steps
from dd_plugin.evaluation.ordinary import batch_size, training_steps
from dd_plugin.text import count

# Seconds above which it is said what would shorten a run.
LONG: Final = 600.0
# An advice that saves a smaller share is none.
_LEAST_SHARE = 0.1
_FEWEST_STEPS = 50
_OF_EVALUATIONS: Final = ("eval_steps", "eval_networks", "final_eval_networks", "baselines")


@dataclass(frozen=True)
class Times:
    """The seconds of the parts of a run.

    Attributes:
        features: passing the real images through frozen networks.
        step: an outer step.
        run: all outer steps.
        evaluations: all of them during the run.
        distilled: the part of the comparison on the distilled set.
        baselines: the part of it on real images.
    """

    features: float
    step: float
    run: float
    evaluations: float
    distilled: float
    baselines: float

    @property
    def comparison(self) -> float:
        """Of the whole comparison."""
        return self.distilled + self.baselines

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.features + self.run + self.evaluations + self.comparison


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        run: its settings and processes.
        state: its synthetic set, networks and real images.
        evaluation: the images to evaluate on, or None.
        eval_split: the split that these are, if it has a name.
        measured: the times of its steps; None where they were not taken.
    """

    run: Run
    state: TrainState
    evaluation: RealData | None
    eval_split: str | None
    measured: Measured | None

    def lines(self) -> list[str]:
        """Return the plan, a fact in each line."""
        facts = [*self._data(), *self._networks(), *self._work()]
        if self.times is not None:
            facts += [*self._durations(self.times), *self._memory()]
            facts += [("to shorten it", text) for text in self.advice()]
        width = max(len(name) for name, _ in facts)
        return [f"{name:<{width}}  {text}" for name, text in facts]

    def advice(self) -> list[str]:
        """Return what would shorten a long run, and by how much; the most first."""
        times, config = self.times, self.run.config
        if times is None or times.total <= LONG:
            return []
        saved = {}
        if times.run > LONG:
            steps = max(int(LONG / times.step) // 10 * 10, _FEWEST_STEPS)
            saved[f"`max_steps` {steps}"] = times.run - steps * times.step
        if times.evaluations and config.eval_networks > 1:
            networks = times.evaluations / config.eval_networks
            saved["`eval_networks` 1"] = times.evaluations - networks
        if times.baselines:
            saved["`baselines` false"] = times.baselines
        if times.comparison and config.final_eval_networks > 1:
            networks = times.comparison / config.final_eval_networks
            saved["`final_eval_networks` 1"] = times.comparison - networks
        worth = [(text, s) for text, s in saved.items() if s >= _LEAST_SHARE * times.total]
        worth.sort(key=lambda pair: -pair[1])
        advice = [f"{text} saves {duration(seconds)}" for text, seconds in worth]
        return [*advice, *self._precision(times)]

    def _precision(self, times: Times) -> Iterator[str]:
        """What half precision would do; it was not measured here, so no seconds are told."""
        config, device = self.run.config, self.run.accelerator.device
        is_single = config.mixed_precision == "no" and config.dtype == "float32"
        if isinstance(self.state.networks, HeadCourse) or not is_single:
            return
        if times.run > times.total / 2 and has_bfloat16(device):
            yield "`mixed_precision` bf16 computes steps in half precision, mostly faster; try it"

    @property
    def times(self) -> Times | None:
        """The seconds of all parts; None where nothing was measured."""
        measured, config = self.measured, self.run.config
        if measured is None:
            return None
        train, tested = self.state.train_data.count() or 0, 0
        if self.evaluation is not None:
            tested = self.evaluation.count() or 0
        networks, synthetic = self.state.networks, self.state.synthetic
        processes = self.run.accelerator.num_processes
        features = distilled = baselines = chosen = 0.0
        if isinstance(networks, HeadCourse):
            features = measured.testing * (train * config.feature_copies + tested) / processes
        elif self.evaluation is not None:
            test = tested * measured.testing
            shown = len(synthetic.indices(0, 0)) * synthetic.copies_per_step
            stored = max(1, int(synthetic.images_per_class)) * synthetic.recipe.num_classes
            distilled = synthetic.recipe.steps * measured.training_step(shown) + test
            names = compared_with(config.baselines)
            for name in names:
                if name in LABEL_CONTROLS:
                    baselines += distilled * config.soft_labels
                    continue
                number = self.state.train_data.count() if name == "full_data" else stored
                baselines += _ordinary(measured, number) + test
            if set(BY_DIFFICULTY) & set(names):
                chosen = _difficulty(measured, self.state.train_data.count())
        of_each = 1 if networks.mode == "fixed" else config.eval_networks
        of_final = 1 if networks.mode == "fixed" else config.final_eval_networks
        # The images are chosen once, for all networks.
        baselines = baselines * config.final_eval_networks + chosen
        architectures = _architectures(networks)
        return Times(
            features=features,
            step=measured.step,
            run=config.max_steps * measured.step,
            evaluations=self._evaluations * of_each * architectures * distilled / processes,
            distilled=of_final * architectures * distilled / processes,
            baselines=architectures * baselines / processes,
        )

    @property
    def _evaluations(self) -> int:
        """How often the set is evaluated before the end."""
        config = self.run.config
        if self.evaluation is None:
            return 0
        during = (config.max_steps - 1) // config.eval_steps if config.eval_steps else 0
        return during + config.load_best_model_at_end

    # Facts, by their names.

    def _data(self) -> Iterator[tuple[str, str]]:
        train, tested = self.state.train_data, self.evaluation
        images = "a stream of images"
        if (number := train.count()) is not None:
            images = f"{count(number, 'image')} of {_named(self.run.config.dataset, train)}"
        yield "data", f"{images} in {count(train.num_classes, 'class')}"
        if counts := train.class_counts():
            low, high = min(counts), max(counts)
            yield "per class", f"{low:,}" if low == high else f"{low:,} to {high:,}"
        if tested is None:
            yield "tested on", "nothing: there is no split for it, and no images are held out"
        elif (rule := tested.held_out) is not None:
            part = f"about {100 * rule.fraction:g} % of each class, held out by `seed`"
            yield "tested on", f"{count(len(tested), 'image')}: {part}, never trained on"
        else:
            number = tested.count()
            images = "a stream" if number is None else count(number, "image")
            split = f" of the split {self.eval_split}" if self.eval_split else ""
            yield "tested on", images + split
        if self.run.config.start_from is not None:
            yield "starts from", self.run.config.start_from
        channels, height, width = train.shape
        why = "as they are"
        if self.run.config.image_size is not None:
            why = "by `image_size`"
        elif train.sizes_differ:
            why = "their median size, since they differ in size; `image_size` changes it"
        color = "gray" if channels == 1 else "color"
        yield "resolution", f"{height} x {width}, {color}, {why}"

    def _networks(self) -> Iterator[tuple[str, str]]:
        config, networks = self.run.config, self.state.networks
        recipe = self.state.synthetic.recipe
        why = ""
        if config.has_default_model and not isinstance(networks, HeadCourse):
            is_rule = dict(recipe.model_args) == default_arguments(recipe.shape, recipe.num_classes)
            why = ", the default for these images" if is_rule else ""
        if isinstance(networks, HeadCourse):
            for backbone in recipe.backbones:
                yield "network", f"{backbone.model or 'your own'}, frozen"
            yield "trained", f"the head, {config.head}"
            return
        for one, label, problem in zip(
            recipe.architectures, recipe.network_labels, networks.problems, strict=True
        ):
            arguments = ", ".join(f"{name} {value}" for name, value in one.model_args.items())
            size = sum(t.numel() for t in problem.model.parameters.values())
            name = label if one.model else "your own"
            yield "network", f"{name}{f' ({arguments})' if arguments else ''}{why}"
            yield "weights", f"{size:,}, all trained"
        start = {"fixed": "from the same weights each time", "pool": "from a pool"}
        yield "start", start.get(networks.mode, "from fresh weights each time")

    def _work(self) -> Iterator[tuple[str, str]]:
        config, synthetic = self.run.config, self.state.synthetic
        labels = "images and labels" if config.soft_labels else "images"
        number = len(synthetic.labels)
        yield "learned", f"{number:,} {labels}, {config.trained_per_class} per class"
        inner = f" of {config.inner_steps} inner steps"
        is_closed = isinstance(self.state.networks, HeadCourse) and config.head == "ridge"
        yield "steps", f"{config.max_steps:,}{'' if is_closed else inner}"
        chosen = self._chosen()
        to_evaluate = [text for name, text in chosen.items() if name in _OF_EVALUATIONS]
        if others := [text for name, text in chosen.items() if name not in _OF_EVALUATIONS]:
            yield "by the data", ", ".join(others)
        if to_evaluate:
            yield "to evaluate", ", ".join(to_evaluate) + ", by the data too"

    def _chosen(self) -> dict[str, str]:
        """The settings that the data decided, by name, with their values; see `defaults`."""
        config, default = self.run.config, Settings()
        values = {
            field.name: " ".join(value) if isinstance(value, list) else value
            for field in fields(default)
            if is_left_alone(value := getattr(config, field.name))
            and value != getattr(default, field.name)
            and field.name != "model_args"
        }
        if values.get("batching") == "groups":
            values["groups"] = config.groups
        if values.get("batching") == "minibatches":
            values["batch_size"] = config.batch_size
        return {name: f"`{name}` {value}" for name, value in values.items()}

    def _durations(self, times: Times) -> Iterator[tuple[str, str]]:
        config = self.run.config
        if times.features:
            yield "features", f"{duration(times.features)}, once"
        less = ", less if compiling pays" if config.compile == "auto" and not times.features else ""
        yield "a step", f"{duration(times.step)}, as measured"
        yield "the run", f"{duration(times.run)}{less}"
        if isinstance(self.state.networks, HeadCourse):
            return
        if times.evaluations:
            each = f"{self._evaluations} of {count(config.eval_networks, 'network')}"
            yield "evaluations", f"{duration(times.evaluations)}, {each}"
        if times.comparison:
            of = count(config.final_eval_networks, "network") + " of a kind"
            yield "comparison", f"{duration(times.comparison)}, {of}"
        yield "in all", duration(times.total)

    def _memory(self) -> Iterator[tuple[str, str]]:
        networks, device = self.state.networks, self.run.accelerator.device
        free = free_memory(device)
        left = f", {free / (1 << 30):.1f} GiB are free" if free is not None else ""
        if isinstance(networks, Architectures) and self.run.config.method != "autograd":
            of_each = (trajectory_bytes(problem, self.run.config) for problem in networks.problems)
            yield "memory", f"{max(of_each) / (1 << 20):,.0f} MiB for the trajectory{left}"


def is_worth_measuring(config: DistillerConfig) -> bool:
    """Return whether two steps more are next to nothing in a run."""
    return config.max_steps >= _FEWEST_STEPS


def duration(seconds: float) -> str:
    """Return a time with two digits, in the unit that fits."""
    if seconds < 1:
        return f"{max(1, round(1000 * seconds))} ms"
    number, unit = seconds, "s"
    for longer in ("minutes", "hours"):
        if number >= 100:
            number, unit = number / 60, longer
    return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"


def _ordinary(measured: Measured, images: int | None) -> float:
    """The seconds of ordinary training on so many images; None is a stream."""
    return training_steps(images) * measured.training_step(batch_size(images))


def _difficulty(measured: Measured, images: int | None) -> float:
    """The seconds in which young networks say how hard so many images are; None is a stream."""
    training = early_steps(images) * measured.training_step(batch_size(images))
    return YOUNG_NETWORKS * (training + (images or 0) * measured.testing)


def _architectures(networks: Architectures | HeadCourse) -> int:
    return 1 if isinstance(networks, HeadCourse) else len(networks.members)


def _named(dataset: str, data: RealData) -> str:
    """The name of a data set as the user gave it; an object has none."""
    return data.public_name or dataset
