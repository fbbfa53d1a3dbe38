"""Getting a distilled set from the Hub, or from the cache of what was got before.

Below `dataset`. Sizes are looked at before anything is fetched, and only the files of a distilled
set are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dd_plugin.hub.reading import IMAGES, RECORD, TENSORS
from dd_plugin.hub.target import NETWORK_ERRORS
from dd_plugin.messages import first_line

_WANTED = [RECORD, TENSORS, IMAGES, "README.md", "preview.png"]


class DownloadError(OSError):
    """A distilled set cannot be had from the Hub; the message says why and what to do."""


def download_set(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    max_bytes: int,
) -> Path:
    """Fetch a set's files into the cache, if they are not there.

    Returns:
        Their folder.

    Raises:
        DownloadError: there is no such data set, or it may not be read, or nobody answers.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {revision!r}" if revision else ""
    how: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "token": token}
    try:
        if not local_files_only:
            _check_sizes(HfApi(), repo_id, max_bytes, how)
    except HFValidationError as error:
        raise DownloadError(
            f"{repo_id!r} is no folder here, and no id of a data set on the Hub: {error}"
        ) from error
    except GatedRepoError as error:
        raise DownloadError(
            f"the data set {repo_id!r} is gated: ask for access on its page on the Hub, and log in "
            "with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"there is no folder {repo_id!r} here and no such data set on the Hub, or it is "
            "private and the token may not read it: check the name, or log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"the data set {repo_id!r} has no revision {revision!r}") from error
    except (*NETWORK_ERRORS, OSError) as error:
        if isinstance(error, DownloadError):
            raise
        # Nobody answers: what was fetched before may be in the cache.
        unreachable: Exception | None = error
    else:
        unreachable = None
    try:
        folder = snapshot_download(
            repo_id,
            cache_dir=cache_dir,
            allow_patterns=_WANTED,
            local_files_only=local_files_only or unreachable is not None,
            **how,
        )
    except (LocalEntryNotFoundError, *NETWORK_ERRORS, OSError, ValueError) as error:
        reason = unreachable or error
        raise DownloadError(
            f"the data set {repo_id!r}{at} could not be fetched and is not in the cache: "
            f"{first_line(reason)}"
        ) from error
    return Path(folder)


def licenses_of(repo_id: str) -> list[str]:
    """The licences that a data set on the Hub states; none if it states none or nobody answers."""
    from huggingface_hub import HfApi

    try:
        card = HfApi().dataset_info(repo_id, timeout=10).card_data
        stated = card.get("license") if card is not None else None
    # A run that has ended is not lost for want of a licence: the network, or an answer that is
    # none of the Hub's, such as the page of a gateway that wants a login.
    except (
        *NETWORK_ERRORS,
        AttributeError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return []
    names = stated if isinstance(stated, list) else [stated]
    return [name for name in names if isinstance(name, str)]


def _check_sizes(api: Any, repo_id: str, max_bytes: int, how: dict[str, Any]) -> None:
    how = {name: value for name, value in how.items() if name != "repo_type"}
    info = api.dataset_info(repo_id, files_metadata=True, timeout=30, **how)
    sizes = {f.rfilename: f.size or 0 for f in info.siblings or []}
    if RECORD not in sizes:
        raise DownloadError(
            f"the data set {repo_id!r} was not written by dd_plugin: it has no {RECORD}; "
            "`datasets.load_dataset` may still read its images"
        )
    for name in _WANTED:
        if sizes.get(name, 0) > max_bytes:
            raise DownloadError(
                f"{name} of {repo_id!r} has {sizes[name]:,} bytes, over the limit of "
                f"{max_bytes:,}; if that is meant, give `max_bytes`"
            )
