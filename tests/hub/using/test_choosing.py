"""`dd_plugin.hub.using.choosing`: which network is meant, and by which protocol it is trained."""

import pytest

from dd_plugin import DistilledDataset
from tests.hub.networks import hf_resnet
from tests.hub.sets import head_set


def test_auto_is_the_recipe_for_its_own_network_and_ordinary_training_for_others(distilled):
    assert distilled.protocol_for("auto", None) == "recipe"
    assert distilled.protocol_for("auto", "timm/dd_convnet") == "recipe"
    assert distilled.protocol_for("auto", "timm/resnet18") == "standard"
    assert distilled.protocol_for("auto", hf_resnet) == "recipe"


def test_a_new_network_of_a_set_for_heads_is_refused_with_what_to_do(tmp_path):
    folder = head_set(tmp_path / "out")
    with pytest.raises(ValueError, match="use `backbone` for the frozen network"):
        DistilledDataset.from_pretrained(folder).new_network("timm/test_resnet")
