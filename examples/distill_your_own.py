"""Distils a data set of your own for a network of your own: everything else is a default.

Run it with `python`, `accelerate launch`, or, for two processes on a CPU,
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/distill_your_own.py`.
"""

import argparse

import torch
from datasets import load_dataset
from torch import nn

from dd_plugin import Distiller, DistillerConfig


def make_network() -> nn.Module:
    """Any network with BatchNorm; the Distiller converts it."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="folder or Hub id; by default the digits of scikit-learn")
    parser.add_argument("--output_dir", default="distilled-own")
    parser.add_argument("--max_steps", type=int, default=200)
    args = parser.parse_args()
    config = DistillerConfig(
        output_dir=args.output_dir,
        overwrite_output_dir=True,
        max_steps=args.max_steps,
        inner_steps=10,
        baselines=False,
        final_eval_networks=2,
    )
    data = load_dataset(args.data) if args.data else "digits"
    torch.manual_seed(0)
    distiller = Distiller(make_network, config, train_dataset=data)
    distiller.train()
    scores = distiller.compare()["distilled"]
    distiller.accelerator.print(f"ten images teach fresh networks {scores}")
    distiller.save_model()
    distiller.accelerator.end_training()


if __name__ == "__main__":
    main()
