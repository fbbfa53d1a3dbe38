"""Checks of the engine: a hypergradient on the device against the same one on a CPU in float64."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

import dd_plugin.convnet  # noqa: F401 - registers the benchmark networks
from dd_plugin import bilevel, convert_bn
from tests.gpu.records import Row

# Relative errors. In single precision what the CPU itself loses is the measure, since networks
# differ in it by orders of magnitude.
DOUBLE = 1e-9
SINGLE, OF_CPU = 1e-4, 20.0
LOOSE_COSINE = 0.9  # of bf16 and TF32

STEPS = 4
WINDOWS: dict[str, bilevel.Window] = {"full": bilevel.Full(), "random": bilevel.Random(2)}
# With the usual eps of 1e-8 Adam's first steps divide by gradients near 0. Rounding alone then
# reaches 1e-9 in double precision, and a fault of that size could not be told from it.
OPTIMIZERS = {"sgd": lambda: bilevel.sgd(0.9), "adam": lambda: bilevel.adam(eps=1e-3)}
STORAGES: dict[str, bilevel.Storage] = {
    "device": bilevel.Device(),
    "host": bilevel.Host(),
    "recompute": bilevel.Recompute(),
    "kept": bilevel.Device(activations=1 << 30),
}
COMPILE: dict[str, Any] = {"eager": False, "traced": "trace", "compiled": True}


def make_model(name: str, size: str, dropout: float = 0.0) -> nn.Module:
    """A network of a case, in torch's default dtype, the same each time."""
    toy = size == "toy"
    torch.manual_seed(0)
    if name == "convnet":
        options = {"width": 4 if toy else 32, "depth": 2 if toy else 3}
        model = timm.create_model("dd_convnet", norm_layer="batchnorm2d", **options)
        return convert_bn(model, statistics="tracked")
    if name == "vit":
        shape = {"embed_dim": 16, "depth": 1, "num_heads": 2} if toy else {"depth": 3}
        rates = dict.fromkeys(("drop_rate", "attn_drop_rate", "drop_path_rate"), dropout)
        patches = {"img_size": 32, "patch_size": 16 if toy else 8, "num_classes": 10}
        return timm.create_model("vit_tiny_patch16_224", **patches, **shape, **rates)
    return timm.create_model("test_resnet" if toy else name, num_classes=10)


def inputs_of(case: Mapping[str, Any], size: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inner images, their labels, outer images and their labels, in float64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    inner, outer = (4, 6) if size == "toy" else (10, 16)
    x, real = (
        torch.randn(n, 3, 32, 32, generator=generator, dtype=torch.float64) for n in (inner, outer)
    )
    return x, torch.arange(inner) % 10, real, torch.arange(outer) % 10


def run(
    case: Mapping[str, Any], device: str, dtype: torch.dtype, size: str, method: Any = "mixed"
) -> tuple[Tensor, bilevel.Hypergradient, bool]:
    """A hypergradient of a case, on a GPU the third one, which replays what was recorded before.

    Returns:
        All gradients as one vector on the CPU in float64, the result itself, and whether it was
        replayed as a whole.

    Raises:
        CompileWarning: the compiler failed.
    """
    model = make_model(case["model"], size, case.get("dropout", 0.0)).to(device, dtype)
    x, y, real, real_y = (t.to(device) for t in inputs_of(case, size))
    problem = bilevel.BilevelProblem(
        model,
        optimizer=OPTIMIZERS[case["optimizer"]](),
        compile=COMPILE[case["how"]],
        autocast=getattr(torch, case["autocast"]) if "autocast" in case else None,
    )
    # Small for Adam, whose first steps have that size for every weight.
    size_of_step = 0.05 if case["optimizer"] == "sgd" else 0.005
    with warnings.catch_warnings():
        # Going on without the compiler would be another case.
        warnings.simplefilter("error", bilevel.CompileWarning)
        warnings.simplefilter("error", bilevel.RecordingWarning)
        replays = device == "cuda" and case["how"] != "eager"
        for contrast in (0.5, 0.7, 1.0) if replays else (1.0,):
            result = bilevel.hypergradient(
                problem,
                [((contrast * x).to(dtype), y)] * STEPS,
                ((contrast * real).to(dtype), real_y),
                step_size=torch.full((STEPS,), size_of_step, device=device, dtype=dtype),
                window=WINDOWS[case["window"]],
                method=method,
                storage=STORAGES[case.get("storage", "device")],
                seed=3,
            )
    tensors = [b.images for b in result.batches.values()]
    tensors += [result.step_size] if isinstance(result.step_size, Tensor) else []
    tensors += [*result.parameters.values(), *result.statistics.values()]
    gradients = torch.cat([t.detach().double().cpu().flatten() for t in tensors])
    return gradients, result, any(problem.recordings.by_kind.values())


def error(found: Tensor, expected: Tensor) -> float:
    """The relative error of a vector."""
    return float((found - expected).norm() / expected.norm())


@functools.cache
def _reference(key: tuple[tuple[str, Any], ...], dtype: torch.dtype, size: str) -> Any:
    found, result, _ = run(dict(key), "cpu", dtype, size)
    return found, float(result.outer_loss)


def check_hypergradient(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Compare a hypergradient on the device with that of a CPU.

    Random numbers of a model differ between devices, so with dropout it is compared with the whole
    graph on the same device, which draws the same ones.
    """
    tf32 = bool(case.get("tf32"))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    dtype = getattr(torch, case["dtype"])
    plain = {"how": "eager", "storage": "device", "model": case["model"]}
    reference = tuple({**plain, **{k: case[k] for k in ("optimizer", "window")}}.items())
    found, result, is_recorded = run(case, device, dtype, size)
    if case.get("dropout"):
        eager = {**case, "how": "eager", "storage": "device"}
        expected, other, _ = run(eager, device, dtype, size, method="autograd")
        loss = float(other.outer_loss)
    else:
        expected, loss = _reference(reference, torch.float64, size)
    row: Row = {
        "relative_error": error(found, expected),
        "cosine": float(torch.cosine_similarity(found, expected, 0)),
        "outer_loss": float(result.outer_loss),
        "expected_outer_loss": loss,
        "finite": result.finite,
        "method": result.method,
        "recorded": is_recorded,
    }
    if "autocast" in case or tf32:
        return {**row, "limit": LOOSE_COSINE, "ok": row["cosine"] > LOOSE_COSINE}
    limit = DOUBLE
    if dtype == torch.float32:
        single, _ = _reference(reference, dtype, size)
        row["relative_error_of_cpu"] = error(single, _reference(reference, torch.float64, size)[0])
        limit = max(SINGLE, OF_CPU * row["relative_error_of_cpu"])
    return {**row, "limit": limit, "ok": row["relative_error"] < limit}
