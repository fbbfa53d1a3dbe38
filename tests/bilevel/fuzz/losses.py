"""Random losses, all for class indices and for probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.bilevel import cross_entropy


def _soft(labels: Tensor, logits: Tensor) -> Tensor:
    if labels.is_floating_point():
        return labels
    return F.one_hot(labels, logits.shape[1]).to(logits.dtype)


def _each(logits: Tensor, labels: Tensor) -> Tensor:
    return -(_soft(labels, logits) * F.log_softmax(logits, 1)).sum(1)


def _weights(logits: Tensor) -> Tensor:
    return torch.linspace(0.5, 2.0, logits.shape[1], dtype=logits.dtype, device=logits.device)


def builtin(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def weighted(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, weight=_weights(logits))


def weighted_smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, weight=_weights(logits), label_smoothing=0.2)


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    ce = _each(logits, labels)
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


def focal_no_grad(logits: Tensor, labels: Tensor) -> Tensor:
    ce = _each(logits, labels)
    with torch.no_grad():
        weight = 1 - torch.exp(-ce)
    return (weight * ce).mean()


def distilled_detached(logits: Tensor, labels: Tensor) -> Tensor:
    teacher = (logits.detach() / 0.5).softmax(1)
    kl = F.kl_div(F.log_softmax(logits, 1), teacher, reduction="batchmean")
    return cross_entropy(logits, labels) + 0.5 * kl


@torch.no_grad()
def _teacher(logits: Tensor) -> Tensor:
    return 0.5 * logits.softmax(1) + 0.5 * logits.softmax(1).mean(0, keepdim=True)


def distilled_no_grad(logits: Tensor, labels: Tensor) -> Tensor:
    teacher = _teacher(logits)
    return cross_entropy(logits, labels) - 0.3 * (teacher * F.log_softmax(logits, 1)).sum(1).mean()


def bootstrapped(logits: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        own = F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
    mixed = 0.8 * _soft(labels, logits) + 0.2 * own
    return -(mixed * F.log_softmax(logits, 1)).sum(1).mean()


def probabilities_mse(logits: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(logits.softmax(1), _soft(labels, logits))


def logits_huber(logits: Tensor, labels: Tensor) -> Tensor:
    return F.huber_loss(logits, 2 * _soft(labels, logits), delta=0.7)


def logits_smooth_l1(logits: Tensor, labels: Tensor) -> Tensor:
    return F.smooth_l1_loss(logits, _soft(labels, logits))


def binary(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, _soft(labels, logits))


def binary_of_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy(logits.sigmoid(), _soft(labels, logits))


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        labels = labels.argmax(1)
    return F.multi_margin_loss(logits, labels, margin=1.5)


def soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    return F.soft_margin_loss(logits, 2 * _soft(labels, logits) - 1)


def label_margin(logits: Tensor, labels: Tensor) -> Tensor:
    soft = _soft(labels, logits)
    return cross_entropy(logits - 0.3 * soft, labels)


def large_margin(logits: Tensor, labels: Tensor) -> Tensor:
    soft = _soft(labels, logits)
    true = (soft * logits).sum(1, keepdim=True)
    return (soft * F.relu(1 + logits - true) ** 2 + (1 - soft) * F.relu(logits - true + 1)).mean()


def normalized(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(3 * F.normalize(logits, dim=1), labels)


def divergence(logits: Tensor, labels: Tensor) -> Tensor:
    target = 0.9 * _soft(labels, logits) + 0.1 / logits.shape[1]
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean")


def symmetric(logits: Tensor, labels: Tensor) -> Tensor:
    target = (0.9 * _soft(labels, logits) + 0.1 / logits.shape[1]).log()
    return _each(logits, labels).mean() - 0.1 * (logits.softmax(1) * target).sum(1).mean()


def hardest(logits: Tensor, labels: Tensor) -> Tensor:
    return _each(logits, labels).topk(2).values.mean()


def balanced(logits: Tensor, labels: Tensor) -> Tensor:
    soft = _soft(labels, logits)
    with torch.no_grad():
        rarity = 1 / (0.5 + soft.sum(0))
    return ((soft * rarity).sum(1) * _each(logits, labels)).mean()


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    p = logits.softmax(1)
    return cross_entropy(logits, labels) - 0.1 * (p * torch.log(p + 1e-3)).sum(1).mean()


def clamped(logits: Tensor, labels: Tensor) -> Tensor:
    return -(_soft(labels, logits) * logits.softmax(1).clamp(0.05, 0.95).log()).sum(1).mean()


def multi_label(logits: Tensor, labels: Tensor) -> Tensor:
    return F.multilabel_soft_margin_loss(logits, _soft(labels, logits))


def poisson(logits: Tensor, labels: Tensor) -> Tensor:
    return F.poisson_nll_loss(0.3 * logits, _soft(labels, logits))


def scaled_by_itself(logits: Tensor, labels: Tensor) -> Tensor:
    loss = cross_entropy(logits, labels)
    return loss / (0.5 + loss.data)


def noisy(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits + 0.1 * torch.randn_like(logits), labels)


def penalized(logits: Tensor, labels: Tensor) -> Tensor:
    slope = torch.func.grad(lambda z: cross_entropy(z, labels))(logits)
    return cross_entropy(logits, labels) + slope.square().sum()


LOSSES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        cross_entropy,
        builtin,
        smoothed,
        weighted,
        weighted_smoothed,
        focal,
        focal_no_grad,
        distilled_detached,
        distilled_no_grad,
        bootstrapped,
        probabilities_mse,
        logits_huber,
        logits_smooth_l1,
        binary,
        binary_of_probabilities,
        margin,
        soft_margin,
        label_margin,
        large_margin,
        normalized,
        divergence,
        symmetric,
        hardest,
        balanced,
        entropy,
        clamped,
        multi_label,
        poisson,
        scaled_by_itself,
        noisy,
        penalized,
    )
}
