"""Sets for the head of frozen networks: their accuracy on the networks of the run, and on others.

    python -m tests.benchmarks.heads --dataset FOLDER --json FILE [--folder DIR]

For each seed and each list of sources a set of CIFAR-10 is distilled with the settings of
``recipe:cifar10_head_ipc1``, of one source with those of `FOR_ONE`, from 6,000 training images. All
three EfficientNet-Lites then judge it on 2,000 validation images: the exact images, the 8-bit ones,
random real images, real images chosen by rules, and all 6,000, which is done once for a size. Sets
and features are kept in the folder, results are added to the file as they come, and what is there
is not made again.

The sets alone can be made on another machine, from one file of images (`tests.gpu.pack`) and
without `datasets`; the folder is then brought here and judged by the command above. To be small on
the way, such sets keep the 8-bit images only:

    python -m tests.benchmarks.heads --pack FILE --folder DIR
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import TensorDataset

from dd_plugin import DistilledDataset, Distiller, DistillerConfig
from dd_plugin.data import RealData
from dd_plugin.distiller.callbacks import DistillerCallback
from dd_plugin.evaluation.training_images import TrainingImages
from dd_plugin.hub.comparison import Request, compare
from tests.gpu.pack import class_names, read_pack

LITES = tuple(f"lite/efficientnet_lite{n}" for n in range(3))
SOURCES = {"lite0": LITES[:1], "lite1": LITES[1:2], "lite0, lite1": LITES[:2]}
# A set for one network, and for no other: what makes it serve others is left out.
FOR_ONE = {
    "augmentation": "flip",
    "augmentations_per_step": 1,
    "color_space": "decorrelated",
}
# What was tried instead of the settings of the recipe.
TRIALS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "one copy": {"augmentations_per_step": 1},
    "four copies": {"augmentations_per_step": 4},
    "eight copies": {"augmentations_per_step": 8},
    "without noise": {"augmentation": "resizedcrop+flip"},
    "changes of color": {"augmentation": "resizedcrop+flip+color+noise"},
    "decorrelated colors": {"color_space": "decorrelated"},
    "rate 0.02": {"learning_rate": 0.02},
    "plain pixels": {"parametrization": "pixels"},
    "from noise": {"image_init": "noise"},
    "both networks in each step": {"networks_per_step": 2},
    "hundred head steps": {"head": "unroll", "inner_steps": 100},
}
TRAIN, TEST = 6000, 2000
KEYS = ("sources", "seed", "images_per_class", "size", "labels", "objective", "steps", "trial")


class Clock(DistillerCallback):
    """Notes when the first and the last outer step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        return (self.times[-1] - self.times[0]) / max(len(self.times) - 1, 1)


def packed(file: Path) -> TensorDataset:
    """The training images of a packed file."""
    images, labels = read_pack(file, TRAIN)["train"]
    data = TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    data.classes = class_names(file)  # type: ignore[attr-defined]
    return data


