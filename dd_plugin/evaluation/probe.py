"""Linear probes: a classifier head on features, solved to its optimum.

What a distilled set for a frozen backbone is compared with: the head that the same features of
real images give. The head is that of L2-regularized multinomial logistic regression, with the
strength of the penalty chosen on held-out rows of the training features.

Features are standardized by their mean and by one number: ``z = x - x.mean(0)``, then
``z / z.std()``. A standard deviation for each feature by itself is noise when there are few rows.
On CIFAR-10 at 112 pixels with an EfficientNet-Lite0 (1,280 features), one real image per class, it
gave 18.7 % for random images and 16.7 % for those nearest to the mean; one number gives 27.7 % and
36.3 %. With 4,000 images it was 73.9 % and is 74.2 %.

The mathematics. With standardized features z, n rows and strength λ the objective is

    mean of -log softmax(V z + b)[y]  +  λ/2 |V|²

(scikit-learn's `LogisticRegression` with C = 1 / (λ n)). It is convex and solved by Newton's method
on all rows at once, each step by conjugate gradients. Two things make that fast. Features are
rotated to their principal axes, which leaves the penalty as it is and leaves at most n axes. And
the conjugate gradients are preconditioned by the diagonal of the Hessian, a mean of
z zᵀ ⊗ (diag p - p pᵀ), which is then nearly all of it.

Half of a Newton step's slope is how far the loss is above the smallest, as far as it is quadratic.
That does not depend on the scale of anything, so it decides when the solver is done.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dd_plugin.seeds import Purpose, mix

# Strengths that are tried, the largest first: each starts where the one before it ended.
STRENGTHS = tuple(10 ** (-exponent / 2) for exponent in range(-2, 11))
# Of a set with one row of each class, where nothing can be held out.
FIXED_STRENGTH = 0.01

_FOLDS = 5
# Up to so many rows each fifth is held out once; of more rows only the first fifth.
_MANY_ROWS = 2_000
# Up to so many numbers the arithmetic is in float64.
_EXACT_UP_TO = 1 << 24
# Strengths without a new best after which weaker ones are not tried.
_PATIENCE = 3
# Newton steps, products of the Hessian for each of them, and the part of the gradient left by them.
_MOST_STEPS = 100
_MOST_PRODUCTS = 1_000
_RESIDUAL = 0.1
# Parts of a Newton step are tried down to this one.
_SMALLEST_SHARE = 1e-6
# Loss above the smallest at which the next Newton step is the last one: of a probe to choose the
# strength by, of one to be returned, and of that in float32. The loss is 0.1 to 2 at the start.
_TOLERANCE = 1e-5
_EXACT_TOLERANCE = 1e-10
_SINGLE_TOLERANCE = 1e-7
# From here on the user is told.
_NOTICEABLE = 1e-6
_ROWS_AT_A_TIME = 8_192


class ProbeWarning(UserWarning):
    """A probe was not solved to its optimum."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A classifier head: ``features @ weight.T + bias`` are its logits.

    Attributes:
        weight: (classes, d), float32, for features as they are: the standardization is in it.
        bias: (classes,), float32.
        strength: λ of the L2 penalty on the weights of standardized features, beside a mean loss.
    """

    weight: Tensor
    bias: Tensor
    strength: float


def fit_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seed: int = 0,
    strength: float | None = None,
) -> Probe:
    """Return the probe of training features.

    The strength of the penalty is the one with the highest accuracy on held-out rows, and of equal
    ones the one with the lowest cross entropy there. Up to 2,000 rows are held out in five parts
    that have a share of each class, one after the other; of more rows one such part is held out. A
    class with one row is never held out. If all classes have one row the strength is
    `FIXED_STRENGTH`. The probe is then fitted to all rows.

    Args:
        features: (N, d) of the training images.
        labels: class indices (N,).
        num_classes: the number of classes. Each must have a row.
        seed: of the choice of held-out rows.
        strength: λ, if it is not to be chosen.

    Returns:
        The probe, on the device of the features.

    Raises:
        ValueError: shapes, labels or values that are not as described.
    """
    _check(features, labels, num_classes)
    labels = labels.to(features.device, torch.int64)
    if strength is not None and not strength > 0:
        raise ValueError(f"`strength` must be positive, got {strength}")
    exact = features.numel() <= _EXACT_UP_TO or features.dtype == torch.float64
    rotated = _Rotated.of(features.to(torch.float64 if exact else torch.float32))
    start = None
    if strength is None:
        strength, start = _best_strength(rotated, labels, num_classes, seed)
    if start is None:
        start = rotated.rows.new_zeros(num_classes, rotated.rows.shape[1] + 1)
    tolerance = _EXACT_TOLERANCE if exact else _SINGLE_TOLERANCE
    head = _solve(rotated.rows, labels, strength, start, tolerance=tolerance)
    weight, bias = rotated.head_for_raw_features(head)
    return Probe(weight.float(), bias.float(), strength)


def accuracy_of_head(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> float:
    """Return the share of rows, from 0 to 1, whose largest logit is that of their label.

    Args:
        weight: (classes, d).
        bias: (classes,).
        features: (N, d), of any floating dtype.
        labels: class indices (N,).

    Raises:
        ValueError: there are no rows, or the head or the features are not finite.
    """
    if not len(features) or len(features) != len(labels):
        raise ValueError(
            "`features` and `labels` must have the same number of rows, at least one, got "
            f"{len(features)} and {len(labels)}"
        )
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError("`weight` and `bias` must be finite; the training of the head diverged")
    right = 0
    for start in range(0, len(features), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        rows = features[part].to(weight.device, weight.dtype)
        _check_finite(rows, start)
        logits = rows @ weight.T + bias
        right += int((logits.argmax(1) == labels[part].to(weight.device)).sum())
    return right / len(features)


@dataclass(frozen=True, eq=False)
class _Rotated:
    """Standardized features along their principal axes.

    Attributes:
        rows: (N, r) with r at most N and at most d.
        axes: (d, r), orthonormal.
        mean: (d,) of the raw features.
        scale: () root of the mean variance of the raw features; 1 if all are constant.
    """

    rows: Tensor
    axes: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Rotated:
        mean = features.mean(0)
        centered = features - mean
        scale = centered.square().mean().sqrt()
        # What is left of features that are constant is rounding.
        if float(scale) <= 10 * torch.finfo(features.dtype).eps * float(mean.abs().max()):
            centered, scale = torch.zeros_like(centered), torch.ones_like(scale)
        centered = centered / scale
        count, width = centered.shape
        if count >= width:
            _, axes = torch.linalg.eigh(centered.T @ centered / count)
            return cls(centered @ axes, axes, mean, scale)
        moments, vectors = torch.linalg.eigh(centered @ centered.T / count)
        # Axes without variance have no direction; one is lost to the mean.
        kept = moments > 10 * count * torch.finfo(features.dtype).eps * moments[-1].clamp(min=0)
        moments, vectors = moments[kept], vectors[:, kept]
        axes = centered.T @ vectors / (count * moments).sqrt()
        return cls(centered @ axes, axes, mean, scale)

    def head_for_raw_features(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (classes, d) and bias (classes,) from (classes, r + 1)."""
        weight = head[:, :-1] @ self.axes.T / self.scale
        return weight, head[:, -1] - weight @ self.mean


