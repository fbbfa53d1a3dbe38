"""Sets for the head of frozen networks: their accuracy on the networks of the run, and on others.

    python -m tests.benchmarks.heads --dataset FOLDER --json FILE [--folder DIR]

For each seed and each list of sources a set of CIFAR-10 is distilled with the settings of
``recipe:cifar10_head_ipc1``, of one source with those of `FOR_ONE`, from 6,000 training images. All
three EfficientNet-Lites judge it on 2,000 validation images: the exact images, the 8-bit ones,
random real images, real images chosen by rules, and all 6,000. Results are added to the file as
they come, and what it has is not made again; features are kept in the folder.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from dd_plugin import DistilledDataset, Distiller, DistillerConfig
from dd_plugin.distiller.callbacks import DistillerCallback
from dd_plugin.hub.comparison import compare

LITES = tuple(f"lite/efficientnet_lite{n}" for n in range(3))
SOURCES = {"lite0": LITES[:1], "lite1": LITES[1:2], "lite0, lite1": LITES[:2]}
# A set for one network, and for no other: what makes it serve others is left out.
FOR_ONE = {
    "augmentation": "flip",
    "augmentations_per_step": 1,
    "color_space": "decorrelated",
}
TRAIN, TEST = "train[:6000]", "validation[:2000]"
KEYS = ("sources", "seed", "images_per_class", "size", "labels", "objective", "steps")


class Clock(DistillerCallback):
    """Notes when the first and the last outer step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        return (self.times[-1] - self.times[0]) / max(len(self.times) - 1, 1)


def run(case: dict[str, Any], dataset: str, folder: Path) -> dict[str, Any]:
    """Distil a set and judge it."""
    name = "_".join(str(case[key]).replace(", ", "+") for key in KEYS)
    config = DistillerConfig.from_recipe(
        "cifar10_head_ipc1",
        dataset=dataset,
        train_split=TRAIN,
        eval_split=TEST,
        image_size=case["size"],
        model=list(SOURCES[case["sources"]]),
        seed=case["seed"],
        images_per_class=case["images_per_class"],
        soft_labels=case["labels"] == "learned",
        objective=case["objective"],
        max_steps=case["steps"],
        eval_steps=0,
        save_steps=0,
        feature_dir=str(folder),
        output_dir=str(folder / name),
        overwrite_output_dir=True,
        disable_tqdm=True,
        baselines=False,
        **(FOR_ONE if len(SOURCES[case["sources"]]) == 1 else {}),
    )
    clock = Clock()
    distiller = Distiller(config=config, callbacks=[clock])
    distiller.train()
    distiller.save_model()
    distilled = DistilledDataset.from_pretrained(folder / name)
    test = distilled.real_data(dataset, TEST)
    train = distilled.real_data(dataset, TRAIN)
    rows = compare(distilled, LITES, test, train, folder=folder)
    return {
        **case,
        "seconds_per_step": clock.seconds_per_step(),
        "torch": torch.__version__,
        "rows": [
            {k: row[k] for k in ("model", "trained_on", "pixels", "mean", "std", "accuracies")}
            for row in rows
        ],
    }


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.heads", description=__doc__)
    parser.add_argument("--dataset", required=True, help="a folder with CIFAR-10, or its id")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/heads"))
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images_per_class", nargs="+", type=int, default=[1])
    parser.add_argument("--size", nargs="+", type=int, default=[112])
    parser.add_argument("--labels", nargs="+", choices=["hard", "learned"], default=["hard"])
    parser.add_argument(
        "--objective", nargs="+", choices=["bilevel", "gradient_matching"], default=["bilevel"]
    )
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    done = json.loads(options.json.read_text())["runs"] if options.json.exists() else []
    cases = [
        dict(zip(KEYS, (sources, seed, count, size, labels, objective, options.steps), strict=True))
        for count in options.images_per_class
        for size in options.size
        for labels in options.labels
        for objective in options.objective
        for seed in options.seeds
        for sources in options.sources
    ]
    for case in cases:
        if any(all(row[k] == case[k] for k in KEYS) for row in done):
            continue
        done.append(run(case, options.dataset, options.folder))
        head = {"command": "python -m tests.benchmarks.heads", "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({**head, "runs": done}, indent=1) + "\n")
        for row in done[-1]["rows"]:
            print(
                case["sources"], case["seed"], row["model"], row["trained_on"], row["pixels"],
                f"{100 * row['mean']:.1f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
