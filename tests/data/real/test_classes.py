"""Labels become indices, or an error with their row."""

import numpy as np
import pytest

from dd_plugin.data.real.classes import Classes
from dd_plugin.data.real.columns import DataError


def test_declared_names_are_kept():
    classes = Classes.make(declared=["cat", "dog"], values=[1, 0])
    assert classes.names == ["cat", "dog"]
    assert classes.encode([1, 0, 1]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "names", "indices"),
    [
        (["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
        ([7, 3, 10], ["3", "7", "10"], [1, 0, 2]),  # sorted as numbers, not as text
        ([True, False], ["False", "True"], [1, 0]),
    ],
)
def test_names_are_made_from_distinct_labels(values, names, indices):
    classes = Classes.make(values=values)
    assert classes.names == names
    assert classes.encode(values).tolist() == indices


def test_test_labels_are_matched_to_training_classes_by_name():
    # An image folder without "bird" numbers its classes from 0 all the same.
    classes = Classes.make(declared=["cat", "dog"], class_names=["bird", "cat", "dog"])
    assert classes.encode([0, 1]).tolist() == [1, 2]
    classes = Classes.make(class_names=["bird", "cat"], values=["cat"])
    assert classes.encode(["cat"]).tolist() == [1]
    # Numbers whose training names were made from them: label 7 is class "7", at place 1.
    classes = Classes.make(class_names=["3", "7", "10"], values=[7, 10])
    assert classes.encode([7, 10]).tolist() == [1, 2]


def test_a_number_among_names_that_are_numbers_is_never_a_place():
    # Trained on labels 0, 1, 2 and 4: place 3 is class "4", and label 3 is no class.
    train = Classes.make(values=[0, 1, 2, 4])
    test = Classes.make(class_names=train.names, values=[0, 1, 3])
    assert test.encode([0, 1, 4]).tolist() == [0, 1, 3]
    with pytest.raises(DataError, match="row 2 has the label 3, the 4 classes have 0, 1, 2, 4; le"):
        test.encode([0, 1, 3])
    # Of names among which there is no label, the places are all that can be meant.
    assert Classes.make(class_names=["3", "7"], values=[0, 1]).encode([0, 1]).tolist() == [0, 1]
    places = Classes.make(class_names=["1", "2"], values=[False, True])
    assert places.encode([False, True]).tolist() == [0, 1]
    # However they are written.
    words = Classes.make(class_names=["01", "02", "03"], values=[1, 3])
    assert words.encode([1, 3]).tolist() == [0, 2]


def test_classes_can_be_renamed_but_not_confused():
    classes = Classes.make(declared=["0", "1"], class_names=["zero", "one"])
    assert (classes.names, classes.encode([1]).tolist()) == (["zero", "one"], [1])
    classes = Classes.make(class_names=["zero", "one"], values=[0, 1])
    assert classes.encode([0, 1]).tolist() == [0, 1]
    with pytest.raises(DataError, match="not among the given ones: dog"):
        Classes.make(declared=["cat", "dog"], class_names=["cat", "cow"])


def test_renamed_classes_are_told(caplog):
    Classes.make(declared=["cat", "dog"], class_names=["feline", "canine"])
    assert "are taken by their order: 'cat' as 'feline', 'dog' as 'canine'" in caplog.text


def test_sets_of_classes_that_cannot_be():
    with pytest.raises(DataError, match=r"at least two classes, got 1 \(5\)"):
        Classes.make(values=[5, 5])
    with pytest.raises(DataError, match="got a more than once"):
        Classes.make(class_names=["a", "b", "a"], values=[0])
    with pytest.raises(DataError, match="pass `class_names`"):
        Classes.make()
    with pytest.raises(DataError, match="all numbers or all words"):
        Classes.make(values=[1, "a"])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"row 102 has no label \(None\)"),
        (-1, "row 102 has the label -1; negative labels mark rows without a class"),
        (2, "row 102 has the label 2, the 2 classes have 0 to 1"),
        ("a", "row 102 has the label 'a'"),
        ([0, 1], r"row 102 has the label \[0, 1\]; there must be one class per image"),
        (float("nan"), "row 102 has the label nan"),
        (0.5, "row 102 has the label 0.5"),
    ],
)
def test_bad_label_is_named_with_its_row(label, message):
    classes = Classes.make(declared=["a", "b"])
    with pytest.raises(DataError, match=message):
        classes.encode([0, 1, label], first_row=100)


def test_bad_labels_do_not_become_classes():
    classes = Classes.make(values=[0, 1, None, -1])
    assert classes.names == ["0", "1"]
    with pytest.raises(DataError, match="None"):
        classes.encode([0, None])
    with pytest.raises(DataError, match="row 0 has the label -1; negative labels"):
        Classes.make(values=[-1, -1])


def test_numbers_of_a_stream_are_those_of_the_table_before_it():
    # Labels 1 to 3 in a table without names are the classes "1", "2" and "3".
    table = Classes.make(values=[1, 2, 3, 1])
    assert table.encode([1, 3]).tolist() == [0, 2]
    stream = Classes.make(class_names=table.names)
    assert stream.encode([1, 2, 3]).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="has the label 0"):
        stream.encode([0])


# --- labels that are alone in a list ------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: [n],
        lambda n: (n,),
        lambda n: [[n]],
        lambda n: np.array([n]),
        lambda n: np.array(n),
        lambda n: np.array([[n]], dtype=np.uint8),
        lambda n: [np.int64(n)],
    ],
)
@pytest.mark.parametrize("declared", [None, ["a", "b", "c"]])
def test_a_label_may_be_alone_in_a_list(wrap, declared):
    values = [wrap(n) for n in (2, 0, 1, 2)]
    classes = Classes.make(declared=declared, values=values)
    assert classes.names == (declared or ["0", "1", "2"])
    assert classes.encode(values).tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize(
    "label",
    [[], [0, 1], np.array([0, 1]), np.zeros((1, 2)), [[0, 0, 1]], [[0], [1, 2]], np.zeros(0)],
)
def test_several_labels_or_none_are_no_class(label):
    with pytest.raises(DataError, match="there must be one class per image"):
        Classes.make(declared=["a", "b"]).encode([label])


# --- names without rows -------------------------------------------------------------------------


def test_names_without_rows_may_be_left_out():
    declared = ["ant", "bee", "cow", "dog"]
    classes = Classes.make(declared=declared, class_names=["dog", "bee"], values=[1, 3, 1])
    assert (classes.names, classes.encode([1, 3]).tolist()) == (["dog", "bee"], [1, 0])
    for values in ([1, 2], None):
        with pytest.raises(DataError, match=r"not among the given ones: .*cow.*dataset.filter"):
            Classes.make(declared=declared, class_names=["dog", "bee"], values=values)
