"""A distilled set to the Hub: one commit or none, whatever the network does meanwhile.

After `folder`, which wrote what is pushed, `card`, which merges the card with the one that is
there, and `target`, which asks whether a push is let in. A commit is made of what differs from
the branch's head, on that head and no other. After a failure the head is looked at again, so a
commit whose answer was lost is found and not made a second time, and one that somebody else has
made meanwhile is built upon. Large files go up before the commit; those that have arrived are not
sent again, by a later push either.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import DatasetInfo, RepoFile

from dd_plugin.hub.card.text import merge_card, with_license
from dd_plugin.hub.limits import UNLIMITED, DistilledFormatError
from dd_plugin.hub.reading import read_set
from dd_plugin.hub.remote.failures import (
    NETWORK_ERRORS,
    WAITS,
    DamagedAnswerError,
    PushError,
    passes,
    patiently,
    told,
    understood,
    wanted_wait,
)
from dd_plugin.hub.remote.published import CARD, PUBLISHED, LocalFile, published_files
from dd_plugin.hub.remote.target import check_no_other_data, check_target
from dd_plugin.text import without_secrets

__all__ = ["PushError", "PushResult", "check_target", "push_folder"]


class PushResult(NamedTuple):
    """The outcome of a push.

    Attributes:
        commit_url: of the commit, or of the head that was the same already.
        commit_oid: its hash.
        pr_url: of the pull request, if one was asked for and needed.
        unchanged: nothing differed, so no commit was made.
    """

    commit_url: str
    commit_oid: str
    pr_url: str | None = None
    unchanged: bool = False


def _head(info: DatasetInfo) -> str:
    if info.sha is None:
        raise DamagedAnswerError("it has no commit")
    return info.sha


class _Plan(NamedTuple):
    head: str
    files: Mapping[str, LocalFile]
    operations: list[CommitOperationAdd | CommitOperationDelete]


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    license: str | None = None,
    on_progress: Callable[[str], object] | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> PushResult:
    """Publish the folder of a distilled set as a data set of the Hub, in one commit.

    The files of the set go up and nothing else that is in the folder. Files of an earlier set that
    this one does not have are removed in the same commit; everything else in the repository stays,
    and so do a person's edits of its card. A repository with data of another kind is not pushed
    to. The folder is not written to.

    Args:
        folder: of the set.
        repo_id: ``"name"`` or ``"namespace/name"``; created where it is missing.
        token: None or True for the one of the environment or of `hf auth login`.
        private: whether the repository is private, if it is made.
        revision: the branch, "main" by default; created from main where it is missing.
        create_pr: open a pull request instead of writing to the branch.
        commit_message: of the commit.
        license: an identifier of the Hub, such as "cc-by-4.0", for the card.
        on_progress: gets a line at each stage.
        sleep: waits between attempts.

    Raises:
        PushError: the folder holds no distilled set, the repository other data than one's, or the
            Hub does not take it. Then the branch is as it was, unless the message says that a
            checksum differs after the commit.
    """
    say = on_progress or (lambda line: None)
    files = published_files(Path(folder))
    try:
        checksums = {name: file.sha256 for name, file in files.items()}
        read_set(folder, limits=UNLIMITED, checksums=checksums)
    except DistilledFormatError as error:
        raise PushError(f"what is damaged here is not published: {error}") from error
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise PushError(
            f"`license` must be an identifier of the Hub, got {license!r}; use one such as "
            '"cc-by-4.0" or "mit"'
        )
    say(f"asking whether {repo_id} can be written to")
    target = check_target(
        repo_id, token=token, private=private, revision=revision, create_pr=create_pr, sleep=sleep
    )
    api = HfApi(token=token)
    with told(target.repo_id):
        name, kind = target.repo_id, "dataset"
        if not target.exists:
            make = partial(api.create_repo, repo_type=kind, private=private, exist_ok=True)
            patiently(lambda: make(name), sleep)
        if revision is not None and not target.branch_exists:
            branch = partial(api.create_branch, repo_type=kind, branch=revision, exist_ok=True)
            patiently(lambda: branch(name), sleep)
        push = _Push(
            api=api,
            repo_id=name,
            files=files,
            revision=revision or "main",
            create_pr=create_pr,
            license=license,
            say=say,
            sleep=sleep,
        )
        return push.run(commit_message or "Publish a distilled set")


@dataclass(kw_only=True)
class _Push:
    api: HfApi
    repo_id: str
    files: Mapping[str, LocalFile]
    revision: str
    create_pr: bool
    license: str | None
    say: Callable[[str], object]
    sleep: Callable[[float], object]

    def run(self, message: str) -> PushResult:
        plan = self._plan()
        first_head = plan.head
        known = self._pull_requests()
        on_head = True
        for attempt, wait in enumerate((*WAITS, 0)):
            if not plan.operations:
                break
            self._upload(plan)
            self.say("committing")
            try:
                commit = understood(
                    partial(
                        self.api.create_commit,
                        self.repo_id,
                        plan.operations,
                        commit_message=message,
                        repo_type="dataset",
                        revision=self.revision,
                        create_pr=self.create_pr,
                        parent_commit=plan.head if on_head else None,
                    )
                )
            except NETWORK_ERRORS as error:
                if not passes(error):
                    raise
                last = attempt == len(WAITS)
                if not last:
                    wait = max(wait, wanted_wait(error))
                    self.say(f"the commit failed ({type(error).__name__}); again in {wait:.0f} s")
                    self.sleep(wait)
                if landed := self._landed_request(known):
                    return self._verified(plan, *landed)
                before, plan = plan.head, self._plan()
                if last and plan.operations:
                    raise
                # Some tokens get a 412 without another write. The head is asked for by the
                # plan in any case; what the parent adds is safety against a write right now.
                status = getattr(getattr(error, "response", None), "status_code", None)
                on_head = status != 412 or plan.head != before
            except ValueError as error:
                raise PushError(
                    f"the Hub does not take the card: {without_secrets(str(error))}"
                ) from error
            else:
                return self._verified(plan, commit.oid, commit.pr_url)
        return self._verified(plan, plan.head, None, unchanged=plan.head == first_head)

    def _plan(self) -> _Plan:
        """Return what differs between the folder and the branch as it is now."""
        repo_id, revision = self.repo_id, self.revision
        ask = partial(self.api.dataset_info, repo_id, revision=revision)
        head = patiently(lambda: _head(ask()), self.sleep)
        remote = patiently(lambda: self._tree(head), self.sleep)
        check_no_other_data(repo_id, remote)
        files = {**self.files, CARD: self._card(head, remote.get(CARD))}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, file.source)
            for path, file in files.items()
            if not file.is_at(remote.get(path))
        ]
        operations += [
            CommitOperationDelete(path)
            for path in remote
            if path not in files and any(fnmatchcase(path, p) for p in PUBLISHED)
        ]
        return _Plan(head, files, operations)

    def _tree(self, revision: str) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(
            self.repo_id, recursive=True, revision=revision, repo_type="dataset"
        )
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _card(self, head: str, remote: RepoFile | None) -> LocalFile:
        """Return the card with what a person has written into the one on the Hub."""
        local = self.files[CARD]
        assert isinstance(local.source, bytes)
        try:
            text = local.source.decode()
            if remote is not None and not local.is_at(remote):
                published = patiently(lambda: self._read_card(head, remote), self.sleep)
                text = merge_card(text, published)
            if self.license is not None:
                text = with_license(text, self.license)
        except ValueError as error:
            raise PushError(f"{CARD} of {self.repo_id}: {error}") from error
        return LocalFile.of(text.encode())

    def _read_card(self, head: str, remote: RepoFile) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(
                self.repo_id, CARD, repo_type="dataset", revision=head, local_dir=folder
            )
            content = Path(path).read_bytes()
        if not LocalFile.of(content).is_at(remote):
            raise PushError(f"{CARD} of {self.repo_id} was damaged on its way here; push again")
        return content.decode()

    def _upload(self, plan: _Plan) -> None:
        additions = [o for o in plan.operations if isinstance(o, CommitOperationAdd)]
        size = sum(plan.files[o.path_in_repo].size for o in additions)
        self.say(f"uploading {len(additions)} of {len(plan.files)} files, {size / 1e6:.1f} MB")
        # The client tries each file several times, but not after every kind of failure.
        for wait in (*WAITS[:2], None):
            try:
                understood(
                    partial(
                        self.api.preupload_lfs_files,
                        self.repo_id,
                        additions,
                        repo_type="dataset",
                        revision=self.revision,
                        create_pr=self.create_pr,
                        free_memory=False,
                    )
                )
            except (*NETWORK_ERRORS, RuntimeError, ValueError, OSError) as error:
                of_network = isinstance(error, NETWORK_ERRORS)
                cause = error if of_network else error.__cause__ or error
                # As the client says that an answer makes no sense.
                malformed = type(cause) is ValueError
                if wait is None or not (malformed or passes(cause)):
                    if of_network:
                        raise
                    reason = without_secrets(f"{error} {error.__cause__ or ''}")
                    raise PushError(
                        f"{reason}; {self.repo_id} is as it was; push again: files that have "
                        "arrived are not sent a second time"
                    ) from error
                self.sleep(max(wait, wanted_wait(cause)))
            else:
                return

    def _pull_requests(self) -> dict[str, str]:
        if not self.create_pr:
            return {}
        refs = patiently(
            lambda: self.api.list_repo_refs(
                self.repo_id, repo_type="dataset", include_pull_requests=True
            ),
            self.sleep,
        )
        return {str(r.ref): str(r.target_commit) for r in refs.pull_requests or ()}

    def _landed_request(self, known: Mapping[str, str]) -> tuple[str, str] | None:
        """Commit and address of a pull request that is new and holds what was pushed."""
        for ref, oid in self._pull_requests().items():
            if ref not in known and not self._wrong(self.files, oid, but=CARD):
                number = ref.rsplit("/", 1)[-1]
                url = f"{self.api.endpoint}/datasets/{self.repo_id}/discussions/{number}"
                return oid, url
        return None

    def _wrong(
        self, files: Mapping[str, LocalFile], oid: str, but: str = "", *, ours: bool = False
    ) -> list[str]:
        """Return the files whose remote checksums are not those of the local ones.

        Args:
            files: the local ones.
            oid: of a commit.
            but: a file that is left out.
            ours: it is the commit that was just made, so that files have to be in it.
        """

        def listed() -> list[Any]:
            entries = self.api.get_paths_info(
                self.repo_id, list(files), revision=oid, repo_type="dataset"
            )
            if ours and not entries:
                raise DamagedAnswerError("it lists no files")
            return entries

        entries = patiently(listed, self.sleep)
        remote = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        return [p for p, file in files.items() if p != but and not file.is_at(remote.get(p))]

    def _verified(
        self, plan: _Plan, oid: str, pr_url: str | None, unchanged: bool = False
    ) -> PushResult:
        self.say("comparing checksums")
        if wrong := self._wrong(plan.files, oid, ours=True):
            raise PushError(
                f"the checksums of {', '.join(wrong)} in commit {oid} of {self.repo_id} are not "
                "those of the local files: damaged on the way, or changed meanwhile; push again"
            )
        url = f"{self.api.endpoint}/datasets/{self.repo_id}/commit/{oid}"
        return PushResult(url, oid, pr_url, unchanged)
