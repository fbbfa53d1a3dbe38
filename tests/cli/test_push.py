"""`dd-plugin push`: what is printed, and with which exit code."""

import pytest

from tests.hub import calls
from tests.hub.conftest import client, folder, hub, running_hub

__all__ = ["client", "folder", "hub", "running_hub"]


@pytest.fixture
def command(client, folder):
    return lambda *words: client(calls.command, ["push", str(folder), *words])


def test_it_prints_the_stages_and_the_address(hub, command):
    options = ["--private", "--commit_message", "mine", "--license", "mit"]
    code, out, err = command("one", "--token", "ada-token", *options)
    repo = hub.repos["ada/one"]
    head = repo.at("main")
    assert (code, out) == (0, f"published: {hub.url}/datasets/ada/one/commit/{head.oid}\n")
    assert err.splitlines()[0] == "asking whether one can be written to"
    assert err.splitlines()[-1] == "comparing checksums"
    assert (repo.private, head.title) == (True, "mine")
    assert b"\nlicense: mit\n" in hub.content("ada/one", "README.md")


def test_it_says_so_if_nothing_differs(hub, command):
    command("one", "--token", "ada-token")
    code, out, _ = command("one", "--token", "ada-token")
    assert code == 0
    assert out.startswith("nothing differs, so no commit was made: http://")


def test_a_pull_request_and_a_branch(hub, command):
    hub.make("bob/two")
    code, out, _ = command("bob/two", "--token", "ada-token", "--create_pr")
    assert (code, out) == (0, f"published: {hub.url}/datasets/bob/two/discussions/1\n")
    assert command("ada/one", "--token", "ada-token", "--revision", "wip")[0] == 0
    assert set(hub.repos["ada/one"].refs) == {"refs/heads/main", "refs/heads/wip"}


def test_a_mistake_is_one_line_and_exit_code_2(hub, command):
    code, out, err = command("one")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("dd-plugin push: error: pushing needs a token")
    assert hub.repos == {}
