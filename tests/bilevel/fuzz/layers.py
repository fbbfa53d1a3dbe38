"""Layers of the fuzz that no library has: state, parts without gradient, writes, tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Described(nn.Module):
    """A module whose choice shows in its `repr`."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how

    def extra_repr(self) -> str:
        return self.how


class MovingAverage(Described):
    """Subtracts a moving average of its inputs that each training pass moves."""

    running: Tensor
    CHOICES = ("no_grad in place", "no_grad rebound", "detached", "data", "in graph", "lerp out")

    def __init__(self, how: str, features: int, dim: int) -> None:
        super().__init__(how)
        self.dim = dim
        self.register_buffer("running", torch.zeros(features))

    def _move(self, mean: Tensor) -> None:
        if self.how == "no_grad in place":
            with torch.no_grad():
                self.running.mul_(0.8).add_(mean, alpha=0.2)
        elif self.how == "no_grad rebound":
            with torch.no_grad():
                self.running = 0.8 * self.running + 0.2 * mean
        elif self.how == "detached":
            self.running = torch.lerp(self.running, mean.detach(), 0.2)
        elif self.how == "data":
            self.running.data.mul_(0.8).add_(mean.data, alpha=0.2)
        elif self.how == "in graph":
            self.running = 0.8 * self.running + 0.2 * mean
        else:
            with torch.no_grad():
                torch.lerp(self.running, mean, 0.2, out=self.running)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._move(x.mean([d for d in range(x.dim()) if d != self.dim]))
        shape = [1] * x.dim()
        shape[self.dim] = -1
        return x - 0.5 * self.running.view(shape)


class Counter(Described):
    """Scales by a number that depends on how many training passes there were."""

    passes: Tensor
    CHOICES = ("integer", "temperature", "temperature without gradient")

    def __init__(self, how: str) -> None:
        super().__init__(how)
        first = torch.zeros((), dtype=torch.int64) if how == "integer" else torch.ones(())
        self.register_buffer("passes", first)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if self.how == "integer":
                self.passes += 1
            elif self.how == "temperature":
                self.passes = self.passes * 0.9
            else:
                with torch.no_grad():
                    self.passes.mul_(0.9)
        if self.how == "integer":
            return x / (1 + 0.1 * self.passes.to(x.dtype))
        return x * self.passes


@torch.no_grad()
def _decorated(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


class Ungraded(Described):
    """A factor that is computed without gradient, in every way in which that can be said."""

    CHOICES = (
        "no_grad",
        "decorator",
        "set_grad_enabled",
        "detach",
        "detach_",
        "data",
        "enable_grad inside",
        "straight through",
        "no_grad copy_",
        "normalized by detached",
    )

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                gate = torch.sigmoid(x * 1.5)
        elif self.how == "decorator":
            gate = _decorated(x)
        elif self.how == "set_grad_enabled":
            with torch.set_grad_enabled(False):
                gate = torch.sigmoid(x) + x.square()
        elif self.how == "detach":
            gate = torch.tanh(x.detach()) + 1
        elif self.how == "detach_":
            gate = torch.tanh(x * 1.2)
            gate.detach_()
        elif self.how == "data":
            gate = torch.cos(x.data)
        elif self.how == "enable_grad inside":
            with torch.no_grad():
                half = torch.sigmoid(x)
                with torch.enable_grad():
                    gate = half * torch.tanh(x)
        elif self.how == "straight through":
            return x + ((4 * torch.tanh(x)).round() / 4 - torch.tanh(x)).detach()
        elif self.how == "no_grad copy_":
            gate = torch.ones_like(x)
            with torch.no_grad():
                gate.copy_(torch.sigmoid(x))
        else:
            return x / (1 + x.detach().abs().amax())
        return x * gate


class Written(Described):
    """Writes into what it has computed."""

    CHOICES = ("slice", "mul_", "masked_fill_", "index_put", "view", "no_grad shift", "unbind")

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.1
        if self.how == "slice":
            y[:, :1] = y[:, :1] + torch.tanh(y[:, -1:])
        elif self.how == "mul_":
            y.mul_(torch.sigmoid(x)).add_(0.1)
        elif self.how == "masked_fill_":
            y.masked_fill_(y > 0.7, 0.7)
        elif self.how == "index_put":
            index = torch.tensor([0, -1], device=x.device)
            y = torch.index_put(y, (index,), y[index.flip(0)].sin())
        elif self.how == "view":
            y[..., ::2].mul_(0.5)
        elif self.how == "no_grad shift":
            with torch.no_grad():
                y += 0.25
        else:
            rows = list(y.unbind(0))
            rows[0] = rows[0] * rows[-1].sigmoid()
            y = torch.stack(rows)
        return y


class Noise(Described):
    """Random numbers in train mode that are no dropout."""

    CHOICES = ("randn_like", "rand", "normal_", "bernoulli", "roll")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.how == "randn_like":
            return x + 0.1 * torch.randn_like(x)
        if self.how == "rand":
            return x * (0.8 + 0.4 * torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype))
        if self.how == "normal_":
            return x * x.new_empty(x.shape).normal_(1.0, 0.1)
        if self.how == "bernoulli":
            return x * torch.bernoulli(torch.full_like(x, 0.8))
        mixing = 0.3 * torch.rand((), dtype=x.dtype)
        return x + mixing * (x.roll(1, 0) - x)


