"""Tools that take a hypergradient, the networks that they are compared on, and peak memory.

Used by the benchmarks `hypergradient`, `ensembles`, `distiller` and `scale`, and by `tests.gpu`. A
case is a dictionary: ``model``, ``optimizer``, ``steps``, ``tool``, and where they differ from the
defaults of `make`, ``width``, ``images`` and ``outer_images``.

"ours eager", "ours traced" and "ours compiled" are the engine with ``compile=False``, ``"trace"``
and True, "keeping" has 1 GiB for activations, "last" has channels last, "bf16" computes under
autocast. "mixflow" is forward-over-reverse written by hand with `torch.func`, as its authors do in
JAX (arXiv 2505.00793). "plain" is inner training alone: a model, `torch.optim`, no outer gradient.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KEEPING = 1 << 30
STEP_SIZE = 0.01

Run = Callable[[], tuple[Any, dict[str, Any]]]


def convnet(width: int = 64, classes: int = 10) -> nn.Module:
    """Three blocks of convolution, BatchNorm, ReLU and average pooling, and a linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(3):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, classes))


def make(case: dict[str, Any], device: str) -> tuple[nn.Module, Any, Any]:
    """The model, the inner batch and the outer batch of a case, in torch's default dtype."""
    torch.manual_seed(0)
    inner, outer, side = 50, 64, 32
    if case["model"] == "convnet":
        inner, outer, model = 100, 256, convnet(case.get("width", 64))
    else:
        import timm

        options: dict[str, Any] = {"num_classes": 10}
        if case["model"].startswith("vit"):
            side = 64
            options |= {"img_size": side, "patch_size": 8}
        model = timm.create_model(case["model"], **options)
        for layer in model.modules():
            # The fused kernel of attention has no second derivative, which the others need.
            if hasattr(layer, "fused_attn"):
                layer.fused_attn = False
    inner, outer = case.get("images", inner), case.get("outer_images", outer)
    batch = torch.randn(inner, 3, side, side), torch.arange(inner) % 10
    real = torch.randn(outer, 3, side, side), torch.arange(outer) % 10

    def moved(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(t.to(device) for t in pair)

    return model.to(device).train(), moved(batch), moved(real)


def runner(case: dict[str, Any], device: str) -> Run:
    """A function that takes one hypergradient and returns (gradient for the images, extras)."""
    name, *how = case["tool"].split()
    tools = {"plain": _plain, "higher": _higher, "torchopt": _torchopt, "mixflow": _mixflow}
    if name in ("ours", "autograd"):
        return _ours(case, device, name, how)
    return tools[name](case, *make(case, device), compiled="compiled" in how)


def _ours(case: dict[str, Any], device: str, name: str, how: list[str]) -> Run:
    from dd_plugin import bilevel

    model, (x, y), outer = make(case, device)
    keeping = "keeping" in how
    problem = bilevel.BilevelProblem(
        model,
        optimizer=bilevel.adam() if case["optimizer"] == "adam" else bilevel.sgd(),
        outer_training=True,
        compile="trace" if "traced" in how else keeping or "compiled" in how,
        autocast=torch.bfloat16 if "bf16" in how else None,
        channels_last="last" in how,
    )

    def run() -> tuple[Any, dict[str, Any]]:
        with warnings.catch_warnings():
            # Going on without the compiler would be another case.
            warnings.simplefilter("error", bilevel.CompileWarning)
            result = bilevel.hypergradient(
                problem,
                [(x, y)] * case["steps"],
                outer,
                step_size=STEP_SIZE,
                method="autograd" if name == "autograd" else "mixed",
                storage=bilevel.Device(activations=KEEPING if keeping else 0),
            )
        gradient = torch.stack([b.images for b in result.batches.values()]).sum(0)
        return gradient, {"trajectory_bytes": result.trajectory_bytes}

    return run


def _plain(
    case: dict[str, Any], model: nn.Module, inner: Any, outer: Any, *, compiled: bool
) -> Run:
    x, y = inner
    make_optimizer = torch.optim.Adam if case["optimizer"] == "adam" else torch.optim.SGD
    optimizer = make_optimizer(model.parameters(), lr=STEP_SIZE)
    network: Any = torch.compile(model) if compiled else model

    def run() -> tuple[Any, dict[str, Any]]:
        for _ in range(case["steps"]):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
        return None, {}

    return run


def _higher(
    case: dict[str, Any], model: nn.Module, inner: Any, outer: Any, *, compiled: bool
) -> Run:
    import higher

    (x, y), (real_x, real_y) = inner, outer
    make_optimizer = torch.optim.Adam if case["optimizer"] == "adam" else torch.optim.SGD

    def run() -> tuple[Any, dict[str, Any]]:
        images = x.clone().requires_grad_()
        optimizer = make_optimizer(model.parameters(), lr=STEP_SIZE)
        with higher.innerloop_ctx(model, optimizer) as (network, following):
            for _ in range(case["steps"]):
                following.step(F.cross_entropy(network(images), y))
            loss = F.cross_entropy(network(real_x), real_y)
            return torch.autograd.grad(loss, images)[0], {}

    return run


def _torchopt(
    case: dict[str, Any], model: nn.Module, inner: Any, outer: Any, *, compiled: bool
) -> Run:
    import torchopt

    (x, y), (real_x, real_y) = inner, outer
    make_meta = torchopt.MetaAdam if case["optimizer"] == "adam" else torchopt.MetaSGD

    def run() -> tuple[Any, dict[str, Any]]:
        images = x.clone().requires_grad_()
        before = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
        following = make_meta(model, lr=STEP_SIZE)
        for _ in range(case["steps"]):
            following.step(F.cross_entropy(model(images), y))
        loss = F.cross_entropy(model(real_x), real_y)
        gradient = torch.autograd.grad(loss, images)[0]
        torchopt.recover_state_dict(model, before)
        return gradient, {}

    return run


def _mixflow(
    case: dict[str, Any], model: nn.Module, inner: Any, outer: Any, *, compiled: bool
) -> Run:
    if case["optimizer"] != "sgd":
        raise ValueError("the loop by hand takes steps of plain SGD only")
    (x, y), (real_x, real_y) = inner, outer
    # Its running statistics are in no loss, in train mode.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    start = {name: p.detach() for name, p in model.named_parameters()}

    def loss(theta: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, theta, (images,)), labels)

    gradient_of: Any = torch.func.grad(loss)
    gradients_of: Any = torch.func.grad(loss, argnums=(0, 1))

    def run() -> tuple[Any, dict[str, Any]]:
        states = [start]
        for _ in range(case["steps"]):
            g = gradient_of(states[-1], x, y)
            states.append({n: t - STEP_SIZE * g[n] for n, t in states[-1].items()})
        theta_bar = gradient_of(states.pop(), real_x, real_y)
        total = torch.zeros_like(x)
        while states:
            theta, along = states.pop(), {n: -STEP_SIZE * t for n, t in theta_bar.items()}
            pushed: Any = torch.func.jvp(
                lambda point: gradients_of(point, x, y), (theta,), (along,)
            )
            swept, images_bar = pushed[1]
            theta_bar = {n: t + swept[n] for n, t in theta_bar.items()}
            total += images_bar
        return total, {}

    return run


class Memory:
    """Peak memory of a stretch of code, in bytes, over what was in use before it."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        # Give back what the warm-up has freed, so that it counts again.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._status("VmRSS")

    def peak(self) -> int:
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return self._status("VmHWM") - self.before

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024
