"""The record as a whole: `Record`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

from dd_plugin.data.recipe import Recipe
from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.record.json_part import JsonPart, Key, as_json, part_of
from dd_plugin.hub.record.judgement import Judgement
from dd_plugin.hub.record.parts import (
    About,
    FileEntry,
    Images,
    Source,
    TransformKind,
    read_files,
)
from dd_plugin.hub.record.results import DISTILLED, Evaluation, Protocol, Result, read_results
from dd_plugin.text import described

SCHEMA_VERSION = 1


def _schema_version(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise DistilledFormatError(f"`{where}` must be a whole number, got {value!r:.40}")
    if value > SCHEMA_VERSION:
        raise DistilledFormatError(
            f"it has schema version {value}; this version of dd_plugin reads up to "
            f"{SCHEMA_VERSION}. Install a newer one: pip install -U dd-plugin"
        )
    return value


def _recipe(value: Any, where: str) -> Recipe:
    if not isinstance(value, Mapping):
        raise DistilledFormatError(f"it must have an object {where!r}")
    try:
        return Recipe.from_dict(value)
    except (ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise DistilledFormatError(described(error)) from error


def _transform(value: Any, where: str) -> TransformKind:
    if not isinstance(value, Mapping):
        raise DistilledFormatError(f"it must have an object {where!r}")
    return TransformKind.from_json(value, where)


def _evaluations(value: Any, where: str) -> tuple[Evaluation, ...]:
    if not isinstance(value, (list, tuple)):
        raise DistilledFormatError(f"{where!r} must be a list")
    if not all(isinstance(row, Mapping) for row in value):
        raise DistilledFormatError(f"{where!r} must be a list of objects")
    return tuple(Evaluation.from_json(row) for row in value)


def _judgements(value: Any, where: str) -> tuple[Judgement, ...]:
    listed = value if isinstance(value, (list, tuple)) else ()
    return tuple(Judgement.from_json(one) for one in listed if isinstance(one, Mapping))


@dataclass(frozen=True, kw_only=True)
class Record(JsonPart):
    """All of ``recipe.json``.

    Attributes:
        schema_version: of the format.
        recipe: how a network is trained on the set.
        transform: what makes network input of its pixels, without tensors.
        images: the images as a whole.
        source: the data that were distilled.
        results: accuracies that the author measured, by what networks were trained on.
        protocol: how they were taken.
        evaluations: rows of accuracies that were measured later.
        judgements: scores that another package gave it.
        about: how the set was made.
        files: what the files have to be, by their names.
    """

    schema_version: Annotated[int, Key(_schema_version)] = SCHEMA_VERSION
    recipe: Annotated[Recipe, Key(_recipe, write=Recipe.to_dict)]
    transform: Annotated[TransformKind, Key(_transform)]
    images: Annotated[Images, Key(part_of(Images))]
    source: Annotated[Source, Key(part_of(Source))] = field(
        default_factory=lambda: Source.from_json({})
    )
    results: Annotated[Mapping[str, Result], Key(read_results)] = field(default_factory=dict)
    protocol: Annotated[Protocol, Key(part_of(Protocol))] = field(
        default_factory=lambda: Protocol.from_json({})
    )
    evaluations: Annotated[tuple[Evaluation, ...], Key(_evaluations)] = ()
    judgements: Annotated[tuple[Judgement, ...], Key(_judgements, left_out=True)] = ()
    about: Annotated[About, Key(part_of(About))] = field(
        default_factory=lambda: About.from_json({})
    )
    files: Annotated[Mapping[str, FileEntry], Key(read_files)]

    @classmethod
    def from_json(cls, values: Any, where: str = "") -> Self:
        """Read a record.

        Args:
            values: what ``recipe.json`` holds; it must not be changed afterwards.
            where: not used.

        Raises:
            DistilledFormatError: it is no record, or one of a newer kind, or damaged.
        """
        if not isinstance(values, Mapping) or "schema_version" not in values:
            raise DistilledFormatError(
                "it is not the record of a distilled set: it has no schema_version"
            )
        return super().from_json(values)

    def with_evaluations(self, rows: Iterable[Evaluation]) -> Self:
        """Return the same record with other rows of evaluations."""
        evaluations = tuple(rows)
        changed = self.as_read({"evaluations": as_json(evaluations)})
        return replace(self, evaluations=evaluations) if changed is None else changed

    def with_judgement(self, judgement: Judgement) -> Self:
        """Return the same record with a judgement, in the place of an earlier one of its kind."""
        others = [one for one in self.judgements if one.identity != judgement.identity]
        judgements = (*others, judgement)
        changed = self.as_read({"judgements": as_json(judgements)})
        return replace(self, judgements=judgements) if changed is None else changed

    @property
    def distilled(self) -> Result:
        """The accuracies of the set itself; empty where there are none."""
        return self.results.get(DISTILLED) or Result.from_json({})

    @property
    def is_for_heads(self) -> bool:
        """Whether it trains the head of frozen networks."""
        return self.recipe.trainable == "head"

    @property
    def matches_gradients(self) -> bool:
        """Whether the images of a set for heads were learned by gradients of random heads."""
        return self.is_for_heads and self.about.config.objective == "gradient_matching"

    @property
    def has_random_weights(self) -> bool:
        """Whether the frozen networks of a set for heads were drawn, and cannot be had again."""
        return self.is_for_heads and self.recipe.model_args.get("pretrained") is False
