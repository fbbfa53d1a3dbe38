"""`dd_plugin.hub.using.predicting`: probabilities of a network that was trained on the set."""

import copy

import pytest

from dd_plugin import DistilledDataset
from tests.distiller.toy import Small, toy_dataset
from tests.hub.networks import scaled
from tests.hub.sets import head_set


def test_a_network_that_was_not_fitted_predicts_nothing(tmp_path):
    network = Small()
    folder = head_set(tmp_path / "out", network)
    opened = DistilledDataset.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"`model` must be what `fit` gave, with 3 outputs .* 7"):
        opened.predict(network, toy_dataset()[0]["image"])


def test_a_fitted_network_is_known_again_when_it_was_copied_or_saved(tmp_path):
    network = scaled(0, 0.1, 0.9)
    folder = head_set(tmp_path / "out", network, image_size=32)
    opened = DistilledDataset.from_pretrained(folder)
    model = opened.fit(network)
    one = toy_dataset()[0]["image"]
    expected = opened.predict(model, one)
    again = DistilledDataset.from_pretrained(folder)
    assert again.predict(copy.deepcopy(model), one) == pytest.approx(expected)
