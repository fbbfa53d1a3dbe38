"""The part of a record on judges from outside: scores that another package gave a set."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from dd_plugin.hub.record.json_part import JsonPart, Number, Numbers, Text, Whole


@dataclass(frozen=True, kw_only=True)
class Judgement(JsonPart):
    """Scores of a set by DD-Ranking (arXiv 2505.13300), one of each for every run of it.

    Differences are in points of accuracy. All are with hard labels.

    Attributes:
        judge: the package and its version.
        dataset: its name of the real images.
        model: its name of the network.
        epochs: of a training.
        full_data: the accuracy on all real images that was told to it, in percent; None where it
            has trained on them.
        hard_label_recovery: all real images against the distilled ones. Smaller is better.
        improvement_over_random: the distilled images against as many random real ones.
        augmented: the same difference where both are augmented, by a training of its own.
        plain: the same without augmentation.
    """

    judge: Text = None
    dataset: Text = None
    model: Text = None
    epochs: Whole = None
    full_data: Number = None
    hard_label_recovery: Numbers = ()
    improvement_over_random: Numbers = ()
    augmented: Numbers = ()
    plain: Numbers = ()

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The names of what was measured, without the numbers."""
        return (self.judge, self.dataset, self.model)

    @property
    def label_robust(self) -> tuple[float, ...]:
        """The label-robust score of each run, from 0 to 1."""
        pairs = zip(self.improvement_over_random, self.hard_label_recovery, strict=False)
        return tuple(robust_score((ior - hlr) / 2) for ior, hlr in pairs)

    @property
    def augmentation_robust(self) -> tuple[float, ...]:
        """The augmentation-robust score of each run, from 0 to 1."""
        pairs = zip(self.augmented, self.plain, strict=False)
        return tuple(robust_score((with_it + without) / 2) for with_it, without in pairs)


def robust_score(points: float) -> float:
    """Return (e^a - e^-1) / (e - e^-1), from 0 for -100 points to 1 for 100, for a = points / 100.

    DD-Ranking's formula takes accuracies from 0 to 1. Its release 0.2.0 puts percent into it.
    """
    least = math.exp(-1)
    return (math.exp(points / 100) - least) / (math.e - least)


def in_points(values: tuple[float, ...]) -> str:
    """Return ``+3.2 ± 0.4 points``: the mean, and the standard deviation of several values."""
    return f"{_in_words(values, '+.1f', '.1f')} points" if values else ""


def in_share(values: tuple[float, ...]) -> str:
    """Return ``0.42 ± 0.01``; empty where there is no value."""
    return _in_words(values, ".3f", ".3f") if values else ""


def _in_words(values: tuple[float, ...], mean: str, spread: str) -> str:
    words = f"{statistics.fmean(values):{mean}}"
    return f"{words} ± {statistics.stdev(values):{spread}}" if len(values) > 1 else words
