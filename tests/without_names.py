"""What becomes of `dd_plugin` where torch lacks a name, tried in processes of their own.

Run as ``python -m tests.without_names NAME ...`` by `test_private_names.py`. torch is imported
once; then, for every name, a fork hides it from all code of `dd_plugin` (and from nothing else,
since torch needs it too), imports `dd_plugin` and trains. Prints one JSON object, name to outcome.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Modules, which are absent rather than hidden.
MODULES = (
    "torch._decomp.decompositions_for_jvp",
    "torch._dynamo.variables.builder",
    "torch._dynamo.trace_rules",
)


def hide(owner: Any, name: str) -> None:
    """Let an attribute of a module, class or object not exist for code of `dd_plugin`."""
    base: Any = owner if isinstance(owner, type) else type(owner)

    def guarded(native: Any) -> Any:
        def look_up(self: Any, asked: str) -> Any:
            if asked == name:
                caller = sys._getframe(1).f_globals.get("__name__", "")
                if caller.partition(".")[0] == "dd_plugin":
                    raise AttributeError(f"{name} is hidden")
            return native(self, asked)

        return look_up

    # Python asks the second where the first has nothing; `torch.ops.aten` makes operations there.
    names = [n for n in ("__getattribute__", "__getattr__") if hasattr(base, n)]
    methods = {n: guarded(getattr(base, n)) for n in names}
    if isinstance(owner, type):
        for method, function in methods.items():
            setattr(owner, method, function)
    else:
        owner.__class__ = type(base.__name__, (base,), methods)


def without(name: str) -> None:
    """Take a name away."""
    if name == "nothing":
        return
    if name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    elif name == "torch.nn.utils.weight_norm._weight_norm":
        del sys.modules["torch.nn.utils.weight_norm"]
    else:
        path, _, attribute = name.rpartition(".")
        owner: Any = torch
        for part in path.split(".")[1:]:
            owner = getattr(owner, part)
        hide(owner, attribute)


class Gate(nn.Module):
    """Calls what the engine has formulas for, by the names under which torch's own code does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.hardswish(x) + nn.functional.avg_pool2d(x, 2).mean()
        self.last = y  # what a model keeps must not outlive a transform
        return y * nn.functional.one_hot(torch.zeros(1, dtype=torch.long), 2)[0, 0]


class Marks(nn.Module):
    """Marks an activation, which a function transform refuses."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 1.0).requires_grad_()


def network() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), Gate(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(48, 2)).double()


def outcome() -> dict[str, Any]:
    """Train an ordinary converted layer, and differentiate through training, eager and traced."""
    from dd_plugin.bilevel import BilevelProblem, CompileWarning, hypergradient
    from dd_plugin.bn import convert_bn, revert_bn

    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    model, stock = convert_bn(network(), "tracked"), network()
    with torch.no_grad():
        errors = [
            (a(x) - b(x)).abs().max() for a, b in ((model, stock), (model.eval(), stock.eval()))
        ]
    run = ([(x, labels)] * 2, (x, labels))
    expected = hypergradient(BilevelProblem(model), *run, step_size=0.1, method="autograd")
    found: dict[str, Any] = {"layer": float(max(errors))}
    ways: dict[str, Any] = {"eager": False, "trace": "trace"}
    for way, compile in ways.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            problem = BilevelProblem(model, compile=compile)
            result = hypergradient(problem, *run, step_size=0.1)
        pairs = zip(expected.batches.values(), result.batches.values(), strict=True)
        found[way] = max(float((a.images - b.images).norm() / a.images.norm()) for a, b in pairs)
        found[f"{way} method"] = result.method
        said = [str(w.message) for w in told if issubclass(w.category, CompileWarning)]
        found[f"{way} warnings"] = said
    revert_bn(model)
    try:
        problem = BilevelProblem(nn.Sequential(network(), Marks()))
        hypergradient(problem, *run, step_size=0.1)
    except RuntimeError as error:
        found["marks"] = str(error)
    return found


def prepare() -> None:
    """Import what the first trace of a process imports, so that the forks need not."""
    for module in (*MODULES, "torch.fx.experimental.proxy_tensor"):
        importlib.import_module(module)
    from torch.fx.experimental.proxy_tensor import make_fx

    def loss(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, None, None, training=True).log_softmax(1).square().sum()

    # Nothing backward, which would start threads that no fork has.
    def change(x: torch.Tensor) -> Any:
        return torch.func.jvp(loss, (x,), (x,))

    make_fx(change, tracing_mode="fake")(torch.rand(3, 2, dtype=torch.float64))


def in_fork(name: str) -> dict[str, Any]:
    """The outcome without a name, or the error that ended it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcome.json"
        process = os.fork()
        if process == 0:
            try:
                without(name)
                found = outcome()
            except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
                found = {"error": traceback.format_exc()}
            file.write_text(json.dumps(found))
            os._exit(0)
        os.waitpid(process, 0)
        return json.loads(file.read_text()) if file.exists() else {"error": "the process died"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare()
    gc.freeze()  # a collection in a fork would copy what it looks at
    print(json.dumps({name: in_fork(name) for name in sys.argv[1:]}))
