"""The gradient that a window of a training gives, by the length of the window.

    python -m tests.benchmarks.window_gradients FOLDER --json docs/results/window-gradients.json

FOLDER is a data set that `load_dataset` reads, with the splits train and validation. Networks are
trained on a few real images, which herding chose, as one trains on real images: AdamW, half a
cosine, minibatches. Windows at random places, and the whole training, say how the images should
change, each as the mean over networks. As in a run, a gradient that is far longer than usual is
clipped first. Reported are the cosine of the means of two halves of the networks, which says how
much of the gradient is no noise, how much longer the longest gradient is than the median one, and
what a step along the mean does to the loss on validation images of networks that are trained to
the end. The step has the same length for all windows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin import convert_bn
from dd_plugin.bilevel import (
    BilevelProblem,
    Full,
    Random,
    adamw,
    hypergradient,
    initial_state,
    logits_of,
)
from dd_plugin.data import Normalization, RealData, load_real
from dd_plugin.evaluation.ordinary import train_on_real
from dd_plugin.evaluation.real_coresets import RealCoresets
from dd_plugin.evaluation.training_images import TrainingImages
from dd_plugin.models import load_model
from dd_plugin.seeds import nth_seed, seeded_generators
from tests.benchmarks.measuring import Results

COMMAND = "python -m tests.benchmarks.window_gradients"
KEYS = ("data", "window", "steps", "images_per_class")
_RATE, _DECAY = 2e-3, 1e-2
# As `max_grad_norm` by default.
_LIMIT = 2.0
Row = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """Training on few images.

    Attributes:
        images: in [0, 1], ``(N, C, H, W)``.
        labels: ``(N,)``.
        train: real images, which the outer loss is of.
        test: images and labels that trained networks are tested on.
        transform: from pixels to network input.
        args: of the command.
    """

    images: Tensor
    labels: Tensor
    train: RealData
    test: tuple[Tensor, Tensor]
    transform: Normalization
    args: argparse.Namespace

    def network(self, seed: int) -> nn.Module:
        """Return a fresh network."""
        channels, *size = self.train.shape
        arguments = {"width": self.args.width, "depth": self.args.depth}
        with seeded_generators(seed):
            return load_model(
                "timm/dd_convnet",
                num_classes=self.train.num_classes,
                in_chans=channels,
                img_size=tuple(size),
                norm_layer="batchnorm2d",
                **arguments,
            )

    def batch(self, images: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return network input and labels of a step of the training of a seed."""
        order = torch.Generator().manual_seed(nth_seed(seed, step))
        rows = torch.randperm(len(self.labels), generator=order)[: self.args.batch_size]
        return self.transform(images[rows]), self.labels[rows]

    def losses(self, images: Tensor) -> list[float]:
        """Return the test losses of networks that are trained on images to the end."""
        losses = []
        for number in range(self.args.tested):
            seed = nth_seed(1, number)
            model = self.network(seed)

            def batch(step: int, seed: int = seed) -> tuple[Tensor, Tensor]:
                return self.batch(images, step, seed)

            train_on_real(model, batch, self.args.steps)
            model.eval()
            with torch.no_grad():
                pixels, labels = self.test
                logits = [logits_of(model(self.transform(part))) for part in pixels.split(500)]
                losses.append(F.cross_entropy(torch.cat(logits), labels).item())
        return losses


def course_of(args: argparse.Namespace) -> Course:
    """Read the data and choose the images."""
    train, test = (load_real(load_dataset(args.data, split=s)) for s in ("train", "validation"))
    images, labels = RealCoresets(train).images(TrainingImages.HERDING, args.images_per_class)
    tested = next(iter(test.batches(args.test_images)))
    return Course(images, labels, train, tested, Normalization.from_data(train), args)


