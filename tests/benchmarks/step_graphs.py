"""The functions of an inner step as graphs: two as one, and with products added in one pass.

    python -m tests.benchmarks.step_graphs --json FILE

A hypergradient of a network gives the arguments of its functions. With these, on one thread and in
turns: the gradient and the update of the optimizer, and the step back through the update and the
sweep, each pair as two graphs (as the engine has them) and as one; and both functions of the
optimizer with `add_products` and without. The optimizer is SGD with momentum.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch

import dd_plugin.convnet  # noqa: F401 - registers the benchmark networks
from dd_plugin import bilevel, convert_bn, keep_freed_memory
from dd_plugin.bilevel.step_values import StepInputs, tree_map
from dd_plugin.bilevel.steps import Steps
from dd_plugin.bilevel.tracing import simplify
from dd_plugin.bilevel.tracing.compile import CompiledFunction
from dd_plugin.bilevel.tracing.way import Way
from tests.benchmarks.measuring import Results, ratio_in_turns

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConvNet, width 32": ("dd_convnet", {"width": 32, "norm_layer": "batchnorm2d"}),
    "ResNet-18": ("resnet18", {"num_classes": 10}),
}
WAYS = {"traced": Way("trace"), "compiled": Way(True)}
_IMAGES, _REAL, _SIDE = 10, 16, 32
_FUNCTIONS = ("gradient", "update", "pull", "sweep")

Run = Callable[[], Any]


def arguments_of(problem: bilevel.BilevelProblem) -> dict[str, tuple[Any, ...]]:
    """The arguments of each function in the last step of a run, and in the first one back."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def noted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(steps: Steps, *args: Any, **options: Any) -> Any:
            calls[name] = args, options
            return method(steps, *args, **options)

        return call

    x, y = torch.randn(_IMAGES, 3, _SIDE, _SIDE), torch.arange(_IMAGES) % 10
    real = torch.randn(_REAL, 3, _SIDE, _SIDE), torch.arange(_REAL) % 10
    with ExitStack() as stack:
        for name in _FUNCTIONS:
            method = noted(name, getattr(Steps, name))
            stack.enter_context(mock.patch.object(Steps, name, method))
        bilevel.hypergradient(problem, [(x, y)] * 3, real, step_size=torch.full((3,), 0.01))
    gradients, state, *values = calls["update"][0]
    bars = calls["pull"][1]
    inputs, gradients_bar, statistics_bar = calls["sweep"][0]
    inputs = inputs._replace(noise=[])
    optimizer = (gradients, state.optimizer, state.parameters, *values)
    return {
        "gradient": (inputs,),
        "update": optimizer,
        "pull": (*optimizer, bars["parameters_bar"], bars["optimizer_bar"]),
        "sweep": (inputs, gradients_bar, statistics_bar),
    }


def pairs_of(problem: bilevel.BilevelProblem, way: Way) -> dict[str, tuple[Run, Run]]:
    """By name, what is computed: as the engine does, or did, and in another way."""
    args = arguments_of(problem)
    (inputs,), update, pull = args["gradient"], args["update"], args["pull"]
    statistics_bar = args["sweep"][2]

    def graph(function: Callable[..., Any], *arguments: Any) -> Run:
        return partial(CompiledFunction(function, arguments, way), *arguments)

    def forward(inputs: StepInputs, *rest: Any) -> Any:
        result = problem.gradient(inputs)
        return result, problem.update(result[0], *rest)

    def back(inputs: StepInputs, statistics_bar: Any, *rest: Any) -> Any:
        pulled = problem.pull(*rest)
        swept = problem.sweep(inputs, pulled.gradients, statistics_bar)
        return pulled, swept, tree_map(torch.add, pulled.parameters, swept.parameters)

    gradient, sweep = (graph(getattr(problem, n), *args[n]) for n in ("gradient", "sweep"))
    new = {name: graph(getattr(problem, name), *args[name]) for name in ("update", "pull")}
    pairs = {
        "gradient and update as one graph": (
            lambda: (gradient(), new["update"]()),
            graph(forward, inputs, *update[1:]),
        ),
        "step back and sweep as one graph": (
            lambda: tree_map(torch.add, new["pull"]().parameters, sweep().parameters),
            graph(back, inputs, statistics_bar, *pull),
        ),
    }
    if way.compile == "trace":
        with mock.patch.object(simplify, "add_products", return_value=None):
            old = {name: graph(getattr(problem, name), *args[name]) for name in new}
        pairs["update with products added in one pass"] = old["update"], new["update"]
        pairs["step back with products added in one pass"] = old["pull"], new["pull"]
    return pairs


def measure(network: str, how: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of a network."""
    name, options = NETWORKS[network]
    torch.manual_seed(0)
    model = convert_bn(timm.create_model(name, **options), statistics="tracked")
    problem = bilevel.BilevelProblem(model, optimizer=bilevel.sgd(0.9), compile="trace")
    rows = []
    for what, ways in pairs_of(problem, WAYS[how]).items():
        times = ratio_in_turns(*ways, rounds, dropped=2)  # the first ones compile
        rows.append({"network": network, "how": how, "what": what, **times})
    return rows


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    command = "python -m tests.benchmarks.step_graphs"
    results = Results(options.json, command, ("network", "how", "what"))
    for network in options.networks:
        for how in options.ways:
            first = {"network": network, "how": how, "what": "gradient and update as one graph"}
            if first not in results:
                results.add(measure(network, how, options.rounds))


if __name__ == "__main__":
    main()
