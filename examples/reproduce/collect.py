"""Results and speed of several runs as one JSON file and one table.

    python examples/reproduce/collect.py RUN... --json docs/results/mnist.json \
        --page docs/benchmarks/mnist.md

A RUN is a folder that `dd-plugin distill` wrote. Accuracies are those of its record; speed and
memory are medians over the lines of its log.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

SPEED = ("outer_steps_per_second", "images_per_second", "peak_memory_mb")


def row_of(folder: Path) -> dict[str, Any]:
    """What a run came to."""
    record = json.loads((folder / "recipe.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "outer_steps_per_second" in line]
    recipe, config = record["recipe"], record["about"]["config"]
    return {
        "run": folder.name,
        "network": recipe["model"],
        "model_args": recipe["model_args"],
        "init": recipe["init"],
        "statistics": recipe["statistics"],
        "images": record["images"]["count"],
        "inner_steps": recipe["steps"],
        "outer_steps": record["about"]["outer_steps"],
        "real_batch_size": config["real_batch_size"],
        "compile": config["compile"],
        "results": record["results"],
        "tested_on": f"{record['protocol'].get('images')} images of {config['eval_split']}",
        **{name: statistics.median(line[name] for line in logged) for name in SPEED},
        "versions": record["about"]["versions"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| run | network | start | images | inner steps | outer steps | accuracy | outer steps/s "
        "| images/s | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        found = r["results"]["distilled"]
        several = len(found["accuracies"]) > 1
        spread = f" ± {100 * found['std']:.1f}" if several else ""
        norm = f", BatchNorm {r['statistics']}" if r["statistics"] else ""
        lines.append(
            f"| {r['run']} | {r['network']}{norm} | {r['init']} | {r['images']} "
            f"| {r['inner_steps']} | {r['outer_steps']:,} | {100 * found['mean']:.1f}{spread} % "
            f"| {r['outer_steps_per_second']:.2f} | {r['images_per_second']:,.0f} "
            f"| {r['peak_memory_mb']:,.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="put the table between this page's markers")
    args = parser.parse_args()
    rows = [row_of(folder) for folder in args.runs]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.page:
        start, end = "<!-- runs -->", "<!-- /runs -->"
        before, _, rest = args.page.read_text().partition(start)
        after = rest.partition(end)[2]
        args.page.write_text(f"{before}{start}\n\n{table(rows)}\n\n{end}{after}")


if __name__ == "__main__":
    main()
