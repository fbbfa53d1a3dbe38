"""Where the networks of the inner runs come from: one fixed start, fresh ones, or a pool.

Between the user's ``model_init`` and the engine: `Networks` makes the model, converts its BatchNorm
layers, checks it against the data before any work is done, keeps the one `BilevelProblem` of the
run, and hands out the `RunState` that an inner run starts from. Which network that is depends on
the seed, the outer step and the index of the network in that step alone, never on a generator's
state or on which process asks, so a run can be resumed, and spread over processes, exactly.

What can be redrawn in place is: where a model's own `reset_parameters` (or that of each of its
layers) is seen to give, bit for bit, what making a model anew gives from the same seed. A fresh
state of `dd_convnet` then takes 1.8 instead of 2.7 ms on one CPU core. Otherwise a new model is
made each time: 105 ms for timm's resnet18, whose layers' `reset_parameters` draw from another
distribution than its constructor does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

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
from dd_plugin.bilevel.step_values import leaves_of, tree_map
from dd_plugin.bn import (
    Statistics,
    TrainWith,
    convert_bn,
    converted_layers,
    tracking_tensors,
)
from dd_plugin.bn.convert import unsynchronise_bn
from dd_plugin.distiller.network_checks import check_model, check_outputs, check_start
from dd_plugin.files import flat, like_saved, restored
from dd_plugin.networks.fresh import (
    ModelInit,
    learnable_constants,
    made_from,
    network_maker,
)
from dd_plugin.seeds import Purpose, mix, seeded_generators, untouched_generators

Mode = Literal["fixed", "random", "pool"]

# How to ask for one start, in settings and here.
_FIXED = 'init="fixed" (`mode` of `Networks`)'


class _Member(NamedTuple):
    """One network of a pool: where its training is, and how many inner steps it has had."""

    state: RunState
    age: int


class Networks:
    """The networks of the inner runs.

    Args:
        model_init: a module (its weights are the start of each run), a function that makes a new
            one each time, or a name for `dd_plugin.models.load_model`.
        mode: ``"fixed"``, every run starts from the same weights; ``"random"``, each from fresh
            ones; ``"pool"``, each from one of several partly trained networks, see `give_back`. By
            default ``"fixed"`` for a module, else ``"random"``.
        pool_size: members of the pool, for each index that `take` is called with: different
            networks of an outer step never share one, in whichever process they are.
        max_age: inner steps after which a member is replaced by a fresh network.
        num_classes: logits that the model must have.
        shape: channels, height and width of the images.
        statistics: who moves the statistics of BatchNorm layers, see `convert_bn`; by default
            ``"tracked"``, whose momentum and correction per layer hold for any start and did
            better for a fixed one, too, than values learned per channel, which hold for that one.
        train_with: see `convert_bn`.
        device: where the states live.
        dtype: of weights, statistics and images.
        model_args: more arguments for `load_model` when ``model_init`` is a name, ``pretrained``
            among them; they go before the number of classes and the shape of the data.
        seed: all networks are functions of it.

    Raises:
        TypeError: ``model_init`` is none of these, or makes something that is no module.
        ValueError: the model does not fit the data or the mode; the message says how.
        ModelLoadError: no model of that name.

    Attributes:
        mode: see above.
        statistics: the policy that was chosen.
        redraws_in_place: whether fresh networks are redrawn instead of made anew.
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
        if pool_size < 1 or max_age < 1:
            raise ValueError(
                f"`pool_size` and `max_age` must be at least 1, got {pool_size} and {max_age}"
            )
        if model_args and not isinstance(model_init, str):
            raise ValueError(
                "`model_args` must be left out unless `model_init` is a name, got "
                f"{sorted(model_args)}; give them to the model yourself"
            )
        self.statistics: Statistics = statistics or "tracked"
        self.pool_size, self.max_age = pool_size, max_age
        self.num_classes, self.shape, self.train_with = num_classes, shape, train_with
        self.device, self.dtype, self.seed = torch.device(device), dtype, seed
        self._make = network_maker(model_init, num_classes, shape, model_args)
        self._scratch: nn.Module | None = None
        self._problem: BilevelProblem | None = None
        self._options: tuple[Any, ...] = ()
        self._members: dict[tuple[int, int], _Member] = {}
        self._taken: dict[int, tuple[int, int]] = {}

        if self._make is None:
            assert isinstance(model_init, nn.Module)
            first = unsynchronise_bn(copy_model(model_init))
        else:
            first = self._made(mix(seed, Purpose.FIRST_NETWORK))
        check_model(first)
        if self.mode == "fixed":
            check_start(first)
        self._prototype = first.to(self.device, dtype)
        convert_bn(self._prototype, self.statistics, train_with, missing_ok=True)
        with untouched_generators():
            check_outputs(self._prototype, self._images(), num_classes)
        self.redraws_in_place = False
        if self._make is not None and self.mode != "fixed":
            self._check_factory(first)

    @property
    def has_batch_norm(self) -> bool:
        """Whether the networks have layers that the policy is about."""
        return bool(converted_layers(self._prototype))

    # The problem.

    def problem(self, optimizer: Optimizer | None = None, **options: Any) -> BilevelProblem:
        """The bilevel problem of these networks; made by the first call, then kept.

        Args:
            optimizer: the inner optimizer, see `BilevelProblem`. Without it, and without options,
                the problem that there is.
            **options: see `BilevelProblem`.

        Raises:
            ValueError: called again for another optimizer or other options.
        """
        asked = (optimizer, options)
        if self._problem is None:
            made = BilevelProblem(self._prototype, optimizer=optimizer, **options)
            self._probe(made.model)
            self._problem, self._options = made, asked
        elif asked not in ((None, {}), self._options):
            raise ValueError(
                "these networks have their problem already, with another optimizer or other "
                "options; make new `Networks` for another problem"
            )
        return self._problem

    def constants(self) -> dict[str, Tensor]:
        """What there is to learn about BatchNorm statistics, for all networks alike.

        Name to tensor, in memory of the problem's own: running means and variances per channel
        where these are learned, momentum shifts and corrections per layer where they are tracked.
        Nothing for frozen statistics, and for learned ones with ``train_with="running"``, which
        inner training moves as it moves weights.

        Raises:
            RuntimeError: before the first call of `problem`.
        """
        names = learnable_constants(self._prototype)
        constants = self._have_problem().model.constants
        return {name: tensor for name, tensor in constants.items() if name in names}

    def summary(self) -> dict[str, Any]:
        """What a record says of a network that has no name: ``class`` and ``parameters``.

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
        """The state from which network ``index`` of an outer step starts its inner run.

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
        slot = mix(self.seed, Purpose.POOL_SLOT, outer_step, index) % self.pool_size
        member = self._members.get((index, slot))
        if member is None or member.age >= self.max_age:
            member = _Member(self._fresh(mix(self.seed, Purpose.POOL_MEMBER, outer_step, index)), 0)
            self._members[index, slot] = member
        self._taken[index] = (slot, member.age)
        return member.state

    def age(self, index: int) -> int:
        """Inner steps that the network which `take` gave last for an index had had; 0 if fresh."""
        return self._taken.get(index, (0, 0))[1]

    def give_back(self, index: int, state: RunState, age: int) -> bool:
        """Put what became of the network that `take` gave for ``index`` back into the pool.

        A state that is not finite is not kept: a fresh network will take its place. In the other
        modes nothing is kept at all.

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
        if index not in self._taken:
            raise ValueError(f"no network was taken for index {index}; call `take` first")
        slot, _ = self._taken.pop(index)
        if not _is_finite(state):
            self._members.pop((index, slot), None)
            return False
        like = initial_state(self._have_problem())
        # Copies, since the state may be a view of all networks of the step.
        own = restored(like, dict(flat(state)), "")
        self._members[index, slot] = _Member(own, age)
        return True

    def new_model(self, seed: int, constants: Mapping[str, Tensor] | None = None) -> nn.Module:
        """A converted model such as runs start from, to be trained in the ordinary way.

        Args:
            seed: what it is drawn from; without effect in mode ``"fixed"``.
            constants: what was learned about its statistics, by the names of `constants`.

        Raises:
            ValueError: constants that the model does not have.
        """
        if self.mode == "fixed" or self._make is None:
            model = copy_model(self._prototype)
        else:
            model = self._made(seed).to(self.device, self.dtype)
            convert_bn(model, self.statistics, self.train_with, missing_ok=True)
        own = dict(_tensors(model))
        with torch.no_grad():
            for name, value in (constants or {}).items():
                if name not in own or own[name].shape != value.shape:
                    raise ValueError(
                        f"`constants` has {name!r} of shape {tuple(value.shape)}, which these "
                        "networks do not have"
                    )
                own[name].copy_(value)
        return model

    # Checkpoints.

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything that is not a function of the seed: the pool, and a start that was given.

        To be taken between outer steps, when what was taken has been given back.

        Returns:
            Flat, name to tensor or integer. A process has the members that it took.

        Raises:
            RuntimeError: before the first call of `problem`.
        """
        saved: dict[str, Tensor | int] = {f"start.{name}": t for name, t in self._given()}
        for (index, slot), member in self._members.items():
            stem = f"pool.{index}.{slot}."
            saved[f"{stem}age"] = member.age
            saved |= {f"{stem}{name}": t for name, t in flat(member.state)}
        return saved

    def load_state_dict(self, saved: Mapping[str, Tensor | int]) -> None:
        """Take over what `state_dict` gave, in this process or another.

        Raises:
            RuntimeError: before the first call of `problem`.
            ValueError: it belongs to another model, mode or optimizer. Nothing is changed then.
        """
        like = initial_state(self._have_problem())
        given = [(t, like_saved(saved, f"start.{name}", t)) for name, t in self._given()]
        places = {
            (int(index), int(slot))
            for index, slot in (name.split(".")[1:3] for name in saved if name.startswith("pool."))
        }
        if places and self.mode != "pool":
            raise ValueError(
                f'the saved networks are those of mode="pool", these have mode={self.mode!r}'
            )
        members = {}
        for index, slot in sorted(places):
            stem = f"pool.{index}.{slot}."
            age = saved.get(f"{stem}age")
            if not isinstance(age, int):
                raise ValueError(f"the saved networks have no whole number {stem}age")
            members[index, slot] = _Member(restored(like, saved, stem), age)
        known = {f"start.{name}" for name, _ in self._given()}
        for index, slot in places:
            stem = f"pool.{index}.{slot}."
            known |= {f"{stem}age"} | {f"{stem}{name}" for name, _ in flat(like)}
        extra = sorted(saved.keys() - known)
        if extra:
            raise ValueError(
                f"the saved networks have {len(extra)} tensor(s) that these do not, such as "
                f"{extra[0]}; they are of another model or inner optimizer"
            )
        for own, value in given:
            own.copy_(value)
        self._members, self._taken = members, {}

    def _given(self) -> list[tuple[str, Tensor]]:
        """The tensors of a start that is the same for all runs; empty where each has its own."""
        model = self._have_problem().model
        if self.mode != "fixed" and self._make is not None:
            return []
        roles = ("parameters", "statistics", "counters", "fixed")
        return [(f"{r}.{name}", t) for r in roles for name, t in getattr(model, r).items()]

    # Making.

    def _have_problem(self) -> BilevelProblem:
        if self._problem is None:
            raise RuntimeError("these networks have no problem yet; call `problem` first")
        return self._problem

    def _made(self, seed: int) -> nn.Module:
        """A new model from the factory; it draws as if everything had just been seeded."""
        assert self._make is not None
        # Each process has networks of its own, and not always as many as the others.
        return unsynchronise_bn(made_from(self._make, seed))

    def _fresh(self, seed: int) -> RunState:
        problem = self._have_problem()
        if self._make is None:
            return initial_state(problem)
        if self._scratch is not None:
            with seeded_generators(seed):
                _redraw(self._scratch)
            model = self._scratch
        else:
            model = self._made(seed)
        self._check_alike(model)
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

    # Checks of what a factory makes.

    def _check_alike(self, model: nn.Module) -> None:
        mine = {n: t.shape for n, t in _tensors(self._prototype)}
        theirs = {n: t.shape for n, t in _tensors(model)}
        added = tracking_tensors(self._prototype)
        for name in {**theirs, **mine}:
            if theirs.get(name) != mine.get(name) and name not in added:
                raise ValueError(
                    "`model_init` must make networks of one architecture, but "
                    f"{name!r} has shape {_shape(mine.get(name))} in one and "
                    f"{_shape(theirs.get(name))} in another"
                )

    def _check_factory(self, first: nn.Module) -> None:
        second = self._made(mix(self.seed, Purpose.SECOND_NETWORK))
        shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
        if second is first or shared:
            raise ValueError(
                "`model_init` must make a new network each time it is called, but it returned "
                + ("the same one twice" if second is first else "two that share parameters")
                + f"; make it inside of the function, or pass the module itself with {_FIXED}"
            )
        self._check_alike(second)
        mine = dict(_tensors(self._prototype))
        theirs = {n: t.to(self.device, mine[n].dtype) for n, t in _tensors(second)}
        roles = FunctionalModel(self._prototype)
        self._probe(roles)
        if all(_same(theirs[n], t) for n, t in roles.parameters.items() if n in theirs):
            raise ValueError(
                "`model_init` must draw a new network each time it is called, but two have the "
                "same weights (they are loaded, or drawn from a seed that the function sets); use "
                f"{_FIXED}, or leave the drawing to torch's global generator"
            )
        held = {**roles.fixed, **roles.constants}
        for name, tensor in held.items():
            if name in theirs and not _same(theirs[name], tensor):
                raise ValueError(
                    f"{name!r} is not trained, yet it differs from one network of `model_init` to "
                    "the next; inner runs can only start from what they train, so make it "
                    f"trainable, make it the same each time, or use {_FIXED}"
                )
        # The proof that redrawing is making anew: the first network again, from its seed.
        with seeded_generators(mix(self.seed, Purpose.FIRST_NETWORK)):
            redrawn = _redraw(second)
        if redrawn and all(
            _same(t.to(self.device, mine[n].dtype), mine[n]) for n, t in _tensors(second)
        ):
            self._scratch, self.redraws_in_place = second, True


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
            f"module; pass a function `() -> nn.Module` or a name, or use {_FIXED}"
        )
    return mode


def _redraw(model: nn.Module) -> bool:
    """Redraw a model by the `reset_parameters` of its own, or else of each part that has one.

    Returns:
        Whether there was something to call and it could be called.
    """
    own = getattr(model, "reset_parameters", None)
    parts = [getattr(module, "reset_parameters", None) for module in model.modules()]
    found = [own] if own is not None else [part for part in parts if part is not None]
    try:
        for reset in found:
            reset()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return bool(found)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _same(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point():
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return torch.equal(a, b)


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _is_finite(state: RunState) -> bool:
    leaves = [t for t in leaves_of(state) if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in leaves]).all())
