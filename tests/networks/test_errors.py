"""Complaints about backbones: caught as the errors of a wrong value, and as ordinary warnings."""

import pytest
from torch import nn

from dd_plugin.networks import BackboneError, BackboneWarning, load_backbone
from tests.networks.models import ConvolutionalHead


def test_a_model_that_cannot_serve_is_a_wrong_value():
    with pytest.raises(ValueError, match="must have parameters") as caught:
        load_backbone(nn.Flatten())
    assert type(caught.value) is BackboneError


def test_an_assumption_is_a_warning_of_the_user_s():
    with pytest.warns(UserWarning, match="are assumed") as told:
        load_backbone(ConvolutionalHead())
    assert [one.category for one in told] == [BackboneWarning]
