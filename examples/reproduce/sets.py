"""The sets of docs/sets: distilled by their recipes, copied there, and what they took.

    python examples/reproduce/sets.py mnist=FOLDER cifar10=FOLDER --json docs/results/sets.json

A folder holds the splits `train` and `validation`; the digits need none. A run that is there is not
made again, and one that was interrupted is resumed. Budget on one core: two minutes for the digits,
fifteen for MNIST with compiling, seven for CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from dd_plugin import DistilledDataset
from dd_plugin.evaluation import Scores


class Made(NamedTuple):
    """How a set is made.

    Attributes:
        words: after `dd-plugin distill`, but for the folders of images and of the run.
        name: of the real images, for the card; the record names no folder.
        about: a paragraph of the card that says which images they are.
    """

    words: tuple[str, ...] = ()
    name: str = ""
    about: str = ""


SETS = {
    "digits": Made(),
    "mnist": Made(
        ("recipe:mnist_fixed_batchnorm_8_steps",),
        "MNIST",
        "The real images are the first 55,000 training images of MNIST (`ylecun/mnist`). The other "
        "5,000 training images are those that the accuracies are of.",
    ),
    "cifar10": Made(
        (
            "recipe:cifar10_head_ipc1",
            *("--train_split", "train[:10000]", "--eval_split", "validation"),
        ),
        "CIFAR-10",
        "The real images are the first 10,000 training images of CIFAR-10 (`uoft-cs/cifar10`), "
        "read from JPEG files. The accuracies are of 5,000 of its test images.",
    ),
}
TIMES = "times.json"


def command_of(name: str, images: str | None) -> list[str]:
    """The words after `dd-plugin`, as a user types them."""
    return ["distill", *SETS[name].words, *(["--dataset", images] if images else [])]


def distill(name: str, images: str | None, folder: Path) -> None:
    """Make the run of a set, and note its minutes beside its log."""
    own = ["--output_dir", str(folder), "--disable_tqdm", "true"]
    command = [sys.executable, "-m", "dd_plugin", *command_of(name, images), *own]
    if any(folder.glob("checkpoint-*")):
        command += ["--resume_from_checkpoint", "latest"]
    elif folder.exists():
        command += ["--overwrite_output_dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times = {"minutes": round(seconds / 60, 1), "processor_minutes": round(used / 60, 1)}
    (folder / TIMES).write_text(json.dumps(times))


def publish(name: str, run: Path, folder: Path) -> None:
    """Copy a set without log and curve, and add to its card what the record cannot say."""
    shutil.rmtree(folder, ignore_errors=True)
    DistilledDataset.from_pretrained(run).save_pretrained(folder)
    for file in ("log.jsonl", "curve.png"):
        (folder / file).unlink(missing_ok=True)
    card, made = folder / "README.md", SETS[name]
    if made.name:
        end = "<!-- dd_plugin:end summary -->"
        text = card.read_text("utf-8").replace(end, f"{end}\n\n{made.about}")
        # The title, and the name among the metadata.
        card.write_text(text.replace("Distilled images,", f"{made.name}, distilled to", 2), "utf-8")


def row_of(name: str, record: dict[str, Any], minutes: float) -> dict[str, Any]:
    """What a set came to and what it took, by its record."""
    count, (_, height, width) = record["images"]["count"], record["recipe"]["shape"]
    backbones = [backbone["model"] for backbone in record["recipe"].get("backbones", [])]
    trained = f"heads of {' and '.join(backbones)}" if backbones else record["recipe"]["model"]

    def percent(kind: str) -> str:
        return str(Scores(tuple(record["results"][kind]["accuracies"])))

    return {
        "set": name,
        "images": f"{count} of {height} x {width}",
        "trained": trained,
        "accuracies": record["results"]["distilled"]["accuracies"],
        "as many real": percent("random real"),
        "all real": percent("full data"),
        "minutes of a core": minutes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="*", metavar="NAME=FOLDER", help="real images of a set")
    parser.add_argument("--names", nargs="+", choices=SETS, default=list(SETS), metavar="NAME")
    parser.add_argument("--json", type=Path, required=True, help="where the rows are kept")
    parser.add_argument("--runs", type=Path, default=Path("runs/sets"), help="folder of the runs")
    parser.add_argument("--sets", type=Path, default=Path("docs/sets"), help="folder of the sets")
    args = parser.parse_args()
    folders = dict(pair.split("=", 1) for pair in args.images)
    rows = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    for name in args.names:
        run = args.runs / name
        if not (run / TIMES).exists():
            distill(name, folders.get(name), run)
        publish(name, run, args.sets / name)
        minutes = json.loads((run / TIMES).read_text())["processor_minutes"]
        record = json.loads((run / "recipe.json").read_text())
        rows = [row for row in rows if row["set"] != name] + [row_of(name, record, minutes)]
        rows.sort(key=lambda row: list(SETS).index(row["set"]))
        content = {"command": "python examples/reproduce/sets.py", "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
