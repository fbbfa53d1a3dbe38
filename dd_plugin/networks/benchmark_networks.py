"""The benchmark networks of dataset distillation: `DDConvNet` and `DDLeNet`, from their arguments.

Above `blocks`, which has what they are made of, and below `convnet`, which makes them models of
timm. `benchmark_maker` makes them without timm, whose import takes longer than a small run's first
outer step.

Both end in linear layers over flattened features, so a network has one input size, ``img_size``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.networks.blocks import (
    BenchmarkNetwork,
    Block,
    Init,
    Norm,
    checked_size,
    draw_xavier,
)


def _cfg(height: int, **changes: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, height, height),
        "fixed_input_size": True,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        **changes,
    }


default_cfgs = {
    "dd_convnet": _cfg(32, first_conv="blocks.0.conv", classifier="head"),
    "dd_lenet": _cfg(32, first_conv="blocks.0.conv", classifier="fc3"),
}


class DDConvNet(BenchmarkNetwork):
    """The ConvNet on which methods of dataset distillation are compared.

    ``depth`` blocks of a 3x3 convolution, norm, ReLU and 2x2 average pooling, then one linear
    layer (Gidaris and Komodakis, arXiv 1804.09458, as used by DC, arXiv 2006.05929, DSA, MTT and
    their successors). With its defaults, 32x32 color images and ten classes: 320,010 parameters.

    Args:
        num_classes: number of logits; 0 for none (the flattened features come out).
        in_chans: channels of the images.
        img_size: their height and width, or both in one. Odd sizes lose their last row and column
            in pooling.
        width: channels of each block.
        depth: number of blocks.
        norm_layer: see `make_norm`.
        init: ``"default"``, torch's layers as they draw themselves, or ``"xavier"``: normal with
            Glorot and Bengio's variance, biases zero.
        stem_padding: padding of the first convolution. By default 1, but 3 for 28x28 images with
            one channel: the field's implementations turn these into 32x32 there.
        global_pool: ``""`` flattens the last features, ``"avg"`` averages them per channel.
        drop_rate: dropout in front of the linear layer.

    Raises:
        ValueError: an image too small for the depth, or another argument that cannot be.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        width: int = 128,
        depth: int = 3,
        norm_layer: Norm = "instancenorm2d",
        init: Init = "default",
        stem_padding: int | None = None,
        global_pool: str = "",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        size = checked_size(num_classes, in_chans, img_size, init)
        if width < 1 or depth < 1:
            raise ValueError(f"`width` and `depth` must be at least 1, got {width} and {depth}")
        if global_pool not in ("", "avg"):
            raise ValueError(f'`global_pool` must be "" or "avg", got {global_pool!r}')
        if stem_padding is None:
            stem_padding = 3 if in_chans == 1 and size == (28, 28) else 1
        channels = [in_chans, *[width] * depth]
        blocks = [
            Block(
                channels[i],
                channels[i + 1],
                kernel_size=3,
                padding=1 if i else stem_padding,
                norm_layer=norm_layer,
                pool=nn.AvgPool2d(2),
            )
            for i in range(depth)
        ]
        self.set_up(blocks, num_classes, in_chans, size)
        self.init = init
        self.drop_rate = drop_rate
        self.global_pool = global_pool
        self.head = self._make_head()
        self.draw_init(init)

    @property
    def head_hidden_size(self) -> int:
        """Number of features that the linear layer takes."""
        if self.global_pool:
            return self.num_features
        return self.num_features * self.feature_size[0] * self.feature_size[1]

    def _make_head(self) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        return nn.Linear(self.head_hidden_size, self.num_classes)

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer for another number of classes; 0 removes it."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        like = next(self.blocks.parameters())
        self.head = self._make_head().to(device=like.device, dtype=like.dtype)
        if self.init == "xavier" and isinstance(self.head, nn.Linear):
            draw_xavier(self.head)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(N, num_features, h, w)`` to logits, or with ``pre_logits`` to what precedes them."""
        x = x.mean((2, 3)) if self.global_pool else self.flatten(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``."""
        return self.forward_head(self.forward_features(x))


