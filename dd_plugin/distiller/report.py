"""The files of a run: the distilled set, its curve, its log, its table and a page to look at.

Last in the flow of the trainer: saving the model writes it, and so does each evaluation.
"""

from __future__ import annotations

import io
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin import __version__
from dd_plugin.choices import EVALUATED_NETWORKS
from dd_plugin.data import DIGITS, RealData
from dd_plugin.data.recipe import Recipe
from dd_plugin.distiller.baseline_names import ALL, NAMES, chosen_baselines
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.course import animation, keep_frame, last_frame
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.html_report import Page, report_page
from dd_plugin.distiller.parts import Parts
from dd_plugin.distiller.run import Run
from dd_plugin.evaluation import Scores
from dd_plugin.evaluation.training_images import row_labels
from dd_plugin.files import write_whole
from dd_plugin.hub.card.results import ALL_NETWORKS
from dd_plugin.hub.folder import CORE, write_core, write_set
from dd_plugin.hub.record import (
    DISTILLED,
    About,
    HeldOutPart,
    NetworkClass,
    Protocol,
    Result,
    Settings,
    Source,
)
from dd_plugin.hub.remote.published import check_replaceable
from dd_plugin.text import first_line, table

# Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
_DIGITS_LICENSE = "cc-by-4.0"

# Settings that say nothing to others.
_OF_ONE_MACHINE = {
    "output_dir",
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "run_name",
    "rescue_dir",
    "wait_for_room",
    "feature_dir",
}

