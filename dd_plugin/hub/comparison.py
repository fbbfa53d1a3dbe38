"""Rows of an evaluation: a distilled set on several networks, beside real images.

Above `dataset`; `dd_plugin.evaluation.comparison` measures, and here the accuracies become what
`dd-plugin evaluate` prints and `ledger` stores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from dd_plugin.choices import EVALUATED_NETWORKS
from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import HeadTest, OtherArchitectureWarning, Scores
from dd_plugin.evaluation import comparison as measuring
from dd_plugin.evaluation.kept_baselines import NOTHING_KEPT, KeptBaselines
from dd_plugin.evaluation.training_images import TrainingImages
from dd_plugin.hub.dataset import DistilledDataset
from dd_plugin.hub.record import Evaluation
from dd_plugin.hub.using.choosing import Protocol
from dd_plugin.hub.using.evaluating import network_scores
from dd_plugin.hub.using.training import FitOptions
from dd_plugin.networks import Backbone
from dd_plugin.text import table

# Test images at a time.
_BATCH = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A comparison of a distilled set: on which networks, with which images, beside what.

    Attributes:
        models: names of the networks.
        test: real images to test on.
        train: real images to train the baselines on; without, there are none.
        networks: fresh networks per row.
        seed: see `DistilledDataset.evaluate`.
        protocol: see `DistilledDataset.fit`.
        full_data: whether networks trained on all of ``train`` are a baseline, which takes by far
            the longest; random images of it are one all the same.
        kinds: of baselines; None for those of `auto`.
        device: where to train and test.
        about: the entries that all rows share, such as the names of data set and split.
        folder: where the features of real images are kept, for a set that is for heads.
        kept: accuracies of baselines that were measured before, for a set that is for networks.
        backbones: frozen networks that are loaded already, by the names of the models, as
            `DistilledDataset.backbone` gives them.
    """

    models: Sequence[str]
    test: RealData
    train: RealData | None = None
    networks: int = EVALUATED_NETWORKS
    seed: int | None = None
    protocol: Protocol = "auto"
    full_data: bool = True
    kinds: Collection[TrainingImages] | None = None
    device: torch.device | str = "cpu"
    about: Evaluation = field(default_factory=Evaluation)
    folder: Path | None = None
    kept: KeptBaselines = NOTHING_KEPT
    backbones: Mapping[str, Backbone] = field(default_factory=dict)


def compare(
    distilled: DistilledDataset,
    request: Request,
    on_row: Callable[[Evaluation], None] = lambda row: None,
) -> list[Evaluation]:
    """Return one row per network and kind of training images.

    Args:
        distilled: the set.
        request: what is compared.
        on_row: called with each row as soon as it is measured.
    """
    comparison = measuring.Comparison(
        synthetic=distilled.synthetic("exact", request.device),
        seeds=distilled.seeds(request.networks, request.seed),
        baselines=request.train is not None,
        full_data=request.full_data,
        kinds=request.kinds,
    )
    test_of = _heads_of if distilled.recipe.trainable == "head" else _networks_of
    rows: list[Evaluation] = []
    for model in request.models:
        tested = test_of(distilled, model, request)
        about = replace(request.about, model=model, images=tested.images)
        for images, scores in measuring.compare(comparison, tested.test):
            protocol = tested.on_set if images.is_trained_as_set else tested.on_real
            row = replace(
                about, trained_on=images.in_words, pixels=images.pixels, protocol=protocol
            ).with_scores(scores)
            rows.append(row)
            on_row(row)
        if model in request.backbones:
            request.backbones[model].to("cpu")  # to make room for the next one
    return rows


@dataclass(frozen=True, eq=False)
class _Tested:
    """The test of one network, and what its rows say of it.

    Attributes:
        test: the test.
        images: how many real images it has.
        on_set: the protocol of training on distilled images.
        on_real: the protocol of training on real images.
    """

    test: measuring.NetworkTest | HeadTest
    images: int
    on_set: str
    on_real: str


def _heads_of(distilled: DistilledDataset, model: str, request: Request) -> _Tested:
    """Return the test of heads on a frozen network."""
    test = distilled.head_test(
        model,
        request.test,
        request.train,
        device=request.device,
        folder=request.folder,
        protocol=request.protocol,
        backbone=request.backbones.get(model),
    )
    protocol = "standard" if test.as_probe else "head"
    return _Tested(test, len(test.test.labels), on_set=protocol, on_real=protocol)


def _networks_of(distilled: DistilledDataset, model: str, request: Request) -> _Tested:
    """Return the test of fresh networks of a name."""
    batches = distilled.test_batches(request.test, _BATCH)

    options = FitOptions(protocol=request.protocol, device=request.device)
    said: list[bool] = []

    def on_set(trained_on: SyntheticSet, seeds: Sequence[int]) -> Scores:
        with warnings.catch_warnings():
            if said:  # once is enough
                warnings.simplefilter("ignore", OtherArchitectureWarning)
            said.append(True)
            return network_scores(
                distilled.stored_with(trained_on),
                model,
                seeds=seeds,
                options=options,
                batches=batches,
            )

    def new_network(seed: int) -> nn.Module:
        network = distilled.new_network(model, seed=seed, protocol="standard")
        return network.to(request.device, distilled.images.dtype)

    test = measuring.NetworkTest(
        on_set=on_set,
        new_network=new_network,
        train=request.train,
        test=batches,
        name=model,
        kept=request.kept,
        protocol=distilled.protocol_for(request.protocol, model),
    )
    return _Tested(
        test,
        sum(len(labels) for _, labels in batches),
        on_set=test.protocol,
        on_real="standard",
    )


def merge_rows(old: Sequence[Evaluation], new: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the rows of two evaluations; where both measured the same, the newer ones."""
    measured = {row.identity for row in new}
    return [row for row in old if row.identity not in measured] + list(new)


def rows_table(rows: Sequence[Evaluation]) -> str:
    """Return the rows as a table in Markdown, aligned to be read as plain text too."""
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
