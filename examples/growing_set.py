"""Classes that come in five tasks of two: a distilled set that grows, beside herding.

    python examples/growing_set.py                      # scikit-learn's digits, a few minutes
    python examples/growing_set.py FOLDER --json five-tasks.json

FOLDER is a data set that `load_dataset` reads, such as MNIST. The classes come two by two. After
each task, fresh networks are trained on what is stored by then, and tested on all classes so far.
Every way of keeping a set stores the same number of real or distilled images of each class:

- grown: distilled from the real images of all classes so far, starting from the set before;
- anew: the same, in as many outer steps, but not from the set before;
- merged: each task is distilled alone, and its set is merged with the others;
- herding, random: real images of each task, chosen by their pixels or drawn.

Only "grown" and "anew" keep the earlier real images. "by the recipe" trains with the learned step
sizes, "plain" with AdamW, as one trains on real images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dd_plugin import DistilledDataset, Distiller, DistillerConfig
from dd_plugin.data import SyntheticSet, load_digits, load_real
from dd_plugin.data.parametrization import Pixels
from dd_plugin.evaluation import herding, random_rows
from dd_plugin.hub import write_set

DISTILLED = ("grown", "anew", "merged")
WAYS = (*DISTILLED, "herding", "random")


class Rows(list[tuple[Any, int]]):
    """Images with labels, and the names of the classes, as torchvision's data sets have them."""

    def __init__(self, rows: Any, classes: list[str]) -> None:
        super().__init__(rows)
        self.classes = classes


def read(source: str, split: str) -> Any:
    """Return a split of the digits of scikit-learn, or of a folder."""
    if source == "digits":
        return load_digits()[split]
    from datasets import load_dataset

    return load_dataset(source, split=split)


def of_classes(data: Any, classes: list[int], most: int) -> Rows:
    """Return the first images of some classes, whose labels are then 0, 1, ..."""
    labels = list(data["label"])
    rows = [row for each in classes for row in _first(labels, each, most)]
    images = data.select(rows)
    pairs = [(one["image"], classes.index(one["label"])) for one in images]
    return Rows(pairs, list(map(str, classes)))


def _first(labels: list[int], label: int, most: int) -> list[int]:
    return [row for row, each in enumerate(labels) if each == label][:most]


class Keeper:
    """One way of keeping a set while classes come.

    Args:
        way: its name, see the top of this file.
        folder: where the sets are.
        args: of the command.
    """

    def __init__(self, way: str, folder: Path, args: argparse.Namespace) -> None:
        self.way, self.folder, self.args = way, folder / way, args
        self.kept: DistilledDataset | None = None

    def take(self, task: int, new: Rows, so_far: Rows) -> DistilledDataset:
        """Return the set with the classes of one more task."""
        before, here = self.kept, self.folder / f"task-{task}"
        if self.way == "grown":
            self.kept = self._distilled(here, so_far, before)
        elif self.way == "anew":
            self.kept = self._distilled(here, so_far, None)
        else:
            alone = self.folder / f"alone-{task}"
            if self.way == "merged":
                own = self._distilled(alone, new, None)
            else:
                own = self._chosen(alone, new)
            self.kept = own if before is None else before.merge(own, folder=here)  # NEW: merge
        return self.kept

    def config(self, folder: Path, start: DistilledDataset | None) -> DistillerConfig:
        """Return the settings, alike for all runs but for the set that they start from."""
        args = self.args
        return DistillerConfig(
            output_dir=str(folder),
            # NEW: what was learned before is kept, and the images of new classes begin as usual.
            start_from=None if start is None else str(start.folder),
            images_per_class=args.images_per_class,
            model_args={"width": args.width, "depth": args.depth, "norm_layer": "batchnorm2d"},
            normalization="none",  # the same for all tasks, so that their sets can be merged
            max_steps=args.max_steps,
            inner_steps=args.inner_steps,
            batching="all",
            real_batch_size=args.real_batch_size,
            eval_steps=0,
            save_steps=0,
            baselines=False,
            compile=args.compile,
            disable_tqdm=True,
            seed=args.seed,
        )

    def _distilled(
        self, folder: Path, rows: Rows, start: DistilledDataset | None
    ) -> DistilledDataset:
        distiller = Distiller(None, self.config(folder, start), rows)
        if distiller.train().interrupted:
            raise SystemExit(130)
        distiller.save_model()
        return DistilledDataset.from_pretrained(folder)

    def _chosen(self, folder: Path, rows: Rows) -> DistilledDataset:
        """Write real images as a set, with the network and normalization of the distilled ones."""
        data, count = load_real(rows), self.args.images_per_class
        images, labels = map(torch.cat, zip(*data.batches(500), strict=True))
        features = images.flatten(1)
        if self.way == "herding":
            chosen = herding(features, labels, count)
        else:
            chosen = random_rows(features, labels, count, seed=self.args.seed)
        chosen = chosen.sort().values
        config = self.config(folder, None)
        like = Distiller(None, config, rows).synthetic
        synthetic = SyntheticSet(
            like.recipe,
            Pixels(images[chosen]),
            labels[chosen],
            like.step_sizes().detach(),
            transform=like.transform,
            constants=like.constants(),
        )
        target = folder.with_name(f"chosen-{folder.name}")
        write_set(target, synthetic)
        return DistilledDataset.from_pretrained(target)


