"""An object of JSON becomes a value and comes back as it was."""

import json
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.record.json_part import (
    JsonPart,
    Key,
    Text,
    Whole,
    as_json,
    flag,
    number,
    numbers,
    part_of,
    required_text,
    shares,
    text,
    whole,
    whole_between,
    wholes,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@dataclass(frozen=True, kw_only=True)
class Inner(JsonPart):
    kind: Annotated[str | None, Key(text, name="class")] = None


@dataclass(frozen=True, kw_only=True)
class Outer(JsonPart):
    first: Text = None
    second: Annotated[int | None, Key(whole, left_out=True)] = None
    inner: Annotated[Inner, Key(part_of(Inner, nullable=True))]
    last: Whole = None


def test_fields_are_written_in_their_order_under_their_keys():
    outer = Outer(inner=Inner(kind="net"), last=3)
    assert json.dumps(outer.to_json()) == ('{"first": null, "inner": {"class": "net"}, "last": 3}')
    assert list(replace(outer, second=0).to_json()) == ["first", "second", "inner", "last"]


def test_what_was_read_is_written_as_it_was():
    values = {"new": [1], "last": "three", "inner": {"class": 5, "old": None}, "first": "a"}
    outer = Outer.from_json(values)
    assert (outer.first, outer.last, outer.inner.kind) == ("a", None, None)
    assert json.dumps(outer.to_json()) == json.dumps(values)
    assert not Outer.from_json({"inner": None}).is_empty
    assert outer.inner.to_json() == {"class": 5, "old": None}


def test_values_and_not_the_json_decide_whether_two_are_equal():
    assert Inner.from_json({"class": "a", "more": 1}) == Inner(kind="a")
    assert Inner.from_json({"class": 5}) == Inner.from_json({})
    assert Inner.from_json({}).is_empty


def test_a_part_is_not_changed():
    with pytest.raises(FrozenInstanceError):
        Inner().kind = "b"


@pytest.mark.parametrize("values", [None, [], "text", 5])
def test_a_part_is_an_object(values):
    with pytest.raises(DistilledFormatError, match=r"'about\.network' must be an object"):
        Inner.from_json(values, "about.network")


@pytest.mark.parametrize("value", [[], "x", 0, False])
def test_what_may_be_null_says_so(value):
    with pytest.raises(DistilledFormatError, match="'inner' must be an object or null"):
        Outer.from_json({"inner": value})
    assert part_of(Inner, nullable=True)(None, "inner").is_empty


@given(json_values)
def test_readers_of_what_can_be_done_without_take_anything(value):
    assert text(value, "") in (value, None)
    assert isinstance(whole(value, ""), int | None)
    assert not isinstance(whole(value, ""), bool)
    assert all(type(one) is int for one in wholes(value, ""))
    assert all(0 <= one <= 1 for one in shares(value, ""))
    assert isinstance(flag(value, ""), bool)
    converted = number(value)
    assert converted is None or abs(converted) < float("inf")


def test_numbers_are_finite():
    odd = [0.5, 1, True, None, "2", float("nan"), float("inf"), 10**400, -3]
    assert numbers(odd, "") == (0.5, 1.0, -3.0)
    assert shares(odd, "") == (0.5, 1.0)
    assert wholes([1, 2.0], "") == ()


@pytest.mark.parametrize("value", [0, 65, True, 2.0, "2", None])
def test_a_whole_number_that_has_to_be_right(value):
    read = whole_between(1, 64, "the images")
    with pytest.raises(DistilledFormatError, match="`factor` of the images must be a whole number"):
        read(value, "images.factor")
    assert read(64, "images.factor") == 64


def test_a_text_that_has_to_be_right():
    assert required_text(None, "source.dataset") is None
    with pytest.raises(DistilledFormatError, match=r"'source\.dataset' must be a text or null"):
        required_text(5, "source.dataset")


def test_tuples_and_mappings_become_those_of_json():
    assert as_json({"a": (Inner(kind="b"), 1)}) == {"a": [{"class": "b"}, 1]}
