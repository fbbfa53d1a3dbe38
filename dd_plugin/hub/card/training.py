"""Two tables of a card: how networks are trained on the set, and how the set was made.

Used by `text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dd_plugin.data.recipe import Recipe
from dd_plugin.data.stored_sizes import PYRAMIDS, UPSAMPLED
from dd_plugin.hub.card.markdown import Markdown, code, count, decimal, literal
from dd_plugin.hub.card.words import joined, one_of, say, table_of_rows
from dd_plugin.hub.record import Record

_NOTHING = Markdown()


def recipe_text(record: Record) -> Markdown:
    """Return the section on training with the set."""
    recipe, images = record.recipe, record.images
    optimizer = [code(recipe.optimizer), _arguments(recipe.optimizer_args)]
    rows = {
        "backbones": _NOTHING,
        "head": _NOTHING,
        "network": _network(record),
        "starts_from": one_of("starts_from", recipe.init),
        "steps": count(recipe.steps),
        "batches": one_of(
            "batches",
            recipe.batching,
            images=count(images.count, "image"),
            groups=count(recipe.groups, "group"),
            batch=count(recipe.batch_size, "image"),
        ),
        "optimizer": joined(optimizer, ""),
        "step_sizes": _step_sizes(record),
        "labels": _labels(record),
        "loss": one_of("loss", recipe.loss),
        "precision": one_of("precision", recipe.mixed_precision),
        "augmentation": _augmentation(recipe),
        "input": _input(record),
        "batch_norm": _batch_norm(recipe),
    }
    if record.is_for_heads:
        rows |= _rows_of_heads(record)
    return say("recipe", table=table_of_rows("recipe.header", "recipe.rows", **rows))


def _rows_of_heads(record: Record) -> dict[str, Markdown]:
    """Return the rows of a recipe that differ where heads of frozen networks are trained."""
    recipe = record.recipe
    backbones = [
        say(
            "backbone",
            model=code(backbone.model or say("network.unnamed")),
            fingerprint=code(backbone.fingerprint[:12]),
        )
        for backbone in recipe.backbones
    ]
    if record.has_random_weights:
        backbones.append(say("backbone.random"))
    without = ["network", "starts_from", "batches", "input", "batch_norm", "augmentation"]
    if recipe.head == "ridge":
        without += ["steps", "optimizer", "step_sizes", "loss"]
    head = one_of("head", recipe.head)
    if recipe.head_copies and recipe.augmentation:
        copies, augmentation = count(recipe.head_copies), code(recipe.augmentation)
        head = say("head.copies", head=head, copies=copies, augmentation=augmentation)
    return {
        **dict.fromkeys(without, _NOTHING),
        "backbones": joined(backbones, "; "),
        "head": head,
    }


def _augmentation(recipe: Recipe) -> Markdown:
    copies = recipe.augmentations_per_step
    parts = [code(recipe.augmentation or "none")]
    if copies > 1:
        parts.append(say("augmentation.copies", copies=count(copies)))
    return joined(parts, "")


def _arguments(arguments: Mapping[str, Any]) -> Markdown:
    return say("with_arguments", arguments=literal(arguments)) if arguments else _NOTHING


def _network(record: Record) -> Markdown:
    recipe, network = record.recipe, record.about.network
    if recipe.networks:
        each = [_one_network(one.model, one.model_args) for one in recipe.networks]
        return say("network.each", networks=joined(each, "; "))
    more = []
    if not recipe.model and network.class_name:
        more.append(say("network.class", name=code(network.class_name)))
        if size := count(network.parameters, "trained parameter"):
            more.append(say("network.size", parameters=size))
    return _one_network(recipe.model, recipe.model_args, joined(more, ""))


def _one_network(
    model: str | None, arguments: Mapping[str, Any], more: Markdown = _NOTHING
) -> Markdown:
    """Return the name of a network, what more is known of it, and its arguments."""
    name = code(model) if model else say("network.unnamed")
    return joined([name, more, _arguments(arguments)], "")


def _labels(record: Record) -> Markdown:
    images = record.images
    kind = images.label_form or "probabilities" if images.soft_labels else "classes"
    return say(f"labels.{kind}")


def _step_sizes(record: Record) -> Markdown:
    config = record.about.config
    if record.images.learned_step_sizes:
        return say("step_sizes.learned", kind=one_of("step_sizes", config.step_sizes))
    value = config.inner_lr
    if value is not None and config.inner_schedule == "cosine":
        return say("step_sizes.cosine", value=decimal(value))
    shown = _NOTHING if value is None else say("step_sizes.value", value=decimal(value))
    return joined([say("step_sizes.constant"), shown], "")


def _input(record: Record) -> Markdown:
    transform = record.transform
    if transform.kind not in ("normalization", "whitening"):
        return code(transform.kind) if transform.kind else say("input.pixels")
    mean, std = (joined(list(map(decimal, part)), ", ") for part in (transform.mean, transform.std))
    return one_of("input", transform.kind, mean=mean, std=std)


def _batch_norm(recipe: Recipe) -> Markdown:
    if not recipe.statistics:
        return say("batch_norm.none")
    return say(
        "batch_norm.kind",
        statistics=code(recipe.statistics),
        train_with=code(recipe.train_with or "batch"),
    )


def distillation_text(record: Record) -> Markdown:
    """Return the section on how the set was made, or an empty text."""
    recipe, about, config = record.recipe, record.about, record.about.config
    if config.is_empty and not about.outer_steps:
        return _NOTHING
    for_heads, rate = record.is_for_heads, config.learning_rate
    # A closed form has no steps, and matched gradients are those of a head that is not trained.
    has_steps = not for_heads or (recipe.head == "unroll" and not record.matches_gradients)
    window = one_of("window", config.window, length=count(config.window_length))
    augmented = recipe.augmentation not in ("", "none")
    steps = count(about.outer_steps)
    rows = {
        "outer_steps": say("outer_steps.so_far", steps=steps) if about.unfinished else steps,
        "window": window if has_steps else _NOTHING,
        "augmentation": _augmentation(recipe) if for_heads and augmented else _NOTHING,
        "real_images": count(_real_images_per_step(record)),
        "images_began": one_of("images_began", config.image_init),
        "learned_as": _learned_as(record),
        "learning_rate": _NOTHING if rate is None else say("learning_rate", rate=decimal(rate)),
        "seed": count(config.seed),
    }
    table = table_of_rows("distillation.header", "distillation.rows", **rows)
    return say("distillation", table=table)


def _real_images_per_step(record: Record) -> int | None:
    """Return the setting, or all real images where there are fewer."""
    config, images = record.about.config, record.source.images
    if config.real_batch_size is None or images is None or record.is_for_heads:
        return config.real_batch_size  # a head may have several copies of each image
    return min(config.real_batch_size, images)


def _learned_as(record: Record) -> Markdown:
    config = record.about.config
    if config.is_empty:
        return _NOTHING
    if config.parametrization == "upsampled":
        return say("learned_as.upsampled", factor=count(config.upsample_factor))
    if config.parametrization not in PYRAMIDS:
        return say("learned_as.pixels")
    decorrelated = config.color_space == "decorrelated"
    colors = say("learned_as.decorrelated") if decorrelated else _NOTHING
    if config.parametrization in UPSAMPLED:
        return say("learned_as.small_pyramid", factor=count(config.upsample_factor), colors=colors)
    return say("learned_as.pyramid", colors=colors)
