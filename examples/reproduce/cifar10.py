"""CIFAR-10 with what a CPU allows: ZCA whitening and soft labels, each with and without.

    python examples/reproduce/cifar10.py DATASET --json docs/results/cifar10.json --jobs 2

A ConvNet of width 32 with InstanceNorm from random starts, tested on the validation images. Budget:
with the defaults (one image per class) a run takes one to six minutes on one CPU core.
"""

from __future__ import annotations

from typing import Any

from runs import Row, make_config, make_keys, make_parser, make_rows

from dd_plugin import DistillerConfig
from dd_plugin.networks.fresh import ModelInit

ZCA, SOFT = {"normalization": "zca"}, {"soft_labels": True}
NORMS = {"InstanceNorm": "instancenorm2d", "BatchNorm": "batchnorm2d"}
# Name in the table -> settings that differ from those below.
CASES: dict[str, dict[str, Any]] = {
    "neither": {},
    "ZCA": ZCA,
    "soft labels": SOFT,
    "both": {**ZCA, **SOFT},
}
SETTING = ("norm", "images_per_class", "steps", "inner_steps", "width", "networks", "compile")


def make(key: Row, dataset: str, folder: str) -> tuple[DistillerConfig, ModelInit | None]:
    """The settings of one run."""
    model_args = {"width": key["width"], "norm_layer": NORMS[key["norm"]]}
    own = {"model_args": model_args, "augmentation": "flip", **CASES[key["case"]]}
    return make_config(key, dataset, folder, **own), None


def main() -> None:
    """Make the runs that are asked for."""
    parser = make_parser((__doc__ or "").splitlines()[0], list(CASES))
    parser.add_argument("--norm", choices=list(NORMS), default="InstanceNorm")
    args = parser.parse_args()
    make_rows(make_keys(args, SETTING), make, args)


if __name__ == "__main__":
    main()
