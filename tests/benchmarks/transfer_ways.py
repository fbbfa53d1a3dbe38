"""The ways of distilling a set that `transfer` compares, and the networks that are trained on it.

Plain values. A way is the settings of `DistillerConfig` that it changes; all ways have the same
storage, classes for labels, and the augmentation of the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from dd_plugin.data.stored_sizes import UPSAMPLED


class Network(NamedTuple):
    """A network as a setting names it: `model` and its part of `model_args`."""

    name: str
    arguments: dict[str, Any]


def _convnet(width: int, depth: int, norm: str) -> Network:
    return Network("timm/dd_convnet", {"width": width, "depth": depth, "norm_layer": f"{norm}2d"})


def _vit(patch: int, width: int, depth: int, heads: int) -> Network:
    arguments = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    return Network("timm/vit_tiny_patch16_224", arguments)


# The network that most ways distill with.
CONVNET: Final = "convnet"


class Networks(NamedTuple):
    """The networks of a comparison, for images of 32x32.

    Attributes:
        tested: those that are trained on every set, by the name of their column.
        widths: to distill with: one kind of network in several widths, depths and norms.
        kinds: to distill with: several kinds of networks.
        swin: to distill with: the ConvNet and a Swin transformer.
    """

    tested: dict[str, Network]
    widths: tuple[Network, ...]
    kinds: tuple[Network, ...]
    swin: tuple[Network, ...]


def _convnext(*widths: int, depth: int) -> Network:
    arguments = {"depths": [depth] * len(widths), "dims": list(widths), "patch_size": 2}
    return Network("timm/convnext_atto", arguments)


def _swin(width: int) -> Network:
    arguments = {
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": width,
        "depths": [1, 1],
        "num_heads": [2, 4],
    }
    return Network("timm/swin_tiny_patch4_window7_224", arguments)


def _of_size(
    tested: dict[str, Network], *others: Network, kinds: Sequence[Network], swin: Network
) -> Networks:
    own = tested[CONVNET]
    return Networks(tested, (own, *others), (own, *kinds), (own, swin))


_RESNET18: Final = Network("timm/resnet18", {})
# No tested network but the ConvNet is distilled with. "small" is for a processor.
SIZES: Final[dict[str, Networks]] = {
    "full": _of_size(
        {
            CONVNET: _convnet(32, 3, "batchnorm"),
            "resnet18": _RESNET18,
            "convnext": _convnext(32, 64, 128, 256, depth=2),
            "vit": _vit(4, 96, 4, 3),
        },
        _convnet(16, 2, "instancenorm"),
        _convnet(48, 4, "batchnorm"),
        kinds=(Network("timm/resnet10t", {}), _vit(8, 64, 2, 2)),
        swin=_swin(64),
    ),
    "small": _of_size(
        {
            CONVNET: _convnet(16, 3, "batchnorm"),
            "resnet18": _RESNET18,
            "convnext": _convnext(16, 32, 64, 128, depth=1),
            "vit": _vit(8, 64, 3, 2),
        },
        _convnet(12, 2, "instancenorm"),
        _convnet(24, 4, "batchnorm"),
        kinds=(Network("timm/dd_lenet", {}), _vit(8, 32, 1, 2)),
        swin=_swin(32),
    ),
    "toy": _of_size(
        {CONVNET: _convnet(4, 2, "batchnorm"), "vit": _vit(8, 8, 1, 1)},
        _convnet(5, 2, "batchnorm"),
        _convnet(4, 1, "instancenorm"),
        kinds=(_convnet(4, 1, "batchnorm"),),
        swin=_swin(8),
    ),
}

# As in the recipe mnist_transfer_ipc10: thirty steps of SGD, whose sizes are learned. The test has
# no corrections of BatchNorm, so no way learns them.
_SHORT: Final[dict[str, Any]] = {
    "statistics_corrections": "none",
    "inner_steps": 30,
    "batching": "groups",
    "inner_optimizer_args": {"momentum": 0.5},
}
# As usual training: AdamW, half a cosine, shuffled batches. An outer step goes on with one of two
# networks that are somewhere in such a training. More would all be young in a run of minutes, and
# images for young networks are no better for trained ones.
_PLAIN: Final[dict[str, Any]] = {
    "inner_optimizer": "adamw",
    "inner_lr": 2e-3,
    "inner_schedule": "cosine",
    "step_sizes": "constant",
    "batching": "minibatches",
    "batch_size": 64,
    "init": "pool",
    "pool_size": 2,
    "inner_steps": 20,
    "window": "random",
    "window_length": 15,
}
# The same training, of which an outer step differentiates few steps: more and cheaper outer steps,
# whose gradients see less far.
_BRIEF: Final = {**_PLAIN, "inner_steps": 6, "window_length": 5}
# The same in sixty larger steps, all of which are differentiated: the gradient of a window has
# another direction than that of the whole training (`window_gradients`).
_WHOLE: Final[dict[str, Any]] = {
    "inner_optimizer": "adamw",
    "inner_lr": 5e-3,
    "inner_schedule": "cosine",
    "step_sizes": "constant",
    "batching": "minibatches",
    "batch_size": 64,
    "inner_steps": 60,
}
# With corrections of BatchNorm, as where step sizes are learned. The test has none of them.
_CORRECTIONS: Final = {"statistics_corrections": "learned"}
_PYRAMID: Final = {"parametrization": "pyramid", "color_space": "decorrelated"}
# Labels are learned, as probabilities, and real images stay as they are.
_LABELS_ALONE: Final = {"soft_labels": True, "label_lr": 0.05, "learning_rate": 1e-12}
_MORE_IMAGES: Final = {"parametrization": "upsampled"}
_MORE_SMOOTH_IMAGES: Final = {
    "parametrization": "upsampled_pyramid",
    "color_space": "decorrelated",
}

WAYS: Final[dict[str, dict[str, Any]]] = {
    "whole": _WHOLE,
    "whole+herding": {**_WHOLE, "image_init": "herding"},
    "whole+herding+pyramid": {**_WHOLE, "image_init": "herding", **_PYRAMID},
    "whole+herding+pyramid+kinds": {
        **_WHOLE,
        "image_init": "herding",
        **_PYRAMID,
        "networks": "kinds",
    },
    "labels of herding": {**_WHOLE, "image_init": "herding", **_LABELS_ALONE},
    "labels of easiest": {**_WHOLE, "image_init": "easiest", **_LABELS_ALONE},
    "whole+easiest+pyramid": {**_WHOLE, "image_init": "easiest", **_PYRAMID},
    "whole+upsampled+herding": {**_WHOLE, **_MORE_IMAGES, "image_init": "herding"},
    "whole+upsampled+herding+corrections": {
        **_WHOLE,
        **_MORE_IMAGES,
        **_CORRECTIONS,
        "image_init": "herding",
    },
    "whole+upsampled+easiest": {**_WHOLE, **_MORE_IMAGES, "image_init": "easiest"},
    "whole+upsampled+easiest+corrections": {
        **_WHOLE,
        **_MORE_IMAGES,
        **_CORRECTIONS,
        "image_init": "easiest",
    },
    "whole+upsampled+pyramid+easiest": {
        **_WHOLE,
        **_MORE_SMOOTH_IMAGES,
        "image_init": "easiest",
    },
    "whole+upsampled+pyramid+easiest+corrections": {
        **_WHOLE,
        **_MORE_SMOOTH_IMAGES,
        **_CORRECTIONS,
        "image_init": "easiest",
    },
    "whole+upsampled+pyramid+easiest+corrections+swin": {
        **_WHOLE,
        **_MORE_SMOOTH_IMAGES,
        **_CORRECTIONS,
        "image_init": "easiest",
        "networks": "swin",
    },
    "whole+herding+pyramid+swin": {
        **_WHOLE,
        "image_init": "herding",
        **_PYRAMID,
        "networks": "swin",
    },
    "whole+upsampled+easiest+kinds": {
        **_WHOLE,
        **_MORE_IMAGES,
        "image_init": "easiest",
        "networks": "kinds",
    },
    "whole+herding+pyramid+corrections": {
        **_WHOLE,
        **_CORRECTIONS,
        "image_init": "herding",
        **_PYRAMID,
    },
    "short": _SHORT,
    "plain": _PLAIN,
    "plain+herding+pyramid": {**_PLAIN, "image_init": "herding", **_PYRAMID},
    "plain+corrections": {**_PLAIN, **_CORRECTIONS},
    "plain+widths": {**_PLAIN, "networks": "widths"},
    "plain+kinds": {**_PLAIN, "networks": "kinds"},
    "plain+pyramid": {**_PLAIN, **_PYRAMID},
    "plain+copies": {**_PLAIN, "batch_size": 32, "augmentations_per_step": 4},
    "plain+upsampled": {**_PLAIN, **_MORE_IMAGES},
    "plain+upsampled+easiest": {**_PLAIN, **_MORE_IMAGES, "image_init": "easiest"},
    "plain+upsampled+corrections": {**_PLAIN, **_MORE_IMAGES, **_CORRECTIONS},
    "plain+upsampled+easiest+corrections": {
        **_PLAIN,
        **_MORE_IMAGES,
        **_CORRECTIONS,
        "image_init": "easiest",
    },
    "brief+upsampled": {**_BRIEF, **_MORE_IMAGES},
    "brief+upsampled+widths": {**_BRIEF, **_MORE_IMAGES, "networks": "widths"},
    "brief+upsampled+kinds": {**_BRIEF, **_MORE_IMAGES, "networks": "kinds"},
    "short+herding": {**_SHORT, "image_init": "herding"},
    "short+pyramid": {**_SHORT, **_PYRAMID},
    "short+copies": {**_SHORT, "augmentations_per_step": 4},
    "short+upsampled": {**_SHORT, **_MORE_IMAGES},
    "short+widths": {**_SHORT, "networks": "widths"},
    "short+kinds": {**_SHORT, "networks": "kinds"},
    "short+upsampled+widths": {**_SHORT, **_MORE_IMAGES, "networks": "widths"},
    "short+upsampled+kinds": {**_SHORT, **_MORE_IMAGES, "networks": "kinds"},
}


def images_in_one(chosen: Mapping[str, Any]) -> int:
    """Return how many images take the storage of one, by the settings of a way."""
    return 4 if chosen.get("parametrization") in UPSAMPLED else 1


def settings(way: str, *, per_class: int, steps: int, size: str) -> dict[str, Any]:
    """Return the settings of a way, without where it writes and how long it is.

    Args:
        way: a name of `WAYS`.
        per_class: stored images of each class.
        steps: of the training that sets are tested by.
        size: of the networks, one of `SIZES`.
    """
    chosen = dict(WAYS[way])
    networks = SIZES[size]
    several = {
        "one": (networks.tested[CONVNET],),
        "widths": networks.widths,
        "kinds": networks.kinds,
        "swin": networks.swin,
    }
    learners = several[chosen.pop("networks", "one")]
    if size == "toy":
        chosen["inner_steps"] = 4
        small = {"window_length": 2, "pool_size": 1}
        chosen |= {name: value for name, value in small.items() if name in chosen}
    trained = per_class * images_in_one(chosen)
    if chosen["batching"] == "groups":
        # A step takes one image of each class, but all are trained on within a run.
        chosen["groups"] = next(
            n for n in range(min(trained, chosen["inner_steps"] // 2), 0, -1) if trained % n == 0
        )
    else:
        chosen["batch_size"] = min(chosen["batch_size"], 10 * trained)
    if chosen.get("init") == "pool":
        chosen["pool_max_steps"] = max(steps, chosen["inner_steps"])
    return {
        "model": [one.name for one in learners],
        "model_args": [one.arguments for one in learners],
        "images_per_class": per_class,
        "adam_beta2": 0.999,
        "real_batch_size": 32 if size == "toy" else 256,
        **chosen,
    }
