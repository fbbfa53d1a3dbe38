"""The card of a distilled set: ``README.md``, made from the record alone.

`make_card` is a pure function of ``recipe.json``: the same record gives the same text on any
machine and on any day. `merge_card` puts a new card over one that its owner has edited. The words
are here, in `results` and in `usage`; escaping is in `markdown`, references are in
`citations`, and the marks by which a card is known again in `sections`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dd_plugin.hub.card.citations import matches_gradients, papers_of
from dd_plugin.hub.card.markdown import (
    code,
    count,
    decimal,
    escaped,
    fenced,
    literal,
    number,
    one_line,
    table,
)
from dd_plugin.hub.card.merge import front_matter, merge_card, with_license
from dd_plugin.hub.card.results import results_text, times_smaller
from dd_plugin.hub.card.sections import Section, joined, ledger, section
from dd_plugin.hub.card.usage import has_random_weights, usage_text

__all__ = ["make_card", "merge_card", "with_license"]

_PARQUET = "data/train-00000-of-00001.parquet"
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_HOME = "https://huggingface.co/datasets"
_MOST_NAMES = 20
_LOSSES = {"cross_entropy": "cross-entropy", "custom": "its author's own, not part of the recipe"}

# Spoken of where it is not that of the images.
_PRECISIONS = {"bf16": "bfloat16 where `torch.autocast` allows it; tested in full precision"}


def make_card(record: Mapping[str, Any]) -> str:
    """The card of a distilled set.

    Args:
        record: what ``recipe.json`` holds. Under ``source``, ``results``, ``protocol``,
            ``evaluations`` and ``about`` anything may be missing or None; what is not there is not
            spoken of. Texts may hold anything. ``images["num_bytes"]``, the size of the table in
            memory, is what `datasets` wants beside the number of rows.

    Returns:
        Markdown with YAML front matter, as the Hub takes it.

    Raises:
        KeyError: the record has no recipe, or no images.
    """
    metadata = _metadata(record)
    texts = {
        "title": f"# {escaped(_name(record))}",
        "summary": _summary(record),
        "limits": _limits(record),
        "results": results_text(record),
        "usage": usage_text(record),
        "recipe": _recipe(record),
        "distillation": _distillation(record),
        "license": _license(record),
        "citation": _citation(record),
        "versions": _versions(record),
    }
    parts: list[Section | str] = [section(name, text) for name, text in texts.items() if text]
    files = ("configs", "dataset_info", "size_categories")
    free = {key: value for key, value in metadata.items() if key not in files}
    listed = ledger((part for part in parts if isinstance(part, Section)), free)
    return f"---\n{front_matter(metadata)}---\n\n{joined(parts, listed)}"


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    images, recipe = record["images"], record["recipe"]
    names = {str(i): str(name) for i, name in enumerate(recipe["class_names"])}
    features: list[dict[str, Any]] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if images.get("soft_labels"):
        features.append({"name": "soft_label", "list": "float32"})
    licenses = [name for name in _licenses(record) if _LICENSE.fullmatch(name)]
    total = int(images["count"])
    size = next((text for most, text in _SIZES.items() if total < most), "n>1M")
    hub_id = _hub_id(record)
    metadata: dict[str, Any] = {
        "pretty_name": one_line(_name(record)),
        "license": licenses[0] if len(licenses) == 1 else licenses,
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", f"ipc-{decimal(_per_class(images))}", "dd_plugin"],
        "source_datasets": [hub_id or "extended"],
        "size_categories": [size],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": _PARQUET}]}
        ],
        "dataset_info": {"features": features},
    }
    # `datasets` ignores a split without its size, with a warning.
    if size_in_memory := int(images.get("num_bytes") or 0):
        metadata["dataset_info"]["splits"] = [
            {"name": "train", "num_bytes": size_in_memory, "num_examples": total}
        ]
    return {key: value for key, value in metadata.items() if value}


def _source(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("source") or {}


def _config(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return (record.get("about") or {}).get("config") or {}


def _hub_id(record: Mapping[str, Any]) -> str | None:
    found = _source(record).get("hub_id")
    return found if isinstance(found, str) and _HUB_ID.fullmatch(found) else None


def _licenses(record: Mapping[str, Any]) -> list[str]:
    found = _source(record).get("licenses") or []
    return [name for name in ([found] if isinstance(found, str) else found) if name]


def _per_class(images: Mapping[str, Any]) -> float:
    """Images per class as the field counts them: by the storage that they take."""
    found: float = images["per_class"] / times_smaller(images)
    return found


def _name(record: Mapping[str, Any]) -> str:
    source = _source(record)
    name = source.get("hub_id") or source.get("dataset")
    stored = _per_class(record["images"])
    per_class = f"{decimal(stored)} {'image' if stored == 1 else 'images'}"
    what = f"{one_line(name, 80)}, distilled" if name else "Distilled images,"
    return f"{what} to {per_class} per class" if name else f"{what} {per_class} per class"


def _summary(record: Mapping[str, Any]) -> str:
    recipe, images = record["recipe"], record["images"]
    channels, height, width = (int(n) for n in recipe["shape"])
    classes = list(recipe["class_names"])
    colour = {1: "gray", 3: "colour"}.get(channels, f"{channels}-channel")
    source, hub_id = _source(record), _hub_id(record)
    if hub_id:
        origin = f"[{escaped(hub_id)}]({_HOME}/{hub_id})"
    elif source.get("dataset"):
        origin = code(source["dataset"])
    else:
        origin = "a data set that is not named here"
    number_of = count(source.get("images"), "image")
    of = f"the {number_of} of {origin}" if number_of else origin
    if source.get("train_split"):
        of += f" (split {code(source['train_split'])})"
    total = count(int(images["count"]), f"synthetic {colour} image")
    smaller = times_smaller(images)
    stored = (
        f"They are stored at 1/{images['upsample_factor']} of this height and width, in the place "
        f"of {count(int(images['count']) // smaller, 'image')}, and enlarged bilinearly.\n\n"
        if smaller > 1
        else ""
    )
    names = ", ".join(escaped(one_line(name, 40)) for name in classes[:_MOST_NAMES])
    more = f" and {len(classes) - _MOST_NAMES:,} more" if len(classes) > _MOST_NAMES else ""
    return (
        f"![All images of the set, in a grid](preview.png)\n\n"
        f"{total} of {height} x {width} pixels in {count(len(classes), 'class')}, learned from "
        f"{of} such that {_what_is_trained(recipe)} that is trained on them alone does well on "
        f"real images. Made with dd_plugin by dataset distillation: {_how_learned(record)}.\n\n"
        f"{stored}Classes: {names}{more}."
    )


def _is_for_heads(recipe: Mapping[str, Any]) -> bool:
    return recipe.get("trainable") == "head"


def _how_learned(record: Mapping[str, Any]) -> str:
    if matches_gradients(record):
        return (
            "the gradients of random heads on these images are brought to point where those on "
            "real images do"
        )
    what = "head" if _is_for_heads(record["recipe"]) else "network"
    return (
        f"the gradient of the trained {what}'s loss on real images is taken through its whole "
        "training, down to the pixels"
    )


def _what_is_trained(recipe: Mapping[str, Any]) -> str:
    return "the head of a pretrained network" if _is_for_heads(recipe) else "a network"


def _limits(record: Mapping[str, Any]) -> str:
    start = {
        "real": "The images began as real ones and may still resemble them.",
        "mean": "The images began as the mean of the real ones of their class.",
    }.get(str(_config(record).get("image_init")), "")
    results = "The results below hold for it " if results_text(record) else "It was made for it "
    private = "- It is not anonymised, and no privacy guarantee was proved or measured."
    return "\n".join(
        [
            "## What it is, and what it is not",
            "",
            f"- It is training data for the recipe below. {results}"
            "and for the networks named there; others may do much worse.",
            "- It is not a sample of the real data: do not test models on it, and do not judge by "
            "it what real images look like.",
            f"{private} {start}".rstrip(),
            "- The images in the viewer are rounded to 8 bits. The exact ones, which the recipe "
            "trains on, are in `tensors.safetensors`.",
        ]
    )


def _recipe(record: Mapping[str, Any]) -> str:
    recipe, images, config = record["recipe"], record["images"], _config(record)
    starts = {
        "fixed": "one initialisation, stored in `tensors.safetensors`",
        "random": "fresh random weights",
        "pool": "fresh random weights; while distilling, a pool of partly trained networks",
    }
    batches = {
        "all": f"all {count(int(images['count']), 'image')} in each step",
        "groups": f"one of {count(recipe.get('groups'), 'group')} in each step, in turn",
        "minibatches": f"{count(recipe.get('batch_size'), 'image')} in each step, shuffled",
    }
    optimizer = code(recipe.get("optimizer"))
    if recipe.get("optimizer_args"):
        optimizer += f" with {literal(recipe['optimizer_args'])}"
    rows = [
        ("network", _network(record)),
        ("starts from", starts.get(str(recipe.get("init")), code(recipe.get("init")))),
        ("steps", count(int(recipe["steps"]))),
        ("batches", batches.get(str(recipe.get("batching")), code(recipe.get("batching")))),
        ("optimizer", optimizer),
        ("step sizes", _step_sizes(images, config)),
        ("labels", _labels(images)),
        ("loss", _LOSSES.get(str(recipe.get("loss")), code(recipe.get("loss") or ""))),
        ("precision", _PRECISIONS.get(str(recipe.get("mixed_precision")), "")),
        ("augmentation", _augmentation(recipe)),
        ("network input", _input(record.get("transform") or {})),
        ("BatchNorm", _batch_norm(recipe)),
    ]
    if _is_for_heads(recipe):
        rows = _head_rows(recipe, rows)
    told = [row for row in rows if row[1]]
    return "## The recipe\n\n" + table(("training on these images", ""), told)


_HEADS = {
    "ridge": "ridge regression onto the labels, in closed form",
    "unroll": "a linear layer, from zero, step by step",
}


def _head_rows(recipe: Mapping[str, Any], rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The rows of a recipe that say something where the head of frozen networks is trained."""
    backbones = [
        f"{code(b.get('model') or 'one without a name')} "
        f"(weights {code(str(b['fingerprint'])[:12])})"
        for b in recipe.get("backbones") or []
        if isinstance(b, Mapping) and b.get("fingerprint")
    ]
    without = {"network", "starts from", "batches", "network input", "BatchNorm", "augmentation"}
    if recipe.get("head") == "ridge":
        without |= {"steps", "optimizer", "step sizes", "loss"}
    kept = [row for row in rows if row[0] not in without]
    if has_random_weights(recipe):
        backbones.append("all with random weights, which nobody else has")
    head = _HEADS.get(str(recipe.get("head")), code(recipe.get("head")))
    return [("frozen networks", "; ".join(backbones)), ("head", head), *kept]


