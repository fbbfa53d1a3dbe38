"""From the results of runs to ``docs/results/gpu-*.json``, and to a table that can be read.

    python -m tests.gpu.publish DIR [--json docs/results]

Prints what failed first, then seconds and ratios, then accuracies. Ratios are computed here, of
rows of the same run (the same card and the same code): to ``higher``, to plain training, and to
the operations' floor, which is the time that the card takes for as many operations in one large
product.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu.plan import PARTS, cases
from tests.gpu.records import Row, key_of, read_lines

# What torch computes convolutions in by default, by what a tool's name ends with.
_PRODUCT_OF = {"bf16": "bfloat16"}
_DEFAULT_PRODUCT = ("tfloat32", "float32")


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """By part: what it ran on, its rows with the ratios, and what is missing.

    ``replaced`` are results that a later row of the same case stands for; ``not_run`` are cases
    that no run had time for.
    """
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        path = folder / f"{part}.jsonl"
        machines = [line["about"] for line in read_lines(path) if "about" in line]
        if machines:
            every = [_with_short_error(line) for line in read_lines(path) if "case" in line]
            if part == "fast":
                # Before the last row of a case is chosen: its run may have been another.
                every = with_ratios(every)
            done = [row for row in every if "unfinished" not in row]
            last = {key_of(row["case"]): row for row in done}
            rows = [*{key_of(row["case"]): row for row in every if row not in done}.values()]
            rows = [*last.values(), *(row for row in rows if key_of(row["case"]) not in last)]
            found[part] = {
                "command": f"python -m tests.gpu --only {part}",
                "hardware": machines[-1]["device"],
                "torch": machines[-1]["versions"]["torch"],
                "machines": machines,
                "rows": rows,
            }
            if part != "good":
                earlier = [row for row in done if row is not last[key_of(row["case"])]]
                missing = [case for case in cases(part, "full") if key_of(case) not in last]
                found[part] |= {"replaced": earlier, "not_run": missing}
    return found


def _with_short_error(row: Row) -> Row:
    """A row without the places in files that its error names, which are of one machine."""
    if "error" not in row:
        return row
    short = row["error"].split("\n\n")[0]
    return {**{k: v for k, v in row.items() if k != "traceback"}, "error": short}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows, those of hypergradients with their ratios to others."""

    def of(check: str, like: Row, **case: Any) -> Row:
        """The row of a case on the same card, by the same code; empty if there is none."""
        wanted = {"check": check, **case}
        for row in reversed(rows):
            same = all(row[k] == like[k] for k in ("device", "code"))
            result = "error" not in row and "unfinished" not in row
            if same and wanted.items() <= row["case"].items() and result:
                return row
        return {}

    return [{**row, **_ratios(row, of)} if "peak_bytes" in row else row for row in rows]


def _ratios(row: Row, of: Any) -> Row:
    case = row["case"]
    same = {"model": case["model"], "steps": case["steps"]}
    ratios: Row = {}
    plain = "plain compiled" if "compiled" in case["tool"] else "plain eager"
    for name, tool in (("higher", "higher"), ("plain", plain)):
        other = of("time", row, **same, tool=tool)
        if "seconds" in other and other is not row:
            ratios[f"ratio_to_{name}"] = row["seconds"] / other["seconds"]
    work = of("work", row, model=case["model"])
    kinds = [v for k, v in _PRODUCT_OF.items() if case["tool"].endswith(k)] or _DEFAULT_PRODUCT
    products = [of("product", row, dtype=kind) for kind in kinds]
    tflops = next((product["tflops"] for product in products if "tflops" in product), None)
    if tflops and "flops_of_a_step" in work and not case["tool"].startswith("plain"):
        flops = work["flops_beside"] + case["steps"] * work["flops_of_a_step"]
        ratios["ratio_to_floor"] = row["seconds"] / (flops / tflops / 1e12)
    return ratios


def lines_of(results: dict[str, dict[str, Any]]) -> list[str]:
    """What a person reads first."""
    lines = []
    for part, found in results.items():
        rows = found["rows"]
        wrong = [row for row in rows if "error" in row or row.get("ok") is False]
        left = sum("unfinished" in row for row in rows)
        lines.append(
            f"{part}, {found['hardware']}, torch {found['torch']}: {len(rows)} rows, "
            f"{len(wrong)} wrong, {left} unfinished"
        )
        for row in wrong:
            shown = row.get("error") or {
                k: row[k] for k in ("relative_error", "errors", "limit") if k in row
            }
            lines.append(f"  WRONG {json.dumps(row['case'])}: {shown}")
        for row in rows:
            if "peak_bytes" in row:
                case = row["case"]
                ratios = [f"{k} {v:.2f}" for k, v in row.items() if k.startswith("ratio_")]
                name = f"{case['model']} K={case['steps']} {case['tool']}"
                memory = f"{row['peak_bytes'] / 2**20:.0f} MiB"
                lines.append(f"  {name}: {row['seconds']:.4f} s, {memory}, {', '.join(ratios)}")
            if "accuracy_mean" in row:
                name = f"{row['case']['recipe']} step {row['case']['step']}"
                percent = f"{100 * row['accuracy_mean']:.1f} +- {100 * row['accuracy_std']:.1f} %"
                lines.append(f"  {name}, {row['seconds']:.0f} s: {percent}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.publish")
    parser.add_argument("folder", type=Path, help="the --out of a run")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write gpu-*.json there")
    options = parser.parse_args(arguments)
    results = results_of(options.folder)
    print("\n".join(lines_of(results)))
    if options.json is not None:
        for part, found in results.items():
            text = json.dumps(found, indent=1) + "\n"
            (options.json / f"gpu-{part}.json").write_text(text)


if __name__ == "__main__":
    main()
