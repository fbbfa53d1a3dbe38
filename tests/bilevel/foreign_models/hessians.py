"""Second derivatives of operations and of whole models, and that a context leaves no trace."""

import copy

import torch
from torch.func import functional_call

from dd_plugin.bilevel.foreign_models.second_order import second_order
from tests.bilevel.foreign_models.operations import second_derivatives


def close(a, b, tolerance):
    scale = max(1e-3, max(t.abs().max().item() for t in b))
    return max((s - t).abs().max().item() for s, t in zip(a, b, strict=True)) <= tolerance * scale


def check_operation(operation, inputs):
    """Forward over reverse is double backward, and both are the differences of the gradient."""
    with second_order():
        found = second_derivatives(operation, inputs)
    assert close(found["jvp of grad"], found["double backward"], 1e-9)
    assert close(found["jvp of grad"], found["finite differences"], 1e-6)


def check_values(operation, inputs):
    expected = operation(*inputs)
    with second_order():
        found = operation(*inputs)
    # float32 rounding of sums over up to sixteen terms, relative to the largest value.
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6 * scale)


def hessian_product(model, x):
    """H 1 of the loss sum sin(model(x)) for all parameters: both ways, twice the first."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ones = {name: torch.ones_like(p) for name, p in parameters.items()}

    def loss(p):
        output = functional_call(model, p, (x,))
        output = getattr(output, "logits", output)
        return output.sin().sum()

    found = [torch.func.jvp(torch.func.grad(loss), (parameters,), (ones,))[1] for _ in range(2)]
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    second = torch.autograd.grad(
        sum(g.sum() for g in first), list(leaves.values()), materialize_grads=True
    )
    return [list(h.values()) for h in found] + [list(second)]


def attributes(model):
    return [
        (
            name,
            {k: (id(v), copy.copy(v) if isinstance(v, dict) else None) for k, v in names.items()},
        )
        for name, module in model.named_modules()
        for names in (vars(module), module._buffers, module._parameters)
    ]


def check_model(model, x, tolerance=1e-8):
    before = attributes(model)
    with second_order(model):
        forward, again, double = hessian_product(model, x)
    assert close(forward, double, tolerance)
    assert close(forward, again, 1e-14)
    assert attributes(model) == before
    return double
