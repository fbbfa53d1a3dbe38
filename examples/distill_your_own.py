"""Distils a data set of your own for a network of your own: everything else is a default.

Run it with `python`, `accelerate launch`, or, for two processes on a CPU,
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/distill_your_own.py`.
"""

import argparse
from functools import partial

from torch import nn

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.data import load_real


def make_network(channels: int, height: int, width: int, classes: int) -> nn.Module:
    """Any network with BatchNorm; the Distiller converts it."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * (height // 2) * (width // 2), classes),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits", help="folder or Hub id")
    parser.add_argument("--output_dir", default="distilled-own")
    parser.add_argument("--max_steps", type=int, default=200)
    args = parser.parse_args()
    config = DistillerConfig(
        output_dir=args.output_dir,
        dataset=args.data,
        overwrite_output_dir=True,
        max_steps=args.max_steps,
        inner_steps=10,
        baselines=False,
        final_eval_networks=2,
    )
    data = load_real(args.data, "train")
    distiller = Distiller(partial(make_network, *data.shape, data.num_classes), config)
    if distiller.train().interrupted:  # by Ctrl-C; a checkpoint is in the folder
        raise SystemExit(130)
    scores = distiller.compare()["distilled"]
    distiller.accelerator.print(f"{len(distiller.synthetic.labels)} images teach {scores}")
    distiller.save_model()
    distiller.end()


if __name__ == "__main__":
    main()
