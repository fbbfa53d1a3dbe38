"""The results on a card are those of the record, and nothing is said of what was not measured."""

import statistics

from tests.hub.card.parts import rows, sections
from tests.hub.records import a_record, card_of


def percent(accuracies):
    spread = f" ± {100 * statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.fmean(accuracies):.1f}{spread} %"


def test_result_tables_are_those_of_the_record():
    record = a_record()
    found = rows(sections(card_of(record))["results"])
    scores = [record["results"][n]["accuracies"] for n in ("distilled", "random real", "full data")]
    images = ["6", "6", "45,678"]
    assert [row[1:] for row in found[1:4]] == [
        [n, percent(a), str(len(a))] for n, a in zip(images, scores, strict=True)
    ]
    evaluation = record["evaluations"][0]
    assert found[5] == [
        "`timm/resnet18`",
        "distilled images",
        "standard",
        "png",
        percent(evaluation["accuracies"]),
        "2",
        "987 images of split `test` of `someone/pets`",
    ]
    assert len(found) == 6


def test_a_mean_without_its_accuracies_is_given_as_it_is():
    record = a_record()
    record["results"] = {"distilled": {"mean": 0.5, "std": 0.25, "accuracies": None}}
    assert rows(sections(card_of(record))["results"])[1] == [
        "these images",
        "6",
        "50.0 ± 25.0 %",
        "",
    ]


def test_what_is_not_measured_is_not_spoken_of():
    record = a_record()
    record["results"] = {"distilled": {"mean": float("nan")}, "full data": {"mean": None}}
    record["evaluations"] = [{"model": "timm/resnet18", "mean": None, "accuracies": None}]
    card = card_of(record)
    assert "results" not in sections(card)
    assert "nan" not in card.lower()
    assert "accuracy above" not in card
