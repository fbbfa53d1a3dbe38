"""Getting a set where the network fails: from the cache if it is there, or with our error."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from dd_plugin.hub.remote.download import DownloadError, download_set, licenses_of
from dd_plugin.hub.remote.failures import WAITS
from tests.hub import calls
from tests.hub.client import ClientError
from tests.hub.loopback import Fault
from tests.hub.sets import set_folder, synthetic_set

ADA = {"token": "ada-token"}
# As in the client's library for HTTP, whatever its name is: none of them is an OSError.
BASE = HfHubHTTPError.__bases__[0]
KINDS = ("ConnectError", "ReadTimeout", "RemoteProtocolError")


def of_kind(name):
    found = list(BASE.__subclasses__())
    for kind in found:
        found += kind.__subclasses__()
    (kind,) = {kind for kind in found if kind.__name__ == name}
    return kind


@pytest.fixture(params=[*KINDS, "RuntimeError", "KeyError", "JSONDecodeError"])
def failing(request, monkeypatch):
    """The client's first question fails."""

    def fails(*args, **options):
        if request.param in KINDS:
            raise of_kind(request.param)("nobody answers")
        if request.param == "JSONDecodeError":
            json.loads("<html>log in first</html>")
        raise {"RuntimeError": RuntimeError, "KeyError": KeyError}[request.param]("id")

    monkeypatch.setattr(HfApi, "dataset_info", fails)
    return request.param


def test_a_licence_that_cannot_be_asked_for_is_none(failing):
    assert licenses_of("ada/real") == []


@pytest.mark.parametrize(
    ("stated", "found"),
    [("mit", ["mit"]), (["mit", "cc0-1.0"], ["mit", "cc0-1.0"]), (None, []), (5, []), ([5], [])],
)
def test_licences_are_texts(monkeypatch, stated, found):
    class Info:
        card_data = {"license": stated}  # noqa: RUF012

    monkeypatch.setattr(HfApi, "dataset_info", lambda *args, **options: Info)
    assert licenses_of("ada/real") == found


@pytest.mark.parametrize("failing", [*KINDS, "JSONDecodeError"], indirect=True)
def test_a_set_that_cannot_be_asked_for_is_looked_up_in_the_cache(tmp_path, failing):
    with pytest.raises(DownloadError, match="could not be fetched and is not in the cache"):
        download_set("ada/one", cache_dir=tmp_path, max_bytes=1 << 20, sleep=lambda _: None)


def download(repo, **options):
    """The folder of a set, the warnings, and how long was waited for it."""
    import warnings

    from dd_plugin.hub.remote.download import download_set

    waits = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"token": False, "max_bytes": 1 << 20, **options}
        folder = download_set(repo, sleep=waits.append, **options)
    said = [str(w.message) for w in caught if w.category.__name__ == "StaleSetWarning"]
    return str(folder), said, waits


def read(repo, **options):
    """The images of a set."""
    from dd_plugin import DistilledDataset

    return DistilledDataset.from_pretrained(repo, token=False, **options).images.tolist()


@pytest.fixture
def published(hub, client, folder):
    client(calls.push, str(folder), "ada/one", **ADA)
    hub.requests.clear()
    return "ada/one"


@pytest.fixture
def fresh(client, tmp_path):
    """A client that has nothing in its cache."""

    def call(function, *arguments, **options):
        return client(function, *arguments, cache_dir=str(tmp_path / "cache"), **options)

    return call


def newer(hub, client, folder):
    set_folder(folder, seed=1)
    client(calls.push, str(folder), "ada/one", **ADA)
    return hub.repos["ada/one"].at("main").oid


def test_a_hub_that_hangs_up_costs_nothing_that_was_fetched_before(hub, published, fresh):
    first, said, _ = fresh(download, published)
    assert said == []
    hub.faults.append(Fault("", "drop", times=999))
    again, said, waits = fresh(download, published)
    assert again == first
    assert waits == list(WAITS)
    commit = hub.repos[published].at("main").oid
    assert len(said) == 1
    assert f"the data set 'ada/one' comes from the cache, as of commit {commit[:12]}" in said[0]


def test_a_set_that_may_be_stale_is_announced_and_one_that_cannot_be_is_not(
    hub, client, published, fresh, folder
):
    first, _, _ = fresh(download, published)
    old = hub.repos[published].at("main").oid
    fresh(download, published, revision=old)
    newest = newer(hub, client, folder)
    # The client itself would take the cache's without a word after a single failure.
    hub.faults.append(Fault("GET /api/datasets", 500, times=2))
    second, said, waits = fresh(download, published)
    assert (second.endswith(newest), said, len(waits)) == (True, [], 2)
    hub.faults = [Fault("", 503, times=999)]
    third, said, _ = fresh(download, published)
    assert third == second
    assert "the Hub does not answer (it answered 503 (made to fail))" in said[0]
    fourth, said, _ = fresh(download, published, revision=old)
    assert (fourth, said) == (first, [])
    # Whoever asks for the cache is not told either.
    assert fresh(download, published, local_files_only=True) == (second, [], [])


FAULTS = [500, 502, 503, 504, 429, 408, "drop"]
PLACES = [
    "GET /api/datasets/ada/one",
    "/tree/",
    "paths-info",
    "HEAD .*tensors",
    "GET .*resolve/.*tensors",
    "GET .*resolve/.*recipe",
]


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("where", PLACES)
def test_reading_is_as_patient_as_pushing(hub, published, fresh, where, what):
    hub.faults.append(Fault(where, what, times=2))
    folder, said, _ = fresh(download, published)
    if where != "/tree/":  # not every client asks for that
        assert hub.faults[0].times == 0
    assert folder.endswith(hub.repos[published].at("main").oid)
    assert said == []


