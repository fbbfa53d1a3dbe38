"""`dd_plugin.hub.remote.push` against a Hub that fails in all the ways a network can."""

import json
from dataclasses import replace
from hashlib import sha256 as sha256_of

import pytest
import yaml

from dd_plugin.hub import PushError, push_folder, reading
from dd_plugin.hub.remote.failures import WAITS
from tests.hub import calls
from tests.hub.client import ClientError
from tests.hub.loopback import Fault
from tests.hub.records import card_of
from tests.hub.sets import CARD, set_folder

PUBLISHED = {
    "README.md",
    "data/train-00000-of-00001.parquet",
    "preview.png",
    "recipe.json",
    "tensors.safetensors",
}
ADA = {"token": "ada-token"}


@pytest.fixture
def push(client, folder):
    """Pushes the folder as Ada, who may write to ada/ and lab/."""

    def run(repo="ada/one", **options):
        return client(calls.push, str(folder), repo, **{**ADA, **options})

    return run


def titles(hub, repo="ada/one", revision="main"):
    return [commit.title for commit in hub.repos[repo].history(revision)]


def refused(push, *args, **options):
    with pytest.raises(ClientError) as caught:
        push(*args, **options)
    assert caught.value.kind == "PushError"
    return caught.value.message


def sha256(path):
    return sha256_of(path.read_bytes()).hexdigest()


def is_whole(hub, folder, repo="ada/one", revision="main"):
    """Whether the branch holds the folder's set, all of it."""
    files = hub.repos[repo].at(revision).files
    return set(files) >= PUBLISHED and all(
        hub.content(repo, path, revision) == (folder / path).read_bytes() for path in PUBLISHED
    )


def test_a_file_is_hashed_once(tmp_path, monkeypatch):
    folder = set_folder(tmp_path)
    monkeypatch.setattr(reading, "sha256_of", None)  # those of `published_files` will do

    def enough(*args, **options):
        raise PushError("asked for after the files were looked at")

    monkeypatch.setattr("dd_plugin.hub.remote.push.check_target", enough)
    with pytest.raises(PushError, match="asked for after"):
        push_folder(folder, "ada/one")
    tensors = folder / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(PushError, match=r"what is damaged here is not published: .* differs"):
        push_folder(folder, "ada/one")


# --- what is published --------------------------------------------------------------------------


def test_one_commit_holds_the_set_and_nothing_else(hub, push, folder):
    result = push("one", commit_message="all of it")
    assert titles(hub) == ["all of it", "initial commit"]
    head = hub.repos["ada/one"].at("main")
    assert set(head.files) == PUBLISHED | {".gitattributes"}
    assert is_whole(hub, folder)
    assert result["commit_oid"] == head.oid
    assert result["commit_url"] == f"{hub.url}/datasets/ada/one/commit/{head.oid}"
    assert (result["pr_url"], result["unchanged"], result["waits"]) == (None, False, [])
    assert not hub.repos["ada/one"].private


def test_what_is_there_already_is_not_committed_again(hub, push):
    first = push()
    hub.requests.clear()
    second = push()
    assert second["unchanged"]
    assert second["commit_oid"] == first["commit_oid"]
    assert len(titles(hub)) == 2
    assert not hub.asked("/commit/|/preupload/|PUT")


def test_another_set_replaces_the_first_and_leaves_what_others_put_there(hub, client, push, folder):
    push()
    mine = {"LICENSE": "mine", "data/test.parquet": "mine"}
    stale = {"data/train-00001-of-00002.parquet": "old", "results.md": "old"}
    client(calls.commit, "ada/one", {**mine, **stale}, **ADA)
    push()
    assert len(titles(hub)) == 4
    assert set(hub.repos["ada/one"].at("main").files) == PUBLISHED | set(mine) | {".gitattributes"}
    set_folder(folder, seed=1)
    hub.requests.clear()
    push()
    assert is_whole(hub, folder)
    assert len(titles(hub)) == 5
    # The card is the same, so it is neither validated nor sent.
    assert not hub.asked("validate-yaml")


def test_the_card_is_merged_with_the_one_that_is_there(hub, client, push, folder):
    push()
    client(calls.commit, "ada/one", {"README.md": CARD + "by a person"}, **ADA)
    (folder / "README.md").write_text(CARD + "new numbers\n")
    given = client(calls.push_with_merged_card, str(folder), "ada/one", **ADA)
    assert given == [(CARD + "new numbers\n", CARD + "by a person")]
    card = hub.content("ada/one", "README.md").decode()
    assert card == CARD + "new numbers\n\nkept: by a person\n"
    assert (folder / "README.md").read_text() == CARD + "new numbers\n"