def _best_strength(
    rotated: _Rotated, labels: Tensor, num_classes: int, seed: int
) -> tuple[float, Tensor | None]:
    """Return the best strength, and a head of it to start from."""
    folds = _folds(labels, seed)
    held_out = [fold for fold in range(_FOLDS) if (folds == fold).any()]
    if not held_out:
        return FIXED_STRENGTH, None
    if len(labels) > _MANY_ROWS:
        held_out = held_out[:1]
    rows, parts = rotated.rows.float(), []
    for fold in held_out:
        mask = folds != fold
        parts.append((rows[mask], labels[mask], rows[~mask], labels[~mask]))
    heads = [rows.new_zeros(num_classes, rows.shape[1] + 1) for _ in parts]
    best, best_head, best_scores, since = STRENGTHS[0], heads[0], (-1.0, 0.0), 0
    for strength in STRENGTHS:
        right = cross_entropy = 0.0
        for index, (kept_rows, kept, held_rows, held) in enumerate(parts):
            head = _solve(kept_rows, kept, strength, heads[index], tolerance=_TOLERANCE)
            heads[index] = head
            logits = held_rows @ head[:, :-1].T + head[:, -1]
            right += float((logits.argmax(1) == held).sum())
            cross_entropy += float(F.cross_entropy(logits, held, reduction="sum"))
        if (right, -cross_entropy) > best_scores:
            best, best_head, best_scores, since = strength, heads[0], (right, -cross_entropy), 0
        elif (since := since + 1) == _PATIENCE:
            break
    return best, best_head


def _folds(labels: Tensor, seed: int) -> Tensor:
    """Return the part (N,) that each row is held out in; -1 for the only row of a class."""
    order = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(mix(seed, Purpose.PROBE_FOLDS))
    )
    shuffled = labels.cpu()[order]
    by_class = shuffled.argsort(stable=True)
    counts = torch.bincount(shuffled)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - starts[shuffled[by_class]]
    folds = torch.empty_like(shuffled)
    folds[order[by_class]] = torch.where(counts[shuffled[by_class]] > 1, place % _FOLDS, -1)
    return folds.to(labels.device)


