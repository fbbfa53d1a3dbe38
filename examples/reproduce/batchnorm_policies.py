"""What each treatment of BatchNorm is worth to a distilled set: accuracy over seeds.

    python examples/reproduce/batchnorm_policies.py DATASET \
        --json policies-mnist.json --page PAGE.md

The same network, data and number of outer steps under each treatment, random initialisation, tested
in eval mode on the validation images. Runs that the JSON file holds already are not made again, so
a long table can be made in pieces. One run of the defaults takes two to four minutes on a CPU core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dd_plugin import Distiller, DistillerConfig

BATCH_NORM = {"norm_layer": "batchnorm2d"}
# Name in the table -> settings that differ from the defaults below.
CASES: dict[str, dict[str, Any]] = {
    "tracked, momentum and correction learned per layer": {"statistics": "tracked"},
    "tracked, nothing learned": {"statistics": "tracked", "statistics_lr": 1e-12},
    "learned per channel": {"statistics": "learned"},
    "tracked, also normalised with in training": {
        "statistics": "tracked",
        "train_with": "running",
    },
    "frozen": {"statistics": "frozen"},
    "InstanceNorm": {"model_args": {"norm_layer": "instancenorm2d"}},
    "GroupNorm": {"model_args": {"norm_layer": "groupnorm"}},
}


def run(case: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One distillation, and the accuracies of fresh networks."""
    options = dict(CASES[case])
    model_args = {"width": args.width, **BATCH_NORM, **options.pop("model_args", {})}
    with tempfile.TemporaryDirectory() as folder:
        config = DistillerConfig(
            output_dir=folder,
            dataset=args.dataset,
            eval_split="validation",
            model_args=model_args,
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
        distiller = Distiller(config=config)
        began = time.perf_counter()
        distiller.train()
        seconds = time.perf_counter() - began
        scores = distiller.compare()["distilled"]
    return {
        "case": case,
        "seed": seed,
        "images_per_class": args.images_per_class,
        "steps": args.steps,
        "inner_steps": args.inner_steps,
        "width": args.width,
        "accuracies": list(scores.accuracies),
        "skipped_steps": distiller.state.skipped_steps,
        "seconds": round(seconds, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds of the mean over networks, and the spread of either."""
    kinds = sorted({(r["images_per_class"], r["steps"]) for r in rows})
    lines = [
        "| treatment | images per class | outer steps | accuracy, ± over seeds | seeds "
        "| ± over networks |",
        "|---|---|---|---|---|---|",
    ]
    for per_class, steps in kinds:
        for case in CASES:
            own = [
                r["accuracies"]
                for r in rows
                if (r["case"], r["images_per_class"], r["steps"]) == (case, per_class, steps)
            ]
            if own:
                means = [100 * statistics.fmean(a) for a in own]
                spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
                within = statistics.fmean(100 * statistics.stdev(a) for a in own if len(a) > 1)
                lines.append(
                    f"| {case} | {per_class} | {steps} | {statistics.fmean(means):.1f}{spread} % "
                    f"| {len(own)} | {within:.1f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", help="a folder or an id on the Hub, with a validation split")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="put the table between this page's markers")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images_per_class", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--inner_steps", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--compile", default="trace", choices=["no", "trace", "inductor"])
    args = parser.parse_args()
    rows = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    keys = ("case", "seed", "images_per_class", "steps", "inner_steps", "width")
    for seed in args.seeds:
        for case in args.cases:
            wanted = (case, seed, args.images_per_class, args.steps, args.inner_steps, args.width)
            if wanted in [tuple(row[key] for key in keys) for row in rows]:
                continue
            rows.append(run(case, seed, args))
            print(rows[-1]["case"], seed, rows[-1]["accuracies"], flush=True)
            content = {"torch": torch.__version__, "dataset": Path(args.dataset).name, "rows": rows}
            args.json.write_text(json.dumps(content, indent=1) + "\n")
    print(table(rows))
    if args.page:
        start, end = "<!-- policies -->", "<!-- /policies -->"
        before, _, rest = args.page.read_text().partition(start)
        after = rest.partition(end)[2]
        args.page.write_text(f"{before}{start}\n\n{table(rows)}\n\n{end}{after}")


if __name__ == "__main__":
    main()
