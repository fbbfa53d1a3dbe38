"""The whole way: save, push, load elsewhere, train, and the same accuracy comes out."""

import json

import pytest

from tests.distiller.toy import Small, toy_dataset
from tests.hub import calls
from tests.hub.client import Client, ClientError
from tests.hub.sets import head_set, toy_set

ADA = {"token": "ada-token"}


def evaluated(name, **options):
    """In the client's process: accuracies of a set from the Hub, and what it is."""
    from dd_plugin import DistilledDataset

    distilled = DistilledDataset.from_pretrained(name, **options)
    scores = distilled.evaluate(dataset=toy_dataset(30, 1), networks=2)
    return list(scores.accuracies), repr(distilled), str(distilled.folder)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return toy_set(tmp_path_factory.mktemp("run") / "toy")


@pytest.fixture(scope="module")
def elsewhere(running_hub, tmp_path_factory):
    """Another client, with a cache that knows nothing of what the first one pushed."""
    with Client(running_hub.url, tmp_path_factory.mktemp("elsewhere")) as client:
        yield client


def promised(folder):
    return json.loads((folder / "recipe.json").read_text())["results"]["distilled"]["accuracies"]


def test_the_accuracy_of_the_card_comes_out_elsewhere(hub, client, elsewhere, distilled):
    client(calls.push, str(distilled), "ada/toy", **ADA)
    found, text, where = elsewhere(evaluated, "ada/toy")
    assert found == promised(distilled)
    assert len(set(found)) > 1 or found[0] > 0.5
    assert text.startswith("DistilledDataset(3 images of 1x8x8, 3 classes, 12 steps")
    # And without asking anybody, from the cache, by the name and by the folder.
    hub.requests.clear()
    assert elsewhere(evaluated, "ada/toy", local_files_only=True)[0] == found
    assert elsewhere(evaluated, where)[0] == found
    assert not hub.requests
    # Anybody else sees a data set like any other, whole or as a stream.
    rows = elsewhere(calls.load, "ada/toy")
    assert rows["labels"] == [0, 1, 2]
    assert rows["names"] == ["left", "right", "middle"]
    assert elsewhere(calls.load, "ada/toy", streaming=True) == rows


def test_a_private_set_is_for_its_owner(hub, client, elsewhere, distilled):
    client(calls.push, str(distilled), "ada/secret", private=True, **ADA)
    with pytest.raises(ClientError, match="or it is private and the token may not read it"):
        elsewhere(evaluated, "ada/secret", token=False)
    assert elsewhere(evaluated, "ada/secret", **ADA)[0] == promised(distilled)


def test_what_cannot_be_had_is_told(hub, client, elsewhere, distilled):
    with pytest.raises(ClientError, match="no such data set on the Hub"):
        elsewhere(evaluated, "ada/none", token=False)
    with pytest.raises(ClientError, match="no id of a data set on the Hub"):
        elsewhere(evaluated, "./no/such/folder")
    client(calls.commit_new, "ada/other", {"a.txt": "a"}, **ADA)
    with pytest.raises(ClientError, match="was not written by dd_plugin"):
        elsewhere(evaluated, "ada/other", token=False)
    client(calls.push, str(distilled), "ada/toy", **ADA)
    with pytest.raises(ClientError, match="has no revision 'none'"):
        elsewhere(evaluated, "ada/toy", revision="none", token=False)
    with pytest.raises(ClientError, match="over the limit of 10"):
        elsewhere(evaluated, "ada/toy", max_bytes=10, token=False)


def test_a_branch_and_its_owner_s_words(hub, client, elsewhere, distilled):
    client(calls.push, str(distilled), "ada/toy", **ADA)
    client(calls.push, str(distilled), "ada/toy", revision="trial", **ADA)
    assert elsewhere(evaluated, "ada/toy", revision="trial", token=False)[0] == promised(distilled)


def test_the_trainer_publishes_its_set_and_asks_first(hub, client, elsewhere, tmp_path):
    options = {"push_to_hub": True, "hub_dataset_id": "ada/run", "hub_token": "ada-token"}
    url = client(calls.distil_and_push, str(tmp_path / "run"), **options)
    head = hub.repos["ada/run"].at("main")
    assert url.endswith(head.oid)
    assert not any("checkpoint" in name for name in head.files)
    assert {"README.md", "recipe.json", "tensors.safetensors"} <= set(head.files)
    # A folder that cannot be published to is told before any work.
    with pytest.raises(ClientError, match=r"may not write|not a member"):
        client(
            calls.distil_and_push,
            str(tmp_path / "other"),
            **{**options, "hub_dataset_id": "bob/run"},
        )
    assert not (tmp_path / "other" / "recipe.json").exists()


def evaluated_with_a_head(name):
    """In the client's process: the accuracy of a head that a set from the Hub trains."""
    from dd_plugin import DistilledDataset

    distilled = DistilledDataset.from_pretrained(name)
    network = Small(8)
    scores = distilled.evaluate(network, toy_dataset(seed=1))
    return list(scores.accuracies), type(distilled.fit(network)).__name__


def test_a_set_for_the_head_of_a_frozen_network_makes_the_same_way(
    hub, client, elsewhere, tmp_path
):
    folder = head_set(tmp_path / "out", Small(8), measured=True)
    client(calls.push, str(folder), "ada/head", **ADA)
    assert elsewhere(evaluated_with_a_head, "ada/head") == (promised(folder), "Small")