class DropPath(Described):
    """Stochastic depth: the branch of some examples is left out."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty([len(x)] + [1] * (x.dim() - 1)).bernoulli_(0.7)
        return x * keep.div_(0.7)


class Residual(Described):
    """x + branch(x), also written in place."""

    CHOICES = ("sum", "in place", "scaled")

    def __init__(self, how: str, branch: nn.Module) -> None:
        super().__init__(how)
        self.branch = branch
        if how == "scaled":
            self.scale = nn.Parameter(torch.full((), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.how == "in place":
            y = y * 1.0
            y += x
            return y
        return x + (y * self.scale if self.how == "scaled" else y)


class Twice(Described):
    """One layer, used two times."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Attention(Described):
    """Attention over tokens ``(N, L, C)`` with a residual."""

    CHOICES = ("module", "module with weights", "sdpa", "sdpa causal", "sdpa dropout", "by hand")

    def __init__(self, how: str, width: int) -> None:
        super().__init__(how)
        self.inside: nn.Module = nn.Linear(width, 3 * width, bias=False)
        if how.startswith("module"):
            self.inside = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.how.startswith("module"):
            return x + self.inside(x, x, x, need_weights=self.how != "module")[0]
        n, length, width = x.shape
        qkv = self.inside(x).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.how == "by hand":
            y = (q @ k.transpose(-2, -1) / width**0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                is_causal=self.how == "sdpa causal",
                dropout_p=0.2 if self.how == "sdpa dropout" and self.training else 0.0,
            )
        return x + y.transpose(1, 2).reshape(n, length, width)


class Tokens(Described):
    """An image as tokens, of patches or of pixels, with an embedding of their positions."""

    CHOICES = ("patches", "pixels", "class token", "table")
    index: Tensor

    def __init__(self, how: str, channels: int, side: int, width: int) -> None:
        super().__init__(how)
        patch = 1 if how == "pixels" or side % 2 else 2
        self.embed = nn.Conv2d(channels, width, patch, patch)
        length = (side // patch) ** 2 + (how == "class token")
        self.positions = nn.Embedding(length, width)
        self.register_buffer("index", torch.arange(length), persistent=False)
        if how == "class token":
            self.first = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        if self.how == "class token":
            tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        if self.how == "table":
            return tokens + self.positions.weight[self.index]
        return tokens + self.positions(self.index)


class Resample(Described):
    """Interpolation, sampling, padding and shuffling of pixels."""

    CHOICES = (
        "nearest",
        "bilinear",
        "bicubic",
        "area",
        "antialias",
        "grid_sample",
        "reflect",
        "circular",
        "replicate",
        "unfold",
        "shuffle",
        "flip",
    )

    def __init__(self, how: str, channels: int) -> None:
        super().__init__(how)
        if how == "grid_sample":
            self.pose = nn.Linear(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        how = self.how
        if how in ("nearest", "area"):
            return F.interpolate(x, size=(side + 1, side), mode=how)[..., :side, :]
        if how in ("bilinear", "bicubic"):
            return F.interpolate(x, scale_factor=1.5, mode=how)[..., :side, :side]
        if how == "antialias":
            small = F.interpolate(x, size=(side - 1, side), mode="bilinear", antialias=True)
            return F.pad(small, (0, 0, 1, 0))
        if how == "grid_sample":
            straight = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=x.dtype, device=x.device)
            pose = (straight + 0.2 * torch.tanh(self.pose(x.mean((2, 3))))).view(-1, 2, 3)
            grid = F.affine_grid(pose, list(x.shape), align_corners=False)
            return F.grid_sample(x, grid, align_corners=False)
        if how in ("reflect", "circular", "replicate"):
            return F.pad(x, (1, 1, 1, 1), mode=how)[..., :side, :side]
        if how == "unfold":
            patches = F.unfold(x, 3, padding=1)
            return F.fold(patches, (side, side), 3, padding=1) / 9
        if how == "shuffle":
            return F.channel_shuffle(x, x.shape[1])
        return 0.5 * (x + x.flip(-1))


class Tied(Described):
    """Two linear layers that share one matrix, the second transposed or as it is."""

    CHOICES = ("same", "transposed", "shifted by data")

    def __init__(self, how: str, width: int) -> None:
        super().__init__(how)
        self.one, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.one(x))
        if self.how == "transposed":
            return F.linear(y, self.other.weight.t())
        if self.how == "shifted by data":
            return self.other(y) + F.linear(x, self.one.weight.data)
        return self.other(y)


class StandardizedConv(nn.Conv2d):
    """A convolution whose filters are standardized in each pass."""

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight
        spread = w.var((1, 2, 3), keepdim=True, unbiased=False).add(1e-3).sqrt()
        return F.conv2d(
            input, (w - w.mean((1, 2, 3), keepdim=True)) / spread, self.bias, padding="same"
        )


class Mean(Described):
    """Tokens or pixels to one vector."""

    CHOICES = ("mean", "first", "amax", "logsumexp", "std")

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = x.flatten(2).transpose(1, 2)
        if self.how == "first":
            return x[:, 0]
        if self.how == "std":
            return (x.var(1, unbiased=False) + 1e-2).sqrt()
        if self.how == "amax":
            return x.amax(1)
        return x.mean(1) if self.how == "mean" else x.logsumexp(1)
