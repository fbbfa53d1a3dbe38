"""The settings of computing and of the Hub: none of them follows from the data."""

from dataclasses import fields

import pytest

from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.computing_groups import ComputingSettings, HubSettings
from dd_plugin.distiller.settings import GROUPS


@pytest.mark.parametrize("group", [ComputingSettings, HubSettings])
def test_they_are_groups_whose_defaults_are_plain(group):
    assert group in GROUPS.values()
    values = group()
    assert not any(is_left_alone(getattr(values, field.name)) for field in fields(group))


def test_a_token_is_not_shown():
    assert "secret" not in repr(HubSettings(hub_token="secret"))
