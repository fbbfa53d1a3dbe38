"""What each treatment of BatchNorm is worth to a distilled set: accuracy over seeds.

    python examples/reproduce/batchnorm_policies.py DATASET --json docs/results/policies-mnist.json

The same network, data and number of outer steps under each treatment, tested on the validation
images. Runs that the JSON file holds already are not made again, so a long table can be made in
pieces; `--jobs 2` makes two at a time. Budget: with the defaults (one image per class, random
initialization) a run takes two to four minutes on one CPU core, the table of 11 treatments and 3
seeds an hour on two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from runs import Row, make_config, make_keys, make_parser, make_rows
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin import DistillerConfig
from dd_plugin.networks.blocks import Norm, make_norm
from dd_plugin.networks.convnet import dd_convnet
from dd_plugin.networks.fresh import ModelInit


class HiddenAverageNorm(nn.Module):
    """Tracks as BatchNorm does, but hides from the outer loss that the average is a function.

    No BatchNorm by class or name, so that `convert_bn` leaves it as it is.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """As `torch.nn.BatchNorm2d`."""
        mean, var = self.running_mean, self.running_var
        if not self.training:
            mean, var = mean.detach(), var.detach()
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training)


class TaskNorm(nn.Module):
    """TaskNorm-I (Bronskill et al., arXiv 2003.03284): moments of batch and image, blended.

    In eval mode a moving average, through which gradients go, stands for the batch. The share of
    the batch is learned per layer, from a half; in the paper it is a function of the number of
    images, which is the same in all of these runs. It is trained with the weights.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.share = nn.Parameter(torch.zeros(()))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """As `torch.nn.BatchNorm2d`."""
        own_var, own_mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        if self.training:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            self.running_mean = torch.lerp(self.running_mean, mean, self.momentum)
            self.running_var = torch.lerp(self.running_var, var, self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        mean, var = mean[:, None, None], var[:, None, None]
        share = torch.sigmoid(self.share)
        center = share * mean + (1 - share) * own_mean
        spread = share * (var + (mean - center) ** 2)
        spread = spread + (1 - share) * (own_var + (own_mean - center) ** 2)
        normalized = (x - center) * torch.rsqrt(spread + self.eps)
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]


class BothModes(nn.Module):
    """Trains on the mean of the logits of train and eval mode: a term of eval mode in the loss.

    In eval mode it is ``network`` alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``(N, classes)``."""
        logits: Tensor = self.network(x)
        if not self.training:
            return logits
        self.network.eval()
        in_eval = self.network(x)
        self.network.train()
        return (logits + in_eval) / 2


BATCH_NORM = {"norm_layer": "batchnorm2d"}
# Name in the table -> settings that differ from the defaults below; `norm` is a layer that timm
# does not know by name, `wrap` makes the network that is trained of the ConvNet.
CASES: dict[str, dict[str, Any]] = {
    "tracked, momentum and correction learned per layer": {"statistics": "tracked"},
    "the first, with a term of eval mode in the inner loss": {
        "statistics": "tracked",
        "wrap": BothModes,
    },
    "tracked, nothing learned": {"statistics": "tracked", "statistics_lr": 1e-12},
    "tracked, detached from the graph": {"norm": HiddenAverageNorm},
    "learned per channel": {"statistics": "learned"},
    "frozen": {"statistics": "frozen"},
    "tracked, also normalised with in training": {
        "statistics": "tracked",
        "train_with": "running",
    },
    "statistics of the test batch": {
        "norm": partial(nn.BatchNorm2d, track_running_stats=False),
    },
    "TaskNorm: batch and image blended": {"norm": TaskNorm},
    "InstanceNorm": {"model_args": {"norm_layer": "instancenorm2d"}},
    "GroupNorm": {"model_args": {"norm_layer": "groupnorm"}},
}
# Channels and side of the images by the data set's name.
SHAPES = {"digits": (1, 8), "mnist": (1, 28), "cifar10": (3, 32)}
SETTING = (
    "network",
    "images_per_class",
    "init",
    "steps",
    "inner_steps",
    "inner_lr",
    "inner_momentum",
    "width",
    "networks",
    "compile",
)


def resnet18(width: int, norm_layer: Norm, in_chans: int, num_classes: int, **_: Any) -> nn.Module:
    """ResNet-18 of timm for small images: ``width`` channels at first, no pooling after the stem.

    Its residual branches start as they are, since a branch that starts at zero, timm's default,
    takes longer than these runs' inner steps to come to life.
    """
    network = timm.create_model(
        "resnet18",
        channels=[width, 2 * width, 4 * width, 8 * width],
        stem_type="deep",
        stem_width=width // 2,
        norm_layer=lambda channels, **_: make_norm(norm_layer, channels),
        zero_init_last=False,
        in_chans=in_chans,
        num_classes=num_classes,
    )
    network.maxpool = nn.Identity()
    return network


NETWORKS = {"dd_convnet": dd_convnet, "resnet18": resnet18}


def make(key: Row, dataset: str, folder: str) -> tuple[DistillerConfig, ModelInit | None]:
    """The settings of one run, and its network if that has no name."""
    options = dict(CASES[key["case"]])
    norm, wrap = options.pop("norm", None), options.pop("wrap", None)
    model_args = {"width": key["width"], **BATCH_NORM, **options.pop("model_args", {})}
    named = key["network"] == "dd_convnet" and norm is None and wrap is None
    if named:
        options["model_args"] = model_args
    options |= {"init": key["init"], "inner_lr": key["inner_lr"]}
    options["inner_optimizer_args"] = {"momentum": key["inner_momentum"]}
    config = make_config(key, dataset, folder, **options)
    if named:
        return config, None
    return config, make_network(norm or model_args["norm_layer"], wrap, key, dataset)


def make_network(
    norm: Norm,
    wrap: Callable[[nn.Module], nn.Module] | None,
    key: Row,
    dataset: str,
) -> ModelInit:
    """A network that has no name: made once for a fixed start."""
    channels, size = SHAPES[Path(dataset).name]
    shape: dict[str, Any] = {"in_chans": channels, "img_size": size, "num_classes": 10}

    def make_model() -> nn.Module:
        network = NETWORKS[key["network"]](width=key["width"], norm_layer=norm, **shape)
        return network if wrap is None else wrap(network)

    if key["init"] != "fixed":
        return make_model
    torch.manual_seed(key["seed"])
    return make_model()


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], list(CASES))
    parser.add_argument("--network", default="dd_convnet", choices=list(NETWORKS))
    parser.add_argument("--init", default="random", choices=["random", "fixed"])
    parser.add_argument("--inner_lr", type=float, default=0.02, help="the first step sizes")
    parser.add_argument("--inner_momentum", type=float, default=0.0, help="momentum of SGD")
    args = parser.parse_args()
    if Path(args.dataset).name not in SHAPES:
        names = ", ".join(SHAPES)
        parser.error(f"the last part of DATASET must be one of {names}, got {args.dataset!r}")
    make_rows(make_keys(args, SETTING), make, args)


if __name__ == "__main__":
    main()
