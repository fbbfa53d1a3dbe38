"""A push to a Hub that fails in all the ways a network can: one commit or none."""

from dataclasses import replace
from hashlib import sha256 as sha256_of

import pytest

from dd_plugin.hub.remote.failures import WAITS
from tests.hub.loopback import Fault
from tests.hub.remote.pushing import PUBLISHED, is_whole, refused, titles
from tests.hub.sets import CARD, set_folder


def sha256(path):
    return sha256_of(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("what", [409, 412, 429, 500, 502, 503, "drop"])
def test_a_commit_that_fails_is_made_at_the_next_attempt(hub, push, folder, what):
    hub.faults.append(Fault("POST .*/commit/", what, times=2))
    result = push()
    assert result["waits"] == [1, 2]
    assert len(titles(hub)) == 2
    assert is_whole(hub, folder)


def test_a_lost_answer_makes_no_second_commit(hub, push, folder):
    hub.faults.append(Fault("POST .*/commit/", "lost"))
    result = push()
    assert len(titles(hub)) == 2
    assert len(hub.asked("POST .*/commit/")) == 1
    assert is_whole(hub, folder)
    assert result["commit_oid"] == hub.repos["ada/one"].at("main").oid
    assert not result["unchanged"]


def test_the_last_answer_may_be_lost_too(hub, push, folder):
    hub.faults += [
        Fault("POST .*/commit/", 503, times=len(WAITS)),
        Fault("POST .*/commit/", "lost"),
    ]
    assert push()["waits"] == [*WAITS]
    assert len(titles(hub)) == 2
    assert is_whole(hub, folder)


def test_a_lost_answer_makes_no_second_pull_request(hub, push, folder):
    hub.make("bob/two")
    hub.faults.append(Fault("POST .*/commit/", "lost"))
    result = push("bob/two", create_pr=True)
    assert sorted(hub.repos["bob/two"].refs) == ["refs/heads/main", "refs/pr/1"]
    assert result["pr_url"] == f"{hub.url}/datasets/bob/two/discussions/1"
    assert result["commit_oid"] == hub.repos["bob/two"].refs["refs/pr/1"]


def test_what_somebody_else_commits_meanwhile_is_built_upon(hub, push, folder):
    hub.make("lab/one")
    # The first attempt names the head that it was made for, and is refused.
    assert push("lab/one", write_meanwhile="ada-token")["waits"] == [1]
    assert titles(hub, "lab/one") == ["Publish a distilled set", "by hand", "initial commit"]
    assert hub.content("lab/one", "LICENSE") == b"mine"
    assert is_whole(hub, folder, "lab/one")


class Touchy(str):
    """A commit's name that is none but itself."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return self is other

    def __ne__(self, other):
        return self is not other


def test_a_hub_that_says_412_though_nobody_has_written(hub, push, folder):
    """As it does to tokens that may write to one repository only."""
    repo = hub.make("ada/one")
    head = repo.at("main")
    repo.commits[head.oid] = replace(head, oid=Touchy(head.oid))
    assert push()["waits"] == [1]
    assert is_whole(hub, folder)


def test_making_a_repository_or_a_branch_twice_is_making_it_once(hub, push, folder):
    hub.faults += [Fault("repos/create", "lost"), Fault("/branch/", "lost")]
    push(revision="wip")
    assert titles(hub) == ["initial commit"]
    assert is_whole(hub, folder, revision="wip")


def test_an_upload_that_breaks_off_leaves_main_and_the_next_push_goes_on(hub, push, folder):
    push()
    set_folder(folder, seed=1)
    before = hub.repos["ada/one"].at("main")
    hub.requests.clear()
    # The smallest of the three arrives; of the largest, half does, again and again.
    sizes = {p: (folder / p).stat().st_size for p in PUBLISHED}
    broken = max(("preview.png", "data/train-00000-of-00001.parquet"), key=sizes.__getitem__)
    hub.faults.append(Fault(f"PUT /lfs/{sha256(folder / broken)}", "half", times=99))
    said = refused(push)
    assert f"Error while uploading '{broken}'" in said
    assert hub.repos["ada/one"].at("main") is before
    arrived = {p for p in PUBLISHED if (hub.folder / sha256(folder / p)).exists()}
    assert "tensors.safetensors" in arrived
    assert broken not in arrived
    hub.faults.clear()
    hub.requests.clear()
    push()
    assert is_whole(hub, folder)
    assert len(titles(hub)) == 3
    assert not hub.asked(f"PUT .*{sha256(folder / 'tensors.safetensors')}")
    assert hub.asked(f"PUT .*{sha256(folder / broken)}")


def test_a_checksum_that_differs_after_the_commit_is_told(hub, push):
    hub.faults.append(Fault("paths-info", "corrupt"))
    said = refused(push)
    assert "the checksums of" in said
    assert "tensors.safetensors" in said
    assert hub.repos["ada/one"].at("main").oid in said


def test_a_card_that_is_damaged_on_its_way_here_is_not_merged(hub, client, push, folder):
    push()
    before = hub.repos["ada/one"].at("main")
    (folder / "README.md").write_text(CARD + "new numbers\n")
    hub.faults.append(Fault("GET .*/README.md", "corrupt"))
    assert "README.md of ada/one was damaged" in refused(push)
    assert hub.repos["ada/one"].at("main") is before


def test_a_commit_that_landed_is_found_whatever_its_answer_was(hub, push, folder):
    hub.faults.append(Fault("POST .*/commit/", "empty"))
    result = push()
    assert titles(hub) == ["Publish a distilled set", "initial commit"]
    assert result["commit_oid"] == hub.repos["ada/one"].at("main").oid
    assert not result["unchanged"]
    assert is_whole(hub, folder)


def test_a_pull_request_that_landed_is_found_whatever_its_answer_was(hub, push):
    hub.make("bob/two")
    hub.faults.append(Fault("POST .*/commit/", "empty"))
    result = push("bob/two", create_pr=True)
    assert sorted(hub.repos["bob/two"].refs) == ["refs/heads/main", "refs/pr/1"]
    assert result["pr_url"] == f"{hub.url}/datasets/bob/two/discussions/1"
