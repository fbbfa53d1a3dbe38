"""The benchmark networks of dataset distillation, as models of timm: `dd_convnet`, `dd_lenet`.

Importing this file registers them with timm's own registry, so `timm.create_model("dd_convnet",
width=64, norm_layer="batchnorm2d", in_chans=1, img_size=28, num_classes=10)` works like for any
other name, with feature extraction, `reset_classifier` and a data configuration that says what the
network was made for. `dd_plugin.models.load_model` imports it when a name of timm is asked for.
Knows timm and torch, nothing else of dd_plugin.

Both end in linear layers over flattened features, so a network has one input size, ``img_size``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from timm.layers import get_norm_layer
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn
from torch.nn import functional as F

Init = Literal["default", "xavier"]
Norm = str | Callable[[int], nn.Module]


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


def make_norm(norm_layer: Norm, channels: int) -> nn.Module:
    """The norm layer for ``channels`` channels of ``(N, C, H, W)``.

    Args:
        norm_layer: ``"instancenorm2d"`` (with learned scale and shift; a `GroupNorm` of one channel
            per group, which is the same and faster to differentiate twice), ``"batchnorm2d"``,
            ``"groupnorm"`` (four groups, as the field's ConvNet has it), another name of timm's
            `get_norm_layer`, a callable from channels to a module, or ``"none"``.
        channels: C.

    Raises:
        ValueError: unknown name, or channels that cannot be grouped.
    """
    if norm_layer == "none":
        return nn.Identity()
    if not isinstance(norm_layer, str):
        return norm_layer(channels)
    name = norm_layer.replace("_", "").lower()
    if name in ("instancenorm", "instancenorm2d"):
        return nn.GroupNorm(channels, channels)
    if name == "groupnorm":
        if channels % 4:
            raise ValueError(
                f'`norm_layer="groupnorm"` has four groups; `width` must be a multiple of 4, got '
                f"{channels}"
            )
        return nn.GroupNorm(4, channels)
    try:
        made: nn.Module = get_norm_layer(norm_layer)(channels)
    except KeyError:
        raise ValueError(
            f"`norm_layer` must be 'instancenorm2d', 'batchnorm2d', 'groupnorm', 'none' or a name "
            f"that timm.layers.get_norm_layer knows, got {norm_layer!r}"
        ) from None
    return made


class Block(nn.Module):
    """Convolution, norm, ReLU, and pooling that halves height and width, rounding down."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int,
        norm_layer: Norm,
        pool: nn.Module,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
        self.norm = make_norm(norm_layer, out_channels)
        self.act = nn.ReLU()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C', H // 2, W // 2)``."""
        return self.pool(self.act(self.norm(self.conv(x))))

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that come out for those that go in."""
        kernel, padding = self.conv.kernel_size[0], int(self.conv.padding[0])
        height, width = ((length + 2 * padding - kernel + 1) // 2 for length in size)
        return height, width


class _Network(nn.Module):
    """What both networks have in common: blocks, then something linear over all they give."""

    blocks: nn.Sequential
    init: Init

    def _setup(
        self, blocks: Sequence[Block], num_classes: int, in_chans: int, img_size: tuple[int, int]
    ) -> None:
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.img_size = img_size
        self.grad_checkpointing = False
        self.blocks = nn.Sequential(*blocks)
        size = img_size
        self.feature_info = []
        for index, block in enumerate(blocks):
            size = block.output_size(size)
            if min(size) < 1:
                raise ValueError(
                    f"`img_size` {img_size[0]}x{img_size[1]} is too small for {len(blocks)} blocks "
                    f"that halve it: nothing is left after block {index + 1}; use a larger image "
                    "or fewer blocks (`depth`)"
                )
            channels = block.conv.out_channels
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": 2 ** (index + 1),
                    "module": f"blocks.{index}",
                }
            )
        self.num_features = channels
        self.feature_size = size

    def init_weights(self, init: Init | None = None) -> None:
        """Redraws every weight in place, from torch's generator, as the constructor does.

        Args:
            init: see the model; by default what it was made with.
        """
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        self._xavier(self.init if init is None else init)

    def reset_parameters(self) -> None:
        """As `init_weights`, under the name that torch's layers have for it."""
        self.init_weights()

    def _xavier(self, init: Init) -> None:
        if init == "xavier":
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    _draw_xavier(module)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Part of timm's interface.

        Raises:
            ValueError: to switch it on; these networks are too small to gain from it.
        """
        if enable:
            raise ValueError("`grad_checkpointing` must be off: this network has no use for it")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates, as timm asks for them."""
        return {"stem": r"^blocks\.0", "blocks": [(r"^blocks\.(\d+)", None)]}

    def forward_features(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` to ``(N, num_features, h, w)``."""
        return self.blocks(x)

    def _flatten(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.feature_size:
            expected = f"{self.img_size[0]}x{self.img_size[1]}"
            raise ValueError(
                f"images must be {expected}, as `img_size` said when the model was made, got "
                f"features of {x.shape[-2]}x{x.shape[-1]} instead of "
                f"{self.feature_size[0]}x{self.feature_size[1]}; make the model with the "
                "`img_size` of the images"
            )
        return x.flatten(1)


class DDConvNet(_Network):
    """The ConvNet on which methods of dataset distillation are compared.

    ``depth`` blocks of a 3x3 convolution, norm, ReLU and 2x2 average pooling, then one linear
    layer (Gidaris and Komodakis, arXiv 1804.09458, as used by DC, arXiv 2006.05929, DSA, MTT and
    their successors). With its defaults, 32x32 colour images and ten classes: 320,010 parameters.

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
        size = _checked(num_classes, in_chans, img_size, init)
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
                3,
                1 if i else stem_padding,
                norm_layer,
                nn.AvgPool2d(2),
            )
            for i in range(depth)
        ]
        self._setup(blocks, num_classes, in_chans, size)
        self.init = init
        self.drop_rate = drop_rate
        self.global_pool = global_pool
        self.head = self._make_head()
        self._xavier(init)

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
            _draw_xavier(self.head)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(N, num_features, h, w)`` to logits, or with ``pre_logits`` to what precedes them."""
        x = x.mean((2, 3)) if self.global_pool else self._flatten(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``."""
        return self.forward_head(self.forward_features(x))


class DDLeNet(_Network):
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
        size = _checked(num_classes, in_chans, img_size, init)
        padding = 2 if size == (28, 28) else 0
        blocks = [
            Block(in_chans, 6, 5, padding, norm_layer, nn.MaxPool2d(2)),
            Block(6, 16, 5, 0, norm_layer, nn.MaxPool2d(2)),
        ]
        self._setup(blocks, num_classes, in_chans, size)
        self.init = init
        self.drop_rate = drop_rate
        self.head_hidden_size = 84
        self.fc1 = nn.Linear(16 * self.feature_size[0] * self.feature_size[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3: nn.Module = nn.Linear(84, num_classes) if num_classes else nn.Identity()
        self._xavier(init)

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
            _draw_xavier(self.fc3)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(N, 16, h, w)`` to logits, or with ``pre_logits`` to the last hidden units."""
        x = F.relu(self.fc1(self._flatten(x)))
        x = F.dropout(F.relu(self.fc2(x)), self.drop_rate, self.training)
        return x if pre_logits else self.fc3(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``."""
        return self.forward_head(self.forward_features(x))


def _draw_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.xavier_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _checked(
    num_classes: int, in_chans: int, img_size: int | tuple[int, int], init: str
) -> tuple[int, int]:
    if init not in ("default", "xavier"):
        raise ValueError(f'`init` must be "default" or "xavier", got {init!r}')
    if num_classes < 0 or in_chans < 1:
        raise ValueError(
            f"`num_classes` must not be negative and `in_chans` at least 1, got {num_classes} and "
            f"{in_chans}"
        )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return int(height), int(width)


def _create(model_class: type[_Network], name: str, pretrained: bool, kwargs: Any) -> nn.Module:
    features_only = kwargs.get("features_only", False)
    depth = 2 if model_class is DDLeNet else kwargs.get("depth", 3)
    if model_class is DDLeNet:
        kwargs.pop("global_pool", None)
    model: Any = build_model_with_cfg(
        model_class,
        name,
        pretrained,
        feature_cfg={"out_indices": tuple(range(depth)), "flatten_sequential": True},
        **kwargs,
    )
    if not features_only:
        # What the network was made for, which its data configuration should say.
        channels = model.in_chans
        model.pretrained_cfg.update(
            num_classes=model.num_classes,
            input_size=(channels, *model.img_size),
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
        )
    return model


def dd_convnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """See `DDConvNet`, whose arguments it takes. There are no pretrained weights."""
    return _create(DDConvNet, "dd_convnet", pretrained, kwargs)


def dd_lenet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """See `DDLeNet`, whose arguments it takes. There are no pretrained weights."""
    return _create(DDLeNet, "dd_lenet", pretrained, kwargs)


register_model(dd_convnet)
register_model(dd_lenet)
