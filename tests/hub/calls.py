"""What the tests have done in the client's process; everything comes back as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def push(
    folder: str,
    repo: str,
    write_meanwhile: str = "",
    meanwhile: str = "LICENSE",
    **options: Any,
) -> dict[str, Any]:
    """`push_folder`, and how it went.

    Args:
        folder: see there.
        repo: see there.
        write_meanwhile: somebody with this token adds a file right before the first commit.
        meanwhile: which one.
        options: see there.
    """
    from dd_plugin.hub.remote.push import push_folder

    lines: list[str] = []
    waits: list[float] = []

    def say(line: str) -> None:
        if line == "committing" and write_meanwhile and line not in lines:
            commit(repo, {meanwhile: "mine"}, token=write_meanwhile)
        lines.append(line)

    result = push_folder(folder, repo, on_progress=say, sleep=waits.append, **options)
    return {**result._asdict(), "lines": lines, "waits": waits}


def push_with_merged_card(folder: str, repo: str, **options: Any) -> list[tuple[str, str]]:
    """Pushes with a merge of cards that only puts them together; returns what it was given."""
    from unittest.mock import patch

    import dd_plugin.hub.remote.push

    given: list[tuple[str, str]] = []

    def merge(ours: str, theirs: str) -> str:
        given.append((ours, theirs))
        return ours + "\nkept: " + theirs.splitlines()[-1] + "\n"

    with patch.object(dd_plugin.hub.remote.push, "merge_card", merge):
        push(folder, repo, **options)
    return given


def check(repo: str, **options: Any) -> tuple[Any, ...]:
    from dd_plugin.hub.remote.push import check_target

    return tuple(check_target(repo, sleep=lambda _: None, **options))


def check_offline(repo: str, **options: Any) -> tuple[Any, ...]:
    from unittest.mock import patch

    with patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
        return check(repo, **options)


def command(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `dd-plugin`."""
    import contextlib
    import io

    from dd_plugin.cli import main

    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def commit(repo: str, files: dict[str, str], *, token: str) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
    HfApi(token=token).create_commit(
        repo, operations, commit_message="by hand", repo_type="dataset"
    )


def load(
    repo: str, *, token: str | bool = False, streaming: bool = False, **options: Any
) -> dict[str, Any]:
    """`load_dataset` of the split train, as lists; images as nested lists of their pixels."""
    import numpy as np
    from datasets import load_dataset

    data = load_dataset(repo, split="train", token=token, streaming=streaming, **options)
    rows = list(data)
    return {
        "names": data.features["label"].names,
        "labels": [row["label"] for row in rows],
        "images": [np.asarray(row["image"]).tolist() for row in rows],
    }


def download(repo: str, path: str, **options: Any) -> bytes:
    from huggingface_hub import hf_hub_download

    options = {"token": False, **options}
    return Path(hf_hub_download(repo, path, repo_type="dataset", **options)).read_bytes()


def download_all(repo: str, folder: str, **options: Any) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(repo, repo_type="dataset", local_dir=folder, **options)


def commit_new(repo: str, files: dict[str, str], *, token: str) -> None:
    """A repository that somebody makes by hand."""
    from huggingface_hub import HfApi

    HfApi(token=token).create_repo(repo, repo_type="dataset")
    commit(repo, files, token=token)


def distil_and_push(folder: str, **options: Any) -> str:
    """A toy run that publishes itself."""
    from tests.distiller.toy import toy_distiller

    distiller = toy_distiller(folder, max_steps=1, save_steps=1, **options)
    distiller.train()
    return distiller.push_to_hub()
