"""`dd_plugin.distiller.moving_bar`: a bar over networks or steps, which moves by itself."""

import re
import threading
import time

import pytest

from dd_plugin.distiller.moving_bar import MovingBar
from tests.distiller.toy import toy_distiller
from tests.evaluation.short import shorten

WORDS = "evaluate: {done} of {all} networks"


def test_the_bar_counts_networks_and_shows_their_share_of_the_work(capsys):
    with MovingBar([30, 10], WORDS, shown=True) as bar:
        bar.add()
        bar.add()
    states = re.findall(r"(\d) of 2 networks: +(\d+)%", capsys.readouterr().err)
    assert states[0] == ("0", "0")
    assert set(states) <= {("0", "0"), ("1", "75"), ("2", "100")}


def test_the_time_goes_on_while_a_network_is_trained(capsys):
    with MovingBar([1], WORDS, shown=True, tick=0.01) as bar:
        written = len(capsys.readouterr().err)
        for _ in range(500):
            time.sleep(0.01)
            written += len(text := capsys.readouterr().err)
            if "0 of 1 networks" in text:
                break
        else:
            pytest.fail("the bar stood still")
        bar.add()


def test_a_bar_ends_with_its_thread_also_after_an_error():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), MovingBar([1], WORDS, shown=True, tick=60) as bar:
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert bar is not None


def test_without_a_bar_nothing_is_written(capsys):
    with MovingBar([1, 2], WORDS, shown=False) as bar:
        bar.add()
    with MovingBar([], WORDS, shown=True):
        pass
    assert capsys.readouterr().err == ""


def test_evaluations_have_the_bar_unless_bars_are_off(tmp_path, capsys, monkeypatch):
    shorten(monkeypatch, 3)
    for off in (True, False):
        distiller = toy_distiller(tmp_path / str(off), baselines=True, disable_tqdm=off)
        distiller.compare()
        # Two networks on the distilled images, and then two on each kind of real ones.
        text = capsys.readouterr().err
        assert ("of 2 networks" in text) is ("of 4 networks" in text) is not off
