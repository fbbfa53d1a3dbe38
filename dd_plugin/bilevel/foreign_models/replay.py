"""Random operations of a model, replayed exactly from one sweep of the engine to the next.

A step is run several times: forward, and once more in the backward sweep, under other function
transforms, perhaps compiled. The seed alone does not make dropout draw the same mask each time:
torch's random operations follow the memory layout of their input, and a compiled graph has its own
generator. Here each of them gets a replacement that draws from `draws`.

`replayed` sets the names under which models look up random operations, as `second_order` does and
for the same reasons. Each replacement calls torch's own operation where no model is drawing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.bilevel.foreign_models import patching
from dd_plugin.bilevel.foreign_models.draws import Draws, Kind, active_draws
from dd_plugin.bilevel.foreign_models.patching import Patch


def _uniform_like(draws: Draws, x: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    return draws.draw("uniform", x.shape if shape is None else shape, x.dtype, x.device)


def _keep(draws: Draws, x: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Return the mask of dropout: 1 / (1 - p) where a value is kept, else 0."""
    if p >= 1.0:
        return torch.zeros(tuple(shape), dtype=x.dtype, device=x.device)
    kept = _uniform_like(draws, x, shape) >= p
    return kept.to(x.dtype) / (1.0 - p)


def _channels(x: Tensor, unbatched_dim: int) -> list[int]:
    leading = 1 if x.dim() == unbatched_dim else 2
    return [*x.shape[:leading], *([1] * (x.dim() - leading))]


