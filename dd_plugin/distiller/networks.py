"""The networks that inner runs start from: one fixed start, fresh ones, or a pool.

Between the user's ``model_init`` and the engine: `Networks` makes the model (`network_factory`),
converts its BatchNorm layers, checks it against the data before any work is done, keeps the one
`BilevelProblem` of the run, and hands out the `RunState` that an inner run starts from (of a `pool`
where one is asked for). Which network that is depends on the seed, the outer step and the index of
the network in that step alone, never on a generator's state or on which process asks. So a run can
be resumed, and spread over processes, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import (
    BilevelProblem,
    FunctionalModel,
    Optimizer,
    RunState,
    initial_state,
)
from dd_plugin.bilevel.copying import copy_model
from dd_plugin.bilevel.foreign_models.draws import Draws
from dd_plugin.bilevel.step_values import tree_map
from dd_plugin.bn import (
    Statistics,
    TrainWith,
    convert_bn,
    converted_layers,
)
from dd_plugin.bn.convert import use_own_batches
from dd_plugin.distiller.network_checks import check_model, check_outputs, check_start
from dd_plugin.distiller.network_factory import (
    FIXED,
    NetworkFactory,
    check_alike,
    tensors_of,
)
from dd_plugin.distiller.pool import Pool, members_from, pool_entries
from dd_plugin.files import flat, like_saved, restored
from dd_plugin.networks.fresh import ModelInit, learnable_constants, network_maker
from dd_plugin.seeds import Purpose, mix, untouched_generators

Mode = Literal["fixed", "random", "pool"]


class Networks:
    """The networks of the inner runs.

    Args:
        model_init: a module (its weights are the start of each run), a function that makes a new
            one each time, or a name for `dd_plugin.models.load_model`.
        mode: ``"fixed"``, every run starts from the same weights; ``"random"``, each from fresh
            ones; ``"pool"``, each from one of several partly trained networks, see `give_back`. By
            default ``"fixed"`` for a module, else ``"random"``.
        pool_size: members of the pool, for each index that `take` is called with. Networks of one
            outer step never share a member, in whichever process they are.
        max_age: inner steps after which a member is retired.
        num_classes: logits that the model must have.
        shape: channels, height and width of the images.
        statistics: who moves the statistics of BatchNorm layers, see `convert_bn`; by default
            ``"tracked"``, whose momentum and correction per layer hold for any start and did
            better for a fixed one, too, than values learned per channel, which hold for that one.
        train_with: the statistics that BatchNorm layers use in train mode, see `convert_bn`.
        device: where the states live.
        dtype: of weights, statistics and images.
        model_args: more arguments for `load_model` when ``model_init`` is a name, ``pretrained``
            among them; they go before the number of classes and the shape of the data.
        seed: all networks are functions of it.

    Raises:
        TypeError: ``model_init`` is none of these, or makes something that is no module.
        ValueError: the model does not fit the data or the mode.
        ModelLoadError: there is no model of that name.

    Attributes:
        mode: see above.
        statistics: the policy for BatchNorm layers.
        redraws_in_place: whether one network is redrawn for each run, instead of a new one made.
    """

    def __init__(
        self,
        model_init: ModelInit,
        *,
        mode: Mode | None = None,
        pool_size: int = 10,
        max_age: int = 200,
        num_classes: int,
        shape: tuple[int, int, int],
        statistics: Statistics | None = None,
        train_with: TrainWith = "batch",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        model_args: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.mode: Mode = _checked_mode(mode, model_init)
        self._pool = Pool(pool_size, max_age, seed)
        if model_args and not isinstance(model_init, str):
            raise ValueError(
                "`model_args` must be left out unless `model_init` is a name, got "
                f"{sorted(model_args)}; give them to the model yourself"
            )
        self.statistics: Statistics = statistics or "tracked"
        self.num_classes, self.shape, self.train_with = num_classes, shape, train_with
        self.device, self.dtype, self.seed = torch.device(device), dtype, seed
        self._problem: BilevelProblem | None = None
        self._options: tuple[Any, ...] = ()

        make = network_maker(model_init, num_classes, shape, model_args)
        self._factory = None if make is None else NetworkFactory(make)
        first_seed = mix(seed, Purpose.FIRST_NETWORK)
        if self._factory is None:
            assert isinstance(model_init, nn.Module)
            first = use_own_batches(copy_model(model_init))
        else:
            first = self._factory.new(first_seed)
        check_model(first)
        if self.mode == "fixed":
            check_start(first)
        self._prototype = first.to(self.device, dtype)
        convert_bn(self._prototype, self.statistics, train_with, missing_ok=True)
        with untouched_generators():
            check_outputs(self._prototype, self._images(), num_classes)
        if self._factory is not None and self.mode != "fixed":
            roles = FunctionalModel(self._prototype)
            self._probe(roles)
            second_seed = mix(seed, Purpose.SECOND_NETWORK)
            self._factory.check(self._prototype, roles, first_seed, second_seed)

    @property
    def redraws_in_place(self) -> bool:
        """Whether one network is redrawn for each run, instead of a new one made."""
        return self._factory is not None and self._factory.redraws_in_place

    @property
    def has_batch_norm(self) -> bool:
        """Whether the networks have BatchNorm layers, which the policy is about."""
        return bool(converted_layers(self._prototype))

    # The problem.

    def problem(self, optimizer: Optimizer | None = None, **options: Any) -> BilevelProblem:
        """Return the bilevel problem of these networks, which the first call makes.

        Args:
            optimizer: the inner optimizer, see `BilevelProblem`. Later calls may leave it and the
                options out.
            **options: see `BilevelProblem`.

        Raises:
            ValueError: called again for another optimizer or other options.
        """
        asked = (optimizer, options)
        if self._problem is None:
            problem = BilevelProblem(self._prototype, optimizer=optimizer, **options)
            self._probe(problem.model)
            self._problem, self._options = problem, asked
        elif asked not in ((None, {}), self._options):
            raise ValueError(
                "these networks have their problem already, with another optimizer or other "
                "options; make new `Networks` for another problem"
            )
        return self._problem

    def constants(self) -> dict[str, Tensor]:
        """Return what can be learned about BatchNorm statistics, for all networks alike.

        Name to tensor, in the memory of the problem: running means and variances per channel where
        these are learned, momentum shifts and corrections per layer where they are tracked.
        Nothing for frozen statistics, and for learned ones with ``train_with="running"``, which
        inner training moves as it moves weights.

        Raises:
            RuntimeError: before the first call of `problem`.
        """
        names = learnable_constants(self._prototype)
        constants = self._have_problem().model.constants
        return {name: tensor for name, tensor in constants.items() if name in names}

    def summary(self) -> dict[str, Any]:
        """Return what a record says of a network without a name: ``class`` and ``parameters``.

        Raises:
            RuntimeError: before the first call of `problem`.
        """
        trained = self._have_problem().model.parameters.values()
        return {
            "class": type(self._prototype).__name__,
            "parameters": sum(t.numel() for t in trained),
        }

    # The networks.

    def take(self, outer_step: int, index: int) -> RunState:
        """Return the state from which network ``index`` of an outer step starts its inner run.

        Args:
            outer_step: from 0.
            index: from 0, over all processes.

        Raises:
            RuntimeError: before the first call of `problem`.
            ValueError: the factory made a network unlike the others.
        """
        if self.mode == "fixed":
            return initial_state(self._have_problem())
        if self.mode == "random":
            return self._fresh(mix(self.seed, Purpose.RANDOM_NETWORK, outer_step, index))
        return self._pool.take(outer_step, index, self._fresh)

    def age(self, index: int) -> int:
        """Return the inner steps that the network last taken for an index had had; 0 if fresh."""
        return self._pool.age(index)

    def give_back(self, index: int, state: RunState, age: int) -> bool:
        """Put the network that `take` gave for ``index`` back into the pool.

        A state that is not finite is not kept: a fresh network will take its place. In the other
        modes nothing is kept.

        Args:
            index: as for `take`.
            state: where its training is now.
            age: inner steps that it has had in all.

        Returns:
            Whether it was kept.

        Raises:
            ValueError: no network was taken for this index.
        """
        if self.mode != "pool":
            return False
        like = initial_state(self._have_problem())
        # Copies, since the state may be a view of all networks of the step.
        return self._pool.give_back(index, restored(like, dict(flat(state)), ""), age)

    def new_model(self, seed: int, constants: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Return a converted model such as runs start from, to be trained in the ordinary way.

        Args:
            seed: of its weights; without effect in mode ``"fixed"``.
            constants: what was learned about its statistics, by the names of `constants`.

        Raises:
            ValueError: constants that the model does not have.
        """
        if self.mode == "fixed" or self._factory is None:
            model = copy_model(self._prototype)
        else:
            model = self._factory.new(seed).to(self.device, self.dtype)
            convert_bn(model, self.statistics, self.train_with, missing_ok=True)
        tensors = dict(tensors_of(model))
        with torch.no_grad():
            for name, value in (constants or {}).items():
                if name not in tensors or tensors[name].shape != value.shape:
                    raise ValueError(
                        f"`constants` has {name!r} of shape {tuple(value.shape)}, which these "
                        "networks do not have"
                    )
                tensors[name].copy_(value)
        return model

    # Checkpoints.

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return all that is not a function of the seed: the pool, and the user's fixed start.

        To be called between outer steps, when what was taken has been given back.

        Returns:
            Flat, name to tensor or integer. A process has the members that it took.

        Raises:
            RuntimeError: before the first call of `problem`.
        """
        return {**self._start_entries(), **pool_entries(self._pool.members)}

    def load_state_dict(self, saved: Mapping[str, Tensor | int]) -> None:
        """Take over the result of `state_dict`, of this process or another.

        Raises:
            RuntimeError: before the first call of `problem`.
            ValueError: it belongs to another model, mode or optimizer. Nothing is changed then.
        """
        start = self._start_entries()
        saved_start = {name: like_saved(saved, name, t) for name, t in start.items()}
        if self.mode != "pool" and any(name.startswith("pool.") for name in saved):
            raise ValueError(
                f'the saved networks are those of mode="pool", these have mode={self.mode!r}'
            )
        members = members_from(saved, initial_state(self._have_problem()))
        extra = sorted(saved.keys() - start.keys() - pool_entries(members).keys())
        if extra:
            raise ValueError(
                f"the saved networks have {len(extra)} tensor(s) that these do not, such as "
                f"{extra[0]}; they are of another model or inner optimizer"
            )
        for name, tensor in start.items():
            tensor.copy_(saved_start[name])
        self._pool.replace(members)

    def _start_entries(self) -> dict[str, Tensor]:
        """The tensors of a start that is the same for all runs; empty where each has its own."""
        model = self._have_problem().model
        if self.mode != "fixed" and self._factory is not None:
            return {}
        roles = ("parameters", "statistics", "counters", "fixed")
        return {f"start.{r}.{name}": t for r in roles for name, t in getattr(model, r).items()}

    # Making.

    def _have_problem(self) -> BilevelProblem:
        if self._problem is None:
            raise RuntimeError("these networks have no problem yet; call `problem` first")
        return self._problem

    def _fresh(self, seed: int) -> RunState:
        problem = self._have_problem()
        if self._factory is None:
            return initial_state(problem)
        model = self._factory.fresh(seed)
        check_alike(self._prototype, model)
        state = initial_state(problem, model)

        def move(t: Tensor) -> Tensor:
            return t.to(self.device, self.dtype if t.is_floating_point() else t.dtype)

        return RunState(*tree_map(move, tuple(state)))

    def _images(self) -> Tensor:
        generator = torch.Generator().manual_seed(mix(self.seed, Purpose.CHECK_IMAGES))
        images = torch.rand(2, *self.shape, generator=generator)
        return images.to(self.device, self.dtype)

    def _probe(self, model: FunctionalModel) -> None:
        """Have the engine find buffers that training moves, before states are made."""
        with untouched_generators(), model.ready():
            model.probe(self._images(), Draws(0))


def _checked_mode(mode: Mode | None, model_init: ModelInit) -> Mode:
    module = isinstance(model_init, nn.Module)
    if not module and not isinstance(model_init, str) and not callable(model_init):
        raise TypeError(
            "`model_init` must be an nn.Module, a function that makes one or a name, got "
            f"{type(model_init).__name__}"
        )
    if mode is None:
        return "fixed" if module else "random"
    if mode not in ("fixed", "random", "pool"):
        raise ValueError(f'`mode` must be "fixed", "random" or "pool", got {mode!r}')
    if mode == "random" and module:
        raise ValueError(
            'mode="random" must have a `model_init` that makes a new network each time, got one '
            f"module; pass a function `() -> nn.Module` or a name, or use {FIXED}"
        )
    return mode