# A plot fails in many ways, and not one of them is worth a run.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Report:
    """A run for others to read.

    Attributes:
        run: its settings and folder.
        parts: its real images, the networks and the distilled set.
        position: the steps done and the log.
        results: the table of accuracies, by what was trained on; empty without a comparison.
        running: the run has not ended; nobody is asked over the network then.
    """

    run: Run
    parts: Parts
    position: DistillerState
    results: Mapping[str, Scores]
    running: bool = False

    def write(self, folder: Path) -> None:
        """Write everything into a folder; called on one process.

        Raises:
            OSError: the folder cannot be written.
            ValueError: it is not the run's own, and has files of the user's that would be replaced.
        """
        # The run's own folder was looked at before the run.
        if folder.resolve() != self.run.folder.resolve():
            check_replaceable(folder, "output_dir")
        results = {name: Result.of(scores) for name, scores in self.results.items()}
        write_set(
            folder,
            self.parts.synthetic,
            initial=self._initial(),
            results=results,
            protocol=self._protocol(),
            source=self._source(),
            about=self._about(),
        )
        self._write_extras(folder)

    def describe(self, checkpoint: Path) -> None:
        """Write into a checkpoint what makes a set of it; called on one process.

        Raises:
            OSError: it cannot be written.
        """
        report = replace(self, running=True)
        write_core(
            checkpoint / CORE,
            self.parts.synthetic,
            initial=self._initial(),
            protocol=replace(report, results={})._protocol(),
            source=report._source(),
            about=report._about(),
        )

    def _initial(self) -> dict[str, Tensor] | None:
        networks = self.parts.networks
        if isinstance(networks, HeadCourse):
            return None
        return networks.start(self.parts.synthetic)

    def _source(self) -> Source:
        return _source(self.run.config, self.parts, ask=not self.running)

    def _about(self) -> About:
        config = self.run.config
        return About(
            recipe_name=config.recipe_name or None,
            config=Settings.from_json(self._settings()),
            outer_steps=self.position.global_step,
            unfinished=self._is_unfinished or None,
            network=NetworkClass.from_json(self.parts.networks.summary()),
            versions=_versions(),
        )

    def _settings(self) -> dict[str, Any]:
        """Return the published settings, with what the run has chosen for itself."""
        parts = self.parts
        settings = _published(self.run.config, parts.synthetic.recipe, parts.train.public_name)
        if choices := self.position.choices:
            settings["chosen"] = choices
        return settings

    @property
    def _is_unfinished(self) -> bool:
        return self.running and self.position.global_step < self.position.max_steps

    def _protocol(self) -> Protocol:
        config, images, split = self.run.config, self.parts.evaluation, self.parts.eval_split
        if images is None:
            return Protocol.from_json({})
        name, held_out = images.public_name, HeldOutPart.of(images.held_out)
        if not self.results:
            # A comparison that was interrupted can be taken up by `dd-plugin evaluate`.
            return Protocol(dataset=name, split=split, held_out=held_out, images=_length(images))
        command = ["dd-plugin", "evaluate", self.run.folder.name]
        if name is None:
            command += ["--dataset", "FOLDER", *(["--split", split] if split else [])]
        if config.final_eval_networks != EVALUATED_NETWORKS:
            command += ["--networks", str(int(config.final_eval_networks))]
        if names := chosen_baselines(config.baselines):
            command += ["--baselines", *([ALL] if len(names) == len(NAMES) else names)]
        return Protocol(
            best_step=self.position.best_step if config.load_best_model_at_end else None,
            dataset=name,
            split=split,
            held_out=held_out,
            images=_length(images),
            eval_mode=True,
            command=shlex.join(command),
        )

    def _write_extras(self, folder: Path) -> None:
        """Write the log, the table and the curve beside a set, which is whole without them.

        Warns:
            UserWarning: one of them cannot be written.
        """
        missing = []
        extras = {
            "log.jsonl": self._log,
            "results.md": self._table,
            "curve.png": self._curve,
            "course.webp": self._course,
            "report.html": lambda: self._page(folder),
        }
        for name, make in extras.items():
            try:
                content = make()
                if content is None:
                    (folder / name).unlink(missing_ok=True)  # of an earlier set in the folder
                else:
                    write_whole(folder / name, content)
            except _FAILURES as error:
                with suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
                missing.append(f"{name} ({type(error).__name__}: {first_line(error)})")
        if missing:
            warnings.warn(
                f"the distilled set in {str(folder)!r} is whole, but it lacks {', '.join(missing)}",
                stacklevel=4,
            )

    def _log(self) -> bytes:
        return "".join(json.dumps(line) + "\n" for line in self.position.log_history).encode()

    def _table(self) -> bytes | None:
        if not self.results:
            return None
        classes = self.parts.synthetic.recipe.num_classes
        return (results_table(self.results, classes, self.run.config) + "\n").encode()

    def _curve(self) -> bytes | None:
        is_head = isinstance(self.parts.networks, HeadCourse)
        return training_curve(self._history(), "heads" if is_head else "fresh networks")

    def _history(self) -> list[dict[str, Any]]:
        """The log, and the accuracy of the comparison where there is one."""
        history = list(self.position.log_history)
        if final := self.results.get(DISTILLED):
            accuracy = {"eval_accuracy_mean": final.mean, "eval_accuracy_std": final.std}
            history.append({"step": self.position.global_step, **accuracy})
        return history

    def _course(self) -> bytes | None:
        own, step = self.run.folder, self.position.global_step
        newest = last_frame(own)
        if newest is not None and newest < step:  # the end of a run that kept frames
            keep_frame(own, step, self.parts.synthetic)
        return animation(own)

    def _page(self, folder: Path) -> bytes:
        config, course = self.run.config, folder / "course.webp"
        header: Sequence[str] = ()
        rows: Sequence[Sequence[str]] = ()
        if self.results:
            classes = self.parts.synthetic.recipe.num_classes
            header, rows = results_rows(self.results, classes, config)
        page = Page(
            synthetic=self.parts.synthetic,
            folder=str(folder),
            step=self.position.global_step,
            max_steps=self.position.max_steps,
            running=self._is_unfinished,
            best_step=self.position.best_step if config.load_best_model_at_end else None,
            history=self._history(),
            header=header,
            rows=rows,
            settings=self._settings(),
            versions=_versions(),
            animation=course.read_bytes() if course.exists() else None,
        )
        return report_page(page).encode()


