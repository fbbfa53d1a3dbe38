"""The exactness grid: every choice of the engine with every other, against the whole graph.

Run as ``python -m tests.bilevel.grid --all --json FILE``. A case is one value of each of `OPTIONS`
and its error the largest relative one over everything that `hypergradient` returns, in float64,
compared with ``method="autograd"``. The default test run (`together/test_grid.py`) takes
`COVERING`, in which every two values of two options occur together; the full product is the command
above. Its cases share what they can: problems keep what has been compiled, and one whole graph
serves every method and storage.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import nn

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    Full,
    Host,
    Hypergradient,
    Last,
    Random,
    Recompute,
    Window,
    adam,
    adamw,
    hypergradient,
    sgd,
)
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error

Case = tuple[str, ...]
STEPS = 4
TOLERANCE = 1e-9


# --- what there is to choose -------------------------------------------------------------------


class Line(nn.Module):
    """A line through one feature, and that feature normalised: the smallest model with everything.

    Trained by SGD without its second term it is the regression whose hypergradients
    `test_hypergradient_closed_forms` derives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.4))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x + self.norm(x)


def timm_resnet() -> nn.Module:
    """Four stages of timm's basic block, with stochastic depth."""
    return timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock,
        (1, 1, 1, 1),
        num_classes=3,
        channels=(4, 4, 4, 6),
        output_stride=8,
        drop_path_rate=0.3,
    )


def hub_resnet() -> nn.Module:
    """A Hugging Face ResNet of two stages, which returns a `ModelOutput`."""
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def vit() -> nn.Module:
    """A timm ViT with dropout, behind a convolution with BatchNorm, for there to be statistics.

    Without biases of the keys: the loss does not depend on them, and Adam makes rounding errors of
    a gradient of 0 into steps.
    """
    return nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        timm.models.vision_transformer.VisionTransformer(
            img_size=8,
            patch_size=4,
            embed_dim=8,
            depth=1,
            num_heads=2,
            num_classes=3,
            qkv_bias=False,
            proj_drop_rate=0.2,
        ),
    )


class Moving(nn.Module):
    """Scales by a buffer that follows its input, which training moves without a gradient."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.scale.lerp_(x.square().mean((0, 2, 3)), 0.1)
        return x * self.scale.view(-1, 1, 1)


def parametrized() -> nn.Module:
    """Convolutions with spectral and with weight norm, and buffers that each of them moves."""
    norms = nn.utils.parametrizations
    return nn.Sequential(
        norms.spectral_norm(nn.Conv2d(3, 3, 3, padding=1, bias=False)),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        Moving(3),
        norms.weight_norm(nn.Conv2d(3, 3, 3, padding=1)),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy with weights that are made of it, as constants (arXiv 1708.02002)."""
    values = nn.functional.cross_entropy(logits, labels, reduction="none")
    with torch.no_grad():
        weights = (1 - torch.exp(-values)) ** 2
    return (weights * values).mean()


def smoothed_and_weighted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy with smoothed labels and weights of the classes."""
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=logits.dtype)
    return nn.functional.cross_entropy(logits, labels, weights, label_smoothing=0.1)


def self_distilled(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, and a pull towards the network's own sharpened answers."""
    target = (2 * logits.data).softmax(1)
    own = nn.functional.kl_div(logits.log_softmax(1), target, reduction="batchmean")
    return nn.functional.cross_entropy(logits, labels) + 0.5 * own


def mean_squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean()


