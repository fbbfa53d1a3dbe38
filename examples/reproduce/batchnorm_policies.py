"""What each treatment of BatchNorm is worth to a distilled set: accuracy over seeds.

    python examples/reproduce/batchnorm_policies.py DATASET --json docs/results/policies-mnist.json

The same network, data and number of outer steps under each treatment, tested on the validation
images. Runs that the JSON file holds already are not made again, so a long table can be made in
pieces; `--jobs 2` makes two at a time. Budget: with the defaults (one image per class, random
initialisation) a run takes about four minutes on one CPU core, the table of 9 treatments and 3
seeds under an hour on two.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.convnet import dd_convnet


class HiddenAverageNorm(nn.Module):
    """Tracks as BatchNorm does, but hides from the outer loss that the average is a function.

    No BatchNorm by class or name, so that `convert_bn` leaves it as it is.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """As `torch.nn.BatchNorm2d`."""
        mean, var = self.running_mean, self.running_var
        if not self.training:
            mean, var = mean.detach(), var.detach()
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training)


BATCH_NORM = {"norm_layer": "batchnorm2d"}
# Name in the table -> settings that differ from the defaults below; `norm` is a layer that timm
# does not know by name.
CASES: dict[str, dict[str, Any]] = {
    "tracked, momentum and correction learned per layer": {"statistics": "tracked"},
    "tracked, nothing learned": {"statistics": "tracked", "statistics_lr": 1e-12},
    "tracked, detached from the graph": {"norm": HiddenAverageNorm},
    "learned per channel": {"statistics": "learned"},
    "frozen": {"statistics": "frozen"},
    "tracked, also normalised with in training": {
        "statistics": "tracked",
        "train_with": "running",
    },
    "statistics of the test batch": {
        "norm": partial(nn.BatchNorm2d, track_running_stats=False),
    },
    "InstanceNorm": {"model_args": {"norm_layer": "instancenorm2d"}},
    "GroupNorm": {"model_args": {"norm_layer": "groupnorm"}},
}
SETTING = ("images_per_class", "init", "steps", "inner_steps", "width")


def make_config(case: str, seed: int, args: argparse.Namespace, folder: str) -> DistillerConfig:
    """The settings of one run."""
    options = {name: value for name, value in CASES[case].items() if name != "norm"}
    if args.images_per_class > 5:
        options.update(batching="minibatches", batch_size=50)
    return DistillerConfig(
        output_dir=folder,
        dataset=args.dataset,
        eval_split="validation",
        model_args={"width": args.width, **BATCH_NORM, **options.pop("model_args", {})},
        init=args.init,
        seed=seed,
        images_per_class=args.images_per_class,
        inner_steps=args.inner_steps,
        real_batch_size=128,
        max_steps=args.steps,
        final_eval_networks=args.networks,
        eval_steps=0,
        save_steps=0,
        baselines=False,
        disable_tqdm=True,
        compile=args.compile,
        **options,
    )


def make_network(case: str, seed: int, config: DistillerConfig) -> Any:
    """None for a network by name; what `Distiller` takes for one with a layer of its own."""
    norm = CASES[case].get("norm")
    if norm is None:
        return None
    size = config.image_size or 28
    kwargs: dict[str, Any] = {"in_chans": 1, "img_size": size, "num_classes": 10}
    if not Path(config.dataset).name.startswith("mnist"):
        raise SystemExit(f"{case!r} is made for MNIST's images, got {config.dataset}")
    assert isinstance(config.model_args, dict)
    make = partial(dd_convnet, width=config.model_args["width"], norm_layer=norm, **kwargs)
    if config.init != "fixed":
        return make
    torch.manual_seed(seed)
    return make()


def run(case: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One distillation, and the accuracies of fresh networks."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(case, seed, args, folder)
        distiller = Distiller(make_network(case, seed, config), config)
        began = time.perf_counter()
        distiller.train()
        seconds = time.perf_counter() - began
        scores = distiller.compare()["distilled"]
    return {
        "case": case,
        "seed": seed,
        **{name: getattr(args, name) for name in SETTING},
        "accuracies": list(scores.accuracies),
        "skipped_steps": distiller.state.skipped_steps,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", help="a folder or an id on the Hub, with a validation split")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images_per_class", type=int, default=1)
    parser.add_argument("--init", default="random", choices=["random", "fixed"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--inner_steps", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--compile", default="trace", choices=["no", "trace", "inductor"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    args = parser.parse_args()
    rows = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    setting = tuple(getattr(args, name) for name in SETTING)
    made = {(r["case"], r["seed"], *(r[name] for name in SETTING)) for r in rows}
    wanted = [(case, seed) for seed in args.seeds for case in args.cases]
    wanted = [one for one in wanted if (*one, *setting) not in made]
    # Networks on several threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        for future in as_completed([pool.submit(run, *one, args) for one in wanted]):
            rows.append(future.result())
            rows.sort(key=lambda r: (*(r[name] for name in SETTING), r["case"], r["seed"]))
            content = {
                "command": "python examples/reproduce/batchnorm_policies.py",
                "dataset": Path(args.dataset).name,
                "torch": torch.__version__,
                "rows": rows,
            }
            args.json.write_text(json.dumps(content, indent=1) + "\n")
            print(json.dumps(future.result()), flush=True)


if __name__ == "__main__":
    main()