def _augmentation(recipe: Mapping[str, Any]) -> str:
    text = code(recipe.get("augmentation") or "none")
    copies = recipe.get("augmentations_per_step") or 1
    return text if copies == 1 else f"{text}, {count(copies)} copies of each image in a step"


def _network(record: Mapping[str, Any]) -> str:
    recipe = record["recipe"]
    if recipe.get("networks"):
        listed = [one for one in recipe["networks"] if isinstance(one, Mapping)]
        return "each of " + "; ".join(map(_one_network, listed))
    about = (record.get("about") or {}).get("network")
    more = ""
    if not recipe.get("model") and isinstance(about, Mapping) and about.get("class"):
        size = count(about.get("parameters"), "trained parameter")
        more = f": a {code(about['class'])}" + (f" with {size}" if size else "")
    return _one_network(recipe, more)


def _one_network(network: Mapping[str, Any], more: str = "") -> str:
    """A network by its name, what more is known of it, and its arguments."""
    name = code(network["model"]) if network.get("model") else "one without a name"
    arguments = f" with {literal(network['model_args'])}" if network.get("model_args") else ""
    return f"{name}{more}{arguments}"


def _labels(images: Mapping[str, Any]) -> str:
    if not images.get("soft_labels"):
        return "classes"
    if images.get("label_form") == "weights":
        return "learned weights of the classes in the loss"
    return "learned probabilities"


