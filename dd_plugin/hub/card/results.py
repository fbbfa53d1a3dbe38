"""The results on the card of a distilled set: tables, how they were taken, and the command.

Used by `text`. Every number is one of the record's, in percent with one decimal; the mean and the
standard deviation are computed from the accuracies where the record has them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dd_plugin.hub.card.markdown import code, count, escaped, fenced, number, one_line, table

# The row of several architectures together, below the rows of each.
ALL_NETWORKS = "all of these"


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


def results_text(record: Mapping[str, Any]) -> str:
    """The section, or an empty text where nothing was measured."""
    main = _main_table(record)
    others = _evaluations_table(record)
    if not main and not others:
        return ""
    blocks = ["## Results"]
    if main:
        blocks += [main, _protocol(record)]
    if others:
        blocks += ["Other networks, pixels and data:" if main else "", others]
    command = (record.get("protocol") or {}).get("command")
    if isinstance(command, str) and command.strip():
        blocks += ["The command that takes them:", fenced(one_line(command, 1000), "sh")]
    return "\n\n".join(block for block in blocks if block)


def accuracy(scores: Mapping[str, Any]) -> str:
    """``93.0 ± 1.0 %``, or an empty text where the record has no finite mean."""
    found = _accuracies(scores)
    mean = statistics.fmean(found) if found else number(scores.get("mean"))
    std = statistics.stdev(found) if len(found) > 1 else number(scores.get("std"))
    if mean is None:
        return ""
    spread = f" ± {100 * std:.1f}" if std is not None and len(found) != 1 else ""
    return f"{100 * mean:.1f}{spread} %"


def _accuracies(scores: Mapping[str, Any]) -> list[float]:
    listed = scores.get("accuracies")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    return [x for value in listed if (x := number(value)) is not None and 0 <= x <= 1]


def _networks(scores: Mapping[str, Any]) -> str:
    return str(len(_accuracies(scores)) or "")


def _main_table(record: Mapping[str, Any]) -> str:
    results = record.get("results") or {}
    total = int(record["images"]["count"])
    shown, stored = count(total), count(total // times_smaller(record["images"]))
    real = count((record.get("source") or {}).get("images"))
    labels = row_labels("these images", shown, stored, real)
    listed = [
        (labels.get(name, (escaped(name), "")), found, _by_model(found))
        for name, found in results.items()
        if isinstance(found, Mapping) and accuracy(found)
    ]
    several = any(each for _, _, each in listed)
    rows = [
        (trained_on, *((network,) if several else ()), images, accuracy(own), _networks(own))
        for (trained_on, images), found, each in listed
        for network, own in [*each, (ALL_NETWORKS, found)]
    ]
    header = ("trained on", *(("network",) if several else ()), "images", "accuracy", "networks")
    return table(header, rows) if rows else ""


def _by_model(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The scores of each of several architectures, by its name."""
    listed = scores.get("by_model")
    pairs = listed.items() if isinstance(listed, Mapping) else ()
    return [(code(name), own) for name, own in pairs if isinstance(own, Mapping) and accuracy(own)]


def times_smaller(images: Mapping[str, Any]) -> int:
    """How many of a set's images take the storage of one in full size."""
    factor = images.get("upsample_factor")
    return factor * factor if type(factor) is int and factor > 0 else 1


def _tested_on(values: Mapping[str, Any]) -> str:
    parts = [
        count(values.get("images", values.get("test_images")), "image"),
        f"split {code(values['split'])}" if values.get("split") else "",
        code(values["dataset"]) if values.get("dataset") else "",
    ]
    return " of ".join(part for part in parts if part)


def _protocol(record: Mapping[str, Any]) -> str:
    protocol = record.get("protocol") or {}
    fixed = record["recipe"].get("init") == "fixed"
    start = "from the stored initialisation" if fixed else "afresh, each from a seed of its own"
    where = _tested_on(protocol)
    if record["recipe"].get("trainable") == "head":
        text = (
            f"Accuracy{f' on {where}' if where else ''} of linear heads on frozen networks; mean ± "
            "standard deviation over networks, and over draws of random real images."
        )
    else:
        text = f"Accuracy{f' on {where}' if where else ''} of networks that were trained {start}; "
        text += "mean ± standard deviation over networks."
    step = protocol.get("best_step")
    if type(step) is int:
        text += (
            f" The set is that of outer step {step}, which did best of all evaluations on these "
            "images, so the figure flatters it a little."
        )
    if protocol.get("eval_mode"):
        text += " Networks are tested in eval mode, so the batch size of the test does not matter."
    return text


def _evaluations_table(record: Mapping[str, Any]) -> str:
    rows = []
    for found in record.get("evaluations") or []:
        if not isinstance(found, Mapping) or not accuracy(found):
            continue
        rows.append(
            (
                code(found.get("model") or "unnamed"),
                escaped(found.get("trained_on") or "distilled images"),
                escaped(found.get("protocol") or ""),
                escaped(found.get("pixels") or ""),
                accuracy(found),
                _networks(found),
                _tested_on(found),
            )
        )
    header = ("network", "trained on", "recipe", "pixels", "accuracy", "networks", "tested on")
    return table(header, rows) if rows else ""