def _versions() -> dict[str, str]:
    return {
        "dd_plugin": __version__,
        "torch": torch.__version__,
        **_installed("timm", "transformers", "datasets"),
    }


def _installed(*packages: str) -> dict[str, str]:
    """Return the versions of the installed packages; arrays need no `datasets`."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _published(config: DistillerConfig, recipe: Recipe, dataset: str | None) -> dict[str, Any]:
    """Return the settings for the record, without those of one machine alone."""
    settings = {name: v for name, v in config.to_dict().items() if name not in _OF_ONE_MACHINE}
    settings["dataset"] = dataset
    if config.start_from is None or Path(config.start_from).exists():
        settings.pop("start_from")  # a folder of this machine says nothing to others
    settings["model"], settings["model_args"] = recipe.model, dict(recipe.model_args)
    if recipe.networks:
        settings["model"] = [one.model for one in recipe.networks]
        settings["model_args"] = [dict(one.model_args) for one in recipe.networks]
    return settings


def _source(config: DistillerConfig, parts: Parts, *, ask: bool) -> Source:
    """Return what was distilled; the Hub is asked for its license, if at all."""
    name = parts.train.public_name
    hub_id = None if name == DIGITS else name
    if config.license:
        licenses = [config.license]
    elif name == DIGITS:
        licenses = [_DIGITS_LICENSE]
    elif hub_id and ask:
        from dd_plugin.hub.remote.download import licenses_of  # and the client of the Hub

        licenses = licenses_of(hub_id)
    else:
        licenses = []
    return Source(
        dataset=name,
        hub_id=hub_id,
        train_split=parts.train_split,
        images=_length(parts.train),
        licenses=tuple(licenses),
        white_level=parts.train.white_level,
    )


def _length(data: RealData) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream does not know
        return None


def results_table(results: Mapping[str, Scores], num_classes: int, config: DistillerConfig) -> str:
    """Return the table of accuracies in Markdown, aligned to be read as plain text too."""
    return table(*results_rows(results, num_classes, config))


def results_rows(
    results: Mapping[str, Scores], num_classes: int, config: DistillerConfig
) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the header and the rows of the table of accuracies."""
    trained, stored = (n * num_classes for n in (config.trained_per_class, config.images_per_class))
    labels = row_labels("distilled images", str(trained), str(stored), "all")
    several = any(scores.by_model for scores in results.values())
    body: list[Sequence[str]] = []
    for name, scores in results.items():
        trained_on, images = labels[name]
        for model, of_model in {**scores.by_model, ALL_NETWORKS: scores}.items():
            network = (model,) if several else ()
            count = str(len(of_model.accuracies))
            body.append((trained_on, *network, images, str(of_model), count))
    network = ("network",) if several else ()
    return ("trained on", *network, "images", "accuracy", "networks"), body


def training_curve(history: list[dict[str, Any]], trained: str = "fresh networks") -> bytes | None:
    """Return a plot of outer loss and accuracy over outer steps, as PNG.

    None if there is nothing to plot, or no matplotlib; ``trained`` names what is tested.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    losses = [(h["step"], h["outer_loss"]) for h in history if "outer_loss" in h]
    scores = [
        (h["step"], h["eval_accuracy_mean"], h["eval_accuracy_std"])
        for h in history
        if "eval_accuracy_mean" in h
    ]
    if not losses and not scores:
        return None
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    left = figure.add_subplot()
    left.set(xlabel="outer step", ylabel="outer loss")
    if losses:
        left.plot(*zip(*losses, strict=True), color="tab:blue", label="outer loss")
    if scores:
        right = left.twinx()
        steps, *shares = zip(*scores, strict=True)
        means, spreads = ([100 * share for share in of] for of in shares)
        right.errorbar(
            steps, means, spreads, color="tab:orange", marker="o", capsize=3, label="accuracy"
        )
        right.set(ylabel=f"accuracy of {trained} (%)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
