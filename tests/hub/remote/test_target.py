"""Where a set may be pushed to: known before anything is done, and asking changes nothing."""

import json

import pytest

from tests.hub import calls
from tests.hub.client import ClientError
from tests.hub.remote.pushing import ADA, PUBLISHED, refused
from tests.hub.sets import CARD

REAL = {
    "README.md": "---\nlicense: mit\n---\nThe real images.\n",
    "data/train-00000-of-00002.parquet": "real",
    "data/train-00001-of-00002.parquet": "real",
}


@pytest.mark.parametrize(
    "files",
    [
        REAL,
        {"data/train-00000-of-00001.parquet": "real"},
        {"data/test.parquet": "real"},
        {"cats/1.jpg": "real", "LICENSE": "mine"},
        {"train.csv": "real"},
        {"results.md": "mine"},
    ],
    ids=lambda files: list(files)[-1],
)
@pytest.mark.parametrize("options", [{}, {"create_pr": True}, {"revision": "new"}], ids=str)
def test_a_data_set_that_was_not_distilled_is_not_pushed_into(hub, client, push, files, options):
    client(calls.commit_new, "ada/one", files, **ADA)
    before = dict(hub.repos["ada/one"].refs)
    hub.requests.clear()
    said = refused(push, **options)
    data = [path for path in files if path not in ("README.md", "LICENSE")]
    assert all(path in said for path in data)
    assert "ada/one must be new, empty or hold a distilled set, got" in said
    assert "no recipe.json" in said
    assert "push to another id, or delete the files in it first" in said
    with pytest.raises(ClientError) as caught:
        client(calls.check, "ada/one", **ADA, **options)
    assert caught.value.message == said
    assert hub.repos["ada/one"].refs == before
    assert not hub.asked("create|/branch/|preupload|/commit/|PUT")


def test_many_files_are_not_all_named(hub, client, push):
    client(calls.commit_new, "ada/one", {f"cats/{i}.jpg": str(i) for i in range(9)}, **ADA)
    said = refused(push)
    assert "got 9 other files (cats/0.jpg, cats/1.jpg, cats/2.jpg, ...)" in said


@pytest.mark.parametrize(
    "files", [{"README.md": CARD}, {"LICENSE.txt": "mine", ".gitignore": "x"}], ids=list
)
def test_a_repository_without_data_is_as_good_as_new(hub, client, push, folder, files):
    client(calls.commit_new, "ada/one", files, **ADA)
    assert client(calls.check, "ada/one", **ADA) == ("ada/one", True, True, "ada")
    push()
    assert set(hub.repos["ada/one"].at("main").files) >= PUBLISHED | set(files)


def test_a_private_repository_is_read_with_a_token_only(hub, client, push):
    push("lab/hidden", private=True)
    assert hub.repos["lab/hidden"].private
    for token in (False, "bob-token"):
        with pytest.raises(ClientError) as caught:
            client(calls.download, "lab/hidden", "recipe.json", token=token)
        assert caught.value.kind == "RepositoryNotFoundError"
    assert json.loads(client(calls.download, "lab/hidden", "recipe.json", **ADA))["recipe"]
    # Once there, its own `private` counts.
    assert push("lab/hidden")["unchanged"]


@pytest.mark.parametrize(
    ("repo", "options", "said"),
    [
        ("ada/one", {"token": None}, "pushing needs a token"),
        ("ada/one", {"token": False}, "pushing needs a token"),
        ("ada/one", {"token": "nobody's"}, "does not accept the token"),
        ("ada/one", {"token": "ada-reads"}, "'ada' may not write to anything"),
        ("ada/two", {"token": "ada-fine"}, "may not write to ada/two"),
        ("bob/new", {}, "'ada' is not 'bob' and not a member of it"),
        ("bob/old", {}, "(may not|cannot) write to bob/old"),
        ("club/new", {}, "may only read in 'club'"),
        ("club/old", {}, "may (not write to club/old|only read in 'club')"),
        ("ada/new", {"create_pr": True}, "a pull request must be to a repository that exists"),
        ("bob/hidden", {"create_pr": True}, "'ada' sees no bob/hidden"),
        ("ada/old", {"private": True}, "exists and is public"),
        ("ada/old", {"revision": "no", "create_pr": True}, "must be a branch of ada/old, got 'no'"),
        ("ada/old", {"revision": "0" * 40}, "must be a branch, got '0000"),
        ("a/b/c", {}, "`repo_id` must be"),
        ("ada/..", {}, "`repo_id` must be"),
    ],
)
def test_a_push_that_would_be_refused_is_known_before_anything_is_done(
    hub, client, repo, options, said
):
    for name in ("ada/old", "bob/old", "club/old"):
        hub.make(name)
    hub.make("bob/hidden", private=True)
    with pytest.raises(ClientError, match=said) as caught:
        client(calls.check, repo, **{**ADA, **options})
    assert caught.value.kind == "PushError"
    assert not hub.asked("create|/branch/|preupload|/commit/|PUT")


def test_asking_changes_nothing(hub, client):
    hub.make("lab/old")
    assert client(calls.check, "new", **ADA) == ("ada/new", False, True, "ada")
    assert client(calls.check, "lab/new", **ADA) == ("lab/new", False, True, "ada")
    assert client(calls.check, "ada/one", token="ada-fine") == ("ada/one", False, True, "ada")
    made = client(calls.check, "lab/old", revision="wip", **ADA)
    assert made == ("lab/old", True, False, "ada")
    assert set(hub.repos) == {"lab/old"}
    assert set(hub.repos["lab/old"].refs) == {"refs/heads/main"}
