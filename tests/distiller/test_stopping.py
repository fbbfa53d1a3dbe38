"""Ends that come from outside: a signal ends the run after its step, or at once."""

import os
import signal

import pytest

from dd_plugin.distiller.stopping import StopSignal
from tests.distiller.toy import head_distiller


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_acts_as_usual(number):
    usual = []

    def act(*_):
        usual.append(number)

    before = signal.signal(number, act)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
            assert (stop.name, usual) == (number.name, [])
            os.kill(os.getpid(), number)
            assert usual == [number]
        assert signal.getsignal(number) is act
        with stop:
            assert stop.name is None
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_features_are_computed_leaves_nothing_half_written(
    request, tmp_path, monkeypatch, number
):
    if number == signal.SIGINT:
        # A shell that runs the tests in the background has it ignored.
        ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
        request.addfinalizer(lambda: signal.signal(signal.SIGINT, ignored))
    run = head_distiller(tmp_path, backbone_batch_size=4)
    backbone, calls = run.head.backbones[0], []

    def interrupted(images):
        calls.append(len(images))
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return type(backbone).forward(backbone, images)

    monkeypatch.setattr(backbone, "forward", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
        run.train()
    assert number == signal.SIGINT or caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert list((run.output_dir / "features").iterdir()) == []
    # And the folder is free for the next run.
    again = head_distiller(tmp_path)
    again.train()
    assert again.state.global_step == 4
