"""Getting a distilled set from the Hub, or from the cache of what was got before.

Below `dataset`. Sizes are looked at before anything is fetched, and only the files of a distilled
set are. What has arrived is compared with the Hub's checksums, and fetched once more where it
differs. Requests are repeated as those of a push are.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from dd_plugin.hub.links import files_behind
from dd_plugin.hub.reading import IMAGES, RECORD, TENSORS
from dd_plugin.hub.remote.failures import (
    NETWORK_ERRORS,
    WAITS,
    DamagedAnswerError,
    passes,
    said,
    understood,
    wanted_wait,
)
from dd_plugin.hub.remote.published import LocalFile
from dd_plugin.text import first_line

T = TypeVar("T")

_WANTED = [RECORD, TENSORS, IMAGES, "README.md", "preview.png"]
# What stops a request: the network, and what the client makes of it.
_FAILURES = (*NETWORK_ERRORS, OSError, RuntimeError, ValueError)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Attempts to reach a machine that does not answer at all, where the cache has the set.
_FEW = 2


class DownloadError(OSError):
    """The Hub does not give a distilled set; the message says why and what to do."""


class StaleSetWarning(UserWarning):
    """The Hub does not answer, so a set comes from the cache and may not be the newest."""


class _MovedError(Exception):
    """The branch was written to during a download, or the client took what the cache had."""


def download_set(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    max_bytes: int,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Fetch a set's files into the cache, if they are not there.

    Args:
        repo_id: of a data set.
        revision: see `DistilledDataset.from_pretrained`, as the next three.
        token: see ``revision``.
        cache_dir: see ``revision``.
        local_files_only: see ``revision``.
        max_bytes: the largest file.
        sleep: waits between attempts.

    Returns:
        Their folder.

    Raises:
        DownloadError: There is no such data set, it may not be read, or the Hub does not answer.

    Warns:
        StaleSetWarning: The Hub does not answer, and the cache has the set.
    """
    fetch = _Fetch(
        repo_id, revision=revision, token=token, cache_dir=cache_dir, max_bytes=max_bytes
    )
    try:
        cached = fetch.cached()
    except HFValidationError as error:
        raise DownloadError(
            f"{repo_id!r:.200} is no folder here, and no id of a data set on the Hub: "
            f"{first_line(error):.200}"
        ) from error
    if local_files_only:
        if cached is None:
            raise DownloadError(
                f"the data set {fetch.described} is not in the cache; leave `local_files_only` out "
                "to fetch it"
            )
        return cached
    try:
        return _patiently(fetch.mended, sleep, cached is not None)
    except DownloadError:
        raise
    except (_MovedError, *_FAILURES) as error:
        if refusal := _refusal(error, fetch):
            raise DownloadError(refusal) from error
        reason = _reason(error)
        if cached is None:
            raise DownloadError(
                f"the data set {fetch.described} could not be fetched and is not in the cache: "
                f"{reason}"
            ) from error
        # Who works offline, or names a commit, knows what they get.
        asked_for = isinstance(_cause(error), OfflineModeIsEnabled)
        if not asked_for and not _COMMIT.fullmatch(revision or ""):
            warnings.warn(
                f"the Hub does not answer ({reason}), so the data set {fetch.described} comes from "
                f"the cache, as of commit {cached.name[:12]}; there may be a newer one",
                StaleSetWarning,
                stacklevel=3,
            )
        return cached


