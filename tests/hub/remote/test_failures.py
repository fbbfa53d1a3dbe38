"""`dd_plugin.hub.remote.failures`: what is tried again and for how long, and what is told."""

import pytest

from dd_plugin.hub.remote.failures import WAITS
from tests.hub import calls
from tests.hub.client import ClientError
from tests.hub.loopback import Fault
from tests.hub.remote.pushing import ADA, is_whole, refused, titles


@pytest.mark.parametrize("where", ["preupload", "batch", "POST .*/commit/"])
def test_rights_that_end_on_the_way(hub, push, where):
    hub.faults.append(Fault(where, 403))
    assert "does not let this token write to ada/one" in refused(push)
    assert titles(hub) == ["initial commit"]


def test_the_hub_says_how_long_to_wait(hub, push):
    hub.faults.append(Fault("POST .*/commit/", 429, headers={"Retry-After": "30"}))
    assert push()["waits"] == [30]


def test_it_gives_up_in_the_end_and_main_is_as_it_was(hub, push):
    hub.faults.append(Fault("POST .*/commit/", 503, times=99))
    said = refused(push)
    assert "the Hub answered 503 for ada/one (made to fail)" in said
    assert "dd-plugin push FOLDER ada/one" in said
    assert len(hub.asked("POST .*/commit/")) == len(WAITS) + 1
    assert titles(hub) == ["initial commit"]


# Requests of a push whose answer is JSON.
ANSWERED = (
    "whoami",
    "GET /api/datasets/ada/one$",
    "revision/",
    "/tree/",
    "repos/create",
    "preupload",
    "batch",
    "paths-info",
)


@pytest.mark.parametrize("where", [*ANSWERED, "PUT", "validate-yaml"])
@pytest.mark.parametrize("what", [503, "drop"])
def test_every_other_request_is_tried_again(hub, push, folder, where, what):
    hub.faults.append(Fault(where, what))
    push()
    assert hub.faults[0].times == 0
    assert len(titles(hub)) == 2
    assert is_whole(hub, folder)


@pytest.mark.parametrize("where", ANSWERED)
def test_an_answer_with_nothing_in_it_is_asked_for_again(hub, push, folder, where):
    hub.faults.append(Fault(where, "empty"))
    push()
    assert hub.faults[0].times == 0
    assert len(titles(hub)) == 2
    assert is_whole(hub, folder)


@pytest.mark.parametrize("where", ["whoami", "preupload", "paths-info"])
def test_an_answer_that_never_has_anything_in_it_is_told(hub, push, where):
    hub.faults.append(Fault(where, "empty", times=999))
    said = refused(push)
    assert "answer that is incomplete" in said or "improperly formatted" in said


def test_a_hub_that_is_not_there(hub, push):
    hub.faults.append(Fault("", "drop", times=999))
    said = refused(push)
    assert "the Hub could not be reached" in said
    assert "push again later" in said


def test_a_machine_that_is_told_to_stay_off_the_network(hub, client):
    with pytest.raises(ClientError, match=r"could not be reached .*HF_HUB_OFFLINE") as caught:
        client(calls.check_offline, "ada/one", **ADA)
    assert caught.value.kind == "PushError"
