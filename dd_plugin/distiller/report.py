"""What a run leaves behind: the distilled set, its curve, its log and the table of accuracies.

Last in the flow of the trainer; `Distiller.save_model` calls it.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dd_plugin import __version__
from dd_plugin.data import DIGITS, RealData
from dd_plugin.evaluation import Scores, network_seed
from dd_plugin.evaluation.training_images import row_labels
from dd_plugin.files import write_whole
from dd_plugin.hub.card.results import ALL_NETWORKS
from dd_plugin.hub.folder import write_set
from dd_plugin.hub.record import DISTILLED, About, NetworkClass, Protocol, Result, Settings, Source
from dd_plugin.hub.remote.download import licenses_of
from dd_plugin.hub.remote.published import check_replaceable
from dd_plugin.text import first_line, table

if TYPE_CHECKING:
    from dd_plugin.distiller.config import DistillerConfig
    from dd_plugin.distiller.distiller import Distiller

# Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
_DIGITS_LICENSE = "cc-by-4.0"

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


def write_report(distiller: Distiller, folder: Path) -> None:
    """Write everything into a folder; called on one process.

    Raises:
        OSError: the folder cannot be written.
        ValueError: it is not the run's own, and has files of the user's that would be replaced.
    """
    if folder.resolve() != distiller.output_dir.resolve():  # which was looked at before the run
        check_replaceable(folder, "output_dir")
    config, state = distiller.config, distiller.state
    initial = None
    if distiller.head is None:
        initial = distiller.architectures.start(distiller.synthetic)
    results = {name: _result(s, config.seed) for name, s in distiller.results.items()}
    about = About(
        recipe_name=config.recipe_name or None,
        config=Settings.from_json(_published(distiller)),
        outer_steps=state.global_step,
        network=NetworkClass.from_json(distiller.networks.summary()),
        versions={
            "dd_plugin": __version__,
            "torch": torch.__version__,
            **_installed("timm", "transformers", "datasets"),
        },
    )
    write_set(
        folder,
        distiller.synthetic,
        initial=initial,
        results=results,
        protocol=_protocol(distiller),
        source=_source(distiller),
        about=about,
    )
    _write_extras(distiller, folder)


def _write_extras(distiller: Distiller, folder: Path) -> None:
    """Write the log, the table and the curve beside a set, which is whole without them.

    Warns:
        UserWarning: one of them cannot be written.
    """

    def log() -> bytes:
        return "".join(json.dumps(line) + "\n" for line in distiller.state.log_history).encode()

    def table_of_results() -> bytes | None:
        if not distiller.results:
            return None
        classes = distiller.synthetic.recipe.num_classes
        return (results_table(distiller.results, classes, distiller.config) + "\n").encode()

    def curve() -> bytes | None:
        history = list(distiller.state.log_history)
        if final := distiller.results.get(DISTILLED):
            ended = {"eval_accuracy_mean": final.mean, "eval_accuracy_std": final.std}
            history.append({"step": distiller.state.global_step, **ended})
        trained = "heads" if distiller.head is not None else "fresh networks"
        return training_curve(history, trained)

    missing = []
    extras = {"log.jsonl": log, "results.md": table_of_results, "curve.png": curve}
    for name, make in extras.items():
        try:
            (folder / name).unlink(missing_ok=True)  # of an earlier set in the folder
            content = make()
            if content is not None:
                write_whole(folder / name, content)
        except _FAILURES as error:
            missing.append(f"{name} ({type(error).__name__}: {first_line(error)})")
    if missing:
        warnings.warn(
            f"the distilled set in {str(folder)!r} is whole, but it lacks {', '.join(missing)}",
            stacklevel=4,
        )


def _installed(*packages: str) -> dict[str, str]:
    """The versions of the packages that are installed; arrays are distilled without `datasets`."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _result(scores: Scores, seed: int) -> Result:
    """Accuracies as a record has them, with the seeds of the networks of each architecture."""
    each = next(iter(scores.by_model.values()), scores)
    seeds = [network_seed(seed, index) for index in range(len(each.accuracies))]
    return Result.of(scores, seeds)


def _published(distiller: Distiller) -> dict[str, Any]:
    """The settings that had an effect, without what concerns one machine alone."""
    config = distiller.config
    settings = config.to_dict()
    for name in ("output_dir", "resume_from_checkpoint", "overwrite_output_dir", "run_name"):
        settings.pop(name)
    recipe = distiller.synthetic.recipe
    settings["dataset"] = distiller.train_data.public_name
    settings["model"], settings["model_args"] = recipe.model, dict(recipe.model_args)
    if recipe.networks:
        settings["model"] = [one.model for one in recipe.networks]
        settings["model_args"] = [dict(one.model_args) for one in recipe.networks]
    return {
        k: v for k, v in settings.items() if k not in ("rescue_dir", "wait_for_room", "feature_dir")
    }


def _source(distiller: Distiller) -> Source:
    config, name = distiller.config, distiller.train_data.public_name
    hub_id = None if name == DIGITS else name
    if config.license:
        licenses = [config.license]
    elif name == DIGITS:
        licenses = [_DIGITS_LICENSE]
    else:
        licenses = licenses_of(hub_id) if hub_id else []
    return Source(
        dataset=name,
        hub_id=hub_id,
        train_split=distiller.train_split,
        images=_length(distiller.train_data),
        licenses=tuple(licenses),
        white_level=distiller.train_data.white_level,
    )


def _protocol(distiller: Distiller) -> Protocol:
    config, data = distiller.config, distiller.eval_data
    if data is None:
        return Protocol.from_json({})
    name = data.public_name
    if not distiller.results:
        # A comparison that was interrupted can be taken up by `dd-plugin evaluate`.
        return Protocol(dataset=name, split=distiller.eval_split, images=_length(data))
    command = f"dd-plugin evaluate {distiller.output_dir.name}"
    if name is None:
        command += " --dataset FOLDER"
        command += f" --split {distiller.eval_split}" if distiller.eval_split else ""
    return Protocol(
        best_step=distiller.state.best_step if config.load_best_model_at_end else None,
        dataset=name,
        split=distiller.eval_split,
        images=_length(data),
        eval_mode=True,
        command=command,
    )


def _length(data: RealData) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream does not know
        return None


def results_table(results: Mapping[str, Scores], num_classes: int, config: DistillerConfig) -> str:
    """The table of accuracies, in Markdown, aligned to be read as plain text too."""
    trained, stored = (n * num_classes for n in (config.trained_per_class, config.images_per_class))
    labels = row_labels("distilled images", str(trained), str(stored), "all")
    several = any(scores.by_model for scores in results.values())
    body = []
    for name, scores in results.items():
        trained_on, images = labels[name]
        for model, own in {**scores.by_model, ALL_NETWORKS: scores}.items():
            network = (model,) if several else ()
            body.append((trained_on, *network, images, str(own), str(len(own.accuracies))))
    network = ("network",) if several else ()
    return table(("trained on", *network, "images", "accuracy", "networks"), body)


def training_curve(history: list[dict[str, Any]], trained: str = "fresh networks") -> bytes | None:
    """A plot of outer loss and accuracy over outer steps as PNG; ``trained`` is what is tested.

    None where there is nothing to plot, and without matplotlib.
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
        steps, means, spreads = zip(*scores, strict=True)
        right.errorbar(
            steps, means, spreads, color="tab:orange", marker="o", capsize=3, label="accuracy"
        )
        right.set(ylabel=f"accuracy of {trained}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
