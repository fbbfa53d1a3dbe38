"""The parts of a record on the images, their source, the settings of the run and the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast, get_args

from dd_plugin.choices import LabelForm
from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.record.json_part import (
    Flag,
    JsonPart,
    Key,
    Number,
    Numbers,
    RequiredText,
    Text,
    Whole,
    number,
    part_of,
    text,
    whole,
    whole_between,
)

_MOST = 1 << 62
MOST_FACTOR = 64
_MOST_WHITE = 65535


def _per_class(value: Any, where: str) -> float:
    converted = number(value)
    if converted is None or converted <= 0:
        raise DistilledFormatError(
            f"`per_class` of the images must be a number from 0 to their number, got {value!r:.40}"
        )
    return cast(float, value)


def _label_form(value: Any, where: str) -> LabelForm | None:
    if value not in (None, "", *get_args(LabelForm)):
        raise DistilledFormatError(
            f"'label_form' must be one of {get_args(LabelForm)}, got {value!r:.80}"
        )
    return cast(LabelForm, value) if value else None


def times_smaller(images: Mapping[str, Any]) -> int:
    """Return how many of a set's images take the storage of one in full size.

    Args:
        images: what a record has under ``images``.
    """
    return _squared(whole(images.get("upsample_factor"), ""))


def _squared(factor: int | None) -> int:
    return factor * factor if factor is not None and factor > 0 else 1


@dataclass(frozen=True, kw_only=True)
class Images(JsonPart):
    """The images as a whole.

    Attributes:
        count: how many there are.
        num_bytes: the size of the table of PNG images in memory.
        per_class: how many there are of each class, on average.
        upsample_factor: how often height and width are stored smaller; None for 1.
        soft_labels: whether labels are learned.
        label_form: what learned labels are.
        learned_step_sizes: whether step sizes are learned.
    """

    count: Annotated[int, Key(whole_between(1, _MOST, "the images"))]
    num_bytes: Annotated[int | None, Key(whole_between(1, _MOST, "the images", nullable=True))] = (
        None
    )
    per_class: Annotated[float, Key(_per_class)]
    upsample_factor: Annotated[
        int | None, Key(whole_between(1, MOST_FACTOR, "the images", nullable=True))
    ] = None
    soft_labels: Flag = False
    label_form: Annotated[LabelForm | None, Key(_label_form)] = None
    learned_step_sizes: Flag = False

    @property
    def times_smaller(self) -> int:
        """How many of them take the storage of one in full size."""
        return _squared(self.upsample_factor)

    @property
    def stored_count(self) -> int:
        """How many images of full size take their storage."""
        return self.count // self.times_smaller

    @property
    def stored_per_class(self) -> float:
        """Images per class as the field counts them: by the storage that they take."""
        return self.per_class / self.times_smaller

    def check(self, number_of_images: int) -> None:
        """Compare with the images themselves.

        Raises:
            DistilledFormatError: they are not so many.
        """
        if self.count != number_of_images:
            raise DistilledFormatError(
                f"`count` of the images must be {number_of_images}, got {self.count}"
            )
        if self.per_class > number_of_images:
            raise DistilledFormatError(
                f"`per_class` of the images must be from 0 to {number_of_images}, got "
                f"{self.per_class}"
            )


@dataclass(frozen=True, kw_only=True)
class TransformKind(JsonPart):
    """The step from pixels to network input, without its tensors."""

    kind: Text = None
    mean: Numbers = ()
    std: Numbers = ()


def _licenses(value: Any, where: str) -> tuple[str, ...]:
    listed = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not all(isinstance(name, str) for name in listed):
        raise DistilledFormatError(f"{where!r} must be a list of texts")
    return tuple(listed)


def _white_level(value: Any, where: str) -> int | None:
    level = whole(value, where)
    return level if level is not None and 0 < level <= _MOST_WHITE else None


@dataclass(frozen=True, kw_only=True)
class Source(JsonPart):
    """The data that were distilled.

    Attributes:
        dataset: the name as `dd_plugin.data.load_real` takes it.
        hub_id: the id of a data set on the Hub.
        train_split: of it.
        images: how many real images.
        licenses: as the data set states them.
        white_level: the value of a white pixel, where it is not that of the file's format.
    """

    dataset: RequiredText = None
    hub_id: Text = None
    train_split: RequiredText = None
    images: Whole = None
    licenses: Annotated[tuple[str, ...], Key(_licenses)] = ()
    white_level: Annotated[int | None, Key(_white_level, left_out=True)] = None


@dataclass(frozen=True, kw_only=True)
class Settings(JsonPart):
    """The settings of the run that the card and an evaluation speak of; the others are kept."""

    seed: Whole = None
    hub_dataset_id: Text = None
    objective: Text = None
    image_init: Text = None
    parametrization: Text = None
    upsample_factor: Whole = None
    color_space: Text = None
    inner_lr: Number = None
    inner_schedule: Text = None
    step_sizes: Text = None
    window: Text = None
    window_length: Whole = None
    learning_rate: Number = None
    real_batch_size: Whole = None
    method: Text = None


@dataclass(frozen=True, kw_only=True)
class NetworkClass(JsonPart):
    """The facts about a network that has no name."""

    class_name: Annotated[str | None, Key(text, name="class")] = None
    parameters: Whole = None


def _versions(value: Any, where: str) -> dict[str, str]:
    if value is not None and not isinstance(value, Mapping):
        raise DistilledFormatError(f"{where!r} must be an object or null")
    return {name: str(version) for name, version in (value or {}).items() if version}


def _true(value: Any, where: str) -> bool | None:
    return True if value else None


@dataclass(frozen=True, kw_only=True)
class About(JsonPart):
    """The making of the set.

    Attributes:
        recipe_name: of the package's recipe that the settings are from.
        config: the settings of the run.
        outer_steps: how many.
        unfinished: whether the run had more steps to go when the set was written.
        network: what is known of the network.
        versions: of the packages, by their names.
    """

    recipe_name: Annotated[str | None, Key(text, left_out=True)] = None
    config: Annotated[Settings, Key(part_of(Settings, nullable=True))] = field(
        default_factory=lambda: Settings.from_json({})
    )
    outer_steps: Whole = None
    unfinished: Annotated[bool | None, Key(_true, left_out=True)] = None
    network: Annotated[NetworkClass, Key(part_of(NetworkClass, nullable=True))] = field(
        default_factory=lambda: NetworkClass.from_json({})
    )
    versions: Annotated[Mapping[str, str], Key(_versions)] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileEntry(JsonPart):
    """Size and checksum of a file of the set."""

    size: Whole = None
    sha256: Text = None


def read_files(value: Any, where: str) -> dict[str, FileEntry]:
    """Return the entries of files by their names.

    Raises:
        DistilledFormatError: they are no object.
    """
    if not isinstance(value, Mapping):
        raise DistilledFormatError(f"it must have an object {where!r}")
    return {
        name: FileEntry.from_json(one) for name, one in value.items() if isinstance(one, Mapping)
    }


def checksum_in(values: Any, name: str) -> str | None:
    """Return the checksum that a record of any version has of a file; None where it has none.

    Args:
        values: what ``recipe.json`` holds.
        name: of the file.

    Raises:
        DistilledFormatError: it is no record.
    """
    files = read_files(values.get("files") if isinstance(values, Mapping) else None, "files")
    return files[name].sha256 if name in files else None