def test_what_a_person_wrote_into_the_card_survives_the_next_push(hub, client, push, folder):
    record = json.loads((folder / "recipe.json").read_text())
    record["images"] = {"count": 6, "per_class": 2}
    record["source"] = {"dataset": "digits", "licenses": []}
    (folder / "README.md").write_text(card_of(record))
    push(license="mit")
    edited = hub.content("ada/one", "README.md").decode() + "\n## Mine\n\nBy a person.\n"
    client(calls.commit, "ada/one", {"README.md": edited}, **ADA)
    record["source"]["dataset"] = "other digits"
    (folder / "README.md").write_text(card_of(record))
    push()
    card = hub.content("ada/one", "README.md").decode()
    assert "## Mine\n\nBy a person." in card
    assert "other digits" in card
    assert "\nlicense: mit\n" in card
    assert push()["unchanged"]


def test_a_card_that_cannot_be_merged_is_told_about(hub, client, push, folder):
    push()
    # Not by the client, which has such a card refused.
    repo = hub.repos["ada/one"]
    broken = hub.keep(b"---\ntags: [a\n---\nby a person")
    repo.add(
        "refs/heads/main", repo.at("main").oid, "x", {**repo.at("main").files, "README.md": broken}
    )
    assert "README.md of ada/one: " in refused(push)
    assert hub.content("ada/one", "README.md").endswith(b"by a person")


def test_a_licence_that_is_given_is_the_one_of_the_card(hub, push, folder):
    (folder / "README.md").write_text(CARD.replace("configs:", "license: other\nconfigs:"))
    push(license="cc-by-4.0")
    card = hub.content("ada/one", "README.md").decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
    assert card.endswith("---\n# A distilled set\n")


def test_a_branch_is_made_and_main_stays(hub, push, folder):
    push()
    before = hub.repos["ada/one"].refs["refs/heads/main"]
    set_folder(folder, seed=1)
    push(revision="wip/second")
    assert hub.repos["ada/one"].refs["refs/heads/main"] == before
    assert is_whole(hub, folder, revision="wip/second")
    assert not is_whole(hub, folder)


def test_a_pull_request_to_a_repository_of_others(hub, push, folder):
    hub.make("bob/two")
    result = push("bob/two", create_pr=True)
    assert titles(hub, "bob/two") == ["initial commit"]
    assert result["pr_url"] == f"{hub.url}/datasets/bob/two/discussions/1"
    assert is_whole(hub, folder, "bob/two", "refs/pr/1")


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


def test_data_that_somebody_adds_after_the_question_is_not_replaced(hub, client, push):
    hub.make("lab/one")
    options = {"write_meanwhile": "ada-token", "meanwhile": "data/train-00000-of-00009.parquet"}
    assert "hold a distilled set, got another file (data/train-00000-of-00009.p" in refused(
        push, "lab/one", **options
    )
    assert hub.content("lab/one", options["meanwhile"]) == b"mine"
    assert titles(hub, "lab/one") == ["by hand", "initial commit"]


@pytest.mark.parametrize(
    "files", [{"README.md": CARD}, {"LICENSE.txt": "mine", ".gitignore": "x"}], ids=list
)
def test_a_repository_without_data_is_as_good_as_new(hub, client, push, folder, files):
    client(calls.commit_new, "ada/one", files, **ADA)
    assert client(calls.check, "ada/one", **ADA) == ("ada/one", True, True, "ada")
    push()
    assert set(hub.repos["ada/one"].at("main").files) >= PUBLISHED | set(files)


def test_a_branch_counts_and_not_what_is_on_another(hub, client, push, folder):
    push()
    push(revision="wip")
    client(calls.commit, "ada/one", {"cats/1.jpg": "mine"}, **ADA)
    repo = hub.repos["ada/one"]
    head = repo.at("main")
    real = {name: head.files[name] for name in ("README.md", "cats/1.jpg")}
    repo.add("refs/heads/main", head.oid, "the real images", real)
    set_folder(folder, seed=1)
    push(revision="wip")
    assert is_whole(hub, folder, revision="wip")
    assert "cats/1.jpg" in refused(push)


# --- who may -------------------------------------------------------------------------------------


