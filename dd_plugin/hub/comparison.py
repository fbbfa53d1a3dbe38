"""How good distilled sets are for several networks, beside what they have to be compared with.

Above `dataset`: for each network the accuracy after training on the exact images, on the 8-bit ones
of the PNG files, on random real images of the same storage, and on the full data. What
`dd-plugin evaluate` prints and stores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dd_plugin.data import RealData
from dd_plugin.evaluation import OtherArchitectureWarning, Scores
from dd_plugin.evaluation.baselines import (
    accuracy_of_module,
    train_on_all,
    train_on_random_real,
)
from dd_plugin.evaluation.heads import ALL, CENTROID, HERDING, K_CENTER, RANDOM
from dd_plugin.hub.dataset import DistilledDataset, Protocol
from dd_plugin.hub.record import Evaluation
from dd_plugin.networks.backbones import Backbone
from dd_plugin.text import table


def compare(
    distilled: DistilledDataset,
    models: Sequence[str],
    test: RealData,
    train: RealData | None = None,
    *,
    networks: int = 5,
    seed: int | None = None,
    protocol: Protocol = "auto",
    full_data: bool = True,
    device: torch.device | str = "cpu",
    about: Evaluation | None = None,
    on_row: Callable[[Evaluation], None] = lambda row: None,
    folder: Path | None = None,
    backbones: Mapping[str, Backbone] | None = None,
) -> list[Evaluation]:
    """Evaluate a set with several networks.

    Args:
        distilled: the set.
        models: names.
        test: real images to test on.
        train: real images to train the baselines on; without, there are none.
        networks: fresh networks per row.
        seed: see `DistilledDataset.evaluate`.
        protocol: see `DistilledDataset.fit`.
        full_data: whether networks trained on all of ``train`` are a baseline, which takes by far
            the longest; random images of it are one all the same.
        device: where.
        about: what each row has beside, such as the names of the data set and split.
        on_row: called with each row when it is there.
        folder: where the features of real images are kept, for a set that is for heads.
        backbones: frozen networks that are loaded already, by the names of the models, as
            `DistilledDataset.backbone` gives them.

    Returns:
        One row per model and kind of training data.
    """
    about = about or Evaluation()
    rows: list[Evaluation] = []

    def add(row: Evaluation) -> None:
        rows.append(row)
        on_row(row)

    if distilled.recipe.trainable == "head":
        _compare_heads(
            distilled,
            models,
            test,
            train,
            networks,
            seed,
            protocol,
            full_data,
            device,
            about,
            add,
            folder,
            backbones or {},
        )
        return rows
    batches = distilled.test_batches(test, 500)
    test_images = sum(len(labels) for _, labels in batches)
    for model in models:
        row = replace(about, model=model, images=test_images)
        by_protocol = replace(row, protocol=distilled.protocol_for(protocol, model))
        for pixels in ("exact", "png"):
            with warnings.catch_warnings():
                if pixels == "png":  # said for the exact images
                    warnings.simplefilter("ignore", OtherArchitectureWarning)
                scores = distilled.evaluate(
                    model,
                    test,
                    networks=networks,
                    seed=seed,
                    protocol=protocol,
                    pixels=pixels,
                    device=device,
                )
            trained = replace(by_protocol, trained_on="distilled images", pixels=pixels)
            add(trained.with_scores(scores))
        if train is not None:
            seeds = distilled.seeds(networks, seed)
            for name in ("random real images", *(["all real images"] if full_data else [])):
                each = _baseline(distilled, model, name, train, batches, seeds, device)
                baseline = replace(row, trained_on=name, protocol="standard")
                add(baseline.with_scores(Scores(tuple(each))))
    return rows


def _compare_heads(
    distilled: DistilledDataset,
    models: Sequence[str],
    test: RealData,
    train: RealData | None,
    networks: int,
    seed: int | None,
    protocol: Protocol,
    full_data: bool,
    device: torch.device | str,
    about: Evaluation,
    add: Callable[[Evaluation], None],
    folder: Path | None,
    backbones: Mapping[str, Backbone],
) -> None:
    """Do the work of `compare` for a set that trains the head of frozen networks."""
    per_class = max(1, int(distilled.images_per_class))
    for model in models:
        tested = distilled.head_test(
            model,
            test,
            train,
            device=device,
            folder=folder,
            protocol=protocol,
            backbone=backbones.get(model),
        )
        how = "standard" if tested.as_probe else "head"
        row = replace(about, model=model, protocol=how, images=len(tested.test.labels))
        for pixels in ("exact", "png"):
            accuracy = tested.distilled(distilled.synthetic(pixels, device))
            trained = replace(row, trained_on="distilled images", pixels=pixels)
            add(trained.with_scores(Scores((accuracy,))))
        if train is not None:
            seeds = distilled.seeds(networks, seed)
            exact = distilled.synthetic("exact", device)
            for name, scores in tested.controls(exact, per_class, seeds, full=full_data):
                add(replace(row, trained_on=HEAD_CONTROLS[name]).with_scores(scores))
        if model in backbones:
            backbones[model].to("cpu")  # for the next one's sake


# How rows call the real images that heads are trained on.
HEAD_CONTROLS = {
    RANDOM: "random real images",
    CENTROID: "real images nearest to the centroid",
    HERDING: "real images by herding",
    K_CENTER: "real images by k-center",
    ALL: "all real images",
}


def _baseline(
    distilled: DistilledDataset,
    model: str,
    name: str,
    train: RealData,
    batches: Iterable[tuple[Tensor, Tensor]],
    seeds: Sequence[int],
    device: torch.device | str,
) -> Iterator[float]:
    dtype = distilled.images.dtype
    per_class = max(1, int(distilled.images_per_class))
    for seed in seeds:
        network = distilled.new_network(model, seed=seed, protocol="standard")
        network = network.to(device, dtype)
        if name == "all real images":
            train_on_all(network, train, distilled.prepare, seed)
        else:
            train_on_random_real(network, train, per_class, distilled.prepare, seed)
        yield accuracy_of_module(network, batches)


def merge_rows(old: Sequence[Evaluation], new: Sequence[Evaluation]) -> list[Evaluation]:
    """Rows of two evaluations; where both measured the same, the newer ones."""
    measured = {row.identity for row in new}
    return [row for row in old if row.identity not in measured] + list(new)


def rows_table(rows: Sequence[Evaluation]) -> str:
    """The rows as a table in Markdown, aligned to be read as plain text too."""
    several = len({row.set for row in rows}) > 1
    header = (*(("set",) if several else ()), "model", "trained on", "how", "accuracy", "networks")
    body = []
    for row in rows:
        cells = (
            row.model or "",
            f"{row.trained_on}, 8-bit" if row.pixels == "png" else row.trained_on or "",
            row.protocol or "",
            str(row.scores),
            str(len(row.accuracies)),
        )
        body.append((*((str(row.set),) if several else ()), *cells))
    return table(header, body)
