"""What a push puts on the Hub: one commit of the set, beside what others put there."""

import json

import yaml

from tests.hub import calls
from tests.hub.records import card_of
from tests.hub.remote.pushing import ADA, PUBLISHED, is_whole, refused, titles
from tests.hub.sets import CARD, set_folder


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


def test_data_that_somebody_adds_after_the_question_is_not_replaced(hub, client, push):
    hub.make("lab/one")
    options = {"write_meanwhile": "ada-token", "meanwhile": "data/train-00000-of-00009.parquet"}
    assert "hold a distilled set, got another file (data/train-00000-of-00009.p" in refused(
        push, "lab/one", **options
    )
    assert hub.content("lab/one", options["meanwhile"]) == b"mine"
    assert titles(hub, "lab/one") == ["by hand", "initial commit"]


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


def test_a_licence_that_is_none(hub, push):
    assert "identifier of the Hub, got 'My own!'" in refused(push, license="My own!")
    assert hub.requests == []


def test_a_card_that_the_hub_does_not_take(hub, push, folder):
    (folder / "README.md").write_text("---\ntags: [a\n---\n")
    assert "does not take the card: Invalid metadata in README.md" in refused(push)
    assert titles(hub) == ["initial commit"]
