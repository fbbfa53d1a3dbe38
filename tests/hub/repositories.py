"""What the loopback Hub keeps: accounts, and repositories with their commits and branches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tree = dict[str, "Blob"]


@dataclass(frozen=True)
class Account:
    """Who a token belongs to: its role is read or write; ``orgs`` are roles by organisation."""

    name: str
    role: str = "write"
    orgs: Mapping[str, str] = field(default_factory=dict)
    scopes: Mapping[str, list[str]] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What whoami says."""
        token: dict[str, Any] = {"role": self.role, "displayName": "token"}
        if self.role == "fineGrained":
            scoped = [{"entity": {"name": n}, "permissions": p} for n, p in self.scopes.items()]
            token["fineGrained"] = {"scoped": scoped, "global": []}
        orgs = [{"name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        auth = {"type": "access_token", "accessToken": token}
        return {"type": "user", "name": self.name, "orgs": orgs, "auth": auth}

    def may_write(self, namespace: str) -> bool:
        role = "write" if namespace == self.name else self.orgs.get(namespace, "none")
        return self.role != "read" and role in ("write", "admin")

    def may_read(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


@dataclass(frozen=True)
class Blob:
    """A file of a commit; its content is in the store under ``sha256``."""

    sha256: str
    size: int
    git_oid: str
    lfs: bool

    def listed(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.size}
        entry["oid"] = self.git_oid
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: Tree


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def add(self, ref: str, parent: str | None, title: str, files: Tree) -> Commit:
        """A commit on top of ``parent``, to which ``ref`` points from now on."""
        known = f"{self.name} {ref} {parent} {title} {len(self.commits)}"
        commit = Commit(hashlib.sha1(known.encode()).hexdigest(), parent, title, files)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    def at(self, revision: str) -> Commit:
        oid = self.refs.get(f"refs/heads/{revision}") or self.refs.get(revision) or revision
        if oid not in self.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        found: Commit | None = self.at(revision)
        commits = []
        while found is not None:
            commits.append(found)
            found = self.commits[found.parent] if found.parent else None
        return commits


class RefusalError(Exception):
    """An answer that is an error, as the Hub words them: in headers, and in JSON or ``content``."""

    def __init__(
        self, status: int, code: str = "", message: str = "", content: bytes | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.content = content or {"error": message}


class Repositories:
    """Repositories by name; the contents of their files are files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Repo] = {}

    def keep(self, content: bytes, lfs: bool = False) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return self.blob(sha256, lfs)

    def blob(self, sha256: str, lfs: bool) -> Blob:
        path = self.folder / sha256
        size = path.stat().st_size
        content = f"pointer {sha256}".encode() if lfs else path.read_bytes()
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(sha256, size, git_oid, lfs)

    def make(self, name: str, *, private: bool = False, gated: bool = False) -> Repo:
        repo = self.repos[name] = Repo(name, private, gated)
        attributes = self.keep(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
        repo.add("refs/heads/main", None, "initial commit", {".gitattributes": attributes})
        return repo

    def content(self, repo: str, path: str, revision: str = "main") -> bytes:
        return (self.folder / self.repos[repo].at(revision).files[path].sha256).read_bytes()


def listing(files: Tree) -> dict[str, dict[str, Any]]:
    """Files and folders as the Hub lists them, by path."""
    entries = {path: blob.listed(path) for path, blob in files.items()}
    for path in files:
        for parent in list(Path(path).parents)[:-1]:
            name = parent.as_posix()
            oid = hashlib.sha1(name.encode()).hexdigest()
            entries[name] = {"type": "directory", "path": name, "oid": oid, "size": 0}
    return entries
