"""Checks of settings that need no data and no model.

Used by `config`, once every value is of the type of its field: values in their ranges, settings
that do not go together, and settings without effect.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import fields

from dd_plugin.data.recipe_values import check_amounts
from dd_plugin.data.stored_sizes import check_factor, level_sizes
from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.json_settings import dictionary
from dd_plugin.distiller.settings import SECRETS, Settings

# The smallest and the largest number of full precision, by `dtype`.
RANGES = {
    "float32": (2.0**-126, (2 - 2.0**-23) * 2.0**127),
    "float64": (sys.float_info.min, sys.float_info.max),
}


class NoEffectWarning(UserWarning):
    """A setting was changed, and has no effect with the others."""


def check_values(config: Settings) -> None:
    """Check every number on its own.

    Raises:
        ValueError: one is out of its range.
    """
    at_least_1 = (
        "max_steps logging_steps eval_networks final_eval_networks pool_size pool_max_steps "
        "images_per_class upsample_factor inner_steps groups augmentations_per_step "
        "real_batch_size max_skipped_steps per_device_eval_batch_size feature_copies "
        "backbone_batch_size"
    )
    for name in at_least_1.split():
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(config, name)}")
    at_least_0 = "eval_steps save_steps warmup_steps max_grad_norm wait_for_room head_copies"
    for name in (*at_least_0.split(), "activation_memory"):
        if (getattr(config, name) or 0) < 0:
            raise ValueError(f"`{name}` must not be negative, got {getattr(config, name)}")
    tiniest, largest = RANGES[config.dtype]
    for name in ("inner_lr", "learning_rate", "label_lr", "step_size_lr", "statistics_lr"):
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(config, name)}")
        if not tiniest <= getattr(config, name) <= largest:
            raise ValueError(
                f"`{name}` must be a number that {config.dtype} can hold, {tiniest:.2g} to "
                f"{largest:.2g}, got {getattr(config, name)}; give a rate such as 0.02"
            )
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be from 0 to below 1, got {getattr(config, name)}")
    check_amounts(
        config.augmentation, config.augmentations_per_step, config.head_copies, config.inner_steps
    )
    fraction = config.validation_fraction
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"`validation_fraction` must be from 0 to below 1, got {fraction}")
    if config.hub_token and not re.fullmatch(r"[!-~]+", config.hub_token):
        # The library that sends it would quote it in its error.
        raise ValueError(
            "`hub_token` must be one word of ASCII characters, got one with spaces, line ends "
            "or others; copy it again, or log in with `hf auth login`"
        )
    if config.networks_per_step is not None and config.networks_per_step < 1:
        raise ValueError(
            f"`networks_per_step` must be at least 1 or None, got {config.networks_per_step}"
        )
    if config.pyramid_levels is not None and config.pyramid_levels < 1:
        raise ValueError(
            f"`pyramid_levels` must be at least 1 or None, got {config.pyramid_levels}"
        )
    if config.save_total_limit is not None and config.save_total_limit < 1:
        raise ValueError(
            f"`save_total_limit` must be at least 1 or None, got {config.save_total_limit}"
        )


def check_combinations(config: Settings) -> None:
    """Check settings against each other.

    Raises:
        ValueError: two do not go together, or one needs another.
    """
    if not config.model:
        raise ValueError("`model` must name a network, got none")
    if config.trainable == "head":
        _check_head(config)
    elif len(config.model) > 1:
        _check_several(config)
    _check_schedule(config)
    if config.window != "full":
        if config.window_length is None:
            raise ValueError(f'`window_length` must be given with window="{config.window}"')
        if not 1 <= config.window_length <= config.inner_steps:
            raise ValueError(
                "`window_length` must lie between 1 and `inner_steps` = "
                f"{config.inner_steps}, got {config.window_length}"
            )
    if config.init == "pool" and config.pool_max_steps < config.inner_steps:
        raise ValueError(
            f"`pool_max_steps` must be at least `inner_steps` = {config.inner_steps}, got "
            f"{config.pool_max_steps}"
        )
    if config.batch_networks and config.trainable == "all":
        _check_batched(config)
    is_said = not is_left_alone(config.groups)  # else they are chosen once more
    if config.batching == "groups" and is_said and config.trained_per_class % config.groups:
        what = "`images_per_class`"
        if config.is_upsampled:
            what += " * `upsample_factor` ** 2"
        raise ValueError(
            f"`groups` must divide {what} = {config.trained_per_class}, so that every group has "
            f"images of every class, got {config.groups}"
        )
    if config.color_space != "rgb" and not config.is_pyramid:
        raise ValueError(
            f'`color_space` must be "rgb" with parametrization="{config.parametrization}", whose '
            f'parameters are the pixels, got "{config.color_space}"; use '
            'parametrization="pyramid", or leave color_space out'
        )
    if config.image_size is not None and config.image_size >= 1:
        side = config.image_size
        if config.is_upsampled:
            check_factor(side, side, config.upsample_factor)
            side //= config.upsample_factor
        if config.is_pyramid:
            level_sizes(side, side, config.pyramid_levels)
    if config.load_best_model_at_end and config.eval_split is not None:
        check_selection_data(True, config.eval_split)
    if config.batching == "minibatches" and config.batch_size is None:
        raise ValueError('`batch_size` must be given with batching="minibatches"')
    if config.init == "pool" and config.window == "full":
        raise ValueError(
            '`window` must be "last", "random" or "adaptive" with init="pool", got "full": a run '
            "from a partly trained network is no full unroll; give a `window_length` too"
        )
    if config.load_best_model_at_end and not config.eval_steps:
        raise ValueError("`eval_steps` must not be 0 with load_best_model_at_end")
    if config.push_to_hub and not config.hub_dataset_id:
        raise ValueError("`hub_dataset_id` must be given with push_to_hub")


def _check_schedule(config: Settings) -> None:
    """Check that the step sizes can follow a schedule.

    Raises:
        ValueError: all steps share one.
    """
    if config.inner_schedule != "constant" and config.step_sizes == "shared":
        raise ValueError(
            '`step_sizes` must be per_step, per_layer or constant with inner_schedule="cosine", '
            'got "shared", which is one step size for all steps'
        )


def check_inner_optimizer(config: Settings) -> None:
    """Check the hyperparameters of the inner optimizer by taking a step with it, which needs torch.

    Raises:
        ValueError: they are not possible.
    """
    arguments = dictionary(config.inner_optimizer_args, "inner_optimizer_args")
    if arguments:
        from dd_plugin.data.recipe import check_optimizer

        check_optimizer(config.inner_optimizer, arguments)


def _check_several(config: Settings) -> None:
    """Check that several networks can be trained from scratch on one set.

    Raises:
        ValueError: two are the same, or they cannot share their step sizes.
    """
    for place, one in enumerate(config.networks):
        if one in config.networks[:place]:
            raise ValueError(
                f"`model` must name different networks, got {one[0]} twice with the same "
                "`model_args`; leave one out, or give a list with other arguments for each"
            )
    if config.step_sizes == "per_layer":
        raise ValueError(
            f"`step_sizes` must be per_step, shared or constant with {len(config.model)} models, "
            'got "per_layer"; the layers of one have no counterparts in another'
        )


def _check_batched(config: Settings) -> None:
    """Check that the networks of a step can be run as one."""
    if config.init == "pool":
        raise ValueError(
            '`batch_networks` must be off with init="pool", whose networks are at different steps '
            "of their training"
        )
    if config.method != "mixed":
        raise ValueError(
            f'`batch_networks` must be off with method="{config.method}", which runs networks one '
            'by one; use method="mixed"'
        )


def _check_head(config: Settings) -> None:
    """Check the settings of a run for heads.

    Raises:
        ValueError: one has no meaning for them.
    """
    if isinstance(config.model_args, list):
        raise ValueError(
            '`model_args` must be one dictionary for all networks with trainable="head", got a '
            f"list of {len(config.model_args)}"
        )
    if config.feature_copies > 1 and not config.is_augmented:
        raise ValueError(
            f"`feature_copies` must be 1 without augmentation, got {config.feature_copies}; give "
            "`augmentation`"
        )
    if config.batching != "all" and not is_left_alone(config.batching):
        raise ValueError(
            f'`batching` must be "all" with trainable="head", got {config.batching!r}; a head is '
            "trained on all images at once"
        )
    if config.image_init in ("herding", "easiest"):
        raise ValueError(
            '`image_init` must be real, mean or noise with trainable="head", got '
            f"{config.image_init!r}, whose rule is for networks that are trained from scratch"
        )
    if config.normalization == "zca":
        raise ValueError(
            '`normalization` must be auto, data or none with trainable="head", got "zca", with '
            "which no network is pretrained"
        )
    if config.step_sizes == "per_layer":
        raise ValueError(
            '`step_sizes` must be per_step, shared or constant with trainable="head", whose '
            'one layer makes "per_layer" the same as "per_step"'
        )


def check_selection_data(has_data: bool, split: str | None) -> None:
    """Check that the best set is chosen by its accuracy on validation data.

    Raises:
        ValueError: there are no such data, or the split is called `test`.
    """
    if not has_data:
        raise ValueError(
            "`load_best_model_at_end` needs evaluation data, but there is no split `validation`; "
            "give `eval_dataset` or `eval_split`, or leave the option out"
        )
    if split == "test":
        raise ValueError(
            "`load_best_model_at_end` chooses by the accuracy on `eval_split`, got 'test': the "
            "result would be chosen on the data that it is reported on. Give a validation split, "
            "or leave the option out"
        )


def warn_of_no_effect(config: Settings) -> None:
    """Warn of every setting that was changed and has no effect; called while a config is made."""
    default = {f.name: f.default for f in fields(config)}
    unused = {
        **_without_effect_on_a_head(config),
        "validation_fraction": config.eval_split is not None,
        "groups": config.batching != "groups",
        "batch_size": config.batching != "minibatches",
        "window_length": config.window == "full",
        "pool_size": config.init != "pool",
        "pool_max_steps": config.init != "pool",
        "upsample_factor": not config.is_upsampled,
        "pyramid_levels": not config.is_pyramid,
        "augmentations_per_step": not config.is_augmented,
        "head_copies": not config.is_augmented or config.trainable != "head",
        "label_lr": not config.soft_labels,
        "label_form": not config.soft_labels,
        "step_size_lr": config.step_sizes == "constant",
        # A head learns other constants at that rate.
        "statistics_lr": config.trainable != "head" and not config.learns_statistics,
        "statistics_corrections": config.trainable == "head"
        or config.statistics in ("learned", "frozen"),
        "eval_networks": config.init == "fixed" or config.trainable == "head",
        "final_eval_networks": config.init == "fixed" and not config.baselines,
        "hub_dataset_id": not config.push_to_hub,
        "hub_private_repo": not config.push_to_hub,
        "hub_token": not config.push_to_hub,
        "hub_revision": not config.push_to_hub,
        "save_total_limit": config.save_steps == 0,
        "mixed_precision": config.dtype == "float64",  # which autocast leaves alone
        "storage": config.method == "autograd",
        "activation_memory": bool(config.activation_memory)
        and (config.compile == "no" or config.method != "mixed" or config.storage == "recompute"),
        "batch_networks": config.networks_per_step == 1,
        "memory_format": config.compile == "no",
        "verify": config.method == "autograd"
        or (config.trainable == "head" and config.head == "ridge"),
        "warmup_steps": config.lr_scheduler_type == "constant",
        "run_name": not config.report_to,
    }
    for name, idle in unused.items():
        said = getattr(config, name)
        if idle and said not in (default[name], {}) and not is_left_alone(said):
            value = "" if name in SECRETS else f" = {getattr(config, name)!r}"
            warnings.warn(
                f"`{name}`{value} has no effect with the other settings",
                NoEffectWarning,
                stacklevel=4,
            )


def _without_effect_on_a_head(config: Settings) -> dict[str, bool]:
    head, unrolled = config.trainable == "head", config.head == "unroll"
    of_networks = "init pool_size pool_max_steps statistics train_with window window_length"
    idle = dict.fromkeys(of_networks.split(), head)
    idle |= dict.fromkeys(["compile", "method", "storage"], head)
    idle |= dict.fromkeys(["activation_memory", "batch_networks", "memory_format"], head)
    of_unrolled = "inner_steps inner_optimizer inner_optimizer_args inner_lr step_sizes"
    idle |= dict.fromkeys([*of_unrolled.split(), "inner_schedule"], head and not unrolled)
    of_heads = "head objective feature_layer feature_copies feature_dir backbone_batch_size"
    return idle | dict.fromkeys(of_heads.split(), not head)
