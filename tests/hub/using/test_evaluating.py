"""`dd_plugin.hub.using.evaluating`: the seeds of networks, and heads as a probe."""

import pytest
from torch import nn

from tests.distiller.toy import Small, toy_dataset
from tests.hub.sets import head_set
from tests.hub.toy import with_record


def test_more_networks_than_the_author_had(distilled):
    noted = distilled.record["results"]["distilled"]["seeds"]
    assert distilled.seeds(1) == noted[:1]
    more = distilled.seeds(4)
    assert more[:2] == noted
    assert len(set(more)) == 4
    assert len(set(more) & set(distilled.seeds(4, seed=9))) == 0


def test_a_loss_of_the_authors_is_not_needed_for_a_probe(tmp_path):
    network = Small()
    folder = head_set(tmp_path / "out", network, head="unroll", steps=3)
    opened = with_record(folder, lambda record: record["recipe"].update(loss="custom"))
    with pytest.raises(ValueError, match='or use protocol="standard"'):
        opened.evaluate(network, toy_dataset(seed=1))
    scores = opened.evaluate(network, toy_dataset(seed=1), protocol="standard")
    model = opened.fit(network, protocol="standard")
    assert isinstance(model, nn.Module)
    assert scores.mean > 0.3
