"""A Hub for all tests, emptied for each, a client's process that knows it, and small sets."""

import pytest

from dd_plugin import DistilledDataset
from tests.hub.client import Client
from tests.hub.loopback import Hub
from tests.hub.sets import ACCOUNTS, set_folder, toy_set


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory):
    with Hub(tmp_path_factory.mktemp("hub"), ACCOUNTS) as hub:
        yield hub


@pytest.fixture
def hub(running_hub):
    """Empty: no repositories, no faults, no record."""
    running_hub.repos.clear()
    running_hub.faults.clear()
    running_hub.requests.clear()
    for path in running_hub.folder.iterdir():
        path.unlink()
    return running_hub


@pytest.fixture(scope="session")
def client(running_hub, tmp_path_factory):
    with Client(running_hub.url, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    return set_folder(tmp_path / "set")


@pytest.fixture(scope="session")
def distilled(tmp_path_factory):
    """A set that networks learn the toy classes on; no test changes it."""
    return DistilledDataset.from_pretrained(toy_set(tmp_path_factory.mktemp("set")))