def run(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Go through the tasks, and return a row for each way of keeping and of training."""
    train, test = (read(args.data, split) for split in (args.train_split, args.test_split))
    classes = sorted(set(train["label"]))[: 2 * args.tasks]
    keepers = [Keeper(way, folder, args) for way in args.ways]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for task in range(args.tasks):
        new, so_far = classes[2 * task : 2 * task + 2], classes[: 2 * task + 2]
        parts = [of_classes(train, part, args.real_images) for part in (new, so_far)]
        tested = of_classes(test, so_far, args.real_images)
        for keeper in keepers:
            began = time.perf_counter()
            kept = keeper.take(task, *parts)
            seconds = time.perf_counter() - began
            protocols = ("recipe", "standard") if keeper.way in DISTILLED else ("standard",)
            for protocol in protocols:
                scores = kept.evaluate(
                    dataset=tested, protocol=protocol, networks=args.networks, seed=args.seed
                )
                key = (keeper.way, "by the recipe" if protocol == "recipe" else "plain")
                row = rows.setdefault(
                    key, {"way": key[0], "training": key[1], "tasks": [], "seconds": 0.0}
                )
                row["tasks"].append(list(scores.accuracies))
                row["images"] = len(kept)
                row["seconds"] += seconds
                print(f"{len(so_far):2} classes, {key[0]}, {key[1]}: {scores}", flush=True)
    return list(rows.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: mean accuracy after each task."""
    tasks = len(rows[0]["tasks"])
    head = ["set", "training", *(f"{2 * task + 2} classes" for task in range(tasks))]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        means = (100 * sum(values) / len(values) for values in row["tasks"])
        lines.append([row["way"], row["training"], *(f"{mean:.1f} %" for mean in means)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the tasks, print the table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="digits", help="digits, or a folder")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--train_split", default="train")
    parser.add_argument("--test_split", default="validation")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--compile", default="trace")
    for name, default in {
        "tasks": 5,
        "images_per_class": 2,
        "real_images": 1000,
        "real_batch_size": 64,
        "max_steps": 60,
        "inner_steps": 10,
        "width": 16,
        "depth": 2,
        "networks": 3,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(args, Path(folder))
    print(f"\n{table(rows)}")
    if args.json is not None:
        write(args, rows, (time.perf_counter() - began) / 60)


def write(args: argparse.Namespace, rows: list[dict[str, Any]], minutes: float) -> None:
    """Write the rows into a file, beside those of other ways that were made with these settings."""
    left_out = ("json", "data", "compile", "ways")
    settings = {k: v for k, v in vars(args).items() if k not in left_out}
    if args.json.exists():
        before = json.loads(args.json.read_text())
        if before["settings"] != settings:
            raise SystemExit(f"{args.json} was made with other settings; move it away")
        rows = [row for row in before["rows"] if row["way"] not in args.ways] + rows
        rows.sort(key=lambda row: WAYS.index(row["way"]))
        minutes += before["minutes"]
    report = {
        "command": "python examples/growing_set.py",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
        "minutes": round(minutes, 1),
        "settings": settings,
        "rows": rows,
    }
    args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
