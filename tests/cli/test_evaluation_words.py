"""`dd_plugin.cli.evaluation_words`: rows in percent, differences with their spread or not."""

from dd_plugin.cli.evaluation_words import eight_bit_differences, row_line
from dd_plugin.hub.record import Evaluation


def row(accuracies, **values):
    values = {"model": "a", "trained_on": "distilled images", "pixels": "exact", **values}
    return Evaluation(accuracies=tuple(accuracies), **values)


def test_the_line_on_a_row_says_which_one_it_is():
    assert row_line(row([0.5, 0.7])) == "a, distilled images: 60.0 ± 14.1 % (2 networks)"
    line = row_line(row([0.5], pixels="png"))
    assert line == "a, distilled images, 8-bit: 50.0 % (1 network)"
    real = row([0.5], pixels=None, trained_on="all real images")
    assert row_line(real) == "a, all real images: 50.0 % (1 network)"


def test_a_difference_is_of_pairs_of_networks():
    rows = [row([0.5, 0.7]), row([0.49, 0.67], pixels="png"), row([0.1, 0.2], pixels=None)]
    other = [row([0.6, 0.6], model="b"), row([0.6, 0.61], model="b", pixels="png")]
    assert eight_bit_differences("SET", [*rows, *other]) == [
        "SET, a: 8-bit PNG images against exact ones: -2.0 ± 1.4 points of accuracy "
        "(2 pairs of networks)",
        "SET, b: 8-bit PNG images against exact ones: +0.5 ± 0.7 points of accuracy "
        "(2 pairs of networks)",
    ]


def test_one_network_makes_no_difference():
    assert eight_bit_differences("SET", [row([0.5]), row([0.725], pixels="png")]) == []


def test_the_same_images_with_other_labels_are_no_partner():
    rows = [row([0.5, 0.7]), row([0.4, 0.6], trained_on="distilled images, hard labels")]
    rows.append(row([0.49, 0.67], pixels="png"))
    (line,) = eight_bit_differences("SET", rows)
    assert "-2.0 ± 1.4 points" in line
