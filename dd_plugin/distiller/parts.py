"""From a configuration to the parts of a run, each checked before any long work.

Between `config` and `distiller`: it reads the real data, chooses the transform, makes the networks
and lays out the synthetic set.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor
from tqdm.auto import tqdm

from dd_plugin.bilevel import (
    Device,
    Full,
    Host,
    Last,
    Random,
    Recompute,
    Storage,
    Window,
)
from dd_plugin.bilevel.problem import Loss
from dd_plugin.bilevel.tracing.compile import Compile
from dd_plugin.data import (
    MissingSplitError,
    Normalization,
    RealData,
    Transform,
    Whitening,
    load_real,
)
from dd_plugin.data.colors import decorrelating_basis
from dd_plugin.data.network_records import BackboneRecord, NetworkRecord
from dd_plugin.data.parametrization import Parametrization, Pixels, Pyramid, Upsampled
from dd_plugin.data.real.rows import require_two_classes
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.architectures import (
    Architectures,
    chosen_networks,
    make_architectures,
)
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.head_backbones import (
    has_random_weights,
    load_backbones,
    normalize_as_data,
)
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.json_settings import dictionary
from dd_plugin.distiller.objectives import GradientMatching
from dd_plugin.distiller.setting_checks import NoEffectWarning
from dd_plugin.networks.backbones import Backbone
from dd_plugin.networks.features import Features, features_of
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.networks.head_solvers import head_of
from dd_plugin.seeds import Purpose, mix

logger = logging.getLogger(__name__)


@dataclass
class Parts:
    """What a run works on."""

    train: RealData
    evaluation: RealData | None
    transform: Transform
    networks: Architectures | HeadCourse
    synthetic: SyntheticSet
    train_split: str | None
    eval_split: str | None


def make_parts(
    config: DistillerConfig,
    model_init: ModelInit | Sequence[ModelInit] | None,
    train_dataset: Any,
    eval_dataset: Any,
    device: torch.device,
    dtype: torch.dtype,
    inner_loss: Loss,
    outer_loss: Loss,
    own_losses: tuple[bool, bool],
) -> Parts:
    """Read, choose, make and check everything.

    ``own_losses`` says whether the inner and the outer loss are the user's.

    Raises:
        DataError: the data cannot be used.
        ValueError: model, data and configuration do not fit together.
    """
    if config.trainable == "head":
        # Before the data, which may take minutes to read.
        backbones = load_backbones(config, model_init, device, dtype)
        data = _read(config, train_dataset, eval_dataset, device)
        return _head_parts(
            config, backbones, data, device, dtype, inner_loss, outer_loss, own_losses
        )
    data = _read(config, train_dataset, eval_dataset, device)
    train = data.train
    architectures = make_architectures(config, model_init, train, device, dtype)
    recipe = _recipe(config, architectures, train, model_init, own_losses[0])
    for networks in architectures.members:
        networks.problem(
            recipe.make_optimizer(),
            inner_loss=inner_loss,
            outer_loss=outer_loss,
            compile=_compile(config, any(own_losses) or model_init is not None),
            autocast=recipe.autocast,
            verify=config.verify,
        )
    if config.step_sizes == "per_layer":
        parameters = architectures.problems[0].model.parameters
        recipe = replace(recipe, step_size_parameters=tuple(parameters))
    transform = _transform(config, architectures, train).to(device)
    constants = architectures.constants()
    synthetic = _synthetic(config, recipe, train, transform, constants, device, dtype)
    return Parts(
        train,
        data.evaluation,
        transform,
        architectures,
        synthetic,
        data.train_split,
        data.eval_split,
    )


def _head_parts(
    config: DistillerConfig,
    backbones: list[Backbone],
    data: _Data,
    device: torch.device,
    dtype: torch.dtype,
    inner_loss: Loss,
    outer_loss: Loss,
    own_losses: tuple[bool, bool],
) -> Parts:
    """The parts of a run for the head of frozen backbones."""
    train = data.train
    if train.num_classes < 2:
        raise ValueError(
            f"the real images must be of at least 2 classes, got {train.num_classes}: a head has "
            "nothing to tell apart; choose another label column or data set"
        )
    if data.evaluation is not None and (counts := data.evaluation.class_counts()) is not None:
        require_two_classes(torch.tensor(counts), data.evaluation.class_names)
    if config.normalization == "data":
        normalize_as_data(backbones, train)
    _warn_of_unused_losses(config, own_losses)
    recipe = Recipe.from_dict(
        Recipe(
            shape=train.shape,
            class_names=tuple(train.class_names),
            steps=config.inner_steps if config.head == "unroll" else 1,
            optimizer=config.inner_optimizer,
            optimizer_args=dictionary(config.inner_optimizer_args, "inner_optimizer_args"),
            augmentation=config.augmentation,
            augmentations_per_step=config.augmentations_per_step,
            model=_public_name(backbones[0]),
            model_args={"pretrained": False} if has_random_weights(config, backbones) else {},
            loss="custom" if own_losses[0] and config.head == "unroll" else "cross_entropy",
            mixed_precision=config.mixed_precision,
            trainable="head",
            head=config.head,
            head_copies=config.head_copies,
            backbones=tuple(map(_recorded, backbones)),
        ).to_dict()
    )
    head = head_of(recipe, inner_loss, outer_loss, verify=config.verify)
    objective = GradientMatching() if config.objective == "gradient_matching" else head
    course = HeadCourse(
        backbones,
        _features(config, train, config.feature_copies),
        None if data.evaluation is None else _features(config, data.evaluation, 1),
        head,
        objective,
        seed=config.seed,
        real_batch_size=config.real_batch_size,
        batch_size=config.backbone_batch_size,
        autocast=recipe.autocast,
        images=train,
    )
    # Each backbone has a normalisation of its own; what is augmented are pixels.
    transform = Normalization([0.0] * train.shape[0], [1.0] * train.shape[0]).to(device)
    synthetic = _synthetic(config, recipe, train, transform, course.constants(), device, dtype)
    return Parts(
        train,
        data.evaluation,
        transform,
        course,
        synthetic,
        data.train_split,
        data.eval_split,
    )


def _warn_of_unused_losses(config: DistillerConfig, own_losses: tuple[bool, bool]) -> None:
    own_inner, own_outer = own_losses
    if own_inner and config.head == "ridge":
        warnings.warn(
            'the inner loss of your own has no effect with head="ridge", which is ridge regression '
            'onto the labels; use head="unroll"',
            NoEffectWarning,
            stacklevel=4,
        )
    if own_outer and config.objective == "gradient_matching":
        warnings.warn(
            'the outer loss of your own has no effect with objective="gradient_matching", which is '
            'that of cross entropy; use objective="bilevel"',
            NoEffectWarning,
            stacklevel=4,
        )


def _public_name(backbone: Backbone) -> str | None:
    return None if backbone.name is None or _is_path(backbone.name, bare=True) else backbone.name


def _recorded(backbone: Backbone) -> BackboneRecord:
    return BackboneRecord(
        _public_name(backbone),
        backbone.fingerprint,
        backbone.revision,
        backbone.size,
        backbone.num_features,
        tuple(backbone.normalization.mean),
        tuple(backbone.normalization.std),
        backbone.feature_layer,
    )


def _features(
    config: DistillerConfig, data: RealData, copies: int
) -> Callable[[Backbone], Features]:
    """What computes the features of some real images by a backbone."""
    state = PartialState()

    def compute(backbone: Backbone) -> Features:
        name = backbone.name or type(backbone).__name__
        with tqdm(
            total=None,
            desc=f"features of {name}",
            unit="image",
            disable=config.disable_tqdm or not state.is_main_process,
            leave=False,
        ) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return features_of(
                backbone,
                data,
                copies=copies,
                augmentation=config.augmentation if copies > 1 else "",
                seed=config.seed,
                batch_size=config.backbone_batch_size,
                folder=Path(config.feature_dir or config.output_dir),
                on_progress=show,
                share=(state.process_index, state.num_processes),
                gather=gather if state.num_processes > 1 else None,
            )

    return compute


def _compile(config: DistillerConfig, own_code: bool) -> Compile:
    named: dict[str, Compile] = {"no": False, "trace": "trace", "inductor": True}
    return named.get(config.compile, False if own_code else "trace")


class _Data(NamedTuple):
    """The real images of a run, and where they came from as far as `config` names it."""

    train: RealData
    evaluation: RealData | None
    train_split: str | None = None
    eval_split: str | None = None


def _read(
    config: DistillerConfig, train_dataset: Any, eval_dataset: Any, device: torch.device
) -> _Data:
    options: dict[str, Any] = {
        # What backbones take.
        **({"channels": 3} if config.trainable == "head" else {}),
        "image_column": config.image_column,
        "label_column": config.label_column,
        "image_size": config.image_size,
        "device": device,
        "seed": config.seed,
    }
    train_dataset, eval_dataset = (
        os.fspath(data) if isinstance(data, os.PathLike) else data
        for data in (train_dataset, eval_dataset)
    )
    source = config.dataset if train_dataset is None else train_dataset
    split = config.train_split
    if split is None and isinstance(source, (str, dict)):
        split = "train"
    train = load_real(source, split, **options)
    if empty := train.leave_out_empty_classes():
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        logger.warning(
            "no training images of the classes %s%s: they are left out, and %d classes remain",
            ", ".join(empty[:10]),
            more,
            train.num_classes,
        )
    train.check_classes(config.images_per_class if train.in_memory else 1)
    options |= {
        "image_size": train.shape[1:],
        "channels": train.shape[0],
        "class_names": train.class_names,
        "white_level": train.white_level,
    }
    if eval_dataset is None and train_dataset is not None and not isinstance(source, (str, dict)):
        return _Data(train, None, split)
    source = source if eval_dataset is None else eval_dataset
    if not isinstance(source, (str, dict)):
        return _Data(train, load_real(source, **options), split)
    same_data = eval_dataset is None
    if config.eval_split is not None:
        given = config.eval_split
        if same_data and given == split:
            raise ValueError(
                f"`eval_split` must not be the split that is distilled, {given!r}: networks would "
                "be tested on what the images were learned from; name another, or a slice that "
                "`train_split` leaves out, such as train[55000:]"
            )
        return _Data(train, load_real(source, given, **options), split, given)
    for name in ("validation", "test"):
        if same_data and name == split:
            continue
        try:
            return _Data(train, load_real(source, name, **options), split, name)
        except MissingSplitError as error:
            missing = error
    if eval_dataset is not None:
        raise missing
    return _Data(train, None, split)


def _transform(config: DistillerConfig, architectures: Architectures, train: RealData) -> Transform:
    if config.normalization == "zca":
        return Whitening.fit(train)
    if config.normalization == "none":
        return Normalization([0.0] * train.shape[0], [1.0] * train.shape[0])
    own = (
        _own_normalization(config, architectures, train) if config.normalization == "auto" else None
    )
    return own or Normalization.from_data(train)


def _own_normalization(
    config: DistillerConfig, architectures: Architectures, train: RealData
) -> Normalization | None:
    """The normalization that the networks name; None where they name none, or different ones."""
    found = [
        Normalization.from_model(
            networks.new_model(config.seed), channels=train.shape[0], fetch=True
        )
        for networks in architectures.members
    ]
    first = found[0]
    if first is None or any(o is None or o.metadata() != first.metadata() for o in found[1:]):
        return None
    return first


def _recipe(
    config: DistillerConfig,
    architectures: Architectures,
    train: RealData,
    model_init: ModelInit | Sequence[ModelInit] | None,
    own_inner_loss: bool,
) -> Recipe:
    records = tuple(_record(*one) for one in chosen_networks(config, model_init))
    is_pool = architectures.mode == "pool"
    recipe = Recipe(
        shape=train.shape,
        class_names=tuple(train.class_names),
        steps=config.pool_max_steps if is_pool else config.inner_steps,
        batching=config.batching,
        groups=config.groups if config.batching == "groups" else 1,
        batch_size=config.batch_size if config.batching == "minibatches" else None,
        optimizer=config.inner_optimizer,
        optimizer_args=dictionary(config.inner_optimizer_args, "inner_optimizer_args"),
        augmentation=config.augmentation,
        augmentations_per_step=config.augmentations_per_step,
        init=architectures.mode,
        statistics=architectures.statistics,
        train_with=config.train_with,
        model=records[0].model,
        model_args=records[0].model_args,
        networks=records if len(records) > 1 else (),
        loss="custom" if own_inner_loss else "cross_entropy",
        mixed_precision=config.mixed_precision,
    )
    # What cannot be read back later is told now.
    return Recipe.from_dict(recipe.to_dict())


def _record(model: ModelInit, arguments: dict[str, Any]) -> NetworkRecord:
    """What others may know of a network."""
    # A folder of this machine is no name for them, and neither is a file in the arguments.
    if not isinstance(model, str) or _is_path(model, bare=True) or _is_path(arguments):
        return NetworkRecord(None)
    return NetworkRecord(model, arguments)


def _is_path(value: Any, *, bare: bool = False) -> bool:
    """Whether it is, or holds, the path of something on this machine.

    A ``bare`` word counts as well, if there is a file or folder of that name.
    """
    if isinstance(value, dict):
        return any(map(_is_path, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_path, value))
    if isinstance(value, os.PathLike):
        return True
    if not isinstance(value, str) or not value:
        return False
    path = Path(value).expanduser()
    if path.is_absolute() or value.startswith((".", "~")):
        return True
    return (bare or path.name != value or bool(path.suffix)) and path.exists()


def _synthetic(
    config: DistillerConfig,
    recipe: Recipe,
    train: RealData,
    transform: Transform,
    constants: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> SyntheticSet:
    constants = {name: t.to(device, dtype) for name, t in constants.items()}
    per_class = config.trained_per_class
    labels = torch.arange(recipe.num_classes, device=device).repeat_interleave(per_class)
    seed = mix(config.seed, Purpose.INITIAL_IMAGES)
    if config.image_init == "real":
        images, labels = train.of_each_class(per_class, seed)
    elif config.image_init == "mean":
        images = train.class_means(per_class)
    else:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(len(labels), *recipe.shape, generator=generator)
    images, labels = images.to(device, dtype), labels.to(device)
    # Sorted by class so far; a group takes its share of every class.
    place = torch.arange(len(labels), device=device) % per_class
    order = torch.argsort(place * recipe.groups // per_class, stable=True)
    parametrization = _parametrization(config, images[order], train)
    shape: tuple[int, ...] = ()
    learned_steps = config.step_sizes != "constant" and recipe.head != "ridge"
    if recipe.head == "ridge":
        shape = ()
    elif config.step_sizes == "per_step":
        shape = (recipe.steps,)
    elif recipe.step_size_parameters is not None:
        shape = (recipe.steps, len(recipe.step_size_parameters))
    return SyntheticSet(
        recipe,
        parametrization,
        labels[order],
        torch.full(shape, config.inner_lr, device=device, dtype=dtype),
        transform=transform,
        soft_labels=config.label_form if config.soft_labels else False,
        learn_step_sizes=learned_steps,
        constants=constants,
    )


def _parametrization(config: DistillerConfig, images: Tensor, train: RealData) -> Parametrization:
    """The parametrization that a configuration names, starting at images."""
    if config.parametrization == "upsampled":
        return Upsampled(images, config.upsample_factor)
    if config.parametrization == "pixels":
        return Pixels(images)
    basis = None
    if config.color_space == "decorrelated":
        if images.shape[1] == 1:
            logger.warning('color_space="decorrelated" has no effect on images of one channel')
        else:
            basis = decorrelating_basis(train)
    return Pyramid(images, config.pyramid_levels, basis)


def make_window(config: DistillerConfig) -> Window:
    """The window that a configuration names."""
    if config.window == "full":
        return Full()
    assert config.window_length is not None
    return (Last if config.window == "last" else Random)(config.window_length)


def make_storage(config: DistillerConfig) -> Storage:
    """The trajectory storage that a configuration names."""
    activations = int(config.activation_memory * 2**30)
    storages: dict[str, Storage] = {
        "device": Device(activations=activations),
        "host": Host(activations=activations),
        "recompute": Recompute(),
    }
    return storages[config.storage]
