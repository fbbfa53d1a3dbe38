"""The target of a push: account, rights and repository, checked before any long work.

Before `push`, which goes on from here; the trainer asks at its start, so that a wrong token does
not cost a night. Nothing is made or changed on the Hub.

A repository with data that are not a distilled set's is nowhere to push to: a push removes the
files of the set before, and those of the real images have the same names.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dd_plugin.hub.reading import RECORD
from dd_plugin.hub.remote.failures import (
    DamagedAnswerError,
    PushError,
    patiently,
    said,
    told,
)

# Files, wherever they are, that do not make a repository one with data in it.
_NO_DATA = ("README.md", ".*", "LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "CITATION*")


class Target(NamedTuple):
    """The target of a push.

    Attributes:
        repo_id: with its namespace.
        exists: whether the repository is there already.
        branch_exists: whether the branch is.
        user: whose token it is.
    """

    repo_id: str
    exists: bool
    branch_exists: bool
    user: str


def check_target(
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    sleep: Callable[[float], object] = time.sleep,
) -> Target:
    """Find out whether a push would be let in, without changing anything.

    Args:
        repo_id: ``"name"`` or ``"namespace/name"``, of a data set.
        token: None or True for the one of the environment or of `hf auth login`.
        private: whether the repository is to be private, if it is made.
        revision: the branch, "main" by default; created where it is missing.
        create_pr: propose the push as a pull request, for which reading is enough.
        sleep: waits between attempts.

    Raises:
        PushError: it would not, the repository holds other data than a distilled set's, or the Hub
            cannot be reached.
    """
    try:
        hf_hub_url(repo_id, RECORD, repo_type="dataset")  # no address without a valid id
    except HFValidationError as error:
        raise PushError(
            f'`repo_id` must be "name" or "namespace/name", got {repo_id!r}: {error}'
        ) from error
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}|\s*", revision):
        raise PushError(
            f"`revision` must be a branch, got {revision!r}; use a name, or none for main"
        )
    if token is False or not (token if isinstance(token, str) else get_token()):
        raise PushError(
            "pushing needs a token of the Hub, got none; run `hf auth login`, set HF_TOKEN, or "
            "give `token`"
        )
    api = HfApi(token=token)
    with told(repo_id):
        account = patiently(lambda: _Account.from_json(api.whoami(token)), sleep)
        name = repo_id if "/" in repo_id else f"{account.name}/{repo_id}"
        return _checked(
            api,
            account,
            name,
            private=private,
            revision=revision,
            create_pr=create_pr,
            sleep=sleep,
        )


class _Account(NamedTuple):
    """The owner of a token, and what the token allows.

    Attributes:
        name: of the account.
        token: the name of the token.
        role: of the token: ``"read"``, ``"write"``, ``"fineGrained"``; None where it is not known.
        writable: users, organizations and repositories that a fine-grained token may write to;
            None among them stands for one that this version does not know.
        organizations: the account's role in each of its organizations.
    """

    name: str
    token: str
    role: str | None
    writable: frozenset[str | None]
    organizations: Mapping[str | None, str | None]

    @classmethod
    def from_json(cls, who: Mapping[str, Any]) -> _Account:
        """Read the Hub's answer.

        Raises:
            DamagedAnswerError: it has no name.
        """
        if not isinstance(who["name"], str):
            raise DamagedAnswerError("it has no name of an account")
        token = (who.get("auth") or {}).get("accessToken") or {}
        role: str | None = token.get("role")
        scopes: list[dict[str, Any]] = []
        if role == "fineGrained":
            scopes = (token.get("fineGrained") or {}).get("scoped") or []
        writable = [s for s in scopes if "repo.write" in (s.get("permissions") or ())]
        return cls(
            name=who["name"],
            token=token.get("displayName") or "",
            role=role,
            writable=frozenset((s.get("entity") or {}).get("name") for s in writable),
            organizations={o.get("name"): o.get("roleInOrg") for o in who.get("orgs") or ()},
        )


def _checked(
    api: HfApi,
    account: _Account,
    name: str,
    *,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    sleep: Callable[[float], object],
) -> Target:
    try:
        info = patiently(lambda: api.dataset_info(name), sleep)
    except RepositoryNotFoundError:
        info = None
    if info is None and create_pr:
        raise PushError(
            f"a pull request must be to a repository that exists, and {account.name!r} sees no "
            f"{name}; push without `create_pr` to make it"
        )
    if info is not None and private and not info.private:
        raise PushError(
            f"`private` is True, but {name} exists and is public; change that in its settings, "
            "or push to another name"
        )
    if not create_pr:
        _check_rights(api, account, name, info is not None)
    branch_exists = info is not None
    if info is not None and revision is not None:
        try:
            info = patiently(lambda: api.dataset_info(name, revision=revision), sleep)
        except RevisionNotFoundError as error:
            if create_pr or revision.startswith("refs/"):
                raise PushError(
                    f"`revision` must be a branch of {name}, got {revision!r}, which it does not "
                    "have"
                ) from error
            branch_exists = False  # it will start as main is
    if info is not None:
        check_no_other_data(name, [file.rfilename for file in info.siblings or ()])
    return Target(
        name,
        exists=info is not None,
        branch_exists=branch_exists or revision in (None, "main"),
        user=account.name,
    )


def check_no_other_data(repo_id: str, paths: Collection[str]) -> None:
    """Check that a push would not replace other data, such as the real images.

    Args:
        repo_id: of the repository.
        paths: the files at the head that would be pushed to.

    Raises:
        PushError: there are data, and no record of a distilled set.
    """
    data = sorted(
        path
        for path in paths
        if not any(fnmatchcase(path.rpartition("/")[2], pattern) for pattern in _NO_DATA)
    )
    if data and RECORD not in paths:
        count = "another file" if len(data) == 1 else f"{len(data)} other files"
        named = ", ".join(data[:3]) + (", ..." if len(data) > 3 else "")
        raise PushError(
            f"{repo_id} must be new, empty or hold a distilled set, got {count} ({named}) and no "
            f"{RECORD}; push to another id, or delete the files in it first"
        )


def _check_rights(api: HfApi, account: _Account, name: str, exists: bool) -> None:
    namespace = name.split("/")[0]
    refused = f"the token {account.token!r} of {account.name!r} may not write to "
    remedy = f"; make one that may at {api.endpoint}/settings/tokens"
    if account.role == "read":
        raise PushError(f"{refused}anything{remedy}")
    if account.role == "fineGrained" and not account.writable & {namespace, name, None}:
        raise PushError(f"{refused}{name}{remedy}")
    if exists and "write" in inspect.signature(api.auth_check).parameters:
        try:
            api.auth_check(name, repo_type="dataset", write=True)
        except HfHubHTTPError as error:
            # Only a clear no is one: a Hub that does not know the question says it at the commit.
            if error.response.status_code in (401, 403):
                raise PushError(f"{refused}{name}: {said(error)}{remedy}") from error
        return
    roles = account.organizations
    if namespace != account.name and namespace not in roles:
        raise PushError(
            f"{account.name!r} is not {namespace!r} and not a member of it, so cannot write to "
            f"{name}; use {account.name}/{name.split('/')[1]}, or `create_pr` where it exists"
        )
    if roles.get(namespace) == "read":
        raise PushError(
            f"{account.name!r} may only read in {namespace!r}; ask for the right to write"
        )