class _Fetch:
    """One set to be fetched."""

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str | None,
        token: str | bool | None,
        cache_dir: str | Path | None,
        max_bytes: int,
    ) -> None:
        self.repo_id, self.revision, self.max_bytes = repo_id, revision, max_bytes
        self.api = HfApi(token=token)
        self.described = repr(repo_id) + (f" at revision {revision!r}" if revision else "")
        self._where: dict[str, Any] = {
            "repo_type": "dataset",
            "token": token,
            "cache_dir": cache_dir,
        }

    def cached(self) -> Path | None:
        """Return the folder of what was fetched before.

        Raises:
            HFValidationError: the Hub has no such names.
        """
        try:
            return Path(
                snapshot_download(
                    self.repo_id,
                    revision=self.revision,
                    allow_patterns=_WANTED,
                    local_files_only=True,
                    **self._where,
                )
            )
        except HFValidationError:
            raise
        except (LocalEntryNotFoundError, OSError, ValueError):
            return None

    def mended(self) -> Path:
        """Return the folder of the newest set, whose files are those of the Hub."""
        info = self.api.dataset_info(
            self.repo_id, revision=self.revision, files_metadata=True, timeout=30
        )
        sizes = {f.rfilename: f.size or 0 for f in info.siblings or []}
        self._check_sizes(sizes)
        folder = Path(
            snapshot_download(
                self.repo_id, revision=self.revision, allow_patterns=_WANTED, **self._where
            )
        )
        if folder.name != info.sha:
            raise _MovedError(f"commit {info.sha} of {self.repo_id} could not be fetched")
        damaged = self._damaged(folder)
        for name in damaged:
            # The client takes a file of the right size for the right one, so it must not be there.
            for path in files_behind(folder, name):
                path.unlink(missing_ok=True)
            hf_hub_download(
                self.repo_id, name, revision=folder.name, force_download=True, **self._where
            )
        if damaged and (again := self._damaged(folder)):
            raise DownloadError(
                f"{', '.join(again)} of the data set {self.described} arrived damaged twice: the "
                "checksums are not those of the Hub; check the disk and the network, and try again"
            )
        return folder

    def _damaged(self, folder: Path) -> list[str]:
        """Return the files whose checksums are not those of the Hub."""
        entries = self.api.get_paths_info(
            self.repo_id, _WANTED, revision=folder.name, repo_type="dataset"
        )
        remote = [entry for entry in entries if isinstance(entry, RepoFile)]
        if not remote:
            raise DamagedAnswerError("it lists no files")
        return [
            entry.path
            for entry in remote
            if not (folder / entry.path).is_file()
            or not LocalFile.of(folder / entry.path).is_at(entry)
        ]

    def _check_sizes(self, sizes: dict[str, int]) -> None:
        if RECORD not in sizes:
            raise DownloadError(
                f"the data set {self.repo_id!r} was not written by dd_plugin: it has no {RECORD}; "
                "`datasets.load_dataset` may still read its images"
            )
        for name in _WANTED:
            if sizes.get(name, 0) > self.max_bytes:
                raise DownloadError(
                    f"{name} of {self.repo_id!r} has {sizes[name]:,} bytes, over the limit of "
                    f"{self.max_bytes:,}; if that is meant, raise `max_bytes` (`--no_limits` on "
                    "the command line)"
                )


def _patiently(call: Callable[[], T], sleep: Callable[[float], object], cached: bool) -> T:
    """Return the answer to a request, repeated while it fails for a reason that passes."""
    for attempt, wait in enumerate(WAITS):
        try:
            return understood(call)
        except DownloadError:
            raise
        except (_MovedError, *_FAILURES) as error:
            cause = _cause(error)
            # Without a network there is nothing to wait for, if the cache has the set.
            nobody = type(cause).__name__ in ("ConnectError", "ConnectTimeout")
            if not _passes(error) or (nobody and cached and attempt >= _FEW):
                raise
            sleep(max(wait, wanted_wait(cause)))
    return understood(call)


def _passes(error: BaseException) -> bool:
    cause = _cause(error)
    if isinstance(error, _MovedError) or isinstance(cause, NETWORK_ERRORS):
        return isinstance(error, _MovedError) or passes(cause)
    # A file that was cut short; an error of the disk has a number.
    return type(error) is OSError and error.errno is None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def _cause(error: BaseException) -> BaseException:
    """Return the failure of the network behind an error of the client, or the error."""
    return next((e for e in _chain(error) if isinstance(e, NETWORK_ERRORS)), error)


def _reason(error: BaseException) -> str:
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        return f"it answered {cause.response.status_code} ({said(cause)})"
    return first_line(cause)


def _refusal(error: BaseException, fetch: _Fetch) -> str | None:
    """Return the message for a refusal of the Hub; None where it did not answer."""
    cause = _cause(error)
    repo_id = fetch.repo_id
    if isinstance(cause, GatedRepoError):
        page = f"{fetch.api.endpoint}/datasets/{repo_id}"
        return (
            f"the data set {repo_id!r} is gated: ask for access at {page}, and log in with `hf "
            f"auth login`. The Hub says: {said(cause)}"
        )
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"there is no folder {repo_id!r} here and no such data set on the Hub, or it is "
            "private and the token may not read it: check the name, or log in with `hf auth login`"
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"the data set {repo_id!r} has no revision {fetch.revision!r}"
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status == 401:
        return (
            f"the Hub does not accept the token ({said(cause)}); run `hf auth login`, or give one "
            "that is valid"
        )
    if status == 403:
        return f"the Hub does not let this token read {repo_id!r} ({said(cause)})"
    return None


def licenses_of(repo_id: str) -> list[str]:
    """Return the licenses that a data set on the Hub states; none without an answer."""
    try:
        card = HfApi().dataset_info(repo_id, timeout=10).card_data
        stated = card.get("license") if card is not None else None
    # A run that has ended is not lost for want of a license: the network, or an answer that is
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
