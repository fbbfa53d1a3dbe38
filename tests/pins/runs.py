"""Short runs whose whole outcome is pinned: tensors, record, log, files, card, what is published.

Each is three outer steps on generated pictures, in float64 and with one thread. Frozen networks
have weights that every machine computes alike, so that their fingerprints are pinned too.
"""

from __future__ import annotations

import difflib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dd_plugin import DistilledDataset
from tests.distiller.toy import Small, head_distiller, toy_dataset, toy_distiller
from tests.hub import calls
from tests.hub.client import Client
from tests.hub.loopback import Hub
from tests.hub.sets import ACCOUNTS
from tests.pins.comparing import written

# What another machine, another release of a library or another hour has otherwise: keys of the
# record and of a line of the log, pieces of the card, names of files.
_RECORD = re.compile(r"files\.[^:]*: (size|sha256)$|: (num_bytes|versions)$")
_LOG = re.compile(r"_per_second$|^peak_memory_mb$")
_CARD = (
    (re.compile(r"(num_bytes: )\d+"), r"\1<bytes>"),
    (re.compile(r"(begin versions )\w+"), r"\1<fingerprint>"),
    (re.compile(r"^dd_plugin \d.*$", re.MULTILINE), "<versions>"),
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _exact(network: torch.nn.Module) -> torch.nn.Module:
    """Give a network weights that are small fractions: no rounding, no random numbers."""
    with torch.no_grad():
        for place, tensor in enumerate(network.state_dict().values()):
            numbers = (torch.arange(tensor.numel()) * 37 + 11 * place) % 64
            tensor.copy_((numbers.reshape(tensor.shape) - 32) / 64)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return network.double().eval()


# A set and a checkpoint of the run `learned` as they were written when the pins were made. They are
# never written anew: what users have on their disks is not either.
KEPT = Path(__file__).with_name("kept")


def _scratch(folder: Path, **options: Any) -> Any:
    settings = {
        "max_steps": 3,
        "inner_lr": 0.2,
        "learning_rate": 0.05,
        "model_args": {"width": 8, "depth": 2, "norm_layer": "batchnorm2d"},
        "save_steps": 2,
        "logging_steps": 1,
        **options,
    }
    return toy_distiller(folder, **settings)


def scratch(folder: Path) -> Any:
    return _scratch(folder, compile="no", baselines=False)


def traced(folder: Path) -> Any:
    return _scratch(folder, compile="trace", baselines=False)


def learned(folder: Path) -> Any:
    return _scratch(
        folder,
        compile="no",
        images_per_class=2,
        soft_labels=True,
        step_sizes="per_step",
        batching="minibatches",
        batch_size=4,
        inner_optimizer="adam",
        inner_lr=0.05,
        augmentation="flip_rotate",
        statistics="learned",
        license="cc-by-4.0",
    )


def head(folder: Path) -> Any:
    return head_distiller(
        folder.parent,
        _exact(Small()),
        max_steps=3,
        logging_steps=1,
        dtype="float64",
        output_dir=str(folder),
        soft_labels=True,
    )


RUNS: dict[str, Callable[[Path], Any]] = {
    "scratch": scratch,
    "traced": traced,
    "learned": learned,
    "head": head,
}
# The card says nothing of how a run was computed: `traced` has that of `scratch`.
WITH_CARD = ("scratch", "learned", "head")
PUSHED = "learned"


def _without_volatile(record: Any, path: str = "") -> Any:
    if isinstance(record, dict):
        return {
            key: f"<{key}>"
            if _RECORD.search(f"{path}: {key}")
            else _without_volatile(value, f"{path}.{key}" if path else key)
            for key, value in record.items()
        }
    return record


def plain_card(text: str) -> str:
    """A card without what another machine has otherwise."""
    for pattern, replacement in _CARD:
        text = pattern.sub(replacement, text)
    return text


def _table(folder: Path) -> dict[str, Tensor]:
    """The columns of the Parquet file; images as their pixels."""
    (path,) = folder.glob("data/*.parquet")
    columns = pq.read_table(path).to_pydict()
    pictures = [np.array(Image.open(io.BytesIO(image["bytes"]))) for image in columns.pop("image")]
    found = {"table.image": torch.from_numpy(np.stack(pictures))}
    return found | {f"table.{name}": torch.tensor(v) for name, v in columns.items()}


def golden(name: str) -> Path:
    return Path(__file__).with_name("golden") / name


def as_json(observed: dict[str, Any]) -> str:
    return json.dumps(observed, indent=1) + "\n"


def stored(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(golden(f"{name}.json").read_text(encoding="utf-8"))
    return content


def _names_in_checkpoint(folder: Path) -> dict[str, list[str]]:
    paths = sorted(folder.glob("checkpoint-2/*.safetensors"))
    return {path.name: sorted(load_file(path)) for path in paths}


def fitted(folder: Path, network: torch.nn.Module | None = None) -> Tensor:
    """What a network that is trained on a stored set says of test images."""
    opened = DistilledDataset.from_pretrained(folder)
    model = opened.fit(network, seed=7).eval()
    with torch.no_grad():
        if network is not None:
            return model(_photos())
        test = opened.real_data(toy_dataset(30, seed=1))
        return model(next(iter(opened.test_batches(test, 30)))[0])


def observe(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Do a run in a folder that is not there yet.

    Returns:
        What is compared, by kind, and the card.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = RUNS[name](folder)
        run.train()
        run.evaluate()
        run.compare()
        run.save_model()
        logits = fitted(folder, _exact(Small()) if name == "head" else None)
    finally:
        torch.set_num_threads(threads)
    record = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    paths = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    # The curve needs matplotlib.
    files = sorted(_DIGEST.sub("<digest>", path) for path in paths if path != "curve.png")
    tensors = {**load_file(folder / "tensors.safetensors"), **_table(folder)}
    observed = {
        "files": files,
        "checkpoint": _names_in_checkpoint(folder),
        "record": _without_volatile(record),
        "log": [{k: f"<{k}>" if _LOG.search(k) else v for k, v in line.items()} for line in log],
        "table": (folder / "results.md").read_text("utf-8").splitlines(),
        "tensors": {n: written(t) for n, t in sorted(tensors.items())},
        "fitted": {"logits": written(logits)},
    }
    return observed, plain_card((folder / "README.md").read_text(encoding="utf-8"))


def _photos() -> Tensor:
    return (torch.arange(4 * 3 * 16 * 16).reshape(4, 3, 16, 16) * 37 % 251).double() / 250


def keep(folder: Path) -> None:
    """Store the set and a checkpoint of a folder for the time to come, once."""
    if not KEPT.exists():
        for name in ("README.md", "recipe.json", "tensors.safetensors", "preview.png", "data"):
            source, target = folder / name, KEPT / "set" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        shutil.copytree(folder / "checkpoint-2", KEPT / "checkpoint-2")
        state = KEPT / "checkpoint-2" / "state.json"  # where the run was is nobody's business
        text = state.read_text(encoding="utf-8").replace(str(folder), "out")
        state.write_text(text, encoding="utf-8")


def published(folder: Path, place: Path) -> dict[str, Any]:
    """Push a set to a Hub on this machine: what is there then, and how its card is another one."""
    with Hub(place / "hub", ACCOUNTS) as hub, Client(hub.url, place / "home") as client:
        client(calls.push, str(folder), "ada/pinned", token="ada-token", private=True)
        repository = hub.repos["ada/pinned"]
        commit = repository.at("main")
        here = (folder / "README.md").read_text(encoding="utf-8").splitlines()
        there = hub.content("ada/pinned", "README.md").decode().splitlines()
    changed = difflib.unified_diff(here, there, lineterm="", n=0)
    return {
        "private": repository.private,
        "commits": [commit.title for commit in repository.history()],
        "files": {
            path: "LFS" if blob.lfs else ""
            for path, blob in sorted(commit.files.items())
            if path != "curve.png"
        },
        "card": [line for line in changed if not line.startswith(("---", "+++", "@@"))],
    }
