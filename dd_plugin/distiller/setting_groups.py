"""The settings of a run as fields, a class for each group: type, default and help text.

The command line, the pages of the documentation and the checks read them from here. A setting with
a fixed set of values has a `Literal` as its type. `settings.Settings` has all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dd_plugin.choices import (
    Batching,
    Corrections,
    HeadKind,
    Init,
    LabelForm,
    Statistics,
    Trainable,
    TrainWith,
)
from dd_plugin.distiller.setting_fields import LOWERED, option, option_by_data

DEFAULT_MODEL = "timm/dd_convnet"
# What `defaults` has for the digits, which are the data of a run without options.
DEFAULT_ARGUMENTS = {"width": 32, "depth": 2, "norm_layer": "batchnorm2d"}


@dataclass
class RunSettings:
    """Where a run writes, how long it is and what it reports."""

    output_dir: str = option("distilled", "Folder for everything that the run writes.")
    overwrite_output_dir: bool = option(
        False, "Replace the run that output_dir holds, which is lost."
    )
    rescue_dir: str | None = option(
        None,
        "Folder on another disk. If output_dir cannot be written at the end, the distilled set "
        "goes into a new folder there.",
    )
    wait_for_room: int = option(
        0,
        "Seconds to keep trying to write the distilled set at the end, such as on a full disk.",
    )
    resume_from_checkpoint: str | None = option(
        None, "Resume from a checkpoint folder, or from 'latest', the newest in output_dir."
    )
    seed: int = option(0, "Seed of every random number of the run.")
    max_steps: int = option_by_data(300, f"Outer steps. {LOWERED}")
    logging_steps: int = option(10, "Outer steps between two lines of the log.")
    eval_steps: int = option_by_data(
        100,
        "Outer steps between two evaluations; 0 for none. Left out, a third of max_steps where "
        "these are lowered.",
    )
    eval_networks: int = option_by_data(
        3, f"Fresh networks of each model per evaluation. {LOWERED}"
    )
    final_eval_networks: int = option_by_data(
        5, f"Fresh networks of each model in the table at the end. {LOWERED}"
    )
    load_best_model_at_end: bool = option(
        False,
        "End with the distilled set of the best evaluation, not the last. Needs a validation "
        "split: choosing on test data is refused.",
    )
    save_steps: int = option_by_data(
        100,
        "Outer steps between two checkpoints; 0 for none. Left out, a third of max_steps where "
        "these are lowered.",
    )
    save_total_limit: int | None = option(2, "Checkpoints to keep; the oldest are deleted.")
    report_to: list[str] = option(
        [], "Trackers, as Accelerate names them: tensorboard, wandb, trackio, ..."
    )
    run_name: str | None = option(None, "Name of the run in the trackers.")
    disable_tqdm: bool = option(False, "Print a line per evaluation instead of a progress bar.")
    baselines: list[str] | str | bool = option_by_data(
        ["auto"],
        "What to compare with at the end. random_real: as many random real images; centroid, "
        "herding, k_center: as many that are chosen by such a rule; easiest, hardest: as many that "
        "young networks make the smallest or the largest error on (EL2N); full_data: all of them; "
        "hard_labels: the distilled images with plain classes; learned_labels_on_random: random "
        "real images with the learned labels; all: everything; none: no comparison; auto: "
        "random_real and full_data, or with trainable=head centroid, herding and k_center too. "
        "Left out, it is auto, without full_data if images or network are very large.",
    )


@dataclass
class DataSettings:
    """The real images that are distilled, and how they are read."""

    dataset: str = option("digits", "'digits', a folder, or a data set's id on the Hub.")
    train_split: str | None = option(None, "Split to distill; by default 'train'.")
    eval_split: str | None = option(
        None, "Split to evaluate on; by default 'validation', or 'test' if there is none."
    )
    validation_fraction: float | None = option(
        None,
        "Share of each class that is held out to evaluate on, if the data set has no split for "
        "that; at least one image of each class. By default 0.2, and 0 for a single split that is "
        "passed in Python; 0 for none.",
    )
    image_column: str | None = option(None, "Column of the images; by default it is detected.")
    label_column: str | None = option(None, "Column of the labels; by default it is detected.")
    image_size: int | None = option(None, "Resize images to this height and width.")
    normalization: Literal["auto", "data", "none", "zca"] = option(
        "auto",
        "How the input of networks is normalized. auto: as the model says, or else like data; "
        "data: by mean and standard deviation of the training images; none: not at all; zca: by "
        "whitening that is fitted on the training images.",
    )
    per_device_eval_batch_size: int = option(500, "Images per batch of an evaluation.")


@dataclass
class NetworkSettings:
    """What is trained on the synthetic images."""

    model: list[str] | str = option(
        [DEFAULT_MODEL],
        "timm/NAME, a model's id on the Hub, or a folder. With trainable=head it has to be "
        "pretrained, and lite/NAME is possible too. Several models take turns in the outer steps, "
        "for a set that serves all of them.",
    )
    # A parser of arguments takes the second of these types.
    model_args: dict[str, Any] | str | list[dict[str, Any]] | None = option(
        None,
        "Arguments of the model, as JSON on the command line: '{\"width\": 64}' for all models, "
        "or a list with one such object per model. By default timm/dd_convnet alone gets BatchNorm "
        "and a width and depth that fit the images. With trainable=head the only one is "
        "'{\"pretrained\": false}', for random weights.",
    )
    trainable: Trainable = option_by_data(
        "all",
        "What is trained on the images. all: a whole network; head: the head of a frozen, "
        "pretrained network. Left out, it is head where the weights are pretrained: with "
        "'{\"pretrained\": true}' in model_args, or lite/NAME as the model.",
    )
    head: HeadKind = option(
        "ridge", "How a head is trained. ridge: in closed form; unroll: in inner steps."
    )
    objective: Literal["bilevel", "gradient_matching"] = option(
        "bilevel",
        "Outer objective of a head. bilevel: the loss of the trained head on real images; "
        "gradient_matching: how far the gradients of random heads are from those on real images.",
    )
    feature_layer: str | None = option(
        None,
        "Layer whose output the head is trained on; by default the input of the network's head.",
    )
    feature_copies: int = option(
        1,
        "Features per real image: of the image itself, and with more than 1 of augmented copies.",
    )
    feature_dir: str | None = option(
        None,
        "Folder for the features of real images; by default output_dir. Runs on the same data and "
        "networks can share it.",
    )
    backbone_batch_size: int = option(
        128,
        "Images per forward pass of a frozen network. It does not change the result. Lower it if "
        "memory runs out.",
    )
    init: Init = option(
        "random",
        "Where inner training starts. fixed: from the same weights each time; random: from fresh "
        "weights; pool: from partly trained networks.",
    )
    pool_size: int = option(10, "Partly trained networks in the pool.")
    pool_max_steps: int = option(
        300,
        "Retire a network of the pool after this many inner steps: the length of the training that "
        "the set is distilled for. An outer step does `inner_steps` of them.",
    )
    statistics: Statistics | None = option(
        None,
        "What happens to the running statistics of BatchNorm. learned: they are learned per "
        "channel; tracked: training moves them, with a learned momentum and correction per layer; "
        "frozen: nothing moves them. By default tracked.",
    )
    statistics_corrections: Corrections | None = option(
        None,
        "The momentum and corrections of tracked statistics. learned: per layer; none: those of "
        "plain BatchNorm, for a set that ordinary networks are trained on. By default none with "
        "step_sizes=constant, else learned.",
    )
    train_with: TrainWith = option(
        "batch",
        "Statistics that BatchNorm uses in train mode. batch: those of the batch; running: the "
        "running ones.",
    )


@dataclass
class SyntheticSettings:
    """What is learned: the images and their labels."""

    start_from: str | None = option(
        None, "Distilled set (folder or Hub id) to start from; what is new begins by image_init."
    )
    images_per_class: int = option(1, "Stored images per class.")
    image_init: Literal["real", "noise", "mean", "herding", "easiest"] = option(
        "real",
        "Initial images. real: random real ones; noise: random pixels; mean: class means, of which "
        "several per class are means of disjoint parts; herding, easiest: real ones by a rule.",
    )
    parametrization: Literal["pixels", "upsampled", "pyramid", "upsampled_pyramid"] = option(
        "pixels",
        "What is learned. pixels: every pixel; upsampled: more images, of lower resolution; "
        "pyramid: a sum of levels of rising resolution, for images that are to teach other "
        "networks too, or to be looked at; upsampled_pyramid: both.",
    )
    upsample_factor: int = option(
        2, "How many times smaller upsampled images are stored, in height and in width."
    )
    pyramid_levels: int | None = option(
        None,
        "Levels of a pyramid, each of half the resolution of the next; by default all that have "
        "four rows and columns.",
    )
    color_space: Literal["rgb", "decorrelated"] = option(
        "rgb",
        "Colors in which a pyramid is learned. rgb: the channels; decorrelated: directions in "
        "which the training images vary independently, which brings less color noise.",
    )
    soft_labels: bool = option(False, "Learn the labels too.")
    label_form: LabelForm = option(
        "probabilities",
        "Form of learned labels. probabilities: one per class, with a sum of 1; weights: of the "
        "classes in the loss, of any sign.",
    )


@dataclass
class InnerSettings:
    """How a network is trained on the synthetic images."""

    inner_steps: int = option_by_data(20, f"Training steps of the unroll. {LOWERED}")
    batching: Batching = option_by_data(
        "all",
        "What an inner step trains on. all: all images; groups: one of several fixed groups; "
        "minibatches: a batch of shuffled images. Left out, more than 100 images are trained on "
        "in groups, or in minibatches if there are no such groups.",
    )
    groups: int = option(1, "Groups for batching=groups.")
    batch_size: int | None = option(None, "Synthetic images per step for batching=minibatches.")
    inner_optimizer: Literal["sgd", "adam", "adamw"] = option(
        "sgd", "Optimizer of the inner steps."
    )
    inner_optimizer_args: dict[str, Any] | str | None = option(
        None,
        "Hyperparameters of the inner optimizer, as JSON on the command line: "
        "'{\"momentum\": 0.9}'.",
    )
    inner_lr: float = option(0.02, "Step size, or its initial value where it is learned.")
    inner_schedule: Literal["constant", "cosine"] = option(
        "constant",
        "Course of inner_lr over inner training. cosine: it falls to 0 along half a cosine, as in "
        "usual training with AdamW. With init=pool that takes pool_max_steps.",
    )
    step_sizes: Literal["per_step", "per_layer", "shared", "constant"] = option(
        "per_step",
        "Which step sizes are learned. per_step: one per step; per_layer: one per step and "
        "parameter tensor of the network, as in MAML++; shared: one for all; constant: none.",
    )
    window: Literal["full", "last", "random", "adaptive"] = option(
        "full",
        "Inner steps that are differentiated. full: all; last: the last ones; random: those of a "
        "window at a random place; adaptive: at one that follows the speed of training.",
    )
    window_length: int | None = option(None, "Steps of the window, unless it is full.")
    augmentation: str = option(
        "",
        "Differentiable augmentation of synthetic and real images. With `_` a step does one of "
        "several, as in flip_rotate or dsa; with `+` it does all, as in resizedcrop+flip+noise.",
    )
    augmentations_per_step: int = option(
        1,
        "Copies of its images that a step trains on, each augmented by itself. More copies cost "
        "time and make images that depend less on single pixels.",
    )
    head_copies: int = option(
        0,
        "Augmented copies of each image that a head is trained on, beside the image itself, "
        "whenever the set is used or tested. Raise it, to 16 for example, for networks that the "
        "images were not learned on.",
    )
    networks_per_step: int | None = option(
        None, "Networks per outer step, over all processes; by default one per process."
    )


@dataclass
class OuterSettings:
    """How the synthetic set is updated."""

    learning_rate: float = option(0.01, "Adam's step size for the images.")
    label_lr: float = option(0.01, "Learning rate of soft labels.")
    step_size_lr: float = option(0.02, "Learning rate of the logarithm of step sizes.")
    statistics_lr: float = option(0.02, "Learning rate of the BatchNorm statistics or corrections.")
    adam_beta1: float = option(0.9, "First decay rate of Adam.")
    adam_beta2: float = option(0.99, "Second decay rate of Adam.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "cosine", "Schedule of the learning rates."
    )
    warmup_steps: int = option(0, "Outer steps until the learning rates are reached.")
    max_grad_norm: float = option(
        2.0, "Clip gradients at this many times their moving norm; 0 for no clipping."
    )
    real_batch_size: int = option_by_data(
        256,
        f"Real images per network and outer step; all of them where there are fewer. {LOWERED}",
    )
    max_skipped_steps: int = option(20, "End the run after this many non-finite steps in a row.")
