"""Fields of settings: defaults that are not shared, and marks."""

from dataclasses import dataclass

from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.setting_fields import option, option_by_data


@dataclass
class _Group:
    names: list = option(["auto"], "Names.")
    table: dict = option({"a": 1}, "A table.")
    steps: int = option_by_data(300, "Steps.")
    rate: float = option(0.1, "A rate.", repr=False)


def test_what_may_be_changed_belongs_to_each_value():
    first, second = _Group(), _Group()
    first.names.append("none")
    first.table["b"] = 2
    assert (second.names, second.table) == (["auto"], {"a": 1})


def test_what_follows_from_the_data_is_marked():
    assert is_left_alone(_Group().steps)
    assert not is_left_alone(_Group(steps=300).steps)
    assert not is_left_alone(_Group().rate)
    assert "rate" not in repr(_Group())
