"""Sets in several ways, each measured on networks that it was not made for, beside real images.

    python -m tests.benchmarks.transfer DATA --out FOLDER [--seconds 60] [--ways plain short]

DATA is a folder with ``train*.parquet`` and ``validation*.parquet``, or a file of `tests.gpu.pack`.
Every way (`transfer_ways`) has the same seconds of outer steps. On a processor they are those of
the process, so that others on the machine do not count. Each set is written as PNG files. Networks
are then trained on the files and their classes as one trains on real images, with the same
augmentation, AdamW and steps for all sets, and tested on validation images. Controls of the same
storage are random real images, drawn for each network, and those that rules choose, the easiest and
the hardest for young networks of the sets' own kind among them; and four times as many of them at
half the height and width, which is what upsampled sets have to beat.

A row is a set and a network. FOLDER keeps every row and set, so the same command continues where it
stopped. ``--minutes`` ends it in time. No network and no `datasets` are needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import TensorDataset

from dd_plugin.data import Augmentation, Normalization, RealData, load_real
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.ordinary import accuracy_of_module, train_on_real
from dd_plugin.evaluation.preparation import InputBatches
from dd_plugin.evaluation.real_coresets import RealCoresets
from dd_plugin.models import load_model
from dd_plugin.seeds import nth_seed, seeded_generators
from tests.benchmarks import transfer_sets as sets
from tests.benchmarks.measuring import hardware
from tests.benchmarks.transfer_ways import (
    CONVNET,
    SIZES,
    WAYS,
    Network,
    settings,
)
from tests.gpu.pack import pack, read_pack

Row = dict[str, Any]
COMMAND = "python -m tests.benchmarks.transfer"
AUGMENTATION = "color+crop+flip+scale+rotate"
_BATCH = 64
_SIDE = 32


@dataclass(frozen=True)
class Protocol:
    """The training that every set is measured by.

    Attributes:
        steps: of AdamW.
        augmentation: of every image by itself.
        networks: of each row.
        seed: of the first of them.
        device: where they are.
    """

    steps: int
    augmentation: str
    networks: int
    seed: int
    device: torch.device


def measured(
    network: Network,
    images: Callable[[int], tuple[Tensor, Tensor]],
    test: RealData,
    transform: Normalization,
    protocol: Protocol,
) -> list[float]:
    """Return the accuracies of fresh networks that were trained on images.

    Args:
        network: which.
        images: the images in [0, 1] and classes for each of the networks, by its seed.
        test: what is tested on.
        transform: from pixels to network input.
        protocol: the training.
    """
    augmentation = Augmentation(protocol.augmentation, fill=transform.mean)
    accuracies = []
    for number in range(protocol.networks):
        seed = nth_seed(protocol.seed, number)
        pixels, labels = (part.to(protocol.device) for part in images(seed))

        def batch(
            step: int, pixels: Tensor = pixels, labels: Tensor = labels, seed: int = seed
        ) -> tuple[Tensor, Tensor]:
            now = nth_seed(seed, step)
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(now))
            rows = order[:_BATCH].to(labels.device)
            # Each image by itself, as loaders of images augment.
            return transform(augmentation(pixels[rows], now)), labels[rows]

        with seeded_generators(seed):
            model = _made(network, test).to(protocol.device)
            train_on_real(model, batch, protocol.steps)
        batches = ((transform(pixels), labels) for pixels, labels in test.batches(500))
        accuracies.append(accuracy_of_module(model, batches))
    return accuracies


def _made(network: Network, data: RealData) -> torch.nn.Module:
    channels, *size = data.shape
    return load_model(
        network.name,
        num_classes=data.num_classes,
        in_chans=channels,
        img_size=tuple(size),
        **network.arguments,
    )


def bordered(images: Tensor) -> Tensor:
    """Return images ``(N, C, H, W)`` with a black border where they are smaller than 32x32.

    The networks halve them five times; MNIST's 28x28 would end at nothing.
    """
    missing = [max(0, _SIDE - length) for length in (images.shape[-1], images.shape[-2])]
    border = [part for all_ in missing for part in (all_ // 2, all_ - all_ // 2)]
    return pad(images, border)


class Comparison:
    """The rows of a folder, and what they are made from.

    Args:
        options: of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.out
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(options.device)
        packed = self._packed()
        self.train_set, test = self._images(packed)
        self.train = load_real(self.train_set, device=self.device)
        self.test = load_real(test, device=self.device)
        self.transform = Normalization.from_data(self.train).to(self.device)
        self.coresets = RealCoresets(self.train, self._difficulty)

    def _difficulty(self) -> Tensor:
        """How hard the real images are for young networks of the kind that sets are made for."""
        file = self.folder / "difficulty.pt"
        if not file.exists():
            own = SIZES[self.options.size].tested[CONVNET]

            def new_network(seed: int) -> torch.nn.Module:
                with seeded_generators(seed):
                    return _made(own, self.train).to(self.device)

            def prepare(pixels: Tensor, labels: Tensor, _seed: int) -> tuple[Tensor, Tensor]:
                return self.transform(pixels), labels

            inputs = InputBatches(self.train, self.transform, torch.float32, 500)
            torch.save(difficulty.of_images(new_network, self.train, inputs, prepare), file)
        scores: Tensor = torch.load(file, weights_only=True)
        return scores

    def _packed(self) -> Path:
        data: Path = self.options.data
        if data.is_file():
            return data
        packed = self.folder / "images.pack"
        if not packed.exists():
            pack(data, packed)
        return packed

    def _images(self, packed: Path) -> list[TensorDataset]:
        toy, most = self.options.size == "toy", self.options.test_images
        splits = read_pack(packed, limit=200 if toy else None)
        (train, of_train), (test, of_test) = splits["train"], splits["validation"]
        few = (test[:most], of_test[:most])
        return [
            TensorDataset(bordered(torch.from_numpy(images)), torch.from_numpy(labels))
            for images, labels in ((train, of_train), few)
        ]

    @property
    def rows(self) -> list[Row]:
        """The rows that there are."""
        file = self.folder / "rows.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def missing(self) -> Iterator[Row]:
        """The rows that there are not yet, each as a set, a seed and a network."""
        known = [{name: row[name] for name in ("set", "seed", "network")} for row in self.rows]
        chosen = [*self.options.controls, *self.options.ways]
        for seed in self.options.seeds:
            for name in chosen:
                for network in self.options.networks:
                    row = {"set": name, "seed": seed, "network": network}
                    if row not in known:
                        yield row

    def make(self, row: Row) -> Row:
        """Make a row, and its set if that is not there."""
        name, seed = row["set"], row["seed"]
        protocol = Protocol(
            self.options.steps,
            self.options.augmentation,
            self.options.repeats,
            seed,
            self.device,
        )
        if name in WAYS:
            images, labels = sets.read(self._set(name, seed))
            about = sets.about(self._set(name, seed))
        else:
            about = {}

        def of_network(network_seed: int) -> tuple[Tensor, Tensor]:
            if name in WAYS:
                return images, labels
            per_class = self.options.per_class
            return sets.real(self.coresets, self.train, name, per_class, network_seed)

        network = SIZES[self.options.size].tested[row["network"]]
        began = time.monotonic()
        scores = measured(network, of_network, self.test, self.transform, protocol)
        spent = {"test_seconds": round(time.monotonic() - began, 1)}
        shared = {"steps": protocol.steps, "augmentation": protocol.augmentation}
        return {**row, "accuracies": scores, **about, **shared, **spent}

    def _set(self, name: str, seed: int) -> Path:
        """The folder of a distilled set, which is made if it is not there."""
        folder = self._folder(name, seed)
        if not sets.is_written(folder):
            options = self.options
            chosen = settings(
                name, per_class=options.per_class, steps=options.steps, size=options.size
            )
            chosen = {"learning_rate": options.learning_rate, **chosen}
            chosen |= {
                "augmentation": options.augmentation,
                "compile": options.compile,
                "mixed_precision": options.mixed_precision,
                "seed": seed,
            }
            folder.mkdir(parents=True, exist_ok=True)
            sets.distilled(folder, chosen, self.train_set, options.seconds)
        return folder

    def _folder(self, name: str, seed: int) -> Path:
        return self.folder / "sets" / f"{name}-{seed}"

    def run(self) -> None:
        """Make rows, one at least, until all are there or the time is over."""
        began, longest = time.monotonic(), 0.0
        for number, row in enumerate(self.missing()):
            over = time.monotonic() - began + longest + self._seconds_to_distill(row)
            if number and over > self.options.minutes * 60:
                print("time is over; the same command continues", flush=True)
                return
            made = self.make(row)
            longest = max(longest, made["test_seconds"])
            with (self.folder / "rows.jsonl").open("a") as file:
                file.write(json.dumps(made) + "\n")
            print(json.dumps(made), flush=True)

    def _seconds_to_distill(self, row: Row) -> float:
        """About how long the set of a row takes to be made."""
        name = row["set"]
        is_there = name not in WAYS or sets.is_written(self._folder(name, row["seed"]))
        return 0.0 if is_there else 1.2 * self.options.seconds


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: a set per line, a network per column, mean ± deviation.

    Accuracies of several seeds of a set are taken together.
    """
    columns = list(dict.fromkeys(row["network"] for row in rows))
    lines = [f"| set | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in dict.fromkeys(row["set"] for row in rows):
        cells = []
        for column in columns:
            matching = [row for row in rows if (row["set"], row["network"]) == (name, column)]
            accuracies = [accuracy for row in matching for accuracy in row["accuracies"]]
            cells.append(_cell(accuracies))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return ""
    mean = f"{100 * statistics.fmean(accuracies):.1f}"
    if len(accuracies) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(accuracies):.1f}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", type=Path)
    add("--out", type=Path, required=True, help="folder of rows and sets")
    add("--ways", nargs="*", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    controls = sets.CONTROLS
    add("--controls", nargs="*", choices=controls, default=controls, metavar="CONTROL")
    add("--networks", nargs="*", metavar="NETWORK", help="all by default")
    add("--seconds", type=float, default=60, help="of outer steps of each way")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--repeats", type=int, default=3, help="networks of each row")
    add("--steps", type=int, default=400, help="of the training that measures a set")
    add("--learning_rate", type=float, default=0.01, help="of the distilled images, at first")
    add("--augmentation", default=AUGMENTATION)
    add("--per_class", type=int, default=10)
    add("--test_images", type=int, help="the first validation images; all by default")
    add("--minutes", type=float, default=float("inf"), help="start no row that would end later")
    add("--compile", default="trace", choices=["no", "trace", "inductor"])
    add("--mixed_precision", default="no", choices=["no", "bf16"])
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--size", default="full", choices=list(SIZES), help="of the networks")
    add("--json", type=Path, help="file for the rows")
    options = parser.parse_args(arguments)
    known = list(SIZES[options.size].tested)
    options.networks = options.networks or known
    if unknown := set(options.networks) - set(known):
        parser.error(f"--networks must be of {', '.join(known)}, got {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, print the table, write JSON."""
    options = _options(arguments)
    comparison = Comparison(options)
    comparison.run()
    rows = comparison.rows
    print(table(rows))
    if options.json:
        about = {"command": COMMAND, "hardware": hardware(), "torch": torch.__version__}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
