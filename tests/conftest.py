"""What holds for every test: no network, one thread per worker, the same seeds.

The environment is set before anything imports torch or huggingface_hub, since both read it then;
processes that a test starts inherit it.
"""

import gc
import os
import random
import socket

_ENVIRONMENT = {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
# Each worker is one of several on the machine's cores, and the processes that tests start have one
# thread too: with several, the last bits are others.
os.environ["OMP_NUM_THREADS"] = "1"

# The imports to come make millions of objects that stay, and looking through them takes seconds.
gc.disable()

import hypothesis
import numpy as np
import pytest
import torch

# A slow machine is no fault of the package; hypothesis allows an example 200 ms by default.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

torch.set_num_threads(1)


def pytest_collection_finish():
    """What the imports have made is not looked through again."""
    gc.enable()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker has a half of the tests, in their order; one that is done takes from the other.

    Most fixtures of modules are then made once.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(autouse=True)
def _seeds():
    """Every test draws the same numbers whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the global state
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A connection to another machine fails the test that makes it; loopback is allowed."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host not in ("localhost", "::1") and not host.startswith("127."):
                raise OSError(f"tests make no network connections, got one to {host!r}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
