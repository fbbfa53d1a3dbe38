"""How long the first run on one's own images takes, with nothing but the data given.

    python -m tests.benchmarks.first_hour --cifar10 FOLDER --json docs/results/first-hour.json

A case is a folder of images, or a data set or a network in Python, and the command or call that a
new user would write for it. Images are real ones: CIFAR-10 from a local copy, of which some are
enlarged or made gray. Each case runs once, in a process of its own with one thread on one core.
Reported: minutes to the first preview in the folder, to the end of the outer steps, and to the end
of the comparison; the longest time without a word on the standard outputs; and the table.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.measuring import ROOT, Results

# Name -> classes, images of each, side in pixels, whether they are gray.
FOLDERS: dict[str, tuple[int, int, int, bool]] = {
    "120 color images of 64x64": (10, 12, 64, False),
    "600 gray images of 28x28": (10, 60, 28, True),
    "30 classes of three color images": (30, 3, 32, False),
}
_COLOR = "120 color images of 64x64"
_SCRIPT = """
from datasets import load_dataset
from dd_plugin import Distiller, DistillerConfig
data = load_dataset("imagefolder", data_dir={data!r}, split="train")
parts = data.train_test_split(0.2, stratify_by_column="label", seed=0)
config = DistillerConfig(output_dir={out!r})
distiller = Distiller({model}, config, parts["train"], parts["test"])
distiller.train()
print("written to", distiller.save_model())
print(distiller.compare())
"""
_HF = """
from transformers import ResNetConfig, ResNetForImageClassification
def model():
    return ResNetForImageClassification(ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10))
"""
# Name -> folder of images, and what is run: options of the command, or a network in Python.
CASES: dict[str, tuple[str, Any]] = {
    **{name: (name, []) for name in FOLDERS},
    "the 64x64 ones with --model timm/resnet10t": (_COLOR, ["--model", "timm/resnet10t"]),
    "the 64x64 ones as `datasets` objects": (_COLOR, "None"),
    "the same, and a network of transformers": (_COLOR, "model"),
}
_WORDS_OF_THE_END = b"written to"


def make_folder(name: str, cifar10: Path, folder: Path) -> None:
    """Write the images of a case as one folder per class."""
    from datasets import load_dataset
    from PIL import Image

    classes, each, side, gray = FOLDERS[name]
    data = load_dataset(str(cifar10), split="train[:5000]")
    image, label = (next(c for c in data.column_names if word in c) for word in ("im", "label"))
    # More classes than ten: every third image of a class is of another one.
    seen = dict.fromkeys(range(classes), 0)
    for row in data:
        kind = int(row[label])
        kind += 10 * (sum(seen[k] for k in range(kind, classes, 10)) % (classes // 10))
        if seen[kind] == each:
            continue
        pixels = row[image].convert("L" if gray else "RGB")
        target = folder / f"kind {kind:02}" / f"{seen[kind]}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels.resize((side, side), Image.Resampling.BICUBIC).save(target)
        seen[kind] += 1
        if all(count == each for count in seen.values()):
            return
    raise ValueError(f"{cifar10} has too few images")


def command_of(case: str, data: Path, out: Path) -> list[str]:
    """The command of a case."""
    _, what = CASES[case]
    if isinstance(what, list):
        words = ["-m", "dd_plugin", "distill", "--dataset", str(data), "--output_dir", str(out)]
        return [sys.executable, *words, *what]
    script = _SCRIPT.format(data=str(data), out=str(out), model=what)
    return [sys.executable, "-c", (_HF if what == "model" else "") + script]


def measure(case: str, cifar10: Path) -> dict[str, Any]:
    """The row of a case."""
    with tempfile.TemporaryDirectory() as place:
        data, out = Path(place) / "images", Path(place) / "out"
        make_folder(CASES[case][0], cifar10, data)
        began = time.monotonic()
        process = subprocess.Popen(
            command_of(case, data, out),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        said, last, silence, silent_after = b"", began, 0.0, b""
        first_picture = end_of_run = None
        with process.stdout as stream, selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            words: bytes | None = None
            while words != b"":
                selector.select(timeout=0.5)
                now, words = time.monotonic(), stream.read()
                if words:
                    if now - last > silence:
                        silence, silent_after = now - last, said
                    last, said = now, said + words
                if first_picture is None and (out / "preview.png").exists():
                    first_picture = now - began
                if end_of_run is None and _WORDS_OF_THE_END in said:
                    end_of_run = now - began
        text = said.decode(errors="replace")
        if process.wait() != 0 or end_of_run is None:
            raise RuntimeError(f"{case} failed: {text[-2000:]}")
        return {
            "case": case,
            "minutes_to_first_picture": None if first_picture is None else first_picture / 60,
            "minutes_to_end_of_run": end_of_run / 60,
            "minutes_to_end": (last - began) / 60,
            "longest_silence_seconds": silence,
            "silent_after": _last_words(silent_after.decode(errors="replace")),
            "table": [line for line in text.splitlines() if line.startswith("|")],
        }


def _last_words(text: str) -> str:
    """Return the last line that is not empty, without what a bar has overwritten."""
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    return next((line for line in reversed(lines) if line), "")[:80]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cifar10", type=Path, required=True, help="a folder for `load_dataset`")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # as in the processes, for what is noted of the machine
    command = "python -m tests.benchmarks.first_hour --cifar10 FOLDER --json FILE"
    results = Results(args.json, command, ("case",))
    for case in args.cases:
        if {"case": case} not in results:
            results.add([measure(case, args.cifar10)])


if __name__ == "__main__":
    main()
