"""The card of a distilled set: ``README.md``, made from the record alone.

`make_card` is a pure function of ``recipe.json``: the same record gives the same text on any
machine and on any day. `merge_card` puts a new card over one that its owner has edited. The words
are in ``words.md``; `results` and `usage` have two of the sections, `training` the tables of the
recipe and of the distillation, `citations` the references, and `sections` the marks by which a card
is known again.
"""

from __future__ import annotations

import re
from typing import Any

from dd_plugin.hub.card.citations import papers_of
from dd_plugin.hub.card.markdown import Markdown, code, count, decimal, escaped, fenced, one_line
from dd_plugin.hub.card.merge import front_matter, merge_card, with_license
from dd_plugin.hub.card.results import results_text
from dd_plugin.hub.card.sections import Section, joined, ledger, section
from dd_plugin.hub.card.training import distillation_text, recipe_text
from dd_plugin.hub.card.usage import usage_text
from dd_plugin.hub.card.words import BLOCKS, one_of, say
from dd_plugin.hub.card.words import joined as joined_words
from dd_plugin.hub.record import Record

__all__ = ["make_card", "merge_card", "with_license"]

_PARQUET = "data/train-00000-of-00001.parquet"
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_MOST_NAMES = 20
_COLORS = {1: "gray", 3: "color"}


def make_card(record: Record) -> str:
    """Return the card of a distilled set.

    Args:
        record: of the set. What it does not say is not spoken of; its texts may hold anything.

    Returns:
        Markdown with YAML front matter, as the Hub takes it.
    """
    metadata = _metadata(record)
    texts = {
        "title": say("title", name=escaped(_name(record))),
        "summary": _summary(record),
        "limits": _limits(record),
        "results": results_text(record),
        "usage": usage_text(record),
        "recipe": recipe_text(record),
        "distillation": distillation_text(record),
        "license": _license(record),
        "citation": _citation(record),
        "versions": _versions(record),
    }
    parts: list[Section | str] = [section(name, text) for name, text in texts.items() if text]
    files = ("configs", "dataset_info", "size_categories")
    free = {key: value for key, value in metadata.items() if key not in files}
    listed = ledger((part for part in parts if isinstance(part, Section)), free)
    return f"---\n{front_matter(metadata)}---\n\n{joined(parts, listed)}"


def _metadata(record: Record) -> dict[str, Any]:
    images = record.images
    names = {str(i): name for i, name in enumerate(record.recipe.class_names)}
    features: list[dict[str, Any]] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if images.soft_labels:
        features.append({"name": "soft_label", "list": "float32"})
    # `datasets` ignores a split without its size, with a warning.
    split = {"name": "train", "num_bytes": images.num_bytes, "num_examples": images.count}
    licenses = [name for name in _licenses(record) if _LICENSE.fullmatch(name)]
    size = next((text for most, text in _SIZES.items() if images.count < most), "n>1M")
    per_class = decimal(images.stored_per_class)
    metadata: dict[str, Any] = {
        "pretty_name": one_line(_name(record)),
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", f"ipc-{per_class}", "dd_plugin"],
        "source_datasets": [_hub_id(record) or "extended"],
        "size_categories": [size],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": _PARQUET}]}
        ],
        "dataset_info": {
            "features": features,
            **({"splits": [split]} if images.num_bytes else {}),
        },
    }
    return {key: value for key, value in metadata.items() if value}


def _hub_id(record: Record) -> str | None:
    hub_id = record.source.hub_id
    return hub_id if hub_id is not None and _HUB_ID.fullmatch(hub_id) else None


def _licenses(record: Record) -> list[str]:
    return [name for name in record.source.licenses if name]


def _name(record: Record) -> str:
    """Return the name of the set, not escaped: it is in the metadata, too."""
    stored = record.images.stored_per_class
    values = {"per_class": decimal(stored), "images": "image" if stored == 1 else "images"}
    if name := record.source.hub_id or record.source.dataset:
        return BLOCKS["name.named"].substitute(values, name=one_line(name, 80))
    return BLOCKS["name.unnamed"].substitute(values)


def _summary(record: Record) -> Markdown:
    recipe, images = record.recipe, record.images
    channels, height, width = recipe.shape
    color = _COLORS.get(channels, f"{channels}-channel")
    what = "head" if record.is_for_heads else "network"
    summary = say(
        "summary",
        images=count(images.count, f"synthetic {color} image"),
        height=height,
        width=width,
        classes=count(recipe.num_classes, "class"),
        source=_origin(record),
        trained=say(f"trained.{what}"),
        how=say("how.gradients" if record.matches_gradients else f"how.{what}"),
    )
    smaller = Markdown()
    if images.times_smaller > 1:
        stored = count(images.stored_count, "image")
        smaller = say("summary.stored_smaller", factor=images.upsample_factor, images=stored)
    sets = record.about.merged or 1
    merged = say("summary.merged", sets=count(sets)) if sets > 1 else Markdown()
    names = ", ".join(escaped(one_line(name, 40)) for name in recipe.class_names[:_MOST_NAMES])
    more = recipe.num_classes - _MOST_NAMES
    classes = say(
        "summary.classes",
        names=Markdown(names),
        more=say("summary.more", number=count(more)) if more > 0 else "",
    )
    return joined_words([summary, smaller, merged, classes], "\n\n")


def _origin(record: Record) -> Markdown:
    """Return the words for the data that were distilled: number, source and split."""
    source, hub_id = record.source, _hub_id(record)
    if hub_id:
        origin = say("origin.hub", name=hub_id, address=Markdown(hub_id))
    else:
        origin = code(source.dataset) if source.dataset else say("origin.unnamed")
    if images := count(source.images, "image"):
        origin = say("origin.counted", images=images, origin=origin)
    split = (
        say("origin.split", split=code(source.train_split)) if source.train_split else Markdown()
    )
    return joined_words([origin, split], "")


def _limits(record: Record) -> Markdown:
    return say(
        "limits",
        made_for=say("made_for.results" if results_text(record) else "made_for.recipe"),
        began=one_of("began", record.about.config.image_init),
    )


def _license(record: Record) -> Markdown:
    licenses = _licenses(record)
    if not licenses:
        return say("license.none")
    return say("license", licenses=joined_words(list(map(code, licenses)), ", "))


def _citation(record: Record) -> Markdown:
    papers = papers_of(record)
    return say(
        "citation",
        papers=Markdown("\n".join(paper.line() for paper in papers)),
        bibtex=fenced("\n".join(paper.bibtex() for paper in papers), "bibtex"),
    )


def _versions(record: Record) -> Markdown:
    versions = record.about.versions.items()
    listed = Markdown(", ".join(f"{escaped(name)} {escaped(v)}" for name, v in versions))
    return say("versions", versions=listed) if listed else Markdown()
