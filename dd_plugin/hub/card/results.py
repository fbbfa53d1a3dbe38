"""The results on the card of a distilled set: tables, how they were taken, and the command.

Used by `text`. Every number is one of the record's, in percent with one decimal; the mean and the
standard deviation are computed from the accuracies where the record has them.
"""

from __future__ import annotations

from dd_plugin.evaluation import Scores
from dd_plugin.evaluation.training_images import LABEL_CONTROLS, TrainingImages, row_labels
from dd_plugin.hub.card.markdown import Markdown, code, count, escaped, fenced, one_line, table
from dd_plugin.hub.card.words import cells, joined, say
from dd_plugin.hub.record import Evaluation, Protocol, Record, Result, times_smaller
from dd_plugin.hub.record.judgement import in_points, in_share
from dd_plugin.text import percent

__all__ = ["ALL_NETWORKS", "accuracy", "results_text", "times_smaller"]

# The row of several architectures together, below the rows of each.
ALL_NETWORKS = say("results.all_networks")


def results_text(record: Record) -> Markdown:
    """Return the section, or an empty text where nothing was measured."""
    main, others, judged = _main_table(record), _evaluations_table(record), _judged_table(record)
    if not main and not others and not judged:
        return Markdown()
    blocks = [say("results")]
    if main:
        worth = _label_worth(record)
        blocks += [main, _protocol(record), *([worth] if worth else [])]
    if others:
        blocks += [say("results.others") if main else Markdown(), others]
    if judged:
        blocks += [say("results.judged"), judged]
    command = record.protocol.command
    if command is not None and command.strip():
        blocks += [say("results.command"), fenced(one_line(command, 1000), "sh")]
    return joined(blocks, "\n\n")


def accuracy(scores: Result | Evaluation) -> str:
    """Return ``93.0 ± 1.0 %``, or an empty text where the record has no mean."""
    if scores.accuracies:
        return str(Scores(scores.accuracies))
    return "" if scores.mean is None else percent(scores.mean, scores.std)


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
        (trained_on, *((network,) if several else ()), number, accuracy(scores), _networks(scores))
        for (trained_on, number), result, each in listed
        for network, scores in [*each, (ALL_NETWORKS, result)]
    ]
    header = cells("results.several_header" if several else "results.main_header")
    return table(header, rows) if rows else Markdown()


def _by_model(result: Result) -> list[tuple[Markdown, Result]]:
    """Return the scores of each of several architectures, by its name."""
    return [(code(name), each) for name, each in result.by_model.items() if accuracy(each)]


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


def _label_worth(record: Record) -> Markdown:
    """Return two differences of the main table that labels are judged by."""
    means = [
        None if (result := record.results.get(images.value)) is None else result.mean
        for images in (TrainingImages.DISTILLED, *LABEL_CONTROLS, TrainingImages.ALL)
    ]
    distilled, hard, labeled, everything = means
    if distilled is None or hard is None or labeled is None or everything is None:
        return Markdown()
    recovery, improvement = 100 * (everything - hard), 100 * (distilled - labeled)
    return say("results.label_worth", recovery=f"{recovery:.1f}", improvement=f"{improvement:+.1f}")


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


def _judged_table(record: Record) -> Markdown:
    rows = [
        (
            say("results.judge", judge=escaped(one.judge), dataset=code(one.dataset)),
            code(one.model),
            in_points(one.hard_label_recovery),
            in_points(one.improvement_over_random),
            in_share(one.label_robust),
            in_share(one.augmentation_robust),
            str(len(one.hard_label_recovery)),
        )
        for one in record.judgements
        if one.judge and one.dataset and one.model and one.hard_label_recovery
    ]
    return table(cells("results.judged_header"), rows) if rows else Markdown()
