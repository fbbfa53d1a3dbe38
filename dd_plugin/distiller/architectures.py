"""The networks of a run by architecture: each inner run is the turn of one of them.

Above `networks`, which keeps everything about one architecture: its problem, its pool, its state in
a checkpoint. Names and files are those of `networks` where there is one architecture only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import (
    BilevelProblem,
    VerificationError,
    hypergradient,
    initial_state,
)
from dd_plugin.data import RealData, SyntheticSet
from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.defaults import default_arguments
from dd_plugin.distiller.json_settings import dictionary
from dd_plugin.distiller.networks import Mode, Networks
from dd_plugin.distiller.real_images import real_batch_size
from dd_plugin.distiller.setting_groups import DEFAULT_MODEL
from dd_plugin.distiller.turns import in_turn
from dd_plugin.files import under
from dd_plugin.hub.reading import FLOATS
from dd_plugin.models import ModelLoadError
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.seeds import Purpose, mix


class Architectures:
    """The `Networks` of each architecture, and whose turn it is.

    Args:
        members: the networks of each architecture.
        seed: of the run.

    Raises:
        ValueError: some start from one fixed state and others do not.
    """

    def __init__(self, members: Sequence[Networks], seed: int) -> None:
        self.members, self.seed = list(members), seed
        if len(modes := {networks.mode for networks in self.members}) > 1:
            raise ValueError(
                "`model_init` must be modules only, each of which is one fixed start, or functions "
                f"and names only, got networks with init={' and '.join(map(repr, sorted(modes)))}; "
                'pass functions that make them, or use init="fixed"'
            )

    @property
    def mode(self) -> Mode:
        """Where runs start; see `Networks`."""
        return self.members[0].mode

    @property
    def statistics(self) -> str | None:
        """The policy for BatchNorm; None where no network has BatchNorm layers."""
        first = self.members[0].statistics
        return first if any(networks.has_batch_norm for networks in self.members) else None

    @property
    def problems(self) -> list[BilevelProblem]:
        """The problem of each architecture."""
        return [networks.problem() for networks in self.members]

    def choice(self, turn: int) -> int:
        """Return the place of the architecture that an inner run takes; see `in_turn`."""
        return in_turn(len(self.members), self.seed, turn)

    def resting(self, turns: range) -> list[int]:
        """Return the places of the architectures that none of these inner runs takes."""
        busy = {self.choice(turn) for turn in turns}
        return [place for place in range(len(self.members)) if place not in busy]

    def constants(self) -> dict[str, Tensor]:
        """Return what is learned about BatchNorm, by names that tell architectures apart."""
        return self._joined([networks.constants() for networks in self.members])

    def start(self, learned: SyntheticSet) -> dict[str, Tensor] | None:
        """Return the weights and buffers that every run starts from; None where each has its own.

        Args:
            learned: the set, whose constants are stored with it and not here.
        """
        if self.mode != "fixed":
            return None
        starts = [
            _start(networks, learned.constants(place))
            for place, networks in enumerate(self.members)
        ]
        return self._joined(starts)

    def summary(self) -> dict[str, Any]:
        """Return what a record says of the networks; see `Networks.summary`."""
        each = [networks.summary() for networks in self.members]
        return each[0] if len(each) == 1 else {**each[0], "networks": each}

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the state of all networks; see `Networks.state_dict`."""
        return self._joined([networks.state_dict() for networks in self.members])

    def load_state_dict(self, saved: Mapping[str, Tensor | int]) -> None:
        """Take over the state of all networks; see `Networks.load_state_dict`."""
        if len(self.members) == 1:
            return self.members[0].load_state_dict(saved)
        for place, networks in enumerate(self.members):
            networks.load_state_dict(under(saved, f"{place}."))
        return None

    def _joined(self, each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Values of all architectures, named as `Recipe.for_network` does."""
        if len(self.members) == 1:
            return dict(each[0])
        return {
            f"{place}.{name}": value
            for place, one in enumerate(each)
            for name, value in one.items()
        }

    def verify(self, synthetic: SyntheticSet, config: DistillerConfig, train: RealData) -> None:
        """Verify the gradient of each of several architectures, by one inner step.

        With one architecture the first outer step does that. With several, the first turn of the
        last one would come after the outer steps of the others. Nothing is changed by it.

        Raises:
            VerificationError: a gradient is wrong; see `BilevelProblem`.
        """
        if len(self.members) == 1 or config.method == "autograd":
            return
        size = real_batch_size(config, train)
        for place, (problem, label) in enumerate(
            zip(self.problems, synthetic.recipe.network_labels, strict=True)
        ):
            if not problem.verify or problem.verified:
                continue
            try:
                _try(problem, synthetic, synthetic.constants(place), config, real_images=size)
            except VerificationError as error:
                raise VerificationError(f"{label}: {error}") from error


def _try(
    problem: BilevelProblem,
    synthetic: SyntheticSet,
    constants: Mapping[str, Tensor],
    config: DistillerConfig,
    *,
    real_images: int,
) -> None:
    """Differentiate one inner step on the synthetic images, judged on these very images."""
    seed = mix(config.seed, Purpose.TRIAL_RUN)
    images, labels = synthetic.transform(synthetic.images().detach()), synthetic.labels
    # As many as there are real images in a step, for which the problem is then compiled.
    rows = [row % len(labels) for row in range(real_images)]
    hypergradient(
        problem,
        synthetic.batches(seed),
        (images[rows], labels[rows]),
        step_size=synthetic.step_size(0, 1),
        steps=1,
        method=config.method,
        seed=seed,
        initial=initial_state(problem),
        constants=dict(constants) or None,
    )


def _start(networks: Networks, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The start of every run of one architecture, without what the set has learned about it."""
    model, state = networks.problem().model, networks.take(0, 0)
    # What is not trained: frozen weights and buffers.
    held = {**model.fixed, **model.counters, **model.constants}
    kinds = (*FLOATS, torch.int64)
    untrained = {n: t for n, t in held.items() if n not in learned and t.dtype in kinds}
    return {**untrained, **state.parameters, **state.statistics}


def make_architectures(
    config: DistillerConfig,
    model_init: ModelInit | Sequence[ModelInit] | None,
    train: RealData,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Architectures:
    """Make the networks of each architecture of a run, and check that they fit the data.

    Args:
        config: of the run; its names where ``model_init`` is None.
        model_init: a module, a function that makes one, a name, or several of them.
        train: the real images.
        device: where the networks live.
        dtype: of their weights.

    Raises:
        ValueError: one does not fit the data, or two do not go together.
    """
    members: list[Networks] = []
    chosen = chosen_networks(config, model_init, train)
    for model, arguments in chosen:
        try:
            networks = _networks(
                config, model, arguments=arguments, train=train, device=device, dtype=dtype
            )
        except ModelLoadError:
            raise  # it names the model
        except (TypeError, ValueError) as error:
            if len(chosen) == 1:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{_called(model, len(members))}: {error}") from error
        members.append(networks)
    return Architectures(members, config.seed)


def chosen_networks(
    config: DistillerConfig, model_init: ModelInit | Sequence[ModelInit] | None, train: RealData
) -> list[tuple[ModelInit, dict[str, Any]]]:
    """Return each network with its arguments, which only a name can have."""
    if model_init is None:
        if config.has_default_model and (not config.model_args or is_left_alone(config.model_args)):
            return [(DEFAULT_MODEL, default_arguments(train.shape, train.num_classes))]
        return list(config.networks)
    models = list(model_init) if isinstance(model_init, (list, tuple)) else [model_init]
    # The names that are left are those among functions; `Distiller` puts others into the settings.
    arguments: dict[str, Any] = {}
    if any(isinstance(model, str) for model in models) and not config.has_default_arguments:
        if isinstance(config.model_args, list):
            raise ValueError(
                "`model_args` must be one dictionary where `model_init` has functions or modules "
                f"among its names, got a list of {len(config.model_args)}; pass functions that "
                "give each its own"
            )
        arguments = dictionary(config.model_args, "model_args")
    return [
        (cast(ModelInit, model), arguments if isinstance(model, str) else {}) for model in models
    ]


def _called(model: ModelInit, place: int) -> str:
    """The name of one of several networks in a message."""
    return model if isinstance(model, str) else f"network {place + 1} of `model_init`"


def _networks(
    config: DistillerConfig,
    model: ModelInit,
    *,
    arguments: dict[str, Any],
    train: RealData,
    device: torch.device,
    dtype: torch.dtype,
) -> Networks:
    is_start = isinstance(model, nn.Module) and config.init == "random"
    return Networks(
        model,
        mode="fixed" if is_start else config.init,
        pool_size=config.pool_size,
        max_age=config.pool_max_steps,
        num_classes=train.num_classes,
        shape=train.shape,
        statistics=config.statistics,
        train_with=config.train_with,
        device=device,
        dtype=dtype,
        model_args=arguments,
        seed=config.seed,
    )
