"""Products of matrices as torch computes them, beside those by oneDNN.

    python -m tests.benchmarks.products --json FILE

Both run whatever the processor is; a trace takes oneDNN's where `products.onednn_is_faster` says so
and the product is large enough. The factors lie in memory as in a step: row by row, or column by
column where one is a transpose. On one thread, in float32, in turns; a turn is many products, since
one of the smaller takes as long as a look at the clock.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dd_plugin.private import ONEDNN_LINEAR
from tests.benchmarks.measuring import Results, ratio_in_turns

# What a product is of, and its sizes: rows, the length of the sums, columns.
PRODUCTS = {
    "digits, head of 10 classes": (10, 64, 10),
    "a square of 64": (64, 64, 64),
    "ResNet-18, one pixel, 20 images": (20, 512, 512),
    "ViT-Tiny, attention, 650 tokens": (650, 192, 192),
    "ViT-Tiny, widening, 650 tokens": (650, 192, 768),
    "ViT-Tiny, its weights, 650 tokens": (192, 650, 768),
    "ViT-Small, widening, 650 tokens": (650, 384, 1536),
}
LAYOUTS = ("rows", "columns")
_ROUNDS = 31
_OPERATIONS_PER_TURN = 1 << 28


def measure(name: str) -> list[dict[str, Any]]:
    """The rows of a product."""
    assert ONEDNN_LINEAR is not None
    rows, inner, columns = PRODUCTS[name]
    done = []
    for first, second in itertools.product(LAYOUTS, LAYOUTS):
        a, b = _matrix(rows, inner, first), _matrix(inner, columns, second)

        def by_torch(a: Any = a, b: Any = b) -> Any:
            return a @ b

        def by_onednn(a: Any = a, b: Any = b) -> Any:
            return ONEDNN_LINEAR(a, b.t(), None, "none", [], "")

        torch.testing.assert_close(by_onednn(), by_torch(), rtol=1e-4, atol=1e-3)
        count = max(1, _OPERATIONS_PER_TURN // (2 * rows * inner * columns))
        times = ratio_in_turns(
            _often(by_torch, count), _often(by_onednn, count), _ROUNDS, dropped=1
        )
        times["milliseconds"] = [value / count for value in times["milliseconds"]]
        sizes = {"sizes": [rows, inner, columns]}
        done.append({"product": name, "first": first, "second": second, **sizes, **times})
    return done


def _matrix(rows: int, columns: int, layout: str) -> torch.Tensor:
    return torch.randn(rows, columns) if layout == "rows" else torch.randn(columns, rows).t()


def _often(run: Callable[[], Any], count: int) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(count):
            run()

    return turn


@torch.no_grad()
def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if ONEDNN_LINEAR is None:
        raise SystemExit(f"torch {torch.__version__} has no linear layer of oneDNN to call")
    torch.set_num_threads(1)
    command = "python -m tests.benchmarks.products"
    results = Results(options.json, command, ("product", "first", "second"))
    for name in PRODUCTS:
        if {"product": name, "first": LAYOUTS[0], "second": LAYOUTS[0]} not in results:
            results.add(measure(name))


if __name__ == "__main__":
    main()
