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


def test_scores_of_a_judge_have_a_table():
    record = a_record()
    before = card_of(record)
    judged = {
        "judge": "ddranking 0.2.0",
        "dataset": "CIFAR10",
        "model": "ConvNet-3",
        "hard_label_recovery": [30.0, 40.0],
        "improvement_over_random": [10.0, 20.0],
        "augmented": [4.0, 4.0],
        "plain": [2.0, 2.0],
    }
    # A stranger's record may lack anything.
    record["judgements"] = [judged, {"judge": "x"}, {**judged, "hard_label_recovery": []}]
    card = card_of(record)
    assert rows(sections(card)["results"])[-1] == [
        "ddranking 0.2.0 on `CIFAR10`",
        "`ConvNet-3`",
        "+35.0 ± 7.1 points",
        "+15.0 ± 7.1 points",
        "0.228 ± 0.000",
        "0.282 ± 0.000",
        "2",
    ]
    assert "Judged from outside" in card
    assert "Judged" not in before


def test_what_labels_are_worth_is_two_differences_of_the_table():
    record = a_record()
    means = {"distilled": 0.75, "full data": 0.9, "distilled, hard labels": 0.625}
    record["results"] = {name: {"mean": mean} for name, mean in means.items()}
    assert "hard label recovery" not in card_of(record)
    record["results"]["random real, learned labels"] = {"mean": 0.8}
    text = card_of(record)
    assert "all real images less these with hard labels, 27.5; " in text
    assert "with the same labels, -5.0." in text
