"""A push of the folder of a test, as Ada."""

import pytest

from tests.hub import calls
from tests.hub.remote.pushing import ADA


@pytest.fixture
def push(client, folder):
    """Pushes the folder as Ada, who may write to ada/ and lab/."""

    def run(repo="ada/one", **options):
        return client(calls.push, str(folder), repo, **{**ADA, **options})

    return run