# Cheapest first. Name to (model, side of its images; None: one feature).
PROBLEMS: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    "closed form": (Line, None),
    "ConvNet": (lambda: convnet(width=2), 8),
    "Hugging Face ResNet": (hub_resnet, 16),
    "timm ResNet": (timm_resnet, 16),
    "ViT": (vit, 8),
    "parametrized": (parametrized, 8),
    "focal loss": (lambda: convnet(width=2), 8),
    "smoothed loss": (lambda: convnet(width=2), 8),
    "self-distilled": (lambda: convnet(width=2), 8),
}
# Losses other than cross entropy.
LOSSES: dict[str, Loss] = {
    "closed form": mean_squared_error,
    "focal loss": focal,
    "smoothed loss": smoothed_and_weighted,
    "self-distilled": self_distilled,
}
OPTIMIZERS = {
    "sgd": sgd(),
    "momentum": sgd(0.9),
    "nesterov": sgd(0.9, nesterov=True),
    "weight decay": sgd(weight_decay=0.1),
    # The second moment of a gradient of 0 is a singularity of the square root: a larger eps keeps
    # rounding errors beside it from being amplified.
    "adam": adam((0.8, 0.9), eps=1e-3),
    "adamw": adamw((0.8, 0.9), eps=1e-3, weight_decay=0.1),
}
POLICIES: dict[str, Any] = {
    "stock tracked": "tracked",
    "stock constant": "constant",
    **{
        f"{statistics} {train_with}": (statistics, train_with)
        for statistics in ("tracked", "learned", "frozen")
        for train_with in ("batch", "running")
    },
}
WINDOWS: dict[str, Window] = {"full": Full(), "last": Last(2), "random": Random(2)}
STORAGES = {
    "device": Device(2),
    "host": Host(3),
    "recompute": Recompute(2),
    # Compiled with "mixed", those of every step; eagerly, and with "reverse", none.
    "activations": Device(2, activations=1 << 30),
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "problem": tuple(PROBLEMS),
    "optimizer": tuple(OPTIMIZERS),
    "policy": tuple(POLICIES),
    "window": tuple(WINDOWS),
    "method": ("mixed", "reverse"),
    "storage": tuple(STORAGES),
    "path": ("eager", "compiled", "traced"),
}


# --- the selection -----------------------------------------------------------------------------


def pairs_of(case: Case) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    """The pairs of values of different options in a case."""
    return set(combinations(enumerate(case), 2))


def every_pair(options: Mapping[str, Sequence[str]]) -> set[tuple[Any, Any]]:
    """All pairs of values of different options."""
    columns = [[(i, value) for value in values] for i, values in enumerate(options.values())]
    return {pair for a, b in combinations(columns, 2) for pair in product(a, b)}


