"""The ways of distilling a set that `transfer` compares, and the networks that are trained on it.

Plain values. A way is the settings of `DistillerConfig` that it changes; all ways have the same
storage, classes for labels, and the augmentation of the test.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Network(NamedTuple):
    """A network as a setting names it: `model` and its part of `model_args`."""

    name: str
    arguments: dict[str, Any]


def _convnet(width: int, depth: int, norm: str) -> Network:
    return Network("timm/dd_convnet", {"width": width, "depth": depth, "norm_layer": f"{norm}2d"})


def _vit(patch: int, width: int, depth: int, heads: int) -> Network:
    arguments = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    return Network("timm/vit_tiny_patch16_224", arguments)


# For images of 28x28 and 32x32. The first is the one that most ways distill with.
CONVNET: Final = "convnet"
TESTED: Final[dict[str, Network]] = {
    CONVNET: _convnet(32, 3, "batchnorm"),
    "resnet18": Network("timm/resnet18", {}),
    "convnext": Network(
        "timm/convnext_atto",
        {"depths": [2, 2, 2, 2], "dims": [32, 64, 128, 256], "patch_size": 2},
    ),
    "vit": _vit(4, 96, 4, 3),
}

# The same kind of network in several widths, depths and norms; and three kinds of networks. No
# tested network but the first is among them.
WIDTHS: Final = (TESTED[CONVNET], _convnet(16, 2, "instancenorm"), _convnet(48, 4, "batchnorm"))
KINDS: Final = (TESTED[CONVNET], Network("timm/resnet10t", {}), _vit(8, 64, 2, 2))

# As in the recipe mnist_transfer_ipc10: thirty steps of SGD, whose sizes are learned.
_SHORT: Final[dict[str, Any]] = {
    "inner_steps": 30,
    "batching": "groups",
    "inner_optimizer_args": {"momentum": 0.5},
}
# As usual training: AdamW, half a cosine, shuffled batches. An outer step goes on with one of
# several networks that are somewhere in such a training.
_PLAIN: Final[dict[str, Any]] = {
    "inner_optimizer": "adamw",
    "inner_lr": 2e-3,
    "inner_schedule": "cosine",
    "step_sizes": "constant",
    "batching": "minibatches",
    "batch_size": 64,
    "init": "pool",
    "pool_size": 8,
    "inner_steps": 20,
    "window": "random",
    "window_length": 15,
}
_PYRAMID: Final = {"parametrization": "pyramid", "color_space": "decorrelated"}
_MORE_IMAGES: Final = {"parametrization": "upsampled"}

WAYS: Final[dict[str, dict[str, Any]]] = {
    "short": _SHORT,
    "plain": _PLAIN,
    "plain+widths": {**_PLAIN, "networks": WIDTHS},
    "plain+kinds": {**_PLAIN, "networks": KINDS},
    "plain+pyramid": {**_PLAIN, **_PYRAMID},
    "plain+copies": {**_PLAIN, "batch_size": 32, "augmentations_per_step": 4},
    "plain+upsampled": {**_PLAIN, **_MORE_IMAGES},
    "short+pyramid": {**_SHORT, **_PYRAMID},
    "short+copies": {**_SHORT, "augmentations_per_step": 4},
    "short+upsampled": {**_SHORT, **_MORE_IMAGES},
    "short+widths": {**_SHORT, "networks": WIDTHS},
    "short+kinds": {**_SHORT, "networks": KINDS},
    "short+upsampled+widths": {**_SHORT, **_MORE_IMAGES, "networks": WIDTHS},
    "short+upsampled+kinds": {**_SHORT, **_MORE_IMAGES, "networks": KINDS},
}

# In runs of tests: small networks, few steps.
_TOY_TESTED: Final = {CONVNET: _convnet(4, 2, "batchnorm"), "vit": _vit(8, 8, 1, 1)}


def networks(size: str) -> dict[str, Network]:
    """Return the networks that are trained on every set, by the name of their column."""
    return _TOY_TESTED if size == "toy" else TESTED


def settings(way: str, *, per_class: int, steps: int, size: str) -> dict[str, Any]:
    """Return the settings of a way, without where it writes and how long it is.

    Args:
        way: a name of `WAYS`.
        per_class: stored images of each class.
        steps: of the training that sets are tested by.
        size: "full" or "toy".
    """
    chosen = dict(WAYS[way])
    learners = chosen.pop("networks", (TESTED[CONVNET],))
    if size == "toy":
        learners = [_convnet(4 + place, 2, "batchnorm") for place in range(len(learners))]
        chosen["inner_steps"] = 4
        chosen |= {"window_length": 2, "pool_size": 1} if "window" in chosen else {}
    trained = per_class * (4 if chosen.get("parametrization") == "upsampled" else 1)
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