class DDLeNet(BenchmarkNetwork):
    """LeNet as Wang et al. train it (arXiv 1811.10959): two convolutions, three linear layers.

    Convolutions of 5x5 with 6 and 16 channels, each with ReLU and 2x2 maximum pooling, then 120 and
    84 hidden units. For 28x28 images the first convolution is padded by 2, so that 28x28 and 32x32
    images give the same 16 x 5 x 5 features and 61,706 parameters with one channel and ten classes.

    Args:
        num_classes: number of logits; 0 for none (the 84 hidden units come out).
        in_chans: channels of the images.
        img_size: their height and width, or both in one.
        norm_layer: a norm after each convolution, see `make_norm`; the original has none.
        init: see `DDConvNet`; Wang et al. use ``"xavier"``.
        drop_rate: dropout in front of the last linear layer.

    Raises:
        ValueError: an image too small, or another argument that cannot be.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        norm_layer: Norm = "none",
        init: Init = "default",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        size = checked_size(num_classes, in_chans, img_size, init)
        padding = 2 if size == (28, 28) else 0
        blocks = [
            Block(
                inputs,
                outputs,
                kernel_size=5,
                padding=around,
                norm_layer=norm_layer,
                pool=nn.MaxPool2d(2),
            )
            for inputs, outputs, around in ((in_chans, 6, padding), (6, 16, 0))
        ]
        self.set_up(blocks, num_classes, in_chans, size)
        self.init = init
        self.drop_rate = drop_rate
        self.head_hidden_size = 84
        self.fc1 = nn.Linear(16 * self.feature_size[0] * self.feature_size[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3: nn.Module = nn.Linear(84, num_classes) if num_classes else nn.Identity()
        self.draw_init(init)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc3

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for another number of classes; 0 removes it.

        Raises:
            ValueError: ``global_pool`` is given; this network has none.
        """
        if global_pool:
            raise ValueError(f"`global_pool` must be None, got {global_pool!r}: LeNet flattens")
        self.num_classes = num_classes
        like = self.fc2.weight
        self.fc3 = nn.Linear(84, num_classes) if num_classes else nn.Identity()
        self.fc3.to(device=like.device, dtype=like.dtype)
        if self.init == "xavier" and isinstance(self.fc3, nn.Linear):
            draw_xavier(self.fc3)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(N, 16, h, w)`` to logits, or with ``pre_logits`` to the last hidden units."""
        x = F.relu(self.fc1(self.flatten(x)))
        x = F.dropout(F.relu(self.fc2(x)), self.drop_rate, self.training)
        return x if pre_logits else self.fc3(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``."""
        return self.forward_head(self.forward_features(x))


NETWORKS: dict[str, type[BenchmarkNetwork]] = {"dd_convnet": DDConvNet, "dd_lenet": DDLeNet}


def benchmark_maker(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module] | None:
    """Return a function that makes a benchmark network as `timm.create_model` would.

    Args:
        name: of the network.
        arguments: of its class.

    Returns:
        The function, or None for another network and for arguments that only timm knows.
    """
    if name not in NETWORKS:
        return None
    if not set(arguments) <= set(inspect.signature(NETWORKS[name]).parameters):
        return None

    def make() -> nn.Module:
        model: Any = NETWORKS[name](**arguments)
        model.pretrained_cfg = {**default_cfgs[name], "architecture": name}
        model.default_cfg = model.pretrained_cfg
        describe(model)
        network: nn.Module = model
        return network

    return make


def describe(model: Any) -> None:
    """Note in a network what it was made for, which its data configuration should say."""
    channels = model.in_chans
    model.pretrained_cfg.update(
        num_classes=model.num_classes,
        input_size=(channels, *model.img_size),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
