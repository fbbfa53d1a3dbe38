"""Small bilevel problems that the tests of the engine share, and how results are compared."""

import torch
from torch import nn
from torch.utils import _pytree as pytree

ROLES = (
    "outer_loss",
    "inner_losses",
    "step_size",
    "hyperparameters",
    "parameters",
    "statistics",
    "constants",
    "optimizer_state",
    "leaves",
)


def convnet(width=3, classes=3, dropout=0.0, blocks=2):
    """Blocks with BatchNorm for images of 8x8, no bias where BatchNorm would cancel it."""
    layers, channels = [], 3
    for _ in range(blocks):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
        channels = width
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(
        *layers, *drop, nn.Flatten(), nn.Linear(width * (8 >> blocks) ** 2, classes)
    ).double()


def soft_batches(steps, size=6, classes=3, shape=(3, 8, 8)):
    return [
        (
            torch.randn(size, *shape, dtype=torch.float64),
            torch.randn(size, classes, dtype=torch.float64).softmax(1),
        )
        for _ in range(steps)
    ]


def hard_batch(size=5, classes=3, shape=(3, 8, 8)):
    return torch.randn(size, *shape, dtype=torch.float64), torch.randint(classes, (size,))


def relative_error(actual, expected):
    """The largest |a - b| / |b| over the tensors of two trees (norms; absolute where b is 0)."""
    worst = 0.0
    one, other = pytree.tree_flatten(actual), pytree.tree_flatten(expected)
    assert one[1] == other[1]
    for a, b in zip(one[0], other[0], strict=True):
        if isinstance(b, torch.Tensor):
            size = float(b.norm())
            worst = max(worst, float((a - b).norm()) / (size if size > 1e-14 else 1.0))
    return worst


def worst_error(result, oracle, roles=ROLES):
    """The worst relative error over everything that two results hold."""
    errors = {role: relative_error(getattr(result, role), getattr(oracle, role)) for role in roles}
    assert result.batches.keys() == oracle.batches.keys()
    errors["batches"] = relative_error(
        [(b.images, b.labels) for b in result.batches.values()],
        [(b.images, b.labels) for b in oracle.batches.values()],
    )
    return max(errors.values()), max(errors, key=errors.get)


def frozen_copy(model):
    """Everything of a model that a call must not change, by value and by identity."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return (
        [(name, id(t), t.detach().clone(), t.grad, t.requires_grad) for name, t in tensors],
        [(name, module.training, type(module)) for name, module in model.named_modules()],
    )


def assert_unchanged(model, before):
    now = frozen_copy(model)
    assert now[1] == before[1]
    for (name, place, value, grad, flag), (name2, place2, value2, grad2, flag2) in zip(
        before[0], now[0], strict=True
    ):
        assert (name, place, grad, flag) == (name2, place2, grad2, flag2)
        assert torch.equal(value, value2)


class WrongTangent(torch.autograd.Function):
    """A sine whose forward-mode formula is wrong."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return ctx.saved_tensors[0].cos() * slope

    @staticmethod
    def jvp(ctx, tangent):
        return ctx.saved_tensors[0].sin() * tangent
