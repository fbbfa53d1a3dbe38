"""What is tried, in order: the cases of the parts ``right`` and ``fast``, the recipes of ``good``.

A case is a dictionary of plain values; ``check`` names the function in `worker` that runs it. What
matters most comes first, and what has to be compiled last, because a part that runs out of time is
cut off there.
"""

from __future__ import annotations

from typing import Any, Final

PARTS: Final = ("right", "fast", "good")
SIZES: Final = ("full", "toy")
# Shares of the whole time; what a part leaves goes to the next.
SHARES: Final = {"right": 1 / 6, "fast": 1 / 4, "good": 1.0}

_LIMIT: Final = 120.0  # seconds of one case
_COMPILED_LIMIT: Final = 300.0


def cases(part: str, size: str) -> list[dict[str, Any]]:
    """The cases of a part in order; ``good`` has recipes instead."""
    return {"right": right, "fast": fast}[part](size)


def limit_of(case: dict[str, Any]) -> float:
    """Seconds after which a case is given up."""
    how = f"{case.get('how', '')} {case.get('tool', '')} {case.get('compile', '')}"
    compiled = any(word in how for word in ("compiled", "keeping", "inductor"))
    return _COMPILED_LIMIT if compiled else _LIMIT


def _engine(model: str, how: str = "eager", **more: Any) -> dict[str, Any]:
    case = {"check": "hypergradient", "model": model, "how": how}
    return {**case, "optimizer": "sgd", "window": "full", "dtype": "float64", **more}


def _layer(statistics: str, train_with: str, how: str, dims: int = 2) -> dict[str, Any]:
    case = {"check": "layer", "statistics": statistics, "train_with": train_with}
    return {**case, "how": how, "dims": dims}


def right(size: str) -> list[dict[str, Any]]:
    """Whether what is computed on the device is what is computed on a CPU."""
    if size == "toy":
        return [
            _engine("convnet"),
            _engine("vit", "traced", optimizer="adam", window="random"),
            _engine("convnet", "traced", dtype="float32", storage="host"),
            _engine("convnet", dtype="float32", autocast="bfloat16"),
            _engine("vit", "traced", dropout=0.1),
            _layer("tracked", "batch", "eager"),
            _layer("learned", "running", "autocast"),
            {"check": "resume", "compile": "trace"},
            {"check": "travel"},
        ]
    models = ("convnet", "resnet18", "vit")
    found = []
    for how in ("eager", "traced"):
        found += [
            _engine(model, how, optimizer=optimizer)
            for model in models
            for optimizer in ("sgd", "adam")
        ]
        found += [_engine(model, how, optimizer="adam", window="random") for model in models]
        found += [_engine(model, how, dtype="float32") for model in models]
    found += [_layer("tracked", "batch", "eager", dims) for dims in (1, 2, 3)]
    found += [_layer(s, w, "eager") for s, w in _POLICIES if (s, w) != ("tracked", "batch")]
    found += [{"check": "resume", "compile": "trace"}, {"check": "travel"}]
    found += [_engine("convnet", "compiled", dtype="float32")]
    for storage in ("host", "recompute", "kept"):
        found += [_engine(model, "traced", storage=storage) for model in ("convnet", "resnet18")]
    found += [_engine("convnet", "eager", storage=storage) for storage in ("host", "recompute")]
    found += [_engine("vit", how, dropout=0.1) for how in ("eager", "traced")]
    found += [
        _engine(model, how, dtype="float32", autocast="bfloat16")
        for model in ("convnet", "vit")
        for how in ("eager", "traced")
    ]
    found += [_engine("convnet", dtype="float32", tf32=True)]
    found += [_layer(s, w, how) for how in ("autocast", "compiled") for s, w in _POLICIES]
    found += [
        _engine("convnet", "compiled", dtype="float32", storage="kept"),
        _engine("convnet", "compiled", dtype="float32", autocast="bfloat16"),
        _engine("convnet", "compiled", dtype="float32", tf32=True),
        _engine("vit", "compiled", dtype="float32", dropout=0.1),
        {"check": "resume", "compile": "inductor"},
        _engine("resnet18", "compiled", dtype="float32"),
    ]
    return found


_POLICIES: Final = (
    ("tracked", "batch"),
    ("tracked", "running"),
    ("learned", "batch"),
    ("learned", "running"),
    ("frozen", "batch"),
)


def fast(size: str) -> list[dict[str, Any]]:
    """Seconds and memory of a hypergradient, launches, and what the card itself can do."""
    toy = size == "toy"
    dtypes = ("float32",) if toy else ("float32", "tfloat32", "bfloat16")
    found: list[dict[str, Any]] = [{"check": "product", "dtype": dtype} for dtype in dtypes]
    found += [{"check": "copy"}]
    models = ("convnet",) if toy else ("convnet", "resnet18")
    lengths = (2,) if toy else (10, 40)
    plain = ("ours eager", "ours traced", "plain eager", "higher", "torchopt")
    # "last" is channels_last, "keeping" keeps activations.
    compiled = ("ours compiled", "ours compiled bf16", "ours keeping", "ours keeping last bf16")
    others = ("ours traced last", "ours keeping last", "plain compiled")

    def rows(model: str, tools: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {"check": "time", "model": model, "steps": steps, "tool": tool}
            for tool in tools
            for steps in lengths
        ]

    for model in models:
        found += [{"check": "work", "model": model}]
        found += rows(model, plain)
        found += [{"check": "launches", "model": model, "tool": tool} for tool in plain[:3]]
    if toy:
        return found
    for model in models:
        found += rows(model, (*compiled, *others))
        found += [{"check": "launches", "model": model, "tool": "ours compiled"}]
    return found


# A card is not busy with ten images at a time: with more of them a step takes hardly longer.
_GROUPS: Final[dict[str, dict[str, Any]]] = {
    "groups": {"real_batch_size": 512},
    "halves": {"real_batch_size": 2048, "groups": 2},
    "long": {"real_batch_size": 2048, "inner_steps": 100},
}
# The recipes that time is given to, the one furthest below its published accuracy first.
# ``settings`` names a recipe of the package; all else but ``published`` replaces its settings.
# RaT-BPTT (arXiv 2311.07025, table 1) runs 200 steps and differentiates 60, AT-BPTT (arXiv
# 2510.04838; settings in its repository) 32 and 16, both published with InstanceNorm. The others
# are the recipe for one CPU core in a network of the size that these use.
RECIPES: Final[dict[str, dict[str, Any]]] = {
    **{
        f"{name}_batchnorm": {
            "settings": "cifar10_cpu_ipc10",
            "published": 0.694,
            "model_args": {"width": 128, "norm_layer": "batchnorm2d"},
            "max_steps": 5000,
            **changes,
        }
        for name, changes in _GROUPS.items()
    },
    **{
        f"{name}_{norm}": {
            "settings": "rat_bptt_cifar10_ipc10",
            "published": published,
            "inner_steps": steps,
            "window_length": window,
            # The published rate is for two hundred steps.
            **({"step_sizes": "per_step", "inner_lr": 0.005} if steps < 100 else {}),
            "model_args": {"width": 128, "depth": 3, "norm_layer": f"{norm}2d"},
        }
        for name, steps, window, published in (("at", 32, 16, 0.724), ("rat", 200, 60, 0.694))
        for norm in ("batchnorm", "instancenorm")
    },
}
