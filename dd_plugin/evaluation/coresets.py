"""Coresets: a few real images of each class, chosen by their features or their difficulty.

Baselines of a distilled set: real images, as many as it has. Each function takes features (N, d) or
scores (N,), labels (N,) and the number of rows per class, and returns row indices
(classes * per_class,), int64 on the CPU, sorted by class and in the order in which they were
chosen. Of several rows that are equally good the first one is taken. Distances are Euclidean, of
the features as they are given, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dd_plugin.seeds import Purpose, mix


def random_rows(
    features: Tensor,
    labels: Tensor,
    per_class: int,
    *,
    seed: int = 0,
    num_classes: int | None = None,
) -> Tensor:
    """Return random rows of each class, drawn without replacement.

    Args:
        features: (N, d); only their number matters.
        labels: class indices (N,).
        per_class: rows of each class.
        seed: of the draw. Each class draws for itself.
        num_classes: by default the largest label plus one.

    Raises:
        ValueError: a class has fewer rows, or an argument is not as described.
    """
    parts = []
    for index, rows in enumerate(_rows_of_classes(features, labels, per_class, num_classes)):
        generator = torch.Generator().manual_seed(mix(seed, Purpose.RANDOM_ROWS, index))
        parts.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(parts)


def nearest_to_centroid(
    features: Tensor, labels: Tensor, per_class: int, *, num_classes: int | None = None
) -> Tensor:
    """Return the rows of each class that are nearest to its mean, the nearest first.

    Args:
        features: (N, d).
        labels: class indices (N,).
        per_class: rows of each class.
        num_classes: by default the largest label plus one.

    Raises:
        ValueError: a class has fewer rows, or an argument is not as described.
    """
    return _chosen(_nearest, features, labels, per_class=per_class, num_classes=num_classes)


def herding(
    features: Tensor, labels: Tensor, per_class: int, *, num_classes: int | None = None
) -> Tensor:
    """Return rows whose mean is near the class's mean, chosen one after the other.

    Each row brings the mean of those chosen so far as near to the class's mean as a single row can
    (Welling, ICML 2009, in the form of iCaRL, Rebuffi et al., arXiv 1611.07725, which is Welling's
    for features of equal length; no row is taken twice).

    Args:
        features: (N, d).
        labels: class indices (N,).
        per_class: rows of each class.
        num_classes: by default the largest label plus one.

    Raises:
        ValueError: a class has fewer rows, or an argument is not as described.
    """
    return _chosen(_herded, features, labels, per_class=per_class, num_classes=num_classes)


def k_center(
    features: Tensor, labels: Tensor, per_class: int, *, num_classes: int | None = None
) -> Tensor:
    """Return rows that cover each class: each is the farthest from those chosen before it.

    The greedy 2-approximation (Gonzalez 1985; Sener and Savarese, arXiv 1708.00489). It starts at
    the row nearest to the class's mean.

    Args:
        features: (N, d).
        labels: class indices (N,).
        per_class: rows of each class.
        num_classes: by default the largest label plus one.

    Raises:
        ValueError: a class has fewer rows, or an argument is not as described.
    """
    return _chosen(_spread, features, labels, per_class=per_class, num_classes=num_classes)


def easiest(
    scores: Tensor, labels: Tensor, per_class: int, *, num_classes: int | None = None
) -> Tensor:
    """Return the rows of each class with the lowest scores, the lowest first.

    Args:
        scores: the difficulty of each row (N,), such as `dd_plugin.evaluation.el2n` gives.
        labels: class indices (N,).
        per_class: rows of each class.
        num_classes: by default the largest label plus one.

    Raises:
        ValueError: a class has fewer rows, or an argument is not as described.
    """
    return _chosen(_lowest, scores[:, None], labels, per_class=per_class, num_classes=num_classes)


def hardest(
    scores: Tensor, labels: Tensor, per_class: int, *, num_classes: int | None = None
) -> Tensor:
    """Return the rows of each class with the highest scores, the highest first; see `easiest`."""
    return _chosen(_lowest, -scores[:, None], labels, per_class=per_class, num_classes=num_classes)


# From the rows of a class, with their mean at 0, to the places of the chosen ones.
_Choice = Callable[[Tensor, int], Tensor]


def _nearest(centered: Tensor, count: int) -> Tensor:
    lengths = centered.square().sum(1)
    slack = _slack(centered)
    places: list[int] = []
    for _ in range(count):
        places.append(_smallest(lengths, slack))
        lengths[places] = torch.inf
    return torch.tensor(places)


def _herded(centered: Tensor, count: int) -> Tensor:
    lengths = centered.square().sum(1)
    slack = _slack(centered)
    total = torch.zeros_like(centered[0])
    places: list[int] = []
    for _ in range(count):
        # |total + x|² without |total|², which is the same for all rows.
        distances = lengths + 2 * centered @ total
        distances[places] = torch.inf
        places.append(_smallest(distances, slack))
        total = total + centered[places[-1]]
    return torch.tensor(places)


def _spread(centered: Tensor, count: int) -> Tensor:
    lengths = centered.square().sum(1)
    slack = _slack(centered)
    places = [_smallest(lengths, slack)]
    nearest = torch.full_like(lengths, torch.inf)
    for _ in range(count - 1):
        distances = (centered - centered[places[-1]]).square().sum(1)
        nearest = torch.minimum(nearest, distances)
        # Also where all that is left equals a chosen row.
        nearest[places] = -torch.inf
        places.append(_smallest(-nearest, slack))
    return torch.tensor(places)


def _lowest(centered: Tensor, count: int) -> Tensor:
    return centered[:, 0].argsort(stable=True)[:count]


def _slack(centered: Tensor) -> Tensor:
    """Return the difference below which two squared distances are equal but for rounding.

    Of two rows, for one, both are as far from their mean.
    """
    return 1e-12 * centered.square().sum(1).max()


def _smallest(values: Tensor, slack: Tensor) -> int:
    """Return the first place of the smallest value."""
    return int((values <= values.min() + slack).nonzero()[0, 0])


def _chosen(
    choice: _Choice, features: Tensor, labels: Tensor, *, per_class: int, num_classes: int | None
) -> Tensor:
    """Return the rows that a rule chooses in each class."""
    parts = []
    for index, rows in enumerate(_rows_of_classes(features, labels, per_class, num_classes)):
        of_class = features[rows.to(features.device)].double()
        if not of_class.isfinite().all():
            raise ValueError(
                f"`features` must be finite, but some of class {index} are not; check the backbone"
            )
        parts.append(rows[choice(of_class - of_class.mean(0), per_class).cpu()])
    return torch.cat(parts)


def _rows_of_classes(
    features: Tensor, labels: Tensor, per_class: int, num_classes: int | None
) -> tuple[Tensor, ...]:
    """Return the rows of each class in their order, after checking everything."""
    if features.dim() != 2 or labels.dim() != 1 or len(features) != len(labels):
        raise ValueError(
            "`features` must be (N, d) and `labels` (N,), got shapes "
            f"{tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if per_class < 1:
        raise ValueError(f"`per_class` must be at least 1, got {per_class}")
    if not len(labels) or labels.is_floating_point() or int(labels.min()) < 0:
        raise ValueError("`labels` must be class indices from 0, at least one; got something else")
    labels = labels.cpu().long()
    counts = torch.bincount(labels, minlength=num_classes or 0)
    if num_classes is not None and len(counts) > num_classes:
        raise ValueError(
            f"`labels` must be below `num_classes`, {num_classes}, got {len(counts) - 1}"
        )
    short = [(index, n) for index, n in enumerate(counts.tolist()) if n < per_class]
    if short:
        named = ", ".join(f"class {index} has {n}" for index, n in short[:10])
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise ValueError(
            f"each class must have at least {per_class} rows, but {named}{more}; ask for fewer "
            "per class, or give more data"
        )
    return labels.argsort(stable=True).split(counts.tolist())
