"""Without a network models are told at once; slow connections are left to the Hub's client."""

import socket
import threading

import pytest
import transformers
from huggingface_hub import constants

from dd_plugin import hub_access
from dd_plugin.data import Normalization
from dd_plugin.models import ModelLoadError, load_model, load_vision_model
from dd_plugin.networks import load_backbone
from tests.networks.models import classifier_model, save


@pytest.fixture
def waits(monkeypatch):
    """The Hub is to be asked, and nothing listens at its address; seconds that were waited."""
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(hub_access, "_reached", set())
    monkeypatch.setattr(hub_access, "_missed", {})
    return seconds


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The client's cache, with two revisions of a model."""
    folder = tmp_path / "hub" / "models--me--tiny"
    for revision, commit, mean in (("main", "a" * 40, 0.25), ("old", "b" * 40, 0.75)):
        save(classifier_model("vit"), folder / "snapshots" / commit, mean=[mean] * 3)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.fixture
def server():
    """A socket that listens at an address of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    "load",
    [
        lambda: load_model("someone/something"),
        lambda: load_model("someone/something", pretrained=True),
        lambda: load_vision_model("someone/something", revision="v1"),
        lambda: load_backbone("someone/something"),
        lambda: load_model("timm/resnet10t.c3_in1k", pretrained=True),
        lambda: load_backbone("timm/resnet10t"),
    ],
)
def test_without_a_network_it_is_told_at_once(waits, load):
    with pytest.raises(ModelLoadError, match=r"cannot be reached.*check the network"):
        load()
    assert sum(waits) <= 2
    # And the next name at once.
    before = sum(waits)
    with pytest.raises(ModelLoadError, match="cannot be reached"):
        load()
    assert sum(waits) == before
    assert constants.HF_HUB_OFFLINE is False


def test_what_is_not_on_the_hub_asks_nobody(waits, tmp_path):
    save(classifier_model("vit"), tmp_path / "saved")
    load_backbone(str(tmp_path / "saved"))
    load_backbone("timm/resnet10t", pretrained=False)
    assert hub_access._missed == {}


def test_without_a_network_the_cache_is_used_at_once(waits, cache):
    backbone = load_backbone("me/tiny")
    assert backbone.normalization.mean == pytest.approx([0.25] * 3)
    assert sum(waits) <= 2


def test_a_model_that_somebody_else_has_loaded_waits_for_no_image_processor(waits, cache):
    model = classifier_model("vit")
    model.config._name_or_path = "me/not_cached"
    assert Normalization.from_model(model, channels=3, fetch=True) is None
    assert sum(waits) <= 2


def test_where_the_hub_is_not_to_be_asked_the_message_says_so():
    with pytest.raises(ModelLoadError, match=r"HF_HUB_OFFLINE is set.*unset it"):
        load_backbone("someone/something")
    with pytest.raises(ModelLoadError, match=r"HF_HUB_OFFLINE is set.*unset it"):
        load_backbone("timm/resnet10t")


def test_other_errors_are_not_blamed_on_the_network(waits, cache):
    (cache / "snapshots" / ("a" * 40) / "config.json").write_text("{")
    with pytest.raises(ModelLoadError) as caught:
        load_backbone("me/tiny")
    assert "check the network" not in str(caught.value)


def test_a_server_that_is_slow_to_answer_is_left_to_the_client(waits, server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server[1])
    monkeypatch.setattr(hub_access, "_PATIENCE", 0.05)
    with hub_access.hub_access("someone/something"):
        assert constants.HF_HUB_OFFLINE is False


def test_a_server_that_answers_is_asked_once(waits, server, monkeypatch):
    listening, address = server
    monkeypatch.setattr(constants, "ENDPOINT", address)

    def answer():
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(3):  # a second question would get no answer
        with hub_access.hub_access("someone/something"):
            assert constants.HF_HUB_OFFLINE is False
    thread.join()
    assert hub_access._reached == {address}


def test_an_attempt_that_fails_once_is_no_missing_network(waits, server, monkeypatch):
    answers = [ConnectionError("once"), None]

    class Session:
        def head(self, *args, **kwargs):
            if error := answers.pop(0):
                raise error

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    with hub_access.hub_access("someone/something"):
        assert constants.HF_HUB_OFFLINE is False
    assert waits == [1.0]


# --- revisions ------------------------------------------------------------------------------------


def test_the_image_processor_is_that_of_the_models_revision(cache):
    assert load_backbone("me/tiny").normalization.mean == pytest.approx([0.25] * 3)
    old = load_backbone("me/tiny", revision="old")
    assert old.normalization.mean == pytest.approx([0.75] * 3)
    assert old.revision == "b" * 40
    again = load_backbone("me/tiny", revision="b" * 40)
    assert again.normalization.mean == pytest.approx([0.75] * 3)


def test_the_size_is_that_of_the_models_revision(cache):
    """Of a model whose configuration names no size."""
    for commit, size in (("a", 32), ("b", 64)):
        folder = cache / "snapshots" / (commit * 40)
        save(classifier_model("resnet"), folder)
        transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    assert load_backbone("me/tiny").size == (32, 32)
    assert load_backbone("me/tiny", revision="old").size == (64, 64)
