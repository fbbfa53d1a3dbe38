"""`DistillerConfig`: everything about a distillation run that is a plain value.

First in the flow of the trainer: the command line and YAML files fill it, `distiller` reads it.
Names are those of `transformers.TrainingArguments` where it has the same thing. What can be
checked without data or model is checked here, before any work.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_type_hints

import numpy as np

from dd_plugin.data.parametrization import check_factor, level_sizes
from dd_plugin.data.recipe import check_training
from dd_plugin.distiller.best import check_selection_data
from dd_plugin.distiller.coercion import coerced
from dd_plugin.distiller.json_settings import dictionary, model_arguments
from dd_plugin.recipes import recipe_settings

CHOICES: dict[str, tuple[str, ...]] = {
    "init": ("fixed", "random", "pool"),
    "statistics": ("learned", "tracked", "frozen"),
    "train_with": ("batch", "running"),
    "image_init": ("real", "noise", "mean"),
    "parametrization": ("pixels", "upsampled", "pyramid"),
    "color_space": ("rgb", "decorrelated"),
    "label_form": ("probabilities", "weights"),
    "batching": ("all", "groups", "minibatches"),
    "step_sizes": ("per_step", "per_layer", "shared", "constant"),
    "inner_optimizer": ("sgd", "adam", "adamw"),
    "window": ("full", "last", "random"),
    "method": ("mixed", "reverse", "autograd"),
    "storage": ("device", "host", "recompute"),
    "normalization": ("auto", "data", "none", "zca"),
    "lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup"),
    "compile": ("auto", "no", "trace", "inductor"),
    "mixed_precision": ("no", "bf16"),
    "trainable": ("all", "head"),
    "head": ("ridge", "unroll"),
    "objective": ("bilevel", "gradient_matching"),
    "dtype": ("float32", "float64"),
}

# Settings whose value is in no text, file or log.
SECRETS = frozenset({"hub_token"})

# Schedules that are the same however many steps there are.
ENDLESS_SCHEDULES = ("constant", "constant_with_warmup")

_CONVNET = "timm/dd_convnet"
# The network of the run without options: small, for images of 8x8.
_FOR_DIGITS = {"width": 32, "depth": 2, "norm_layer": "batchnorm2d"}


class NoEffectWarning(UserWarning):
    """An option was set that does nothing in the chosen mode."""


def _option(default: Any, text: str, **more: Any) -> Any:
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: default, metadata={"help": text}, **more)
    return field(default=default, metadata={"help": text}, **more)


@dataclass
class DistillerConfig:
    """The settings of a run; every one has a default that works.

    The defaults distil scikit-learn's handwritten digits on a CPU in a minute or two. The settings
    of published methods are recipes, see `from_recipe`.

    Raises:
        ValueError: a value is not possible, or two do not go together.
    """

    # The run.
    output_dir: str = _option("distilled", "Where everything is written.")
    overwrite_output_dir: bool = _option(
        False, "Write into a folder that holds another run, and lose that one."
    )
    rescue_dir: str | None = _option(
        None,
        "A folder on another disk. The distilled set goes into a new folder in it if output_dir "
        "cannot be written at the end.",
    )
    wait_for_room: int = _option(
        0,
        "Seconds to keep trying at the end of the run, while the distilled set cannot be written.",
    )
    resume_from_checkpoint: str | None = _option(
        None, "A checkpoint folder, or 'latest' for the newest in output_dir."
    )
    seed: int = _option(0, "Decides every random number of the run.")
    max_steps: int = _option(300, "Outer steps.")
    logging_steps: int = _option(10, "Outer steps between two lines of the log.")
    eval_steps: int = _option(100, "Outer steps between two evaluations; 0 for none.")
    eval_networks: int = _option(3, "Fresh networks per evaluation, of each model.")
    final_eval_networks: int = _option(5, "Fresh networks in the table at the end, of each model.")
    load_best_model_at_end: bool = _option(
        False,
        "End with the distilled set of the best evaluation, not the last; needs a validation "
        "split, since choosing on test data is refused.",
    )
    save_steps: int = _option(100, "Outer steps between two checkpoints; 0 for none.")
    save_total_limit: int | None = _option(2, "Checkpoints to keep; the oldest are deleted.")
    report_to: list[str] = _option(
        [], "Trackers, as Accelerate names them: tensorboard, wandb, trackio, ..."
    )
    run_name: str | None = _option(None, "Name of the run in the trackers.")
    disable_tqdm: bool = _option(False, "No progress bar, a line per evaluation only.")
    baselines: bool = _option(True, "Compare with random real images and the full data at the end.")

    # Real data.
    dataset: str = _option("digits", "'digits', a folder, or a data set's id on the Hub.")
    train_split: str | None = _option(None, "Split to distil; 'train' if there is one.")
    eval_split: str | None = _option(
        None, "Split to evaluate on; 'validation' or else 'test' if there is one."
    )
    image_column: str | None = _option(None, "Column of the images; found if not given.")
    label_column: str | None = _option(None, "Column of the labels; found if not given.")
    image_size: int | None = _option(None, "Resize images to this height and width.")
    normalization: str = _option(
        "auto",
        "auto: the model's own if it has one, or else that of the data; data; none; zca: whitening "
        "fitted on the training images.",
    )
    per_device_eval_batch_size: int = _option(500, "Images per batch of an evaluation.")

    # The network.
    model: list[str] | str = _option(
        [_CONVNET],
        "timm/NAME, a model's id on the Hub, or a folder; with trainable=head a pretrained one, or "
        "lite/NAME. Several take turns in the outer steps, for a set that serves all of them.",
    )
    # A parser of arguments takes the second of these types.
    model_args: dict[str, Any] | str | list[dict[str, Any]] | None = _option(
        None,
        "Arguments of the model, JSON on the command line: '{\"width\": 64}', for all models, or "
        "a list with one such object per model. With trainable=head none, but "
        "'{\"pretrained\": false}' for random weights.",
    )
    trainable: str = _option(
        "all",
        "What is trained on the images: all of a network, or the head of a pretrained one that "
        "stays as it is.",
    )
    head: str = _option("ridge", "How a head is trained: ridge (in closed form) or unroll.")
    objective: str = _option(
        "bilevel",
        "What the images of a head are learned by: bilevel: the loss of the trained head on real "
        "images; gradient_matching: gradients of random heads, as on real images.",
    )
    feature_layer: str | None = _option(
        None,
        "Layer whose output the head is trained on; by default what the network's own head takes.",
    )
    feature_copies: int = _option(
        1, "Copies of the real images whose features are kept: the images, and augmented ones."
    )
    feature_dir: str | None = _option(
        None,
        "Folder for the features of real images, which runs on the same data and networks share; "
        "by default output_dir.",
    )
    backbone_batch_size: int = _option(
        128, "Images per forward pass of a frozen network; without effect on the result."
    )
    init: str = _option("random", "Where inner runs start: fixed, random or pool.")
    pool_size: int = _option(10, "Partly trained networks in the pool.")
    pool_max_steps: int = _option(
        300,
        "Inner steps after which a network of the pool is replaced: the length of the training "
        "that the set is distilled for, of which an outer step does `inner_steps`.",
    )
    statistics: str | None = _option(
        None,
        "BatchNorm policy: learned, tracked or frozen; by default tracked, with a momentum and a "
        "correction per layer that are learned.",
    )
    train_with: str = _option("batch", "What BatchNorm normalises with in train mode.")

    # The synthetic set.
    images_per_class: int = _option(1, "Stored images per class.")
    image_init: str = _option(
        "real", "Start from real images, noise, or means of each class (of a part for each image)."
    )
    parametrization: str = _option(
        "pixels",
        "What is learned. pixels: every pixel; upsampled: more images of less resolution; pyramid: "
        "a sum of levels of rising resolution, coarse structure first, for images that are to "
        "teach other networks too or to be looked at.",
    )
    upsample_factor: int = _option(2, "How much smaller upsampled images are stored.")
    pyramid_levels: int | None = _option(
        None,
        "Levels of a pyramid, each of half the resolution of the next; by default all that have "
        "four rows and columns.",
    )
    color_space: str = _option(
        "rgb",
        "Colors in which a pyramid is learned. rgb: the channels; decorrelated: directions in "
        "which the training images vary independently, which brings less color noise.",
    )
    soft_labels: bool = _option(False, "Learn the labels.")
    label_form: str = _option(
        "probabilities",
        "Learned labels are probabilities, or weights of the classes in the loss that may be any "
        "number.",
    )

    # The inner run.
    inner_steps: int = _option(20, "Training steps of the unroll.")
    batching: str = _option("all", "A step trains on all images, its own group, or minibatches.")
    groups: int = _option(1, "Groups for batching=groups.")
    batch_size: int | None = _option(None, "Synthetic images per step for batching=minibatches.")
    inner_optimizer: str = _option("sgd", "sgd, adam or adamw.")
    inner_optimizer_args: dict[str, Any] | str | None = _option(
        None, "Its hyperparameters, JSON on the command line: '{\"momentum\": 0.9}'."
    )
    inner_lr: float = _option(0.02, "Initial step size.")
    step_sizes: str = _option(
        "per_step",
        "Which step sizes are learned: per_step: one per step; per_layer: one per step and "
        "parameter tensor of the network, as in MAML++; shared: one for all; constant: none.",
    )
    window: str = _option("full", "Steps that are differentiated: full, last or random.")
    window_length: int | None = _option(None, "How many, for last and random.")
    augmentation: str = _option(
        "",
        "Differentiable augmentation of synthetic and real images, such as flip_rotate or dsa, of "
        "which a step does one; or resizedcrop+flip+noise, of which it does all.",
    )
    augmentations_per_step: int = _option(
        1,
        "Copies of its images that a step trains on, each augmented by itself; more of them cost "
        "time and make images that depend less on single pixels.",
    )
    networks_per_step: int | None = _option(
        None, "Networks per outer step, over all processes; by default one per process."
    )

    # The outer optimizer.
    learning_rate: float = _option(0.01, "Adam's step size for the images.")
    label_lr: float = _option(0.01, "The same for soft labels.")
    step_size_lr: float = _option(0.02, "The same for the logarithm of step sizes.")
    statistics_lr: float = _option(0.02, "The same for what is learned about BatchNorm.")
    adam_beta1: float = _option(0.9, "First decay rate of Adam.")
    adam_beta2: float = _option(0.99, "Second decay rate of Adam.")
    lr_scheduler_type: str = _option("cosine", "Course of the learning rates.")
    warmup_steps: int = _option(0, "Outer steps until the learning rates are reached.")
    max_grad_norm: float = _option(
        2.0, "Clip gradients at this many times their moving norm; 0 for no clipping."
    )
    real_batch_size: int = _option(256, "Real images per network and outer step.")
    max_skipped_steps: int = _option(20, "End the run after so many non-finite steps in a row.")

    # How it is computed.
    method: str = _option("mixed", "How to differentiate: mixed, reverse or autograd.")
    verify: bool = _option(
        True,
        "Compare the first gradient of the run with one that is computed in another way, and stop "
        "if they differ. It costs less than one outer step.",
    )
    storage: str = _option("device", "Where the trajectory lies: device, host or recompute.")
    compile: str = _option(
        "auto",
        "How the inner step and its backward sweep are run: no: from Python each time; trace: as "
        "the operations that a first run recorded, several times faster for small networks; "
        "inductor: compiled, for runs of thousands of outer steps; auto: trace, or no where a loss "
        "or the network is your own code, which may not do the same in every step.",
    )
    mixed_precision: str = _option(
        "no", "no, or bf16 in the training of networks; they are tested in full."
    )
    dtype: str = _option("float32", "Of weights and images: float32 or float64.")

    # The Hub.
    push_to_hub: bool = _option(False, "Publish the distilled set at the end.")
    hub_dataset_id: str | None = _option(None, "Where, such as me/cifar10-ipc10.")
    hub_private_repo: bool = _option(False, "Make the repository private.")
    license: str | None = _option(
        None,
        "Licence of the distilled set, as the Hub names it, such as cc-by-4.0; by default that of "
        "the real images where it is known.",
    )
    hub_revision: str | None = _option(None, "Branch to publish on; made if need be.")
    hub_token: str | None = _option(
        None, "Token; by default the one of `hf auth login`. It is never printed.", repr=False
    )

    def __post_init__(self) -> None:
        self._coerce()
        if self.model_args is None and (self.dataset, self.models) == ("digits", (_CONVNET,)):
            self.model_args = dict(_FOR_DIGITS)
        self.model_args = model_arguments(self.model_args, len(self.models))
        self.inner_optimizer_args = dictionary(self.inner_optimizer_args, "inner_optimizer_args")
        self._check_values()
        self._check_combinations()
        self._warn_of_no_effect()

    @classmethod
    def from_recipe(cls, name: str, **overrides: Any) -> DistillerConfig:
        """The settings of a recipe of ``dd_plugin.recipes``.

        Args:
            name: of the recipe; `dd-plugin distill recipe:` lists them.
            overrides: settings that take the place of the recipe's.

        Raises:
            ValueError: there is no recipe of that name, or the settings are not possible.
        """
        config = cls(**{**recipe_settings(name), **overrides})
        vars(config)["recipe_name"] = name
        return config

    @property
    def recipe_name(self) -> str | None:
        """The recipe that the settings come from, if they come from one; see `from_recipe`."""
        return vars(self).get("recipe_name")

    def _coerce(self) -> None:
        """Make values of words that YAML does not read as such (1e-3, "false"), by the types."""
        trackers: Any = self.report_to
        self.report_to = [trackers] if isinstance(trackers, str) else list(trackers or [])
        models: Any = self.model
        self.model = [models] if isinstance(models, str) else list(models or [])
        # Not the types of `fields`: a parser of arguments puts others in their place.
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            # YAML reads the word no as false.
            if value is False and "no" in CHOICES.get(name, ()):
                value = "no"
            setattr(self, name, coerced(name, value, hint, secret=name in SECRETS))

    def with_model(self, *names: str) -> DistillerConfig:
        """The same settings with other networks; arguments that were a default are left out."""
        arguments = self.model_args
        if self.has_default_arguments and names != (_CONVNET,):
            arguments = None
        config = replace(self, model=list(names), model_args=arguments)
        vars(config)["recipe_name"] = self.recipe_name
        return config

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all networks."""
        return tuple(self.model)

    @property
    def has_default_model(self) -> bool:
        """Whether the network is the one of a configuration that names none."""
        return self.models == (_CONVNET,)

    @property
    def has_default_arguments(self) -> bool:
        """Whether the arguments of the network are those of a configuration that names none."""
        return self.has_default_model and self.model_args == _FOR_DIGITS

    @property
    def networks(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """The name of each network, with its arguments."""
        given = self.model_args
        listed = given if isinstance(given, list) else [given] * len(self.models)
        return tuple((name, dict(one)) for name, one in zip(self.models, listed, strict=True))  # type: ignore[arg-type]

    @property
    def trained_per_class(self) -> int:
        """Images of each class that networks are trained on: more than are stored if upsampled."""
        upsampled = self.parametrization == "upsampled"
        return self.images_per_class * (self.upsample_factor**2 if upsampled else 1)

    def _check_values(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (value is None and name == "statistics"):
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")
        at_least_1 = (
            "max_steps logging_steps eval_networks final_eval_networks pool_size pool_max_steps "
            "images_per_class upsample_factor inner_steps groups augmentations_per_step "
            "real_batch_size max_skipped_steps per_device_eval_batch_size feature_copies "
            "backbone_batch_size"
        )
        for name in at_least_1.split():
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ["eval_steps", "save_steps", "warmup_steps", "max_grad_norm", "wait_for_room"]:
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        tiniest, largest = (float(v) for v in (np.finfo(self.dtype).tiny, np.finfo(self.dtype).max))
        for name in ("inner_lr", "learning_rate", "label_lr", "step_size_lr", "statistics_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
            if not tiniest <= getattr(self, name) <= largest:
                raise ValueError(
                    f"`{name}` must be a number that {self.dtype} can hold, {tiniest:.2g} to "
                    f"{largest:.2g}, got {getattr(self, name)}; give a rate such as 0.02"
                )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be from 0 to below 1, got {getattr(self, name)}")
        check_training(
            self.augmentation,
            self.augmentations_per_step,
            self.inner_steps,
            self.inner_optimizer,
            self.inner_optimizer_args,  # type: ignore[arg-type]
        )
        if self.hub_token and not re.fullmatch(r"[!-~]+", self.hub_token):
            # What sends it would quote it in its own error.
            raise ValueError(
                "`hub_token` must be one word of ASCII characters, got one with spaces, line ends "
                "or others; copy it again, or log in with `hf auth login`"
            )
        if self.networks_per_step is not None and self.networks_per_step < 1:
            raise ValueError(
                f"`networks_per_step` must be at least 1 or None, got {self.networks_per_step}"
            )
        if self.pyramid_levels is not None and self.pyramid_levels < 1:
            raise ValueError(
                f"`pyramid_levels` must be at least 1 or None, got {self.pyramid_levels}"
            )
        if self.save_total_limit is not None and self.save_total_limit < 1:
            raise ValueError(
                f"`save_total_limit` must be at least 1 or None, got {self.save_total_limit}"
            )

    def _check_combinations(self) -> None:
        if not self.model:
            raise ValueError("`model` must name a network, got none")
        if self.trainable == "head":
            self._check_head()
        elif len(self.model) > 1:
            self._check_several()
        if self.window != "full":
            if self.window_length is None:
                raise ValueError(f'`window_length` must be given with window="{self.window}"')
            if not 1 <= self.window_length <= self.inner_steps:
                raise ValueError(
                    "`window_length` must lie between 1 and `inner_steps` = "
                    f"{self.inner_steps}, got {self.window_length}"
                )
        if self.init == "pool" and self.pool_max_steps < self.inner_steps:
            raise ValueError(
                f"`pool_max_steps` must be at least `inner_steps` = {self.inner_steps}, got "
                f"{self.pool_max_steps}"
            )
        if self.batching == "groups" and self.trained_per_class % self.groups:
            what = "`images_per_class`"
            if self.parametrization == "upsampled":
                what += " * `upsample_factor` ** 2"
            raise ValueError(
                f"`groups` must divide {what} = {self.trained_per_class}, so that every group has "
                f"images of every class, got {self.groups}"
            )
        if self.color_space != "rgb" and self.parametrization != "pyramid":
            raise ValueError(
                f'`color_space` must be "rgb" with parametrization="{self.parametrization}", whose '
                f'parameters are the pixels, got "{self.color_space}"; use '
                'parametrization="pyramid", or leave color_space out'
            )
        if self.image_size is not None and self.image_size >= 1:
            size = (self.image_size, self.image_size)
            if self.parametrization == "pyramid":
                level_sizes(*size, self.pyramid_levels)
            elif self.parametrization == "upsampled":
                check_factor(*size, self.upsample_factor)
        if self.load_best_model_at_end and self.eval_split is not None:
            check_selection_data(True, self.eval_split)
        if self.batching == "minibatches" and self.batch_size is None:
            raise ValueError('`batch_size` must be given with batching="minibatches"')
        if self.init == "pool" and self.window == "full":
            raise ValueError(
                'init="pool" starts from partly trained networks, so a full unroll is not what is '
                'differentiated; use window="last" with a `window_length`'
            )
        if self.load_best_model_at_end and not self.eval_steps:
            raise ValueError("`eval_steps` must not be 0 with load_best_model_at_end")
        if self.push_to_hub and not self.hub_dataset_id:
            raise ValueError("`hub_dataset_id` must be given with push_to_hub")

    def _check_several(self) -> None:
        """Check what several networks that are trained from scratch have to share."""
        for place, one in enumerate(self.networks):
            if one in self.networks[:place]:
                raise ValueError(
                    f"`model` must name different networks, got {one[0]} twice with the same "
                    "`model_args`; leave one out, or give each arguments of its own as a list"
                )
        if self.step_sizes == "per_layer":
            raise ValueError(
                f"`step_sizes` must be per_step, shared or constant with {len(self.model)} models, "
                'got "per_layer"; the layers of one have no counterparts in another'
            )

    def _check_head(self) -> None:
        if isinstance(self.model_args, list):
            raise ValueError(
                '`model_args` must be one dictionary for all networks with trainable="head", got a '
                f"list of {len(self.model_args)}"
            )
        if self.feature_copies > 1 and self.augmentation.strip().lower() in ("", "none"):
            raise ValueError(
                f"`feature_copies` must be 1 without augmentation, got {self.feature_copies}; give "
                "`augmentation`"
            )
        if self.batching != "all":
            raise ValueError(
                f'`batching` must be "all" with trainable="head", got {self.batching!r}; a head is '
                "trained on all images at once"
            )
        if self.normalization == "zca":
            raise ValueError(
                '`normalization` must be auto, data or none with trainable="head", got "zca", with '
                "which no network is pretrained"
            )
        if self.step_sizes == "per_layer":
            raise ValueError(
                '`step_sizes` must be per_step, shared or constant with trainable="head", whose '
                'one layer makes "per_layer" the same as "per_step"'
            )

    def _warn_of_no_effect(self) -> None:
        default = {f.name: f.default for f in fields(self)}
        unused = {
            **self._without_effect_on_a_head(),
            "groups": self.batching != "groups",
            "batch_size": self.batching != "minibatches",
            "window_length": self.window == "full",
            "pool_size": self.init != "pool",
            "pool_max_steps": self.init != "pool",
            "upsample_factor": self.parametrization != "upsampled",
            "pyramid_levels": self.parametrization != "pyramid",
            "augmentations_per_step": self.augmentation.strip().lower() in ("", "none"),
            "label_lr": not self.soft_labels,
            "label_form": not self.soft_labels,
            "step_size_lr": self.step_sizes == "constant",
            "statistics_lr": self.statistics == "frozen",
            "eval_networks": self.init == "fixed" or self.trainable == "head",
            "final_eval_networks": self.init == "fixed" and not self.baselines,
            "hub_dataset_id": not self.push_to_hub,
            "hub_private_repo": not self.push_to_hub,
            "hub_token": not self.push_to_hub,
            "hub_revision": not self.push_to_hub,
            "save_total_limit": self.save_steps == 0,
            "mixed_precision": self.dtype == "float64",  # which autocast leaves alone
            "storage": self.method == "autograd",
            "verify": self.method == "autograd"
            or (self.trainable == "head" and self.head == "ridge"),
            "warmup_steps": self.lr_scheduler_type == "constant",
            "run_name": not self.report_to,
        }
        for name, idle in unused.items():
            if idle and getattr(self, name) not in (default[name], {}):
                value = "" if name in SECRETS else f" = {getattr(self, name)!r}"
                warnings.warn(
                    f"`{name}`{value} has no effect with the other settings",
                    NoEffectWarning,
                    stacklevel=4,
                )

    def _without_effect_on_a_head(self) -> dict[str, bool]:
        head, unrolled = self.trainable == "head", self.head == "unroll"
        of_networks = "init pool_size pool_max_steps statistics train_with window window_length"
        found = dict.fromkeys(of_networks.split(), head)
        found |= dict.fromkeys(["compile", "method", "storage"], head)
        of_unrolled = "inner_steps inner_optimizer inner_optimizer_args inner_lr step_sizes"
        found |= dict.fromkeys(of_unrolled.split(), head and not unrolled)
        of_heads = "head objective feature_layer feature_copies feature_dir backbone_batch_size"
        return found | dict.fromkeys(of_heads.split(), not head)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without the token; one network as its name."""
        values = {name: v for name, v in asdict(self).items() if name not in SECRETS}
        models = list(self.models)
        return {**values, "model": models[0] if len(models) == 1 else models}