def distil(case: dict[str, Any], data: str | TensorDataset, folder: Path) -> Path:
    """The folder of a case's set, made if it is not there: the set, and seconds.json."""
    target = folder / "_".join(str(case[key]).replace(", ", "+") for key in KEYS)
    if (target / "seconds.json").exists():
        return target
    by_name = isinstance(data, str)
    settings: dict[str, Any] = {
        **({"dataset": data, "train_split": f"train[:{TRAIN}]"} if by_name else {}),
        "eval_split": None,
        "image_size": case["size"],
        "model": list(SOURCES[case["sources"]]),
        "seed": case["seed"],
        "images_per_class": case["images_per_class"],
        "soft_labels": case["labels"] == "learned",
        "objective": case["objective"],
        "head_copies": 0,  # `augmented_heads` measures these
        "max_steps": case["steps"],
        "eval_steps": 0,
        "save_steps": 0,
        "feature_dir": str(folder),
        "output_dir": str(target),
        "overwrite_output_dir": True,
        "disable_tqdm": True,
        "baselines": False,
        **(FOR_ONE if len(SOURCES[case["sources"]]) == 1 else {}),
        **TRIALS[case["trial"]],
    }
    clock = Clock()
    config = DistillerConfig.from_recipe("cifar10_head_ipc1", **settings)
    distiller = Distiller(config=config, train_dataset=None if by_name else data, callbacks=[clock])
    distiller.train()
    distiller.save_model()
    device = distiller.accelerator.device
    about = {
        "seconds_per_step": clock.seconds_per_step(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "exact_images": by_name,
    }
    if not by_name:
        keep_eight_bits(target)
    (target / "seconds.json").write_text(json.dumps(about) + "\n")
    return target


def keep_eight_bits(folder: Path) -> None:
    """Replace the exact images of a set by what its PNG files hold."""
    file, record = folder / "tensors.safetensors", folder / "recipe.json"
    tensors = load_file(file)
    tensors["images"] = tensors["images"].clamp(0, 1).mul(255).round().div(255)
    save_file(tensors, file)
    said = json.loads(record.read_text())
    written = file.read_bytes()
    said["files"][file.name] = {
        "size": len(written),
        "sha256": hashlib.sha256(written).hexdigest(),
    }
    record.write_text(json.dumps(said, indent=2) + "\n")


class Judge:
    """Judges sets on the same real images.

    Args:
        dataset: see the command.
        folder: see the command.
    """

    def __init__(self, dataset: str, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self._real: dict[int, tuple[RealData, RealData]] = {}

    def judged(self, case: dict[str, Any], on_all: list[dict[str, Any]]) -> dict[str, Any]:
        """A case with the accuracies of its set, which is made if it is not there.

        Args:
            case: a case.
            on_all: the rows of all real images of that size, where an earlier case has them: they
                do not depend on the set.
        """
        target = distil(case, self.dataset, self.folder)
        distilled = DistilledDataset.from_pretrained(target)
        test, train = self._images(distilled, case["size"])
        request = Request(
            models=LITES, test=test, train=train, folder=self.folder, full_data=not on_all
        )
        rows = [row.to_json() for row in compare(distilled, request)]
        about = json.loads((target / "seconds.json").read_text())
        if not about["exact_images"]:
            rows = [row for row in rows if row["pixels"] != "exact"]
        kept = ("model", "trained_on", "pixels", "mean", "std", "accuracies")
        rows = [{key: row[key] for key in kept} for row in rows]
        return {**case, **about, "rows": [*rows, *on_all]}

    def _images(self, distilled: DistilledDataset, size: int) -> tuple[RealData, RealData]:
        if size not in self._real:
            self._real[size] = (
                distilled.real_data(self.dataset, f"validation[:{TEST}]"),
                distilled.real_data(self.dataset, f"train[:{TRAIN}]"),
            )
        return self._real[size]


def rows_of_all(done: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The rows of all real images of a size in the first case that has them."""
    for run in done:
        rows = [row for row in run["rows"] if row["trained_on"] == TrainingImages.ALL.in_words]
        if run["size"] == size and rows:
            return rows
    return []


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.heads", description=__doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--dataset", help="a folder with CIFAR-10, or its id")
    data.add_argument("--pack", type=Path, help="packed images: make the sets, judge nothing")
    parser.add_argument("--json", type=Path, help="where results go; needed with --dataset")
    parser.add_argument("--folder", type=Path, default=Path("runs/heads"))
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images_per_class", nargs="+", type=int, default=[1])
    parser.add_argument("--size", nargs="+", type=int, default=[112])
    parser.add_argument("--labels", nargs="+", choices=["hard", "learned"], default=["hard"])
    parser.add_argument(
        "--objective", nargs="+", choices=["bilevel", "gradient_matching"], default=["bilevel"]
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[400])
    parser.add_argument("--trial", nargs="+", choices=list(TRIALS), default=["recipe"])
    options = parser.parse_args()
    values = [[*getattr(options, key if key != "seed" else "seeds")] for key in KEYS]
    cases = [dict(zip(KEYS, case, strict=True)) for case in itertools.product(*values)]
    if options.pack is not None:
        images = packed(options.pack)
        for case in cases:
            print(distil(case, images, options.folder), flush=True)
        return
    if options.json is None:
        parser.error("--json must be given with --dataset")
    add_results(cases, options.dataset, options.json, options.folder)


def add_results(cases: list[dict[str, Any]], dataset: str, file: Path, folder: Path) -> None:
    """Add those of the cases that the file lacks."""
    done = json.loads(file.read_text())["runs"] if file.exists() else []
    judge = Judge(dataset, folder)
    for case in cases:
        if any(all(row[key] == case[key] for key in KEYS) for row in done):
            continue
        on_all = rows_of_all(done, case["size"])
        done.append(judge.judged(case, on_all))
        head = {"command": "python -m tests.benchmarks.heads"}
        file.write_text(json.dumps({**head, "runs": done}, indent=1) + "\n")
        for row in done[-1]["rows"]:
            what = (case["sources"], case["seed"], row["model"], row["trained_on"], row["pixels"])
            print(*what, f"{100 * row['mean']:.1f}", flush=True)


if __name__ == "__main__":
    main()
