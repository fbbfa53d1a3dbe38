"""Random module trees, drawn by hypothesis.

They nest containers and custom modules, share layers, and mix layer families, dtypes and policies
of the stock layer.
"""

from collections import OrderedDict

import torch
from hypothesis import event
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

CHANNELS = 3


class Residual(nn.Module):
    """A parent that uses each of its layers by attribute, one of them under two names."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.again = first
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x + self.scale.to(x.dtype) * self.again(self.second(self.first(x)))


class Bag(nn.Module):
    """A parent that keeps its layers in a list and a dictionary."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.listed = nn.ModuleList(modules)
        self.by_name = nn.ModuleDict({f"n{i}": m for i, m in enumerate(modules[::2])})

    def forward(self, x):
        for module in self.listed:
            x = module(x)
        for module in self.by_name.values():
            x = module(x)
        return x


STOCK = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@st.composite
def batch_norms(draw, dims):
    kinds = ["plain", "sync"]
    if dims == 2:
        kinds += ["act", "frozen", "frozen act"]
    kind = draw(st.sampled_from(kinds))
    eps = draw(st.sampled_from([1e-5, 1e-3]))
    if kind == "frozen":
        layer: nn.Module = FrozenBatchNorm2d(CHANNELS, eps=eps)
    elif kind == "frozen act":
        layer = FrozenBatchNormAct2d(CHANNELS, eps=eps)
    else:
        options = {
            "eps": eps,
            "momentum": draw(st.sampled_from([0.1, 0.7, 1.0, None])),
            "affine": draw(st.booleans()),
            "track_running_stats": draw(st.sampled_from([True, True, False])),
        }
        if kind == "act":
            layer = BatchNormAct2d(CHANNELS, act_layer=nn.GELU, **options)
        elif kind == "sync":
            layer = nn.SyncBatchNorm(CHANNELS, **options)
        else:
            # torch's newest layers can leave out the bias alone; so does assigning None.
            layer = STOCK[dims](CHANNELS, **options)
            if options["affine"] and draw(st.booleans()):
                layer.bias = None
    if layer._parameters.get("weight") is not None and draw(st.booleans()):
        layer.weight.requires_grad_(False)
    if draw(st.booleans()):
        layer.eval()
    return layer


def trees(dims):
    leaves = st.one_of(batch_norms(dims), batch_norms(dims), st.just(None).map(lambda _: nn.ReLU()))

    def parents(children):
        several = st.lists(children, min_size=1, max_size=3)
        return st.one_of(
            several.map(lambda modules: nn.Sequential(*modules)),
            several.map(Bag),
            st.tuples(children, children).map(lambda pair: Residual(*pair)),
            children.map(lambda m: nn.Sequential(OrderedDict(one=m, other=nn.Tanh(), one_more=m))),
        )

    return st.recursive(leaves, parents, max_leaves=5)


@st.composite
def models(draw):
    """A model, whose layers have statistics as after some training, and an input for it."""
    dims = draw(st.sampled_from([1, 2, 3]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    tree = draw(trees(dims))
    model = nn.Sequential(draw(batch_norms(dims)), tree).to(dtype)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator).to(dtype) + 0.5
    x = torch.randn(4, CHANNELS, *[3] * dims, generator=generator).to(dtype)
    event(f"{dims}d, {dtype}")
    return model, x
