"""The page ``docs/compatibility.md`` and the JSON beside it, written from the sweep's results."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tests.compatibility.checks import (
    CHECKS,
    DERIVATIVE_TOLERANCE,
    EVAL_TOLERANCE,
    TRAIN_TOLERANCE,
    Check,
    Result,
)

COMMAND = "python -m tests.compatibility --output docs/compatibility.md"

# Why a model fails that fails; a cause that is not here is printed as the check recorded it.
KNOWN_CAUSES: dict[str, str] = {}

_TOLERANCES: dict[str, float | str] = {
    "eval": EVAL_TOLERANCE,
    "train": TRAIN_TOLERANCE,
    "transform": TRAIN_TOLERANCE,
    "keys": "equal",
    "revert": "equal",
    "gradient": DERIVATIVE_TOLERANCE,
    "eval_2nd": DERIVATIVE_TOLERANCE,
    "train_2nd": DERIVATIVE_TOLERANCE,
}


def versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def save_results(path: Path, results: list[Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) for result in results]
    data = {"command": COMMAND, "versions": versions(), "results": rows}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load_results(path: Path) -> list[Result]:
    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [
        Result(**{**row, "checks": {k: Check(**c) for k, c in row["checks"].items()}})
        for row in rows
    ]


def write_page(path: Path, results: list[Result]) -> None:
    failures = [result for result in results if not result.passed]
    layers: dict[str, int] = {}
    for result in results:
        for kind, count in result.layers.items():
            layers[kind] = layers.get(kind, 0) + count
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(layers.items()))
    lines = [
        "# Compatibility",
        "",
        "At least one model of every timm family with BatchNorm, and the image classification and",
        "backbone classes of transformers that have one, in tiny configurations: converted by",
        "`convert_bn`, with random weights and random running statistics, on a CPU.",
        "",
        f"This page is written by `{COMMAND}`; the numbers are also in",
        "[compatibility.json](results/compatibility.json).",
        "",
        f"- Versions: {used}",
        f"- Models: {len(results)}, of which **{len(results) - len(failures)} pass every check** "
        f"and {len(failures)} do not",
        f"- Layers converted: {sum(layers.values())} ({kinds})",
        "",
        "## Failures",
        "",
    ]
    for result in failures:
        causes = "; ".join(
            f"{name}: {_failure(check)}" for name, check in result.failures().items()
        )
        known = KNOWN_CAUSES.get(result.name)
        lines.append(f"- **{result.name}**: {known + ' ' if known else ''}({causes})")
    if not failures:
        lines.append("None.")
    lines += [
        "",
        "## Checks",
        "",
        "Errors are the largest absolute difference over the largest absolute expected value.",
        "",
        "| check | what it says | at most |",
        "|---|---|---|",
        *(f"| {name} | {text} | {_tolerance(name)} |" for name, text in CHECKS.items()),
        "",
        "The closed form in `gradient`: with the statistics used, the gradients of `running_mean`",
        "and `running_var` are known multiples of those of bias and weight, channel by channel.",
        "It says for how many statistics the gradient is not zero; the others belong to branches",
        "that the outputs do not depend on. Second derivatives are products with a random tangent",
        "of all parameters (learned statistics included), inside `second_order(model)`; the loss",
        "saturates nowhere. Where a model computes a part of itself in float32 whatever its",
        "precision, the float64 checks keep that part in float64, to see below 1e-7.",
        "",
        "## Models",
        "",
        f"| model | layers | {' | '.join(CHECKS)} |",
        f"|---|---|{'---|' * len(CHECKS)}",
    ]
    for result in results:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.layers.items())
        cells = " | ".join(_cell(result.checks.get(name)) for name in CHECKS)
        lines.append(f"| {result.name} | {kinds} | {cells} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tolerance(check: str) -> str:
    value = _TOLERANCES[check]
    return value if isinstance(value, str) else f"{value:.0e}"


def _failure(check: Check) -> str:
    parts = [] if check.error is None else [f"error {check.error:.1e}"]
    return ", ".join(parts + ([check.note] if check.note else [])).replace("|", "\\|")


def _cell(check: Check | None) -> str:
    if check is None:
        return "-"
    text = "ok" if check.error is None else f"{check.error:.0e}" if check.error else "0"
    if not check.passed:
        return f"**fails** {text if check.error is not None else ''}".strip()
    if check.note:
        text += f" ({check.note})"
    return text