def _solve(
    rows: Tensor,
    labels: Tensor,
    strength: float,
    start: Tensor,
    *,
    tolerance: float,
) -> Tensor:
    """Return the optimal head (classes, r + 1) of rotated rows; the last column is the bias."""
    objective = _Objective(rows, labels, strength)
    head = start.to(rows.dtype, copy=True)
    loss, gradient, probabilities = objective(head)
    for steps in range(_MOST_STEPS + 1):
        direction, slope = objective.newton_step(gradient, probabilities)
        # Of a quadratic function it is exact, and near the optimum it is one.
        excess = -slope / 2
        if excess <= tolerance:
            head = head + direction
        if not excess > tolerance or steps == _MOST_STEPS:
            break
        share = 1.0
        while share >= _SMALLEST_SHARE:
            trial = head + share * direction
            new_loss, new_gradient, probabilities = objective(trial)
            # Rounding of the loss must not stop what the gradient still sees.
            if new_loss <= loss + 1e-4 * share * slope + objective.rounding * loss:
                break
            share /= 2
        else:
            break
        head, loss, gradient = trial, new_loss, new_gradient
    if not excess <= max(_NOTICEABLE, 10 * tolerance):
        warnings.warn(
            f"the probe with strength {strength:.3g} did not converge: its loss is still about "
            f"{excess:.1e} above the smallest after {steps} Newton steps; look for features that "
            "are far larger than the others",
            ProbeWarning,
            stacklevel=4,
        )
    # The same number on all biases changes nothing.
    head[:, -1] -= head[:, -1].mean()
    return head


class _Objective:
    """The regularized loss of a head (classes, r + 1), its gradient and its Newton steps."""

    def __init__(self, rows: Tensor, labels: Tensor, strength: float) -> None:
        self.rows, self.labels, self.strength = rows, labels, strength
        self.rounding = 16 * torch.finfo(rows.dtype).eps
        self._of_row = torch.arange(len(rows), device=rows.device)

    def __call__(self, head: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return the loss, its gradient and the probabilities (N, classes)."""
        logs = torch.log_softmax(self.rows @ head[:, :-1].T + head[:, -1], 1)
        loss = -logs[self._of_row, self.labels].mean()
        loss = loss + self.strength / 2 * head[:, :-1].square().sum()
        probabilities = logs.exp()
        errors = probabilities.clone()
        errors[self._of_row, self.labels] -= 1
        return float(loss), self._pulled_back(errors, head), probabilities

    def newton_step(self, gradient: Tensor, probabilities: Tensor) -> tuple[Tensor, float]:
        """Return the step to the optimum of the quadratic model, and the loss's slope along it.

        Conjugate gradients, preconditioned by the diagonal of the Hessian, up to a residual that is
        small beside the gradient.
        """
        inverse = self._diagonal(probabilities).reciprocal()
        step = torch.zeros_like(gradient)
        residual = -gradient
        scaled = inverse * residual
        direction = scaled
        size = first = float((residual * scaled).sum())
        for _ in range(_MOST_PRODUCTS):
            if not size > _RESIDUAL**2 * first:
                break
            product = self._hessian_product(direction, probabilities)
            curvature = float((direction * product).sum())
            if not curvature > 0:
                break
            step = step + size / curvature * direction
            residual = residual - size / curvature * product
            scaled = inverse * residual
            size, before = float((residual * scaled).sum()), size
            direction = scaled + size / before * direction
        return step, float((gradient * step).sum())

    def _hessian_product(self, head: Tensor, probabilities: Tensor) -> Tensor:
        logits = self.rows @ head[:, :-1].T + head[:, -1]
        mean = (probabilities * logits).sum(1, keepdim=True)
        return self._pulled_back(probabilities * (logits - mean), head)

    def _diagonal(self, probabilities: Tensor) -> Tensor:
        variances = probabilities * (1 - probabilities)
        weight = torch.zeros(
            probabilities.shape[1],
            self.rows.shape[1],
            dtype=self.rows.dtype,
            device=self.rows.device,
        )
        for part in torch.arange(len(self.rows)).split(_ROWS_AT_A_TIME):
            chosen = slice(int(part[0]), int(part[-1]) + 1)
            weight += variances[chosen].T @ self.rows[chosen].square()
        weight = weight / len(self.rows) + self.strength
        return torch.cat([weight, variances.mean(0)[:, None].clamp(min=self.rounding)], 1)

    def _pulled_back(self, errors: Tensor, head: Tensor) -> Tensor:
        weight = errors.T @ self.rows / len(self.rows) + self.strength * head[:, :-1]
        return torch.cat([weight, errors.mean(0)[:, None]], 1)


def _check(features: Tensor, labels: Tensor, num_classes: int) -> None:
    if features.dim() != 2 or labels.dim() != 1 or len(features) != len(labels):
        raise ValueError(
            "`features` must be (N, d) and `labels` (N,), got shapes "
            f"{tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, got {num_classes}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"`labels` must be class indices, got {labels.dtype}")
    _check_finite(features, 0)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"`labels` must be from 0 to {num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    counts = torch.bincount(labels.cpu().long(), minlength=num_classes)
    if int(counts.min()) == 0:
        missing = ", ".join(map(str, (counts == 0).nonzero()[:10, 0].tolist()))
        raise ValueError(
            f"each class must have at least one row, but these have none: {missing}; leave them "
            "out of the classes"
        )


def _check_finite(features: Tensor, first: int) -> None:
    if not (finite := features.isfinite().all(1)).all():
        row = first + int((~finite).nonzero()[0])
        raise ValueError(f"`features` must be finite, but row {row} is not; check the backbone")
