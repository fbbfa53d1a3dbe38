"""The loopback Hub, asked by the ordinary clients: what it holds is read as from the real one."""

import pytest

from dd_plugin.hub.folder import to_bytes
from tests.hub import calls
from tests.hub.client import Client, ClientError
from tests.hub.loopback import Fault
from tests.hub.sets import set_folder, synthetic_set

ADA = {"token": "ada-token"}
PARQUET = "data/train-00000-of-00001.parquet"


@pytest.fixture
def published(hub, client, folder, request):
    """A set in a repository that no other test has, so that nothing of it is in a cache."""
    repo = "lab/" + request.node.name.removeprefix("test_")[:30].rstrip("_")
    client(calls.push, str(folder), repo, **ADA)
    hub.requests.clear()
    return repo


@pytest.fixture(scope="module")
def fresh(running_hub, tmp_path_factory):
    """Another client than the one that pushes."""
    with Client(running_hub.url, tmp_path_factory.mktemp("home")) as client:
        yield client


def kind_of(error):
    assert isinstance(error, ClientError)
    return error.kind


def expected(count=6, seed=0):
    own = synthetic_set(count, seed)
    return {
        "names": ["left", "right", "middle"],
        "labels": own.labels.tolist(),
        "images": to_bytes(own.images())[:, 0].tolist(),
    }


def test_load_dataset_finds_the_split_and_reads_the_pixels(hub, published, fresh):
    assert fresh(calls.load, published) == expected()
    # And again out of the cache.
    assert fresh(calls.load, published) == expected()
    assert len(hub.asked(f"GET .*resolve/.*/{PARQUET}")) == 1


def test_a_stream_reads_the_same_by_ranges(hub, published, fresh):
    assert fresh(calls.load, published, streaming=True) == expected()
    assert hub.asked(f"GET .*resolve/.*/{PARQUET}")


def test_a_branch_is_loaded_by_its_name(hub, published, fresh, tmp_path):
    other = set_folder(tmp_path / "other", count=9, seed=1)
    fresh(calls.push, str(other), published, revision="wip/second", **ADA)
    assert fresh(calls.load, published, revision="wip/second") == expected(9, 1)
    assert fresh(calls.load, published) == expected()


def test_a_private_data_set_is_loaded_with_a_token_only(hub, published, client):
    hub.repos[published].private = True
    for token in (False, "bob-token"):
        with pytest.raises(ClientError) as caught:
            client(calls.load, published, token=token)
        assert kind_of(caught.value) == "DatasetNotFoundError"
    assert client(calls.load, published, **ADA) == expected()


def test_a_gated_data_set_is_seen_by_all_and_read_by_few(hub, published, client):
    hub.repos[published].gated = True
    for token in (False, "bob-token"):
        with pytest.raises(ClientError) as caught:
            client(calls.download, published, "recipe.json", token=token)
        assert kind_of(caught.value) == "GatedRepoError"
    assert client(calls.download, published, "recipe.json", **ADA)


def test_a_push_to_a_gated_repository(hub, published, client, folder):
    hub.repos[published].gated = True
    set_folder(folder, seed=1)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nnew\n")
    client(calls.push_with_merged_card, str(folder), published, **ADA)
    assert hub.content(published, PARQUET) == (folder / PARQUET).read_bytes()


def test_a_snapshot_is_the_folder(hub, published, fresh, folder, tmp_path):
    fresh(calls.download_all, published, str(tmp_path / "copy"))
    names = ["README.md", PARQUET, "preview.png", "recipe.json", "tensors.safetensors"]
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_a_damaged_download_is_not_noticed_by_the_client(hub, published, fresh, folder):
    """Why whoever reads a set has to look for himself."""
    hub.faults.append(Fault("GET .*tensors.safetensors", "corrupt"))
    content = fresh(calls.download, published, "tensors.safetensors")
    good = (folder / "tensors.safetensors").read_bytes()
    assert len(content) == len(good)
    assert content != good


def test_what_is_missing_is_named(hub, published, client):
    for arguments, options, kind in (
        (("lab/none", "recipe.json"), {}, "RepositoryNotFoundError"),
        ((published, "none.json"), {}, "RemoteEntryNotFoundError"),
        ((published, "recipe.json"), {"revision": "none"}, "RevisionNotFoundError"),
    ):
        with pytest.raises(ClientError) as caught:
            client(calls.download, *arguments, **options)
        assert kind_of(caught.value) == kind
