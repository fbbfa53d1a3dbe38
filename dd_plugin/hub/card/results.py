"""The results on the card of a distilled set: tables, how they were taken, and the command.

Used by `text`. Every number is one of the record's, in percent with one decimal; the mean and the
standard deviation are computed from the accuracies where the record has them.
"""

from __future__ import annotations

import statistics

from dd_plugin.hub.card.markdown import Markdown, code, count, escaped, fenced, one_line, table
from dd_plugin.hub.card.words import cells, joined, say
from dd_plugin.hub.record import Evaluation, Protocol, Record, Result, times_smaller

__all__ = ["ALL_NETWORKS", "accuracy", "results_text", "row_labels", "times_smaller"]

# The row of several architectures together, below the rows of each.
ALL_NETWORKS = say("results.all_networks")


def row_labels(own: str, shown: str, stored: str, real: str) -> dict[str, tuple[str, str]]:
    """Name and number of images of each row of a table of accuracies, by its key in a record.

    Args:
        own: what the distilled images are called.
        shown: how many of them networks are trained on.
        stored: how many images of full size take their storage.
        real: how many real images there are.
    """
    smaller = shown != stored
    few = "random real images of that storage" if smaller else "as many random real images"
    return {
        "distilled": (own, f"{shown}, stored as {stored}" if smaller else shown),
        "distilled, 8-bit": (f"{own}, as PNG files have them", shown),
        "random real": (few, stored),
        "nearest to the centroid": ("real images nearest to the centroid", stored),
        "herding": ("real images by herding", stored),
        "k-center": ("real images by k-center", stored),
        "full data": ("all real images", real),
    }


def results_text(record: Record) -> Markdown:
    """The section, or an empty text where nothing was measured."""
    main, others = _main_table(record), _evaluations_table(record)
    if not main and not others:
        return Markdown()
    blocks = [say("results")]
    if main:
        blocks += [main, _protocol(record)]
    if others:
        blocks += [say("results.others") if main else Markdown(), others]
    command = record.protocol.command
    if command is not None and command.strip():
        blocks += [say("results.command"), fenced(one_line(command, 1000), "sh")]
    return joined(blocks, "\n\n")


def accuracy(scores: Result | Evaluation) -> str:
    """``93.0 ± 1.0 %``, or an empty text where the record has no mean."""
    each = scores.accuracies
    mean = statistics.fmean(each) if each else scores.mean
    std = statistics.stdev(each) if len(each) > 1 else scores.std
    if mean is None:
        return ""
    spread = f" ± {100 * std:.1f}" if std is not None and len(each) != 1 else ""
    return f"{100 * mean:.1f}{spread} %"


def _networks(scores: Result | Evaluation) -> str:
    return str(len(scores.accuracies) or "")


def _main_table(record: Record) -> Markdown:
    images = record.images
    labels = row_labels(
        say("results.these_images"),
        count(images.count),
        count(images.stored_count),
        count(record.source.images),
    )
    listed = [
        (labels.get(name, (escaped(name), "")), result, _by_model(result))
        for name, result in record.results.items()
        if accuracy(result)
    ]
    several = any(each for _, _, each in listed)
    rows = [
        (trained_on, *((network,) if several else ()), number, accuracy(own), _networks(own))
        for (trained_on, number), result, each in listed
        for network, own in [*each, (ALL_NETWORKS, result)]
    ]
    header = cells("results.several_header" if several else "results.main_header")
    return table(header, rows) if rows else Markdown()


def _by_model(result: Result) -> list[tuple[Markdown, Result]]:
    """The scores of each of several architectures, by its name."""
    return [(code(name), own) for name, own in result.by_model.items() if accuracy(own)]


def _tested_on(tested: Protocol | Evaluation) -> Markdown:
    images = tested.images
    if images is None and isinstance(tested, Evaluation):
        images = tested.test_images
    parts = [
        count(images, "image"),
        say("accuracy.split", split=code(tested.split)) if tested.split else Markdown(),
        code(tested.dataset) if tested.dataset else Markdown(),
    ]
    return joined(parts, " of ")


def _protocol(record: Record) -> Markdown:
    protocol = record.protocol
    tested = _tested_on(protocol)
    where = say("accuracy.where", images=tested) if tested else ""
    if record.is_for_heads:
        text = say("accuracy.heads", where=where)
    else:
        start = "fixed" if record.recipe.init == "fixed" else "fresh"
        text = say("accuracy.networks", where=where, start=say(f"accuracy.{start}"))
    step = protocol.best_step
    return joined(
        [
            text,
            Markdown() if step is None else say("accuracy.best_step", step=step),
            say("accuracy.eval_mode") if protocol.eval_mode else Markdown(),
        ],
        "",
    )


def _evaluations_table(record: Record) -> Markdown:
    rows = [
        (
            code(row.model or say("results.unnamed")),
            escaped(row.trained_on or say("results.distilled_images")),
            escaped(row.protocol or ""),
            escaped(row.pixels or ""),
            accuracy(row),
            _networks(row),
            _tested_on(row),
        )
        for row in record.evaluations
        if accuracy(row)
    ]
    return table(cells("results.others_header"), rows) if rows else Markdown()