def _check_p(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _make_dropout(native: Callable[..., Tensor], unbatched_dim: int | None) -> Any:
    def dropout(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        draws = active_draws()
        if draws is None or not training or p == 0.0:
            return native(input, p, training, inplace)
        _check_p(p)
        shape = input.shape if unbatched_dim is None else _channels(input, unbatched_dim)
        return _returned(input, input * _keep(draws, input, shape, p), inplace)

    return dropout


def _returned(input: Tensor, output: Tensor, inplace: bool) -> Tensor:
    """Return the output, written into the input where the caller may look there alone."""
    return input.copy_(output) if inplace else output


def _make_alpha_dropout(native: Callable[..., Tensor], by_channel: bool) -> Any:
    def alpha_dropout(
        input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
    ) -> Tensor:
        draws = active_draws()
        if draws is None or not training or p == 0.0:
            return native(input, p, training, inplace)
        _check_p(p)
        # Klambauer et al., arXiv 1706.02515, section 3: dropped units go to alpha', then an
        # affine map restores mean and variance.
        alpha = -1.7580993408473766
        if p == 1.0:
            return _returned(input, input * 0.0, inplace)
        shape = _channels(input, -1) if by_channel else input.shape
        kept = (_uniform_like(draws, input, shape) >= p).to(input.dtype)
        a = ((1 - p) * (1 + p * alpha**2)) ** -0.5
        output = a * (input * kept + alpha * (1 - kept)) - a * alpha * p
        return _returned(input, output, inplace)

    return alpha_dropout


def _rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    draws = active_draws()
    if draws is None:
        return _NATIVE[F, "rrelu"](input, lower, upper, training, inplace)
    if not training:
        return F.leaky_relu(input, (lower + upper) / 2, inplace)
    slope = lower + (upper - lower) * _uniform_like(draws, input)
    return _returned(input, torch.where(input > 0, input, slope * input), inplace)


def _raw_dropout(native: Callable[..., Tensor]) -> Any:
    def dropout(input: Tensor, p: float, train: bool) -> Tensor:
        draws = active_draws()
        if draws is None or not train or p == 0.0:
            return native(input, p, train)
        return input * _keep(draws, input, input.shape, p)

    return dropout


def _shape_of(sizes: tuple[Any, ...], size: Any) -> tuple[int, ...]:
    if size is not None:
        return tuple(size)
    if len(sizes) == 1 and isinstance(sizes[0], Sequence):
        return tuple(sizes[0])
    return tuple(sizes)


def _make_factory(native: Callable[..., Tensor], kind: Kind) -> Any:
    def factory(
        *sizes: Any,
        size: Any = None,
        generator: Any = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
        **options: Any,
    ) -> Tensor:
        draws = active_draws(generator)
        if draws is None:
            keywords = {"generator": generator, "dtype": dtype, "device": device} | options
            if size is not None:
                keywords["size"] = size
            return native(*sizes, **keywords)
        dtype = dtype or torch.get_default_dtype()
        place = torch.device(device) if device is not None else torch.get_default_device()
        return draws.draw(kind, _shape_of(sizes, size), dtype, place).to(dtype)

    return factory


def _make_like(native: Callable[..., Tensor], kind: Kind) -> Any:
    def like(
        input: Tensor, *, dtype: torch.dtype | None = None, device: Any = None, **options: Any
    ) -> Tensor:
        draws = active_draws(options.get("generator"))
        if draws is None:
            return native(input, dtype=dtype, device=device, **options)
        dtype = dtype or input.dtype
        return draws.draw(kind, input.shape, dtype, device or input.device).to(dtype)

    return like


def _randint(native: Callable[..., Tensor]) -> Any:
    def randint(*args: Any, generator: Any = None, **options: Any) -> Tensor:
        draws = active_draws(generator)
        if draws is None:
            return native(*args, generator=generator, **options)
        values = list(args)
        size = options.pop("size", None)
        if size is None:
            size = values.pop()
        low, high = (0, *values)[-2:] if values else (options.get("low", 0), options["high"])
        dtype, device = options.get("dtype") or torch.int64, options.get("device") or "cpu"
        u = draws.draw("uniform", size, torch.float64, torch.device(device))
        return (low + (u * (high - low)).floor()).to(dtype)

    return randint


def _randperm(native: Callable[..., Tensor]) -> Any:
    def randperm(n: int, *, generator: Any = None, **options: Any) -> Tensor:
        draws = active_draws(generator)
        if draws is None:
            return native(n, generator=generator, **options)
        device = options.get("device") or "cpu"
        u = draws.draw("uniform", (n,), torch.float64, torch.device(device))
        return u.argsort().to(options.get("dtype") or torch.int64)

    return randperm


def _bernoulli(native: Callable[..., Tensor]) -> Any:
    def bernoulli(input: Tensor, p: Any = None, *, generator: Any = None, **options: Any) -> Tensor:
        draws = active_draws(generator)
        if draws is None:
            chance = () if p is None else (p,)
            return native(input, *chance, generator=generator, **options)
        u = _uniform_like(draws, input)
        return (u < (input if p is None else p)).to(input.dtype)

    return bernoulli


def _make_in_place(native: Callable[..., Tensor], fill: Callable[..., Tensor]) -> Any:
    def in_place(self: Tensor, *args: Any, generator: Any = None, **options: Any) -> Tensor:
        draws = active_draws(generator)
        if draws is None:
            return native(self, *args, generator=generator, **options)
        return self.copy_(fill(draws, self, *args, **options))

    return in_place


def _fill_bernoulli(draws: Draws, x: Tensor, p: Any = 0.5) -> Tensor:
    return (_uniform_like(draws, x) < p).to(x.dtype)


def _fill_uniform(draws: Draws, x: Tensor, a: float = 0.0, b: float = 1.0, **kw: Any) -> Tensor:
    low, high = kw.get("from", a), kw.get("to", b)
    return low + (high - low) * _uniform_like(draws, x)


def _fill_normal(draws: Draws, x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * draws.draw("normal", x.shape, x.dtype, x.device)


def _fill_exponential(draws: Draws, x: Tensor, lambd: float = 1.0) -> Tensor:
    return -torch.log1p(-_uniform_like(draws, x)) / lambd


def _patches() -> Iterator[Patch]:
    for name, unbatched in (
        ("dropout", None),
        ("dropout1d", 2),
        ("dropout2d", -1),
        ("dropout3d", 4),
    ):
        yield Patch(F, name, _make_dropout(_NATIVE[F, name], unbatched))
    for name in ("alpha_dropout", "feature_alpha_dropout"):
        by_channel = name == "feature_alpha_dropout"
        yield Patch(F, name, _make_alpha_dropout(_NATIVE[F, name], by_channel))
    yield Patch(F, "rrelu", _rrelu)
    yield Patch(torch, "dropout", _raw_dropout(_NATIVE[torch, "dropout"]))
    for name, kind in _FACTORIES:
        yield Patch(torch, name, _make_factory(_NATIVE[torch, name], kind))
        yield Patch(torch, f"{name}_like", _make_like(_NATIVE[torch, f"{name}_like"], kind))
    yield Patch(torch, "randint", _randint(_NATIVE[torch, "randint"]))
    yield Patch(torch, "randperm", _randperm(_NATIVE[torch, "randperm"]))
    yield Patch(torch, "bernoulli", _bernoulli(_NATIVE[torch, "bernoulli"]))
    yield Patch(Tensor, "bernoulli", _bernoulli(_NATIVE[Tensor, "bernoulli"]))
    for name, fill in _IN_PLACE:
        yield Patch(Tensor, name, _make_in_place(_NATIVE[Tensor, name], fill))


_FACTORIES: tuple[tuple[str, Kind], ...] = (("rand", "uniform"), ("randn", "normal"))
_IN_PLACE: tuple[tuple[str, Callable[..., Tensor]], ...] = (
    ("bernoulli_", _fill_bernoulli),
    ("uniform_", _fill_uniform),
    ("normal_", _fill_normal),
    ("exponential_", _fill_exponential),
)
_NATIVE: dict[tuple[Any, str], Any] = {
    (home, name): getattr(home, name)
    for home, names in (
        (F, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout rrelu"),
        (torch, "dropout rand randn rand_like randn_like randint randperm bernoulli"),
        (Tensor, "bernoulli bernoulli_ uniform_ normal_ exponential_"),
    )
    for name in names.split()
}


@contextlib.contextmanager
def replayed() -> Iterator[None]:
    """Replace torch's random operations by ones that draw from `drawing_from` where it is active.

    The names are process-wide, as those of `second_order`; contexts may nest. Another thread draws
    from torch's generators as ever.
    """
    tickets = patching.apply(list(_patches()))
    try:
        yield
    finally:
        patching.restore(tickets)
