"""What the benchmark networks are made of: norms by name, blocks, and a base class.

Below `convnet`, which has the networks themselves. Knows torch, and timm for
norms of its own; nothing else of dd_plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

Init = Literal["default", "xavier"]
Norm = str | Callable[[int], nn.Module]


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
    if name in ("batchnorm", "batchnorm2d"):
        return nn.BatchNorm2d(channels)
    from timm.layers import get_norm_layer

    try:
        layer: nn.Module = get_norm_layer(norm_layer)(channels)
    except KeyError:
        raise ValueError(
            f"`norm_layer` must be 'instancenorm2d', 'batchnorm2d', 'groupnorm', 'none' or a name "
            f"that timm.layers.get_norm_layer knows, got {norm_layer!r}"
        ) from None
    return layer


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


class BenchmarkNetwork(nn.Module):
    """Blocks, then something linear over all their features: the base of both networks."""

    blocks: nn.Sequential
    init: Init

    def set_up(
        self, blocks: Sequence[Block], num_classes: int, in_chans: int, img_size: tuple[int, int]
    ) -> None:
        """Take over the blocks, and say of them what timm asks for.

        Raises:
            ValueError: the image is too small for so many blocks.
        """
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
        self.draw_init(self.init if init is None else init)

    def reset_parameters(self) -> None:
        """As `init_weights`, under the name that torch's layers have for it."""
        self.init_weights()

    def draw_init(self, init: Init) -> None:
        """Draw the weights of an ``init`` that is not that of torch's own layers."""
        if init == "xavier":
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    draw_xavier(module)

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

    def flatten(self, x: Tensor) -> Tensor:
        """Features as one vector per image.

        Raises:
            ValueError: they are of images of another size.
        """
        if tuple(x.shape[-2:]) != self.feature_size:
            expected = f"{self.img_size[0]}x{self.img_size[1]}"
            raise ValueError(
                f"images must be {expected}, as `img_size` said when the model was made, got "
                f"features of {x.shape[-2]}x{x.shape[-1]} instead of "
                f"{self.feature_size[0]}x{self.feature_size[1]}; make the model with the "
                "`img_size` of the images"
            )
        return x.flatten(1)


def draw_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw a weight with Glorot and Bengio's variance; biases are zero."""
    nn.init.xavier_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def checked_size(
    num_classes: int, in_chans: int, img_size: int | tuple[int, int], init: str
) -> tuple[int, int]:
    """Height and width of images, after a check of what else a network is made of.

    Raises:
        ValueError: a number or a name that cannot be.
    """
    if init not in ("default", "xavier"):
        raise ValueError(f'`init` must be "default" or "xavier", got {init!r}')
    if num_classes < 0 or in_chans < 1:
        raise ValueError(
            f"`num_classes` must not be negative and `in_chans` at least 1, got {num_classes} and "
            f"{in_chans}"
        )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return int(height), int(width)
