"""How a branch looks after a push as Ada, who may write to ada/ and lab/."""

import pytest

from tests.hub.client import ClientError

PUBLISHED = {
    "README.md",
    "data/train-00000-of-00001.parquet",
    "preview.png",
    "recipe.json",
    "tensors.safetensors",
}
ADA = {"token": "ada-token"}


def titles(hub, repo="ada/one", revision="main"):
    return [commit.title for commit in hub.repos[repo].history(revision)]


def refused(push, *args, **options):
    with pytest.raises(ClientError) as caught:
        push(*args, **options)
    assert caught.value.kind == "PushError"
    return caught.value.message


def is_whole(hub, folder, repo="ada/one", revision="main"):
    """Whether the branch holds the folder's set, all of it."""
    files = hub.repos[repo].at(revision).files
    return set(files) >= PUBLISHED and all(
        hub.content(repo, path, revision) == (folder / path).read_bytes() for path in PUBLISHED
    )
