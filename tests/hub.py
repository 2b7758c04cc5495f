"""A model hub of this machine: the part of the Hugging Face Hub's HTTP API that pushing and loading a bundle needs.

Repositories, branches, preupload, LFS (basic transfer), commits, trees and files; keys that may read, write or do
nothing. Large files go by LFS, as on the hub. It stands in for a hub that tests cannot reach, under HF_ENDPOINT.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WRITES, READS = "hf_WriteKeyOfTheTests", "hf_ReadKeyOfTheTests"
LFS = (".safetensors",)


@dataclass
class Repository:
    """private, its branches (name -> commit), and the files of every commit."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        whole = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(whole)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = whole, sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class Refused(Exception):
    """An answer that is an error: status, and what the hub calls it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code, self.message = status, code, message or code


class Hub:
    """Its repositories; `asked` is every request, as (method, path)."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []

    def put(self, name: str, folder: Path) -> str:
        """A public repository with a folder's files."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repositories[name] = Repository(False)
        return self.repositories[name].commit(files)

    def repository(self, name: str, key: str | None) -> Repository:
        found = self.repositories.get(name)
        if found is None or (found.private and key not in (WRITES, READS)):
            raise Refused(404 if key else 401, "RepoNotFound", "Repository not found")
        return found

    def write(self, key: str | None) -> None:
        if key not in (WRITES, READS):
            raise Refused(401, message="Invalid username or password.")
        if key != WRITES:
            raise Refused(403, message=f"you have no right to write with {key}")

    def answer(self, method: str, path: str, body: bytes, key: str | None) -> Any:
        """JSON, or (headers, bytes) for a file. Raises Refused."""
        if path == "/api/repos/create":
            self.write(key)
            told = json.loads(body)
            name = "/".join(filter(None, [told.get("organization"), told["name"]]))
            self.repositories[name] = Repository(bool(told.get("private") or told.get("visibility") == "private"))
            self.repositories[name].commit({})
            return {"url": f"{self.url}/{name}", "id": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if method == "PUT" and path.startswith("/upload/"):
            self.objects[path.rpartition("/")[2]] = body
            return {}
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self.write(key)
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._file(self.repository(found[1], key), found[2], found[3])
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(\w+)(?:/([^/]+))?)?", path)
        if found is None:
            raise Refused(404, "EntryNotFound", f"no route {path}")
        return self._model(found[1], found[2] or "revision", unquote(found[3] or "main"), body, key)

    def _model(self, name: str, what: str, revision: str, body: bytes, key: str | None) -> Any:
        held = self.repository(name, key)
        if what in ("branch", "preupload", "commit"):
            self.write(key)
        if what == "branch":
            held.branches.setdefault(revision, held.branches["main"])
            return {}
        if what == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "shouldIgnore": False} for f in files]
            return {"files": [{**m, "uploadMode": "lfs" if m["path"].endswith(LFS) else "regular"} for m in modes]}
        if what == "commit":
            return self._commit(name, held, revision, [json.loads(line) for line in body.splitlines() if line])
        at = held.at(revision)
        if at is None:
            raise Refused(404, "RevisionNotFound", f"no revision {revision}")
        sha, files = at
        if what == "tree":
            return [self._entry(path, content) for path, content in sorted(files.items())]
        return {"id": name, "sha": sha, "private": held.private, "siblings": [{"rfilename": f} for f in sorted(files)]}

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(LFS):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _batch(self, told: dict[str, Any]) -> Any:
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.url}/upload/{o['oid']}"}}}
            if o["oid"] not in self.objects
            else o
            for o in told["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, held: Repository, branch: str, lines: list[dict[str, Any]]) -> Any:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content
        summary = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        sha = held.commit(files, branch, summary)
        return {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None}

    def _file(self, held: Repository, revision: str, path: str) -> Any:
        at = held.at(unquote(revision))
        if at is None or unquote(path) not in at[1]:
            raise Refused(404, "EntryNotFound", f"no file {path}")
        content = at[1][unquote(path)]
        entry = self._entry(path, content)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        return {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Repo-Commit": at[0]}, content


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A `Hub` on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            hub.asked.append((self.command, path))
            key = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            headers: dict[str, str] = {}
            try:
                found = hub.answer(self.command, path, body, key)
                status = 200
                headers, content = found if isinstance(found, tuple) else ({}, json.dumps(found).encode())
            except Refused as error:
                status, content = error.status, json.dumps({"error": error.message}).encode()
                headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
