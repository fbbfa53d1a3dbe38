"""A Hub on this machine: a small HTTP server with a folder behind it, for the real clients.

What `huggingface_hub` and `datasets` ask of a data set's repository, answered as the Hub answers:
accounts, making repositories, listing, LFS upload, commits and pull requests, downloads by range.
Any request can be made to fail (`Fault`). Clients read ``HF_ENDPOINT`` when they are imported, so
they run in processes of their own: see `tests.hub.client`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub.repositories import Account, RefusalError, Repo, Repositories, listing

LFS_SUFFIXES = (".parquet", ".safetensors", ".png")
REPO = r"/datasets/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Fault:
    """A failure to come.

    Attributes:
        where: searched for in ``"METHOD path"``.
        what: a status to answer; ``"drop"``: hang up before anything is done; ``"lost"``: do it,
            then hang up without an answer; ``"half"``: hang up after half of the upload;
            ``"corrupt"``: one byte of a file, or every checksum of a listing, is another;
            ``"empty"``: do it, and answer with JSON that has nothing in it.
        times: how often.
        headers: go with a status.
    """

    where: str
    what: int | Literal["drop", "lost", "half", "corrupt", "empty"]
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: tuple[Path, int, int] | None = None  # with the first byte and the number of bytes


class Hub(Repositories):
    """The server, its repositories, and a record of what it was asked.

    Args:
        folder: holds the files' contents.
        accounts: by token.
    """

    def __init__(self, folder: Path, accounts: Mapping[str, Account]) -> None:
        super().__init__(folder)
        self.accounts = dict(accounts)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.where, request):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, pattern: str) -> list[str]:
        """The requests since the record was last cleared that match ``pattern``."""
        return [request for request in self.requests if re.search(pattern, request)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    body: bytes = b""

    def log_message(self, *_: object) -> None:
        """Says nothing: the record is `Hub.requests`."""

    def _handle(self) -> None:
        request = f"{self.command} {self.path}"
        self.hub.requests.append(request)
        fault = self.hub.fault_for(request)
        what = fault.what if fault else None
        if what in ("drop", "half"):
            if what == "half":
                for _ in self._chunks(int(self.headers.get("Content-Length", 0)) // 2):
                    pass
            self._hang_up()
            return
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        try:
            if isinstance(what, int):
                self._drain()
                # As a gateway answers: not in JSON.
                raise RefusalError(what, content=b"<html>made to fail</html>")
            answer = self._route(parts.path)
        except RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Error-Message": refusal.message, **(fault.headers if fault else {})}
            answer = Answer(refusal.content, refusal.status, headers)
        if what == "lost":
            self._hang_up()
            return
        if what == "empty" and answer.file is None:
            answer = Answer({})
        # A client that hangs up has read as much as it wanted.
        with contextlib.suppress(ConnectionError):
            self._send(answer, corrupt=what == "corrupt")

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - http.server's names

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _chunks(self, size: int) -> Iterator[bytes]:
        while size > 0 and (chunk := self.rfile.read(min(size, 1 << 20))):
            size -= len(chunk)
            yield chunk

    def _drain(self) -> bytes:
        return b"".join(self._chunks(int(self.headers.get("Content-Length", 0))))

    def _route(self, path: str) -> Answer:
        for method, pattern, function in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                self.body = b"" if function is _put_object else self._drain()
                with contextlib.nullcontext() if function is _put_object else self.hub.lock:
                    return function(self, **{k: unquote(v) for k, v in match.groupdict().items()})
        self._drain()
        raise RefusalError(404, "", f"no such call: {self.command} {path}")

    def _send(self, answer: Answer, corrupt: bool) -> None:
        content = answer.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if corrupt:
            body = re.sub(rb'"oid": "..', b'"oid": "zz', body)
        path, first, size = answer.file or (None, 0, len(body))
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        with io.BytesIO(body) if path is None else path.open("rb") as source:
            source.seek(first)
            while size > 0 and (chunk := source.read(min(size, 1 << 20))):
                size -= len(chunk)
                damaged = corrupt and path is not None
                self.wfile.write(bytes([chunk[0] ^ 1]) + chunk[1:] if damaged else chunk)
                corrupt = False

    # --- who asks ------------------------------------------------------------------------------

    def account(self) -> Account | None:
        if not (given := self.headers.get("Authorization")):
            return None
        account = self.hub.accounts.get(given.removeprefix("Bearer "))
        if account is None:
            raise RefusalError(401, "", "Invalid credentials in Authorization header")
        return account

    def account_needed(self) -> Account:
        if (account := self.account()) is None:
            raise RefusalError(401, "", "Invalid username or password.")
        return account

    def repo(self, name: str, *, write: bool = False) -> Repo:
        """The repository, if the asker may see it, or write to it."""
        account, repo = self.account(), self.hub.repos.get(name)
        namespace = name.split("/")[0]
        hidden = repo and repo.private and not (account and account.may_read(namespace))
        if repo is None or hidden:
            raise RefusalError(404 if account else 401, "RepoNotFound", "Repository not found")
        if write and not (account and account.may_write(namespace)):
            raise RefusalError(403 if account else 401, "", "You have no right to write here")
        return repo


# --- the calls, one function each ----------------------------------------------------------------


def _whoami(ask: _Handler) -> Answer:
    return Answer(ask.account_needed().described())


def _validate_yaml(ask: _Handler) -> Answer:
    content = json.loads(ask.body)["content"]
    head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        values = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError as error:
        return Answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    empty = [] if values else [{"message": "empty or missing yaml metadata in repo card"}]
    return Answer({"errors": [], "warnings": empty})


def _create(ask: _Handler) -> Answer:
    given, account = json.loads(ask.body), ask.account_needed()
    namespace = given.get("organization") or account.name
    name = f"{namespace}/{given['name']}"
    if not account.may_write(namespace):
        raise RefusalError(403, "", f"You don't have the rights to create under {namespace}")
    url = f"{ask.hub.url}/datasets/{name}"
    if name in ask.hub.repos:
        return Answer({"error": "You already created this dataset repo", "url": url}, 409)
    private = given.get("visibility") == "private" or bool(given.get("private"))
    ask.hub.make(name, private=private)
    return Answer({"url": url, "name": name})


def _auth_check(ask: _Handler, repo: str, write: str = "") -> Answer:
    ask.repo(repo, write=bool(write))
    return Answer({})


def _info(ask: _Handler, repo: str, revision: str = "main") -> Answer:
    found = ask.repo(repo)
    commit = found.at(revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    if "blobs" in ask.query:
        for sibling, blob in zip(siblings, commit.files.values(), strict=True):
            sibling |= {"size": blob.size, "blobId": blob.git_oid}
    answer = {"id": repo, "sha": commit.oid, "private": found.private, "siblings": siblings}
    return Answer({**answer, "gated": "auto" if found.gated else False, "tags": [], "author": None})


def _refs(ask: _Handler, repo: str) -> Answer:
    found = ask.repo(repo)
    every = [
        {"name": ref.removeprefix("refs/heads/"), "ref": ref, "targetCommit": oid}
        for ref, oid in found.refs.items()
    ]
    answer: dict[str, Any] = {"converts": [], "tags": []}
    answer["branches"] = [r for r in every if r["ref"].startswith("refs/heads/")]
    answer["pullRequests"] = [r for r in every if r["ref"].startswith("refs/pr/")]
    return Answer(answer)


def _branch(ask: _Handler, repo: str, branch: str) -> Answer:
    found = ask.repo(repo, write=True)
    if f"refs/heads/{branch}" in found.refs:
        raise RefusalError(409, "", f"Reference already exists: refs/heads/{branch}")
    start = json.loads(ask.body or b"{}").get("startingPoint", "main")
    found.refs[f"refs/heads/{branch}"] = found.at(start).oid
    return Answer({})


def _tree(ask: _Handler, repo: str, revision: str, path: str = "") -> Answer:
    entries = listing(ask.repo(repo).at(revision).files)
    if path and entries.get(path, {}).get("type") != "directory":
        raise RefusalError(404, "EntryNotFound", f"{path} does not exist on {revision}")
    recursive = ask.query.get("recursive", ["false"])[0].lower() == "true"
    inside = [e for name, e in entries.items() if not path or name.startswith(f"{path}/")]
    depth = path.count("/") + 1 if path else 0
    return Answer([e for e in inside if recursive or e["path"].count("/") == depth])


def _paths_info(ask: _Handler, repo: str, revision: str) -> Answer:
    entries = listing(ask.repo(repo).at(revision).files)
    wanted = parse_qs(ask.body.decode()).get("paths", [])
    return Answer([entries[path] for path in wanted if path in entries])


def _preupload(ask: _Handler, repo: str, revision: str) -> Answer:
    files = ask.repo(repo, write="create_pr" not in ask.query).at(revision).files
    answers = []
    for file in json.loads(ask.body)["files"]:
        lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > 5_000_000
        answer = {"path": file["path"], "shouldIgnore": False}
        answer["uploadMode"] = "lfs" if lfs else "regular"
        if there := files.get(file["path"]):
            answer["oid"] = there.sha256 if there.lfs else there.git_oid
        answers.append(answer)
    return Answer({"files": answers})


def _batch(ask: _Handler, repo: str) -> Answer:
    ask.repo(repo)
    objects = json.loads(ask.body)["objects"]
    for entry in objects:
        if not (ask.hub.folder / entry["oid"]).exists():
            entry["actions"] = {"upload": {"href": f"{ask.hub.url}/lfs/{entry['oid']}"}}
    return Answer({"transfer": "basic", "objects": objects})


def _put_object(ask: _Handler, oid: str) -> Answer:
    partial = ask.hub.folder / f"{oid}.{threading.get_ident()}.partial"
    sha256 = hashlib.sha256()
    size = expected = int(ask.headers["Content-Length"])
    with partial.open("wb") as file:
        for chunk in ask._chunks(expected):
            sha256.update(chunk)
            size -= file.write(chunk)
    if size or sha256.hexdigest() != oid:
        partial.unlink()
        raise RefusalError(400, "", "the content is not what its checksum says")
    shutil.move(partial, ask.hub.folder / oid)
    return Answer({})


def _commit(ask: _Handler, repo: str, revision: str) -> Answer:
    pull_request = "create_pr" in ask.query
    found = ask.repo(repo, write=not pull_request)
    ask.account_needed()
    base, title = found.at(revision), ""
    files = dict(base.files)
    for line in ask.body.splitlines():
        key, value = (entry := json.loads(line))["key"], entry["value"]
        if key == "header":
            title = value["summary"]
            if value.get("parentCommit", base.oid) != base.oid:
                raise RefusalError(
                    412, "", "A commit has happened since. Please refresh and try again."
                )
        elif key == "file":
            files[value["path"]] = ask.hub.keep(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if not (ask.hub.folder / value["oid"]).exists():
                raise RefusalError(400, "", f"LFS object {value['oid']} does not exist")
            files[value["path"]] = ask.hub.blob(value["oid"], lfs=True)
        elif key == "deletedFile":
            del files[value["path"]]
    number = 1 + sum(ref.startswith("refs/pr/") for ref in found.refs)
    branch = revision if revision in found.refs else f"refs/heads/{revision}"
    ref = f"refs/pr/{number}" if pull_request else branch
    commit = found.add(ref, base.oid, title, files)
    url = f"{ask.hub.url}/datasets/{repo}"
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
    return Answer({**answer, "pullRequestUrl": f"{url}/discussions/{number}"})


def _resolve(ask: _Handler, repo: str, revision: str, path: str) -> Answer:
    found = ask.repo(repo)
    account, commit = ask.account(), found.at(revision)
    if found.gated and not (account and account.may_read(repo.split("/")[0])):
        raise RefusalError(403 if account else 401, "GatedRepo", f"Access to {repo} is restricted")
    if path not in commit.files:
        raise RefusalError(404, "EntryNotFound", "Entry not found")
    blob = commit.files[path]
    headers = {"ETag": f'"{blob.sha256 if blob.lfs else blob.git_oid}"', "Accept-Ranges": "bytes"}
    headers |= {"X-Repo-Commit": commit.oid, "Content-Type": "application/octet-stream"}
    first, last, status = 0, blob.size - 1, 200
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", ask.headers.get("Range", "")):
        first, last, status = int(wanted[1]), min(last, int(wanted[2] or last)), 206
        headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
    file = (ask.hub.folder / blob.sha256, first, last - first + 1)
    return Answer(status=status, headers=headers, file=file)


_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", _whoami),
    ("POST", r"/api/validate-yaml", _validate_yaml),
    ("POST", r"/api/repos/create", _create),
    ("GET", rf"/api{REPO}", _info),
    ("GET", rf"/api{REPO}/auth-check(?P<write>/write)?", _auth_check),
    ("GET", rf"/api{REPO}/revision/(?P<revision>[^/]+)", _info),
    ("GET", rf"/api{REPO}/refs", _refs),
    ("POST", rf"/api{REPO}/branch/(?P<branch>[^/]+)", _branch),
    ("GET", rf"/api{REPO}/tree/(?P<revision>[^/]+)", _tree),
    ("GET", rf"/api{REPO}/tree/(?P<revision>[^/]+)/(?P<path>.+)", _tree),
    ("POST", rf"/api{REPO}/paths-info/(?P<revision>[^/]+)", _paths_info),
    ("POST", rf"/api{REPO}/preupload/(?P<revision>[^/]+)", _preupload),
    ("POST", rf"/api{REPO}/commit/(?P<revision>[^/]+)", _commit),
    ("POST", rf"{REPO}\.git/info/lfs/objects/batch", _batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _put_object),
    ("GET HEAD", rf"{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _resolve),
]