def test_a_private_repository_is_read_with_a_token_only(hub, client, push):
    push("lab/one", private=True)
    assert hub.repos["lab/one"].private
    for token in (False, "bob-token"):
        with pytest.raises(ClientError) as caught:
            client(calls.download, "lab/one", "recipe.json", token=token)
        assert caught.value.kind == "RepositoryNotFoundError"
    assert json.loads(client(calls.download, "lab/one", "recipe.json", **ADA))["recipe"]
    # Once there, its own `private` counts.
    assert push("lab/one")["unchanged"]


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


@pytest.mark.parametrize("where", ["preupload", "batch", "POST .*/commit/"])
def test_rights_that_end_on_the_way(hub, push, where):
    hub.faults.append(Fault(where, 403))
    assert "does not let this token write to ada/one" in refused(push)
    assert titles(hub) == ["initial commit"]


def test_a_folder_without_a_set(hub, push, folder):
    (folder / "recipe.json").unlink()
    assert "got no recipe.json" in refused(push)
    assert hub.requests == []


def test_a_licence_that_is_none(hub, push):
    assert "identifier of the Hub, got 'My own!'" in refused(push, license="My own!")
    assert hub.requests == []


def test_a_card_that_the_hub_does_not_take(hub, push, folder):
    (folder / "README.md").write_text("---\ntags: [a\n---\n")
    assert "does not take the card: Invalid metadata in README.md" in refused(push)
    assert titles(hub) == ["initial commit"]


# --- what fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [409, 412, 429, 500, 502, 503, "drop"])
def test_a_commit_that_fails_is_made_at_the_next_attempt(hub, push, folder, what):
    hub.faults.append(Fault("POST .*/commit/", what, times=2))
    result = push()
    assert result["waits"] == [1, 2]
    assert len(titles(hub)) == 2
    assert is_whole(hub, folder)


def test_the_hub_says_how_long_to_wait(hub, push):
    hub.faults.append(Fault("POST .*/commit/", 429, headers={"Retry-After": "30"}))
    assert push()["waits"] == [30]


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


def test_it_gives_up_in_the_end_and_main_is_as_it_was(hub, push):
    hub.faults.append(Fault("POST .*/commit/", 503, times=99))
    said = refused(push)
    assert "the Hub answered 503 for ada/one (made to fail)" in said
    assert "dd-plugin push FOLDER ada/one" in said
    assert len(hub.asked("POST .*/commit/")) == len(WAITS) + 1
    assert titles(hub) == ["initial commit"]


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


@pytest.mark.parametrize(
    "where",
    [
        "whoami",
        "GET /api/datasets/ada/one$",
        "revision/",
        "/tree/",
        "repos/create",
        "preupload",
        "batch",
        "PUT",
        "validate-yaml",
        "paths-info",
    ],
)
@pytest.mark.parametrize("what", [503, "drop"])
def test_every_other_request_is_tried_again(hub, push, folder, where, what):
    hub.faults.append(Fault(where, what))
    push()
    assert hub.faults[0].times == 0
    assert len(titles(hub)) == 2
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


def test_a_hub_that_is_not_there(hub, push):
    hub.faults.append(Fault("", "drop", times=999))
    said = refused(push)
    assert "the Hub could not be reached" in said
    assert "push again later" in said


def test_a_machine_that_is_told_to_stay_off_the_network(hub, client):
    with pytest.raises(ClientError, match=r"could not be reached .*HF_HUB_OFFLINE") as caught:
        client(calls.check_offline, "ada/one", **ADA)
    assert caught.value.kind == "PushError"


def test_a_damaged_set_is_not_published(hub, push, folder):
    content = bytearray((folder / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "tensors.safetensors").write_bytes(content)
    assert "what is damaged here is not published" in refused(push)
    assert not hub.requests


# --- answers with nothing in them ----------------------------------------------------------------


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


@pytest.mark.parametrize(
    "where",
    [
        "whoami",
        "GET /api/datasets/ada/one$",
        "revision/",
        "/tree/",
        "repos/create",
        "preupload",
        "batch",
        "paths-info",
    ],
)
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


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results.md", "curve.png", "README.md", "log.jsonl"])
def test_a_link_out_of_the_folder_is_not_published(hub, push, folder, tmp_path, name):
    (tmp_path / "private").write_text("a secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "private")
    said = refused(push)
    assert f"{name} in {folder} is a link to a file outside of that folder" in said
    assert not hub.requests
