"""The report of a run as one HTML file: images, curve, accuracies, settings, how to load the set.

Used by `report`. The page needs no network and no script. Every text that is not of this file is
escaped.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.svg_curve import curves
from dd_plugin.hub.folder import to_bytes
from dd_plugin.text import count, percent

MOST_IMAGES: Final = 100
# Sides in pixels: up to the first, images are exact; the others are of few images and of many.
_EXACT_SIDE, _LARGE_SIDE, _SMALL_SIDE = 32, 96, 64
_FEW = 40
# Bytes of an animation that the page takes in.
_MOST_ANIMATION = 250_000
_LARGEST_TEXT = 200
_STYLE = Path(__file__).with_name("html_report.css")
# Nothing is loaded and nothing runs, whatever a name may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Page:
    """The contents of a report.

    Attributes:
        synthetic: the distilled set.
        folder: where it is, as the user wrote it.
        step: outer steps done.
        max_steps: outer steps in all.
        running: the run had not ended when this was written.
        best_step: the outer step of the images, where they are those of the best evaluation.
        history: the log.
        header: of the table of accuracies.
        rows: of the table of accuracies; empty without a comparison.
        settings: of the run.
        versions: of packages.
        animation: the images over time, as WebP.
    """

    synthetic: SyntheticSet
    folder: str
    step: int
    max_steps: int
    running: bool = False
    best_step: int | None = None
    history: Sequence[dict[str, Any]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    animation: bytes | None = None


def report_page(page: Page) -> str:
    """Return the HTML of a report."""
    name = Path(page.folder).name or page.folder
    parts = [
        f"<h1>{_escaped(name)}</h1>",
        _summary(page),
        _images(page.synthetic),
        _animation(page.animation),
        _curves(page.history),
        _table(page),
        _loading(page),
        _settings(page),
    ]
    style = _STYLE.read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_escaped(name)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _summary(page: Page) -> str:
    recipe, labels = page.synthetic.recipe, page.synthetic.labels
    channels, height, width = recipe.shape
    color = {1: "gray", 3: "color"}.get(channels, f"{channels}-channel")
    facts = [
        f"{count(len(labels), f'distilled {color} image')} of {height} x {width} pixels, "
        f"{count(recipe.num_classes, 'class')}.",
        f"{page.step:,} of {count(page.max_steps, 'outer step')} done.",
    ]
    if page.best_step is not None:
        facts.append(f"The images are those of step {page.best_step:,}, the best evaluation.")
    measured = [line for line in page.history if "eval_accuracy_mean" in line]
    if measured and not page.rows:
        last = measured[-1]
        spread = last.get("eval_accuracy_std") if last.get("eval_networks", 0) > 1 else None
        accuracy = percent(last["eval_accuracy_mean"], spread)
        facts.append(f"Accuracy at step {last['step']:,}: {accuracy}.")
    note = ""
    if page.running:
        note = (
            '<p class="note">The run was not finished when this page was written. '
            "While it lasts, each evaluation writes a new one.</p>\n"
        )
    return f"{note}<p>{' '.join(map(_escaped, facts))}</p>"


# The images.


def shown(labels: torch.Tensor, classes: int, most: int = MOST_IMAGES) -> list[int]:
    """Return the places of the images to show, by class: all, or as many of each class.

    Args:
        labels: class indices.
        classes: how many there are.
        most: images in all.
    """
    order: list[int] = torch.argsort(labels, stable=True).tolist()
    if len(order) <= most:
        return order
    each = max(1, most // classes)
    seen: dict[int, int] = {}
    chosen = []
    for place in order:
        label = int(labels[place])
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= each:
            chosen.append(place)
    return chosen[:most]


def _images(synthetic: SyntheticSet) -> str:
    labels = synthetic.labels.cpu()
    places = shown(labels, synthetic.recipe.num_classes)
    images = synthetic.images().detach()[places]
    soft = None if synthetic.learned_labels is None else synthetic.targets().detach()[places].cpu()
    side = max(synthetic.recipe.shape[1:])
    limit = _LARGE_SIDE if len(places) <= _FEW else _SMALL_SIDE
    figures = []
    for index, place in enumerate(places):
        name = synthetic.recipe.class_names[int(labels[place])]
        learned = "" if soft is None else _learned(soft[index], synthetic.recipe.class_names)
        picture = _address(images[index], limit)
        figures.append(
            f'<figure><img src="{picture}" alt="{_escaped(name)}">'
            f"<figcaption>{_escaped(name)}{learned}</figcaption></figure>"
        )
    notes = []
    if len(places) < len(labels):
        notes.append(f"This page shows {len(places)} of the {len(labels):,} images.")
    if side > limit:
        notes.append("They are smaller here than in the set, and compressed.")
    note = f"<p>{' '.join(notes)}</p>\n" if notes else ""
    smooth = "" if side <= _EXACT_SIDE else " smooth"
    return (
        f'<h2>Images</h2>\n{note}<div class="images{smooth}">\n' + "\n".join(figures) + "\n</div>"
    )


def _learned(weights: torch.Tensor, names: Sequence[str]) -> str:
    """Return the two largest parts of a learned label, as a second line."""
    values, places = weights.topk(min(2, len(weights)))
    parts = [
        f"{_escaped(names[int(place)])} {float(value):.2f}"
        for value, place in zip(values, places, strict=True)
    ]
    return f'<br><span class="learned">{", ".join(parts)}</span>'


def _address(image: torch.Tensor, side: int) -> str:
    """Return an image ``(C, H, W)`` as a data URI; a large one as a JPEG of at most that side."""
    from PIL import Image

    pixels = to_bytes(image)
    if len(pixels) not in (1, 3):
        pixels = pixels[:1]
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    content = io.BytesIO()
    if max(picture.size) <= _EXACT_SIDE:
        picture.save(content, "PNG")
        return _data("image/png", content.getvalue())
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(content, "JPEG", quality=80)
    return _data("image/jpeg", content.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _animation(content: bytes | None) -> str:
    if content is None:
        return ""
    if len(content) > _MOST_ANIMATION:
        return "<h2>Images over time</h2>\n<p>They are in <code>course.webp</code>.</p>"
    address = _data("image/webp", content)
    return f'<h2>Images over time</h2>\n<img class="course" src="{address}" alt="Images over time">'


# Curve, table, settings.


def _curves(history: Sequence[dict[str, Any]]) -> str:
    drawings = curves(history)
    if not drawings:
        return ""
    figures = [
        f"<figure><figcaption>{title}</figcaption>{drawing}</figure>" for title, drawing in drawings
    ]
    return '<h2>Curve</h2>\n<div class="curves">\n' + "\n".join(figures) + "\n</div>"


def _table(page: Page) -> str:
    if not page.rows:
        return ""
    lines = [f"<tr>{_cells('th', page.header)}</tr>"]
    lines += [f"<tr>{_cells('td', row)}</tr>" for row in page.rows]
    return _in_table("<h2>Accuracy</h2>", lines)


def _in_table(heading: str, lines: Sequence[str]) -> str:
    rows = "\n".join(lines)
    return f'{heading}\n<div class="scroll"><table>\n{rows}\n</table></div>'


def _cells(tag: str, values: Sequence[str]) -> str:
    return "".join(f"<{tag}>{_escaped(value)}</{tag}>" for value in values)


def _loading(page: Page) -> str:
    recipe = page.synthetic.recipe
    arguments = [] if recipe.model or recipe.networks else ["network"]
    code = (
        "from dd_plugin import DistilledDataset\n\n"
        f"distilled = DistilledDataset.from_pretrained({page.folder!r})\n"
        f"model = distilled.fit({', '.join(arguments)})  # trained by the recipe of the set"
    )
    return (
        f"<h2>Load the set</h2>\n<pre>{_escaped(code)}</pre>\n"
        "<p>The card, <code>README.md</code>, shows more ways.</p>"
    )


def _settings(page: Page) -> str:
    rows = [(name, _value(value)) for name, value in page.settings.items()]
    rows += [(name, version) for name, version in page.versions.items()]
    if not rows:
        return ""
    lines = [f"<tr>{_cells('td', row)}</tr>" for row in rows]
    summary = "<details><summary>All settings and versions</summary>"
    return _in_table(f"<h2>Settings</h2>\n{summary}", lines) + "</details>"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LARGEST_TEXT else text[: _LARGEST_TEXT - 3] + "..."


def _escaped(text: str) -> str:
    # A lone surrogate of a file name cannot be written as UTF-8.
    return html.escape(text.encode("utf-8", "replace").decode())
