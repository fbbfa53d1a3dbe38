"""The parts of a record on accuracies: the author's, how they were taken, and later rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Self

from dd_plugin.data.real.held_out import HeldOut
from dd_plugin.evaluation import Scores
from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.record.json_part import (
    Flag,
    JsonPart,
    Key,
    Number,
    RequiredText,
    Text,
    Whole,
    number,
    part_of,
    shares,
    text,
    whole,
    wholes,
)

# The key of the accuracies of the set itself, among the results.
DISTILLED = "distilled"


def _fraction(value: Any, where: str) -> float | None:
    fraction = number(value, where)
    return fraction if fraction is not None and 0 < fraction < 1 else None


@dataclass(frozen=True, kw_only=True)
class HeldOutPart(JsonPart):
    """The rule by which real images were held out of those that were distilled.

    Attributes:
        fraction: of each class; None where no images were held out.
        seed: of the draw.
        keep: images that each class kept, if it had as many.
    """

    fraction: Annotated[float | None, Key(_fraction)] = None
    seed: Whole = None
    keep: Whole = None

    @classmethod
    def of(cls, rule: HeldOut | None) -> Self | None:
        """Return the part for a rule, if there is one."""
        return None if rule is None else cls(**asdict(rule))

    @property
    def rule(self) -> HeldOut | None:
        """The rule; None where no images were held out."""
        if self.fraction is None:
            return None
        return HeldOut(self.fraction, self.seed or 0, keep=self.keep or 1)


@dataclass(frozen=True, kw_only=True)
class Protocol(JsonPart):
    """The measurement of the results.

    Attributes:
        best_step: the outer step of the set, where the best one was chosen by these images.
        dataset: the real images.
        split: of them.
        held_out: the part of the split that was distilled, where there is no other split.
        images: how many.
        eval_mode: whether networks were tested in eval mode.
        command: that takes them again.
    """

    best_step: Annotated[int | None, Key(whole, left_out=True)] = None
    dataset: RequiredText = None
    split: RequiredText = None
    held_out: Annotated[
        HeldOutPart | None, Key(part_of(HeldOutPart, nullable=True), left_out=True)
    ] = None
    images: Whole = None
    eval_mode: Flag = False
    command: Text = None

    @property
    def rule(self) -> HeldOut | None:
        """The rule by which images were held out; None where none were."""
        return None if self.held_out is None else self.held_out.rule

    @property
    def tested_on(self) -> str:
        """The name of the images for tables."""
        return "held out" if self.rule else self.split or "test"


def _by_model(value: Any, where: str) -> dict[str, Result]:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return {name: Result.from_json(one) for name, one in pairs if isinstance(one, Mapping)}


@dataclass(frozen=True, kw_only=True)
class Result(JsonPart):
    """Accuracies in [0, 1] of networks that were trained alike.

    Attributes:
        mean: of the accuracies.
        std: likewise, the standard deviation.
        accuracies: of each network.
        by_model: the same for each of several architectures, by its name.
        seeds: of the networks of each architecture.
    """

    mean: Number = None
    std: Number = None
    accuracies: Annotated[tuple[float, ...], Key(shares)] = ()
    by_model: Annotated[Mapping[str, Result], Key(_by_model, left_out=True)] = field(
        default_factory=dict
    )
    seeds: Annotated[tuple[int, ...], Key(wholes, left_out=True)] = ()

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """Return the accuracies of networks as a record has them."""
        return cls(
            mean=scores.mean,
            std=scores.std,
            accuracies=scores.accuracies,
            by_model={
                name: replace(Result.of(each), seeds=()) for name, each in scores.by_model.items()
            },
            seeds=scores.seeds,
        )


def read_results(value: Any, where: str) -> dict[str, Result]:
    """Return the results by what networks were trained on.

    Raises:
        DistilledFormatError: they are no object, or those of the set itself are none.
    """
    if not isinstance(value, Mapping):
        raise DistilledFormatError(f"{where!r} must be an object")
    distilled = value.get(DISTILLED)
    if distilled is not None and not isinstance(distilled, Mapping):
        raise DistilledFormatError(f"'{where}.{DISTILLED}' must be an object or null")
    return {name: Result.from_json(one) for name, one in value.items() if isinstance(one, Mapping)}


@dataclass(frozen=True, kw_only=True)
class Evaluation(JsonPart):
    """A row of an evaluation: the accuracies of one network, trained in one way.

    Attributes:
        model: the name of the network.
        trained_on: what, in words.
        protocol: how it was trained: ``"recipe"``, ``"standard"`` or ``"head"``.
        pixels: ``"exact"`` or ``"png"``; None for real images.
        images: how many real images it was tested on.
        mean: of the accuracies.
        std: likewise, the standard deviation.
        accuracies: of each network, in [0, 1].
        set: the name of the set, among rows of several.
        dataset: the real images.
        split: of them.
        test_images: what ``images`` was called first.
    """

    model: Text = None
    trained_on: Text = None
    protocol: Text = None
    pixels: Text = None
    images: Whole = None
    mean: Number = None
    std: Number = None
    accuracies: Annotated[tuple[float, ...], Key(shares)] = ()
    set: Annotated[str | None, Key(text, left_out=True)] = None
    dataset: Text = None
    split: Text = None
    test_images: Annotated[int | None, Key(whole, left_out=True)] = None

    def with_scores(self, scores: Scores) -> Self:
        """Return the row with these accuracies."""
        return replace(self, mean=scores.mean, std=scores.std, accuracies=scores.accuracies)

    @property
    def scores(self) -> Scores:
        """The accuracies."""
        return Scores(self.accuracies)

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The names of what was measured, without the numbers."""
        return (
            self.set,
            self.model,
            self.trained_on,
            self.protocol,
            self.pixels,
            self.dataset,
            self.split,
        )