@pytest.mark.parametrize("what", [503, "drop", "empty"])
def test_it_gives_up_in_the_end(hub, published, fresh, what):
    hub.faults.append(Fault("GET /api/datasets", what, times=999))
    with pytest.raises(ClientError, match="could not be fetched and is not in the cache") as caught:
        fresh(download, published)
    assert caught.value.kind == "DownloadError"


@pytest.mark.parametrize("where", ["GET /api/datasets/ada/one", "paths-info"])
def test_an_answer_with_nothing_in_it_is_asked_for_again(hub, published, fresh, where):
    hub.faults.append(Fault(where, "empty"))
    assert fresh(download, published)[0].endswith(hub.repos[published].at("main").oid)


def test_a_hub_that_hangs_up_in_the_middle_is_told(hub, published, fresh):
    hub.faults.append(Fault("resolve/.*tensors", "drop", times=999))
    with pytest.raises(ClientError, match="could not be fetched") as caught:
        fresh(download, published)
    assert caught.value.kind == "DownloadError"


# --- damage -------------------------------------------------------------------------------------

FILES = ["recipe.json", "tensors.safetensors", "data/train-00000-of-00001.parquet", "README.md"]


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_the_cache_is_fetched_once_more(hub, published, fresh, name, place):
    first = fresh(read, published)
    folder = Path(fresh(download, published)[0])
    good = (folder / name).read_bytes()
    flip((folder / name).resolve(), place)
    hub.requests.clear()
    assert fresh(read, published) == first
    assert (folder / name).read_bytes() == good
    assert [r for r in hub.asked("GET .*resolve") if name not in r] == []
    # And for good.
    hub.requests.clear()
    fresh(read, published)
    assert hub.asked("GET .*resolve") == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_damaged_on_its_way_is_fetched_once_more(hub, published, fresh, name):
    hub.faults.append(Fault(f"GET .*resolve/.*{name}", "corrupt"))
    assert fresh(read, published) == synthetic_set().images().tolist()
    assert len(hub.asked(f"GET .*resolve/.*{name}")) == 2


def test_a_file_that_is_damaged_each_time_is_told_of_and_does_not_stay(hub, published, fresh):
    hub.faults.append(Fault("GET .*resolve/.*tensors", "corrupt", times=2))
    with pytest.raises(ClientError, match=r"tensors.safetensors of .* arrived damaged twice"):
        fresh(read, published)
    assert fresh(read, published) == synthetic_set().images().tolist()


def test_without_the_hub_a_damaged_file_is_refused(hub, published, fresh):
    folder = Path(fresh(download, published)[0])
    flip((folder / "tensors.safetensors").resolve(), -1)
    for options in ({"local_files_only": True}, {}):
        hub.faults = [Fault("", "drop", times=999)]
        with pytest.raises(ClientError, match="its checksum differs") as caught:
            fresh(read, published, **options)
        assert caught.value.kind == "DistilledFormatError"


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [False, "bob-token"])
def test_a_gated_set_says_so(hub, published, fresh, token):
    hub.repos[published].gated = True
    with pytest.raises(ClientError) as caught:
        fresh(download, published, token=token)
    assert caught.value.kind == "DownloadError"
    said = caught.value.message
    assert f"'ada/one' is gated: ask for access at {hub.url}/datasets/ada/one, and log in" in said
    assert "Access to ada/one is restricted" in said
    assert fresh(download, published, token="ada-token")


@pytest.mark.parametrize(
    ("repo", "options", "message"),
    [
        ("ada/none", {"token": "bob-token"}, "no such data set on the Hub, or it is private"),
        ("ada/one", {"revision": "none"}, "has no revision 'none'"),
        ("ada/one", {"token": "wrong"}, "Hub does not accept the token|token may not read it"),
        ("no/such/name", {}, "no id of a data set on the Hub"),
        ("x" * 3000, {}, "no id of a data set on the Hub"),
        ("ada/one", {"max_bytes": 100}, "raise `max_bytes`"),
    ],
    ids=["name", "revision", "token", "parts", "long", "large"],
)
def test_what_the_hub_does_not_have(published, fresh, repo, options, message):
    with pytest.raises(ClientError, match=message) as caught:
        fresh(download, repo, **options)
    assert caught.value.kind == "DownloadError"
    assert len(caught.value.message) < 600


SIGNED = "https://store.example/x?X-Amz-Signature=0123abc&Expires=9"


def test_messages_have_no_signed_addresses(hub, published, fresh, monkeypatch, tmp_path):
    # As a redirect to the store would have it.
    hub.faults.append(Fault(r"resolve/.*tensors", 400, 99, {"X-Error-Message": f"no {SIGNED}"}))
    with pytest.raises(ClientError) as caught:
        fresh(download, published)
    assert "https://store.example/x" in caught.value.message
    assert "0123abc" not in caught.value.message

    def fails(*args, **options):
        raise OSError(28, f"no room for {SIGNED}")

    monkeypatch.setattr(HfApi, "dataset_info", fails)
    with pytest.raises(DownloadError) as told:
        download_set("ada/one", cache_dir=tmp_path, max_bytes=1, sleep=lambda _: None)
    assert "0123abc" not in str(told.value)