def gradients(course: Course, problem: BilevelProblem, length: int) -> tuple[Tensor, float]:
    """Return the gradient of the images for each network, and the seconds of one.

    Args:
        course: the training.
        problem: of its networks.
        length: of the window; all steps for the whole training.
    """
    args = course.args
    turned = torch.arange(args.steps, dtype=torch.float32) / args.steps * torch.pi
    sizes = _RATE * (1 + turned.cos()) / 2
    found, seconds = [], []
    for number in range(args.networks):
        seed = nth_seed(0, number)
        images = course.images.clone().requires_grad_()
        real, classes = course.train.batch(args.real_batch_size, seed)
        began = time.process_time()

        def batch(step: int, images: Tensor = images, seed: int = seed) -> tuple[Tensor, Tensor]:
            return course.batch(images, step, seed)

        result = hypergradient(
            problem,
            batch,
            (course.transform(real), classes),
            step_size=sizes,
            steps=args.steps,
            window=Full() if length == args.steps else Random(length),
            initial=initial_state(problem, convert_bn(course.network(seed), "tracked")),
            leaves=[images],
            seed=seed,
        )
        seconds.append(time.process_time() - began)
        found.append(result.leaves[0])
    return torch.stack(found), statistics.median(seconds)


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two tensors."""
    return F.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0).item()


def clipped(gradients: Tensor) -> Tensor:
    """Return gradients ``(networks, ...)``, none longer than `_LIMIT` times the median one."""
    norms = gradients.flatten(1).norm(dim=1)
    scale = (_LIMIT * norms.median() / norms).clamp(max=1)
    return gradients * scale.view(-1, *[1] * (gradients.dim() - 1))


def measure(args: argparse.Namespace, course: Course, lengths: Sequence[int]) -> Iterator[Row]:
    """Yield a row for each length of a window."""
    problem = BilevelProblem(
        convert_bn(course.network(0), "tracked"),
        optimizer=adamw(weight_decay=_DECAY),
        compile=args.compile,
    )
    before = course.losses(course.images)
    for length in lengths:
        found, seconds = gradients(course, problem, length)
        norms = found.flatten(1).norm(dim=1)
        each = clipped(found)
        mean = each.mean(0)
        moved = (course.images - args.length * mean / mean.norm()).clamp(0, 1)
        changes = [after - was for after, was in zip(course.losses(moved), before, strict=True)]
        yield {
            "data": Path(args.data).name,
            "window": length,
            "steps": args.steps,
            "images_per_class": args.images_per_class,
            "networks": args.networks,
            "cosine_of_halves": cosine(each[::2].mean(0), each[1::2].mean(0)),
            "longest_over_median": (norms.max() / norms.median()).item(),
            "seconds": seconds,
            "length": args.length,
            "losses_before": before,
            "changes": changes,
        }


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="a folder for `load_dataset`")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--windows", nargs="+", type=int, default=[15, 30, 60, 100])
    parser.add_argument("--compile", default="trace", choices=["trace", "no"])
    parser.add_argument("--length", type=float, default=1.0, help="of a step of the images")
    for name, default in {
        "steps": 200,
        "images_per_class": 10,
        "batch_size": 64,
        "networks": 24,
        "tested": 10,
        "test_images": 2000,
        "real_batch_size": 256,
        "width": 16,
        "depth": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(argv)
    args.compile = False if args.compile == "no" else args.compile
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, print a line per window, write JSON."""
    args = options(argv)
    torch.set_num_threads(1)
    results = Results(args.json, f"{COMMAND} FOLDER", KEYS)
    of_args = {key: getattr(args, key) for key in KEYS[2:]}
    missing = [
        length
        for length in [*args.windows, args.steps]
        if {"data": Path(args.data).name, "window": length, **of_args} not in results
    ]
    for row in measure(args, course_of(args), missing):
        results.add([row])
        print(
            f"{row['window']} of {row['steps']} steps: halves {row['cosine_of_halves']:.2f}, "
            f"loss {statistics.fmean(row['changes']):+.4f}"
        )


if __name__ == "__main__":
    main()
