"""The settings of a run as fields: type, default, help text and group of each.

The only place where they stand: the command line, the pages of the documentation and the checks
read them from here. A setting with a fixed set of values has a `Literal` as its type.
`config.DistillerConfig` adds what makes and checks the values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

from dd_plugin.bilevel.adjoints import MethodName
from dd_plugin.bn.layer import Statistics, TrainWith
from dd_plugin.data.recipe import Batching, HeadKind, Init, Precision, Trainable
from dd_plugin.data.synthetic import LabelForm
from dd_plugin.distiller.coercion import choices
from dd_plugin.distiller.json_settings import model_arguments

# Settings whose value is in no text, file or log.
SECRETS = frozenset({"hub_token"})

DEFAULT_MODEL = "timm/dd_convnet"
# The network of the run without options: small, for images of 8x8.
DEFAULT_ARGUMENTS = {"width": 32, "depth": 2, "norm_layer": "batchnorm2d"}


def _option(default: Any, text: str, **more: Any) -> Any:
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: default, metadata={"help": text}, **more)
    return field(default=default, metadata={"help": text}, **more)


@dataclass
class RunSettings:
    """Where a run writes, how long it is and what it reports."""

    output_dir: str = _option("distilled", "Folder for everything that the run writes.")
    overwrite_output_dir: bool = _option(
        False, "Write into a folder that holds another run, which is lost."
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
        "End with the distilled set of the best evaluation, not the last. Needs a validation "
        "split: choosing on test data is refused.",
    )
    save_steps: int = _option(100, "Outer steps between two checkpoints; 0 for none.")
    save_total_limit: int | None = _option(2, "Checkpoints to keep; the oldest are deleted.")
    report_to: list[str] = _option(
        [], "Trackers, as Accelerate names them: tensorboard, wandb, trackio, ..."
    )
    run_name: str | None = _option(None, "Name of the run in the trackers.")
    disable_tqdm: bool = _option(False, "Print a line per evaluation instead of a progress bar.")
    baselines: bool = _option(True, "Compare with random real images and the full data at the end.")


@dataclass
class DataSettings:
    """The real images that are distilled, and how they are read."""

    dataset: str = _option("digits", "'digits', a folder, or a data set's id on the Hub.")
    train_split: str | None = _option(None, "Split to distill; 'train' if there is one.")
    eval_split: str | None = _option(
        None, "Split to evaluate on; 'validation' or else 'test' if there is one."
    )
    image_column: str | None = _option(None, "Column of the images; by default it is detected.")
    label_column: str | None = _option(None, "Column of the labels; by default it is detected.")
    image_size: int | None = _option(None, "Resize images to this height and width.")
    normalization: Literal["auto", "data", "none", "zca"] = _option(
        "auto",
        "auto: the model's own, or else that of the data; data: mean and standard deviation of the "
        "training images; none; zca: whitening fitted on the training images.",
    )
    per_device_eval_batch_size: int = _option(500, "Images per batch of an evaluation.")


@dataclass
class NetworkSettings:
    """What is trained on the synthetic images."""

    model: list[str] | str = _option(
        [DEFAULT_MODEL],
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
    trainable: Trainable = _option(
        "all",
        "What is trained on the images. all: a whole network; head: the head of a pretrained "
        "network that is frozen.",
    )
    head: HeadKind = _option(
        "ridge", "How a head is trained. ridge: in closed form; unroll: in inner steps."
    )
    objective: Literal["bilevel", "gradient_matching"] = _option(
        "bilevel",
        "Outer objective of a head. bilevel: the loss of the trained head on real images; "
        "gradient_matching: gradients of random heads, as on real images.",
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
        128, "Images per forward pass of a frozen network; no effect on the result."
    )
    init: Init = _option(
        "random",
        "Where inner training starts. fixed: from the same weights; random: from fresh ones; pool: "
        "from partly trained networks.",
    )
    pool_size: int = _option(10, "Partly trained networks in the pool.")
    pool_max_steps: int = _option(
        300,
        "Retire a network of the pool after this many inner steps: the length of the training that "
        "the set is distilled for. An outer step does `inner_steps` of them.",
    )
    statistics: Statistics | None = _option(
        None,
        "BatchNorm policy: learned, tracked or frozen. By default tracked, with a learned momentum "
        "and correction per layer.",
    )
    train_with: TrainWith = _option("batch", "Statistics that BatchNorm uses in train mode.")


@dataclass
class SyntheticSettings:
    """What is learned: the images and their labels."""

    images_per_class: int = _option(1, "Stored images per class.")
    image_init: Literal["real", "noise", "mean"] = _option(
        "real",
        "Initial images: real ones, noise, or class means (several per class are means of "
        "disjoint parts).",
    )
    parametrization: Literal["pixels", "upsampled", "pyramid"] = _option(
        "pixels",
        "What is learned. pixels: every pixel; upsampled: more images of lower resolution; "
        "pyramid: a sum of levels of rising resolution, for images that also teach other networks "
        "or are looked at.",
    )
    upsample_factor: int = _option(2, "How much smaller upsampled images are stored.")
    pyramid_levels: int | None = _option(
        None,
        "Levels of a pyramid, each of half the resolution of the next; by default all that have "
        "four rows and columns.",
    )
    color_space: Literal["rgb", "decorrelated"] = _option(
        "rgb",
        "Colors in which a pyramid is learned. rgb: the channels; decorrelated: directions in "
        "which the training images vary independently, which brings less color noise.",
    )
    soft_labels: bool = _option(False, "Learn the labels.")
    label_form: LabelForm = _option(
        "probabilities",
        "Learned labels are probabilities, or weights: unconstrained weights of the classes in the "
        "loss.",
    )


@dataclass
class InnerSettings:
    """How a network is trained on the synthetic images."""

    inner_steps: int = _option(20, "Training steps of the unroll.")
    batching: Batching = _option(
        "all",
        "What an inner step trains on: all images, one of several fixed groups, or shuffled "
        "minibatches.",
    )
    groups: int = _option(1, "Groups for batching=groups.")
    batch_size: int | None = _option(None, "Synthetic images per step for batching=minibatches.")
    inner_optimizer: Literal["sgd", "adam", "adamw"] = _option(
        "sgd", "Optimizer of the inner steps."
    )
    inner_optimizer_args: dict[str, Any] | str | None = _option(
        None, "Its hyperparameters, JSON on the command line: '{\"momentum\": 0.9}'."
    )
    inner_lr: float = _option(0.02, "Initial step size.")
    step_sizes: Literal["per_step", "per_layer", "shared", "constant"] = _option(
        "per_step",
        "Which step sizes are learned. per_step: one per step; per_layer: one per step and "
        "parameter tensor of the network, as in MAML++; shared: one for all; constant: none.",
    )
    window: Literal["full", "last", "random"] = _option(
        "full",
        "Inner steps that are differentiated: all, the last ones, or a window at a random place.",
    )
    window_length: int | None = _option(None, "Steps of the window, for last and random.")
    augmentation: str = _option(
        "",
        "Differentiable augmentation of synthetic and real images: flip_rotate or dsa, of which a "
        "step does one; or resizedcrop+flip+noise, of which it does all.",
    )
    augmentations_per_step: int = _option(
        1,
        "Copies of its images that a step trains on, each augmented by itself. More of them cost "
        "time and make images that depend less on single pixels.",
    )
    head_copies: int = _option(
        0,
        "Augmented copies of each image that a head is trained on beside the image itself, when it "
        "is used or tested. They help on networks that the images were not learned on; 16 is many.",
    )
    networks_per_step: int | None = _option(
        None, "Networks per outer step, over all processes; by default one per process."
    )


@dataclass
class OuterSettings:
    """How the synthetic set is updated."""

    learning_rate: float = _option(0.01, "Adam's step size for the images.")
    label_lr: float = _option(0.01, "Learning rate of soft labels.")
    step_size_lr: float = _option(0.02, "Learning rate of the logarithm of step sizes.")
    statistics_lr: float = _option(
        0.02, "Learning rate of the BatchNorm statistics or corrections."
    )
    adam_beta1: float = _option(0.9, "First decay rate of Adam.")
    adam_beta2: float = _option(0.99, "Second decay rate of Adam.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = _option(
        "cosine", "Schedule of the learning rates."
    )
    warmup_steps: int = _option(0, "Outer steps until the learning rates are reached.")
    max_grad_norm: float = _option(
        2.0, "Clip gradients at this many times their moving norm; 0 for no clipping."
    )
    real_batch_size: int = _option(256, "Real images per network and outer step.")
    max_skipped_steps: int = _option(20, "End the run after this many non-finite steps in a row.")


@dataclass
class ComputingSettings:
    """How derivatives are computed, and where."""

    method: MethodName = _option(
        "mixed",
        "How to differentiate. mixed: forward over reverse; reverse: double backward; autograd: "
        "the whole graph of the run.",
    )
    verify: bool = _option(
        True,
        "Compare the first gradient of the run with one that is computed in another way, and stop "
        "if they differ. It costs less than one outer step.",
    )
    storage: Literal["device", "host", "recompute"] = _option(
        "device",
        "Where the trajectory is kept: on the device, in host memory, or nowhere (recompute it).",
    )
    activation_memory: float = _option(
        0.0,
        "GiB of memory for the activations of the last inner steps, which are then not computed "
        "again on the way back. It needs compile=trace or inductor; 0 keeps none.",
    )
    batch_networks: bool = _option(
        False,
        "Run the networks of an outer step as one, in fewer and larger operations. It pays for "
        "several small networks on few images, and needs the memory of all of them.",
    )
    compile: Literal["auto", "no", "trace", "inductor"] = _option(
        "auto",
        "How the inner step and its backward sweep are run. no: from Python each time; trace: as "
        "the recorded operations of a first run, several times faster for small networks; "
        "inductor: compiled, for runs of thousands of outer steps; auto: trace, except for your "
        "own loss or network, whose operations may change from step to step.",
    )
    mixed_precision: Precision = _option(
        "no", "Precision of training: no, or bf16. Networks are tested in full precision."
    )
    dtype: Literal["float32", "float64"] = _option("float32", "Type of weights and images.")


@dataclass
class HubSettings:
    """Where the distilled set is published."""

    push_to_hub: bool = _option(False, "Publish the distilled set at the end.")
    hub_dataset_id: str | None = _option(None, "Repository, such as me/cifar10-ipc10.")
    hub_private_repo: bool = _option(False, "Make the repository private.")
    license: str | None = _option(
        None,
        "License of the distilled set, as the Hub names it, such as cc-by-4.0; by default that of "
        "the real images where it is known.",
    )
    hub_revision: str | None = _option(
        None, "Branch to publish on; it is created if there is none of that name."
    )
    hub_token: str | None = _option(
        None, "Token; by default the one of `hf auth login`. It is never printed.", repr=False
    )


# In the order of help, pages and files.
GROUPS: dict[str, type] = {
    "Run": RunSettings,
    "Real data": DataSettings,
    "Network": NetworkSettings,
    "Synthetic set": SyntheticSettings,
    "Inner training": InnerSettings,
    "Outer optimizer": OuterSettings,
    "Computing": ComputingSettings,
    "Hub": HubSettings,
}


# A dataclass has the fields of its last base first.
@dataclass
class Settings(
    HubSettings,
    ComputingSettings,
    OuterSettings,
    InnerSettings,
    SyntheticSettings,
    NetworkSettings,
    DataSettings,
    RunSettings,
):
    """All settings, and what follows from several of them."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all networks."""
        return tuple(self.model)

    @property
    def has_default_model(self) -> bool:
        """Whether the network is the one of a configuration that names none."""
        return self.models == (DEFAULT_MODEL,)

    @property
    def has_default_arguments(self) -> bool:
        """Whether the arguments of the network are those of a configuration that names none."""
        return self.has_default_model and self.model_args == DEFAULT_ARGUMENTS

    @property
    def networks(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """The name of each network, with its arguments."""
        arguments = model_arguments(self.model_args, len(self.models))
        listed = arguments if isinstance(arguments, list) else [arguments] * len(self.models)
        return tuple((name, dict(one)) for name, one in zip(self.models, listed, strict=True))

    @property
    def trained_per_class(self) -> int:
        """Images of each class that networks are trained on: more than are stored if upsampled."""
        upsampled = self.parametrization == "upsampled"
        return self.images_per_class * (self.upsample_factor**2 if upsampled else 1)


def setting_groups() -> dict[str, str]:
    """Return the group of every setting, in the order of the fields."""
    return {f.name: title for title, group in GROUPS.items() for f in fields(group)}


def setting_defaults() -> dict[str, str]:
    """Return the default of every setting as one would type it; empty where there is none."""
    texts = {}
    for name, value in vars(Settings()).items():
        words = value if isinstance(value, list) else [] if value in (None, "") else [value]
        texts[name] = " ".join(str(w).lower() if isinstance(w, bool) else str(w) for w in words)
    return texts


def setting_choices() -> dict[str, tuple[str, ...]]:
    """Return the values of every setting that has a fixed set of them."""
    # Not the types of `fields`: a parser of arguments puts others in their place.
    every = {name: choices(hint) for name, hint in get_type_hints(Settings).items()}
    return {name: values for name, values in every.items() if values}
