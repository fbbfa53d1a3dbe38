"""Getting a set where the network fails: from the cache if it is there, or with our error."""

import json

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from dd_plugin.hub.download import DownloadError, download_set, licenses_of
from tests.distiller.toy import toy_distiller
from tests.hub import calls
from tests.hub.client import Client, ClientError
from tests.hub.loopback import Fault

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


@pytest.mark.parametrize("failing", KINDS, indirect=True)
def test_a_set_is_saved_without_the_licence_that_nobody_tells(tmp_path, failing):
    distiller = toy_distiller(tmp_path, max_steps=1)
    distiller.train()
    distiller.train_data.public_name = "toy"  # as if its images were on the Hub
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert (record["source"]["hub_id"], record["source"]["licenses"]) == ("toy", [])


@pytest.mark.parametrize("failing", [*KINDS, "JSONDecodeError"], indirect=True)
def test_a_set_that_cannot_be_asked_for_is_looked_up_in_the_cache(tmp_path, failing):
    with pytest.raises(DownloadError, match="could not be fetched and is not in the cache"):
        download_set("ada/one", cache_dir=tmp_path, max_bytes=1 << 20)


def download(repo):
    from dd_plugin.hub.download import download_set

    return str(download_set(repo, token=False, max_bytes=1 << 20))


def test_a_hub_that_hangs_up_costs_nothing_that_was_fetched_before(hub, client, folder, tmp_path):
    client(calls.push, str(folder), "ada/one", **ADA)
    with Client(hub.url, tmp_path / "home") as fresh:
        first = fresh(download, "ada/one")
        hub.faults.append(Fault("", "drop", times=999))
        assert fresh(download, "ada/one") == first


def test_a_hub_that_hangs_up_in_the_middle_is_told(hub, client, folder, tmp_path):
    client(calls.push, str(folder), "ada/one", **ADA)
    hub.faults.append(Fault("resolve/.*tensors", "drop", times=999))
    with (
        Client(hub.url, tmp_path / "home") as fresh,
        pytest.raises(ClientError, match="could not be fetched") as caught,
    ):
        fresh(download, "ada/one")
    assert caught.value.kind == "DownloadError"
