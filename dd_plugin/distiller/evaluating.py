"""The evaluations of a run: on the distilled set as it is, and the baselines beside it.

Between `distiller`, which asks for them, and `dd_plugin.evaluation`, which trains and tests. The
networks of an evaluation are shared out among the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dd_plugin.bilevel import RunState, initial_state
from dd_plugin.bilevel.step_values import tree_map
from dd_plugin.bn import revert_bn
from dd_plugin.distiller.networks import Networks
from dd_plugin.evaluation import InputBatches, Scores, network_seed, score
from dd_plugin.evaluation.baselines import (
    Prepare,
    accuracy_of_module,
    train_on_all,
    train_on_random_real,
)
from dd_plugin.evaluation.heads import EIGHT_BIT, HeadTest

if TYPE_CHECKING:
    from dd_plugin.distiller.distiller import Distiller


def distilled_scores(distiller: Distiller, networks: int) -> Scores:
    """Accuracy of fresh networks trained on the distilled set; one for a fixed initialisation."""
    if distiller.head is not None:
        return _on_backbones(distiller)
    batches = _eval_batches(distiller)
    count = 1 if distiller.architectures.mode == "fixed" else networks
    return _of_each(distiller, lambda which: _trained(distiller, which, count, batches))


def baseline_scores(distiller: Distiller) -> dict[str, Scores]:
    """Accuracy of ordinary networks trained on as many random real images, and on all."""
    if distiller.head is not None:
        return _head_controls(distiller)
    batches = _eval_batches(distiller)
    share = _share(distiller, distiller.config.final_eval_networks)

    def taken(one: Callable[[Distiller, int, int, InputBatches], float]) -> Scores:
        return _of_each(
            distiller,
            lambda which: _gather({i: one(distiller, which, i, batches) for i in share}),
        )

    return {"random real": taken(_on_few), "full data": taken(_on_all)}


def _of_each(distiller: Distiller, score_of: Callable[[int], Scores]) -> Scores:
    """The scores of each architecture under its name, and together."""
    labels = distiller.synthetic.recipe.network_labels
    return Scores.joined({label: score_of(which) for which, label in enumerate(labels)})


def _trained(distiller: Distiller, which: int, count: int, batches: InputBatches) -> Scores:
    """The scores of fresh networks of one architecture, trained on the distilled set."""
    seeds = {i: network_seed(distiller.config.seed, i) for i in _share(distiller, count)}
    networks = distiller.architectures.members[which]
    states = [_fresh_state(networks, seed) for seed in seeds.values()]
    found: tuple[float, ...] = ()
    if states:
        synthetic = distiller.synthetic
        own = synthetic.constants(which)
        scores = score(synthetic, networks.problem(), states, list(seeds.values()), batches, own)
        found = scores.accuracies
    return _gather(dict(zip(seeds, found, strict=True)))


def _tests(distiller: Distiller) -> list[HeadTest]:
    """What heads are tested by, on every process alike."""
    assert distiller.head is not None
    if distiller.eval_data is None:
        _eval_batches(distiller)  # says what is missing
    distiller.head.prepare(to_test=True)
    return distiller.head.tests


def _on_backbones(distiller: Distiller) -> Scores:
    """The accuracy of the head on each backbone; every process computes all of them."""
    return Scores(tuple(test.distilled(distiller.synthetic) for test in _tests(distiller)))


def _head_controls(distiller: Distiller) -> dict[str, Scores]:
    """Heads trained on real images, on every backbone: the values of one name side by side."""
    config = distiller.config
    seeds = [network_seed(config.seed, i) for i in range(config.final_eval_networks)]
    found: dict[str, tuple[float, ...]] = {}
    for test in _tests(distiller):
        stored = test.distilled(distiller.synthetic, eight_bit=True)
        found[EIGHT_BIT] = (*found.get(EIGHT_BIT, ()), stored)
        for name, scores in test.controls(distiller.synthetic, config.images_per_class, seeds):
            found[name] = found.get(name, ()) + scores.accuracies
    return {name: Scores(accuracies) for name, accuracies in found.items()}


def _share(distiller: Distiller, count: int) -> range:
    """The networks of an evaluation that are this process's."""
    accelerator = distiller.accelerator
    return range(accelerator.process_index, count, accelerator.num_processes)


def _gather(own: dict[int, float]) -> Scores:
    from accelerate.utils import gather_object

    return Scores(tuple(value for _, value in sorted(gather_object(list(own.items())))))


def _fresh_state(networks: Networks, seed: int) -> RunState:
    state = initial_state(networks.problem(), networks.new_model(seed))
    return tree_map(lambda t: t.to(networks.device), state)


def _eval_batches(distiller: Distiller) -> InputBatches:
    if distiller.eval_data is None:
        raise ValueError(
            "there is no evaluation data: no split `validation` or `test` was found; give "
            "`eval_dataset` or `eval_split`"
        )
    size = distiller.config.per_device_eval_batch_size
    return InputBatches(distiller.eval_data, distiller.transform, distiller.dtype, size)


def _on_few(distiller: Distiller, which: int, index: int, batches: InputBatches) -> float:
    seed, config = network_seed(distiller.config.seed, index), distiller.config
    network = _ordinary(distiller, which, seed)
    train_on_random_real(
        network, distiller.train_data, config.images_per_class, _preparing(distiller), seed
    )
    return accuracy_of_module(network, batches)


def _on_all(distiller: Distiller, which: int, index: int, batches: InputBatches) -> float:
    seed = network_seed(distiller.config.seed, index)
    network = _ordinary(distiller, which, seed)
    train_on_all(network, distiller.train_data, _preparing(distiller), seed)
    return accuracy_of_module(network, batches)


def _ordinary(distiller: Distiller, which: int, seed: int) -> torch.nn.Module:
    """The network that an evaluation with this seed starts from, with its stock layers."""
    return revert_bn(distiller.architectures.members[which].new_model(seed))


def _preparing(distiller: Distiller) -> Prepare:
    def prepare(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        augmented = distiller.synthetic.augmentation(images.to(distiller.dtype), seed)
        return distiller.transform(augmented), labels

    return prepare
