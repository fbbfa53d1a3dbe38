"""Fixtures of the tests of real data."""

import pytest

from dd_plugin.data.real.dataset import RealData
from tests.data.tables import images, table


@pytest.fixture(params=["memory", "on demand"])
def real(request):
    return RealData.from_dataset(
        table(images()), max_bytes=2 << 30 if request.param == "memory" else 100
    )
