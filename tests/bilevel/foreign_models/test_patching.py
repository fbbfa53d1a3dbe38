"""Names that a context replaces come back, after errors and whichever context leaves first."""

import threading

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint

from dd_plugin.bilevel.foreign_models.formulas import REPLACEMENTS
from dd_plugin.bilevel.foreign_models.second_order import second_order


def _names():
    return [vars(home)[name] for home, name, _ in REPLACEMENTS] + [
        torch.utils.checkpoint.checkpoint,
        torch.backends.mha.get_fastpath_enabled(),
    ]


def test_names_come_back_also_after_an_error():
    before = _names()

    def fail():
        with second_order(), second_order():
            assert _names() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _names() == before


def test_overlapping_contexts_of_two_threads():
    before = _names()
    entered, leave = threading.Event(), threading.Event()

    def other():
        with second_order():
            entered.set()
            leave.wait(timeout=30)

    thread = threading.Thread(target=other)
    with second_order():
        thread.start()
        assert entered.wait(timeout=30)
    # This context was entered first and has left first; the other one still holds the names.
    assert F.hardsigmoid is not before[0]
    leave.set()
    thread.join()
    assert _names() == before