def _step_sizes(images: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if images.get("learned_step_sizes"):
        kind = {
            "per_step": ", one per step",
            "per_layer": ", one per step and parameter tensor of the network",
            "shared": ", one for all steps",
        }
        return f"learned{kind.get(str(config.get('step_sizes')), '')}, in `tensors.safetensors`"
    value = number(config.get("inner_lr"))
    return "constant" if value is None else f"constant, {decimal(value)}"


def _input(transform: Mapping[str, Any]) -> str:
    if transform.get("kind") == "normalization":
        mean, std = (
            ", ".join(decimal(x) for v in transform.get(key) or [] if (x := number(v)) is not None)
            for key in ("mean", "std")
        )
        return f"pixels in 0 to 1, minus {mean}, divided by {std}"
    if transform.get("kind") == "whitening":
        return "ZCA-whitened pixels, matrix in `tensors.safetensors`"
    return code(transform.get("kind") or "pixels in 0 to 1")


def _batch_norm(recipe: Mapping[str, Any]) -> str:
    if not recipe.get("statistics"):
        return "none"
    return (
        f"{code(recipe['statistics'])} statistics, trained with those of the "
        f"{code(recipe.get('train_with') or 'batch')}"
    )


def _distillation(record: Mapping[str, Any]) -> str:
    config, about = _config(record), record.get("about") or {}
    if not config and not about.get("outer_steps"):
        return ""
    window = {
        "full": "all",
        "last": f"the last {count(config.get('window_length'))}",
        "random": f"a random stretch of {count(config.get('window_length'))}",
    }
    begin = {"real": "real images", "noise": "noise", "mean": "the mean of each class"}
    stored = "pixels"
    if config.get("parametrization") == "upsampled":
        stored = f"pixels at 1/{count(config.get('upsample_factor'))} of the resolution"
    if config.get("parametrization") == "pyramid":
        stored = "a sum of levels of rising resolution"
        if config.get("color_space") == "decorrelated":
            stored += ", in decorrelated colors"
    rate, recipe = number(config.get("learning_rate")), record["recipe"]
    for_heads = _is_for_heads(recipe)
    # A closed form has no steps, and matched gradients are those of a head that is not trained.
    has_steps = not for_heads or (recipe.get("head") == "unroll" and not matches_gradients(record))
    augmented = recipe.get("augmentation") not in (None, "", "none")
    rows = [
        ("outer steps", count(about.get("outer_steps"))),
        (
            "training steps differentiated",
            window.get(str(config.get("window")), "") if has_steps else "",
        ),
        ("augmentation", _augmentation(recipe) if for_heads and augmented else ""),
        ("real images per outer step", count(config.get("real_batch_size"))),
        ("images began as", begin.get(str(config.get("image_init")), "")),
        ("learned as", stored if config else ""),
        ("learning rate of the images", "" if rate is None else f"{decimal(rate)} (Adam)"),
        ("seed", count(config.get("seed"))),
    ]
    return (
        "## How it was made\n\n"
        + table(("distillation", ""), [row for row in rows if row[1]])
        + "\n\nEvery setting is in `recipe.json`."
    )


def _license(record: Mapping[str, Any]) -> str:
    licenses = _licenses(record)
    if not licenses:
        return (
            "## License\n\nNone is stated, since none was found for the data that these images "
            "were made from."
        )
    names = ", ".join(code(name) for name in licenses)
    return f"## License\n\nThat of the source data, as stated there: {names}."


def _citation(record: Mapping[str, Any]) -> str:
    papers = papers_of(record)
    lines = "\n".join(paper.line() for paper in papers)
    entries = fenced("\n".join(paper.bibtex() for paper in papers), "bibtex")
    return f"## Citation\n\nThe methods that this set was made with:\n\n{lines}\n\n{entries}"


def _versions(record: Mapping[str, Any]) -> str:
    versions = (record.get("about") or {}).get("versions") or {}
    listed = ", ".join(f"{escaped(name)} {escaped(v)}" for name, v in versions.items() if v)
    return f"## Versions\n\n{listed}" if listed else ""
