"""The table of operations whose second derivatives are checked, and the check.

Each entry is a function of float64 tensors and its inputs, drawn away from kinks (continuous random
numbers lie on a kink with probability zero, and the finite differences step 1e-5). The functions
look torch's operations up when called, as models do.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Operation = Callable[..., Tensor]
TABLE: dict[str, tuple[Operation, tuple[Tensor, ...]]] = {}
# Those that have no right second derivative without the context, with torch 2.15 on the CPU.
REPLACED: set[str] = set()

_generator = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=_generator)


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=_generator)


def _add(name: str, operation: Operation, *inputs: Tensor, replaced: bool = False) -> None:
    assert name not in TABLE
    TABLE[name] = (operation, inputs)
    if replaced:
        REPLACED.add(name)


IMAGE = _normal(2, 4, 6, 7)
LABELS = torch.tensor([1, 0, 3])
SOFT = torch.softmax(_normal(3, 5), 1)

# --- activations
_add("hardsigmoid", lambda x: F.hardsigmoid(x), 3 * _normal(4, 5), replaced=True)
_add("hardsigmoid module", lambda x: nn.Hardsigmoid()(x), 3 * _normal(4, 5), replaced=True)
_add(
    "hardsigmoid in place",
    lambda x: F.hardsigmoid(x * 1.0, inplace=True),
    3 * _normal(4, 5),
    replaced=True,
)
_add("hardsigmoid_", lambda x: torch._C._nn.hardsigmoid_(x * 1.0), 3 * _normal(4, 5), replaced=True)
for _name in (
    *("hardswish", "mish", "silu", "gelu", "softplus", "elu", "celu", "selu", "relu", "relu6"),
    *("hardtanh", "leaky_relu", "logsigmoid", "softsign", "tanhshrink", "softshrink"),
    *("hardshrink", "glu"),
):
    _add(_name, getattr(F, _name), 2 * _normal(3, 6))
_add("hardswish in place", lambda x: F.hardswish(x * 1.0, inplace=True), 2 * _normal(3, 6))
_add("prelu", F.prelu, _normal(2, 3, 4), _uniform(3))
_add("rrelu", lambda x: F.rrelu(x, training=False), _normal(3, 4))

# --- attention
_query, _key, _value = _normal(2, 3, 5, 4), _normal(2, 3, 6, 4), _normal(2, 3, 6, 4)
_open = torch.ones(5, 6).tril(1).bool()
_add(
    "attention", lambda *t: F.scaled_dot_product_attention(*t), _query, _key, _value, replaced=True
)
_add(
    "attention, float mask",
    lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
    _query,
    _key,
    _value,
    _normal(5, 6),
)
_add(
    "attention, boolean mask",
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=_open),
    _query,
    _key,
    _value,
    replaced=True,
)
_add(
    "attention, causal",
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
    _query,
    _key,
    _value,
    replaced=True,
)
_add(
    "attention, grouped queries",
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    _normal(2, 4, 5, 4),
    _normal(2, 2, 6, 4),
    _normal(2, 2, 6, 4),
    replaced=True,
)
_mha = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64).eval()
_add(
    "nn.MultiheadAttention",
    lambda x, w: functional_call(_mha, {"in_proj_weight": w}, (x, x, x), {"need_weights": False})[
        0
    ],
    _normal(2, 5, 8),
    _normal(24, 8) * 0.3,
    replaced=True,
)
with torch.random.fork_rng():
    # Weights that are the same in every run, and an activation without a corner: a finite
    # difference across the corner of a ReLU is no derivative.
    torch.manual_seed(0)
    _encoder = nn.TransformerEncoderLayer(
        8, 2, 16, activation="gelu", batch_first=True, dtype=torch.float64
    ).eval()
_add(
    "nn.TransformerEncoderLayer",
    lambda x, w: functional_call(_encoder, {"linear1.weight": w}, (x,)),
    _normal(2, 5, 8),
    _normal(16, 8) * 0.3,
    replaced=True,
)

# --- sampling and resizing
_grid2, _grid3 = _uniform(2, 5, 4, 2) * 2.6 - 1.3, _uniform(1, 2, 3, 2, 3) * 2.6 - 1.3
for _mode in ("bilinear", "nearest", "bicubic"):
    for _padding in ("zeros", "border", "reflection"):
        for _corners in (True, False):
            _options = {"mode": _mode, "padding_mode": _padding, "align_corners": _corners}
            _add(
                f"grid_sample {_mode} {_padding} {_corners}",
                lambda x, g, options=_options: F.grid_sample(x, g, **options),
                IMAGE,
                _grid2,
                replaced=True,
            )
            if _mode != "bicubic":
                _add(
                    f"grid_sample 5-D {_mode} {_padding} {_corners}",
                    lambda x, g, options=_options: F.grid_sample(x, g, **options),
                    _normal(1, 2, 3, 4, 5),
                    _grid3,
                    replaced=True,
                )
_add(
    "grid_sampler",
    lambda x, g: torch.grid_sampler(x, g, 0, 1, False),
    IMAGE,
    _grid2,
    replaced=True,
)
_add("affine_grid", lambda t: F.affine_grid(t, [2, 3, 4, 4], align_corners=False), _normal(2, 2, 3))
for _mode, _align in {
    "nearest": None,
    "nearest-exact": None,
    "area": None,
    "bilinear": True,
    "bicubic": False,
}.items():
    _add(
        f"interpolate {_mode}",
        lambda x, mode=_mode, align=_align: F.interpolate(
            x, (9, 5), mode=mode, align_corners=align
        ),
        IMAGE,
    )
for _mode in ("bilinear", "bicubic"):
    _add(
        f"interpolate {_mode}, antialias",
        lambda x, mode=_mode: F.interpolate(x, (4, 9), mode=mode, antialias=True),
        IMAGE,
    )
_add(
    "interpolate trilinear", lambda x: F.interpolate(x, 3, mode="trilinear"), _normal(1, 2, 4, 4, 4)
)

# --- pooling, rearrangement
for _d, _shape in ((1, (2, 3, 9)), (2, (2, 3, 7, 8)), (3, (1, 2, 5, 6, 4))):
    for _name in ("adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool"):
        _pool = getattr(F, f"{_name}{_d}d")
        _add(f"{_name}{_d}d", lambda x, pool=_pool: pool(x, 2), _normal(*_shape))
_add("max_pool2d, overlapping", lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE)
_add("avg_pool2d, ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), IMAGE)
_add("lp_pool2d", lambda x: F.lp_pool2d(x, 2.0, 2), IMAGE.abs() + 0.1)
_add("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), IMAGE)
_add("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), _normal(2, 3, 4, 6))
_add("channel_shuffle", lambda x: F.channel_shuffle(x, 2), IMAGE)
_add("native_channel_shuffle", lambda x: torch.native_channel_shuffle(x, 2), IMAGE, replaced=True)
_add("unfold", lambda x: F.unfold(x, 3, padding=1, stride=2), IMAGE)
_add("fold", lambda x: F.fold(x, (5, 5), 3, padding=1, stride=2), _normal(2, 18, 9))
_add("roll", lambda x: torch.roll(x, (1, 2), (2, 3)), IMAGE)
for _mode in ("reflect", "replicate", "circular"):
    _add(f"pad {_mode}", lambda x, mode=_mode: F.pad(x, (1, 2, 1, 0), mode=mode), IMAGE)

# --- normalisation
_add("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), IMAGE, _normal(4), _normal(4))
_add("layer_norm", lambda x, w, b: F.layer_norm(x, (7,), w, b), IMAGE, _normal(7), _normal(7))
_add("instance_norm", lambda x, w: F.instance_norm(x, weight=w), IMAGE, _normal(4))
_add("rms_norm", lambda x, w: F.rms_norm(x, (7,), w), IMAGE, _normal(7))
_add("local_response_norm", lambda x: F.local_response_norm(x, 3), IMAGE)
_add("normalize", lambda x: F.normalize(x, dim=1), IMAGE)
_add("cosine_similarity", lambda x, y: F.cosine_similarity(x, y), IMAGE, _normal(2, 4, 6, 7))
_add("batch_norm", lambda x, w: F.batch_norm(x, None, None, w, training=True), IMAGE, _normal(4))
_add(
    "weight_norm, fused",
    lambda v, g: torch._weight_norm(v, g, 0),
    _normal(4, 3),
    _uniform(4, 1) + 0.5,
    replaced=True,
)
_add(
    "weight_norm, fused, last axis",
    lambda v, g: torch._weight_norm(v, g, 1),
    _normal(4, 3),
    _uniform(1, 3) + 0.5,
    replaced=True,
)
_weighted = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, dtype=torch.float64))
_add(
    "weight_norm, parametrization",
    lambda x, g, v: functional_call(
        _weighted,
        {"parametrizations.weight.original0": g, "parametrizations.weight.original1": v},
        (x,),
    ),
    _normal(2, 3),
    _uniform(4, 1) + 0.5,
    _normal(4, 3),
    replaced=True,
)

# --- linear algebra, distances, look-up
_add(
    "conv2d, groups", lambda x, w: F.conv2d(x, w, groups=2, dilation=2), IMAGE, _normal(6, 2, 2, 2)
)
_add("conv2d, same", lambda x, w: F.conv2d(x, w, padding="same"), IMAGE, _normal(3, 4, 3, 3))
_add(
    "conv_transpose2d",
    lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1, groups=2),
    IMAGE,
    _normal(4, 2, 3, 3),
    _normal(4),
)
_add("einsum", lambda x, y: torch.einsum("bchw,bdhw->bcd", x, y), IMAGE, _normal(2, 3, 6, 7))
_add("linear", F.linear, _normal(3, 4), _normal(5, 4), _normal(5))
_add("embedding", lambda w: F.embedding(torch.tensor([[0, 2], [1, 1]]), w), _normal(4, 3))
_add("topk", lambda x: x.topk(2, 1)[0], _normal(3, 5))
_add("gather", lambda x: x.gather(1, torch.tensor([[0, 2], [1, 1], [3, 0]])), _normal(3, 4))
for _p in (1.0, 2.0, 3.0, float("inf")):
    _add(
        f"cdist {_p}",
        lambda x, y, p=_p: torch.cdist(x, y, p=p),
        _normal(2, 5, 3),
        _normal(2, 4, 3),
        replaced=True,
    )
    _add(f"pdist {_p}", lambda x, p=_p: F.pdist(x, p), _normal(5, 3), replaced=True)
_bags = torch.tensor([[0, 2, 2], [1, 1, 3]])
_add("embedding_bag", lambda w: F.embedding_bag(_bags, w), _normal(4, 3), replaced=True)
_add(
    "embedding_bag, weighted",
    lambda w, p: F.embedding_bag(_bags, w, mode="sum", per_sample_weights=p),
    _normal(4, 3),
    _normal(2, 3),
    replaced=True,
)

# --- losses
_add("cross_entropy", lambda x: F.cross_entropy(x, LABELS), _normal(3, 5))
_add("cross_entropy, soft labels", lambda x, s: F.cross_entropy(x, s), _normal(3, 5), SOFT)
_add(
    "cross_entropy, smoothed",
    lambda x, s, w: F.cross_entropy(x, s, weight=w, label_smoothing=0.1),
    _normal(3, 5),
    SOFT,
    _uniform(5),
)
_add("kl_div", lambda x, t: F.kl_div(x, t, reduction="batchmean"), _normal(3, 5), SOFT)
for _reduction in ("none", "mean", "sum"):
    # The target without a tangent, as labels have none; its own rule fails then, with "mean".
    _add(
        f"mse_loss of labels, {_reduction}",
        lambda x, r=_reduction: F.mse_loss(x, torch.eye(3, 5).to(x), reduction=r),
        _normal(3, 5),
        replaced=True,
    )
    _add(
        f"mse_loss, {_reduction}",
        lambda x, y, r=_reduction: F.mse_loss(x, y, reduction=r),
        _normal(3, 5),
        _normal(3, 5),
        replaced=True,
    )
_add("smooth_l1_loss", F.smooth_l1_loss, _normal(3, 5), _normal(3, 5))
_add("huber_loss", lambda x, y: F.huber_loss(x, y), _normal(3, 5), _normal(3, 5), replaced=True)
_add(
    "soft_margin_loss",
    lambda x: F.soft_margin_loss(x, torch.ones_like(x)),
    _normal(3, 5),
    replaced=True,
)
_add(
    "multi_margin_loss",
    lambda x: F.multi_margin_loss(x, LABELS, p=2, margin=0.7),
    _normal(3, 5),
    replaced=True,
)


def second_derivatives(
    operation: Operation, inputs: tuple[Tensor, ...]
) -> dict[str, tuple[Tensor, ...]]:
    """H v of L(x) = sum c tanh(operation(x) / 2) for a random direction v, three ways.

    The tanh makes L nonlinear in the operation, so that its first derivatives take part as well.
    """
    generator = torch.Generator().manual_seed(5)
    directions = tuple(torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in inputs)
    c = torch.randn(operation(*inputs).shape, dtype=torch.float64, generator=generator)

    def loss(*tensors: Tensor) -> Tensor:
        return (c * torch.tanh(operation(*tensors) / 2)).sum()

    def gradient(tensors: tuple[Tensor, ...], create_graph: bool = False):
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        found = torch.autograd.grad(loss(*leaves), leaves, create_graph=create_graph)
        return leaves, found

    argnums = tuple(range(len(inputs)))
    forward_over_reverse = torch.func.jvp(torch.func.grad(loss, argnums), inputs, directions)[1]
    leaves, first = gradient(inputs, create_graph=True)
    product = sum((g * v).sum() for g, v in zip(first, directions, strict=True))
    double_backward = torch.autograd.grad(product, leaves, materialize_grads=True)
    step = 1e-5
    after = gradient(tuple(x + step * v for x, v in zip(inputs, directions, strict=True)))[1]
    before = gradient(tuple(x - step * v for x, v in zip(inputs, directions, strict=True)))[1]
    return {
        "jvp of grad": forward_over_reverse,
        "double backward": double_backward,
        "finite differences": tuple(
            (a - b) / (2 * step) for a, b in zip(after, before, strict=True)
        ),
    }
