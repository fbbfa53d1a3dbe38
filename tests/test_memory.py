"""`dd_plugin.memory`: blocks that were freed are taken again without asking the system."""

import gc
import os
import subprocess
import sys
import textwrap

import pytest

import dd_plugin.memory
from dd_plugin.memory import keep_freed_memory, uncollected

FAULTS = """
    import resource, sys
    import torch
    if {keep}:
        from dd_plugin import keep_freed_memory
        kept = keep_freed_memory()
        assert kept is {expected}, kept
    for turn in range(30):
        if turn == 10:  # an aligned block does not fit into one of its size, but into two
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 24)  # 64 MB, which glibc maps by itself
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ON_GLIBC = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")


def page_faults(*, keep, expected=True, **environment):
    code = textwrap.dedent(FAULTS.format(keep=keep, expected=expected))
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(not ON_GLIBC, reason="only glibc has mallopt")
def test_freed_blocks_are_taken_again():
    assert page_faults(keep=True) * 10 < page_faults(keep=False)


@pytest.mark.skipif(not ON_GLIBC, reason="only glibc has mallopt")
def test_what_the_user_has_set_stays():
    # 32 MB and more are mapped and unmapped each time, as the environment asks.
    tuned = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    assert page_faults(keep=True, expected=False, **tuned) > 500


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(dd_plugin.memory.ctypes, "CDLL", None)
    assert keep_freed_memory() is False


def test_another_c_library(monkeypatch):
    for name in ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(dd_plugin.memory.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


def test_collections_are_left_out_and_come_back():
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collections_come_back_after_an_error():
    def fail():
        with uncollected():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()


def test_what_was_off_stays_off():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