def covering(options: Mapping[str, Sequence[str]]) -> list[Case]:
    """Cases in which every pair of values occurs, made greedily.

    The first option is the one with dear values, and so is the last. The last one's later values
    get as few cases as there can be: one for each value of the longest of the other options,
    all with the first option's first value, and one for each other value of the first option.
    The rest has the last option's first value: as long as pairs are missing, one of them is
    completed, option by option, with the value that brings most missing pairs.
    """
    columns = list(options.values())
    longest = max(map(len, columns[1:-1]))
    firsts = [columns[0][0]] * longest + list(columns[0][1:])
    cases = [
        # Not all cycles in step: columns of 2 and of 4 values would otherwise meet in half of them.
        (first, *(v[(row + row // len(v)) % len(v)] for v in columns[1:-1]), dear)
        for dear in columns[-1][1:]
        for row, first in enumerate(firsts)
    ]
    missing = every_pair(options).difference(*map(pairs_of, cases))
    while missing:
        chosen = dict(min(missing))
        chosen.setdefault(len(columns) - 1, columns[-1][0])
        for index, values in enumerate(columns):
            if index not in chosen:
                gains = [
                    sum(
                        tuple(sorted([(index, value), other])) in missing
                        for other in chosen.items()
                    )
                    for value in values
                ]
                chosen[index] = values[gains.index(max(gains))]
        case = tuple(chosen[index] for index in range(len(columns)))
        missing -= pairs_of(case)
        cases.append(case)
    return cases


COVERING = covering(OPTIONS)
# Compiling one of these takes up to a minute; the cheapest stands for all in the default run.
SLOW = [case for case in COVERING if case[-1] == "compiled"][1:]


# --- one case ----------------------------------------------------------------------------------


def _generic(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters with no special values: none is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors = (module.weight, module.bias, module.running_mean, module.running_var)
            with torch.no_grad():
                for t, low in zip(tensors, (0.5, -0.5, -0.5, 0.5), strict=True):
                    assert t is not None
                    t.copy_(low + torch.rand(t.shape))
    return model.double()


class Bench:
    """A problem of the grid, its data, and the results that its cases share."""

    def __init__(self, problem: str, optimizer: str, policy: str, path: str) -> None:
        torch.manual_seed(sum(map(ord, problem + optimizer + policy)))
        make, side = PROBLEMS[problem]
        model = _generic(make())
        how: dict[str, Any] = {}
        if isinstance(POLICIES[policy], str):
            how["stock_statistics"] = POLICIES[policy]
        else:
            convert_bn(model, *POLICIES[policy])
            for name, buffer in model.named_buffers():
                if name.endswith(("momentum_shift", "mean_correction", "var_correction")):
                    buffer.fill_(0.2)
        if problem in LOSSES:
            how |= {"inner_loss": LOSSES[problem], "outer_loss": LOSSES[problem]}
        if side is None:
            shape: tuple[int, ...] = (4, 1)
            pairs = [(torch.randn(shape).double(), torch.randn(shape).double()) for _ in range(5)]
            self.batches, self.outer = pairs[:STEPS], pairs[STEPS]
        else:
            self.batches = soft_batches(STEPS, size=4, shape=(3, side, side))
            self.outer = hard_batch(size=5, shape=(3, side, side))
        self.step_size = 0.01 + 0.04 * torch.rand(STEPS, dtype=torch.float64)
        self.eager = BilevelProblem(model, optimizer=OPTIMIZERS[optimizer], **how)
        self.problem = self.eager
        if path != "eager":
            how["compile"] = "trace" if path == "traced" else True
            self.problem = BilevelProblem(model, optimizer=OPTIMIZERS[optimizer], **how)
        self._oracles: dict[str, Hypergradient] = {}

    def run(self, problem: BilevelProblem, window: str, **options: Any) -> Hypergradient:
        return hypergradient(
            problem,
            self.batches,
            self.outer,
            step_size=self.step_size,
            window=WINDOWS[window],
            seed=2,
            **options,
        )

    def error(self, window: str, method: str, storage: str) -> tuple[float, str]:
        """The worst error of a case, and the result that has it."""
        if window not in self._oracles:
            self._oracles[window] = self.run(self.eager, window, method="autograd")
        compiled = self.problem.compiling
        result = self.run(self.problem, window, method=method, storage=STORAGES[storage])
        if result.method != method or self.problem.compiling != compiled:
            raise AssertionError(f"ran as {result.method}, compile={self.problem.compiling}")
        if not result.finite:
            return math.inf, "finite"
        return worst_error(result, self._oracles[window])


def errors(cases: Iterable[Case]) -> Iterator[tuple[Case, float, str]]:
    """(case, its worst error, where) for cases; neighbours with the same problem share it."""
    current: tuple[Any, ...] = ()
    bench: Bench | None = None
    for case in cases:
        problem, optimizer, policy, window, method, storage, path = case
        if bench is None or current != (problem, optimizer, policy, path):
            current = (problem, optimizer, policy, path)
            bench = Bench(problem, optimizer, policy, path)
        yield case, *bench.error(window, method, storage)


# --- the command -------------------------------------------------------------------------------


def stored(path: Path) -> dict[Case, float]:
    """The cases of a file that `store` wrote; none if there is no such file."""
    if not path.exists():
        return {}
    return {tuple(row[:-1]): row[-1] for row in json.loads(path.read_text())["cases"]}


def store(path: Path, found: Mapping[Case, float]) -> None:
    """One case per line."""
    rows = [json.dumps([*case, float(f"{error:.2e}")]) for case, error in sorted(found.items())]
    head = json.dumps({"options": list(OPTIONS), "torch": torch.__version__})[:-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head}, "cases": [\n' + ",\n".join(rows) + "\n]}\n")


def grouped(case: Case) -> tuple[Any, ...]:
    """Sorts cases so that those which share a compiled problem are neighbours, eager ones first."""
    places = [values.index(v) for values, v in zip(OPTIONS.values(), case, strict=True)]
    return (places[-1], *places)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.bilevel.grid", description=__doc__)
    made.add_argument("--all", action="store_true", help="the full product, not the selection")
    for option, values in OPTIONS.items():
        made.add_argument(f"--{option}", nargs="+", choices=values, default=values)
    made.add_argument("--json", type=Path, help="results; what it holds already is not run again")
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    wanted = sorted(
        (
            case
            for case in (product(*OPTIONS.values()) if args.all else COVERING)
            if all(v in getattr(args, o) for o, v in zip(OPTIONS, case, strict=True))
        ),
        key=grouped,
    )
    found = stored(args.json) if args.json else {}
    saved = time.monotonic()
    for case, error, where in errors(case for case in wanted if case not in found):
        found[case] = error
        if not error < TOLERANCE:
            print("too large:", *case, f"{error:.1e} ({where})", flush=True)
        if args.json and time.monotonic() - saved > 15:
            store(args.json, found)
            saved = time.monotonic()
    if args.json:
        store(args.json, found)
    worst = max(found.values(), default=0.0)
    print(f"{len(found)} cases, the worst error {worst:.1e}")
    return int(any(not found[case] < TOLERANCE for case in wanted))


if __name__ == "__main__":
    raise SystemExit(main())
