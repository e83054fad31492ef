"""A model and data set hub on loopback: the part of the public one's interface that clients use.

`with Hub() as hub:` serves `hub.repositories`; `hub.environment(folder)` is what a process needs
to take it for the hub. `hub.faults[repository]` makes it misbehave; `hub.requests` is its log.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """Files by revision. gated: who comes without a token is refused."""

    name: str
    kind: str = "dataset"  # dataset | model
    revisions: dict[str, Files] = field(default_factory=dict)
    licence: str | None = None
    gated: bool = False

    def commit(self, revision: str) -> tuple[str, Files] | None:
        """(commit, files) of a branch, tag or commit."""
        for name, files in self.revisions.items():
            commit = commit_of(self.name, files)
            if revision in (name, commit):
                return commit, files
        return None


def commit_of(name: str, files: Files) -> str:
    """40 hexadecimal digits that name these files."""
    digest = hashlib.sha1(name.encode())
    for path in sorted(files):
        digest.update(path.encode() + hashlib.sha1(files[path]).digest())
    return digest.hexdigest()


@dataclass
class Fault:
    """A way of misbehaving, for so many requests (None: for ever).

    busy: 429 and 503 in turn; page: HTML with status 200; cut: of a download the first half, then
    silence; gated: 401; forbidden: 403; missing: 404.
    """

    kind: str
    times: int | None = None

    def strikes(self) -> bool:
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class Hub:
    """The server, in a thread of this process."""

    def __init__(self, repositories: Mapping[str, Repository]) -> None:
        self.repositories = dict(repositories)
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []  # "GET /path range"
        self.lock = threading.Lock()

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, folder: Path, **more: str) -> dict[str, str]:
        """For a process whose hub this is and whose caches lie in `folder`; no local data."""
        left_out = ("HF_HUB_OFFLINE", "HF_TOKEN", "MORA_BENCH_DATA", "HF_DATASETS_OFFLINE")
        kept = {k: v for k, v in os.environ.items() if k not in left_out}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "hf"),
            "MORA_BENCH_CACHE": str(folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }

    def weights_asked_for(self) -> list[str]:
        """Requests for the weights of a model, a look at what there is apart."""
        return [r for r in self.requests if r.startswith("GET") and ".safetensors" in r]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        with self.hub.lock:
            said = f"{self.command} {path} {self.headers.get('Range', '')}".strip()
            self.hub.requests.append(said)
        for pattern, answer in (
            (r"/api/(dataset|model)s/([^/]+/[^/]+)/tree/(.+)", self._tree),
            (r"/api/(dataset|model)s/([^/]+/[^/]+)/paths-info/(.+)", self._paths),
            (r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"/(datasets/)?([^/]+/[^/]+)/resolve/(.+)", self._resolve),
        ):
            if match := re.fullmatch(pattern, path):
                kind = "dataset" if (match[1] or "").startswith("dataset") else "model"
                repository = self.hub.repositories.get(match[2])
                if self._misbehaves(match[2], path):
                    return
                if repository is None or repository.kind != kind:
                    self._refuse(404, "RepoNotFound", "Repository not found")
                elif repository.gated and path.startswith("/api/") is False and not self._token():
                    self._refuse(401, "GatedRepo", "Access to this repository is restricted")
                else:
                    answer(repository, match[3] or "main", query)
                return
        self._refuse(404, "", "Not found")

    def _token(self) -> bool:
        return bool(self.headers.get("Authorization"))

    def _misbehaves(self, name: str, path: str) -> bool:
        fault = self.hub.faults.get(name)
        if fault is None or fault.kind == "cut":
            return False
        if fault.kind in ("gated", "forbidden") and path.startswith("/api/"):
            return False  # what a gated repository is called is no secret
        with self.hub.lock:
            strikes = fault.strikes()
            turn = (fault.times or 0) % 2
        if not strikes:
            return False
        match fault.kind:
            case "busy":
                self._send(429 if turn else 503, b"slow down", {"Retry-After": "0"})
            case "page":
                self._send(
                    200, b"<html>Log in to the network</html>", {"Content-Type": "text/html"}
                )
            case "gated":
                self._refuse(401, "GatedRepo", "Access to this repository is restricted")
            case "forbidden":
                self._refuse(403, "GatedRepo", "You are not on the list")
            case "missing":
                self._refuse(404, "RepoNotFound", "Repository not found")
        return True

    # ---- the interface ------------------------------------------------------------------------

    def _info(self, repository: Repository, revision: str, _: Any) -> None:
        found = self._commit(repository, revision)
        if found is None:
            return
        commit, files = found
        card = {} if repository.licence is None else {"license": repository.licence}
        self._json(
            {
                "id": repository.name,
                "sha": commit,
                "private": False,
                "gated": "auto" if repository.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "cardData": card,
                "siblings": [{"rfilename": path} for path in files],
            }
        )

    def _tree(self, repository: Repository, rest: str, query: Any) -> None:
        found, folder = self._split(repository, rest)
        if found is None:
            return
        _, files = found
        inside = f"{folder}/" if folder else ""
        deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        below = {path: data for path, data in files.items() if path.startswith(inside)}
        if not below:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        entries: dict[str, dict[str, Any]] = {}
        for path, data in below.items():
            parts = path.removeprefix(inside).split("/")
            for depth in range(1, len(parts) if deep else min(len(parts), 2)):
                name = inside + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
            if deep or len(parts) == 1:
                entries[path] = _entry(path, data)
        self._json(list(entries.values()))

    def _paths(self, repository: Repository, revision: str, _: Any) -> None:
        found = self._commit(repository, revision)
        if found is None:
            return
        _, files = found
        body = self.body.decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        entries = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in files:
                entries.append(_entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        self._json(entries)

    def _resolve(self, repository: Repository, rest: str, _: Any) -> None:
        found, path = self._split(repository, rest)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        data = files[path]
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        status, part = 200, data
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            last = min(last, len(data) - 1)
            status, part = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        fault = self.hub.faults.get(repository.name)
        # Whoever downloads asks for all or for all the rest; whoever streams, for a piece.
        rest = self.command == "GET" and self.headers.get("Range", "-").endswith("-")
        if fault and fault.kind == "cut" and rest and not path.endswith(".md"):
            with self.hub.lock:
                strikes = fault.strikes()
            if strikes:
                first = len(data) - len(part)
                self._send(status, part, headers, sent=max(0, len(data) // 2 - first))
                return
        self._send(status, part, headers)

    def _split(self, repository: Repository, rest: str) -> tuple[tuple[str, Files] | None, str]:
        """The revision at the beginning of a path, and what is behind it."""
        parts = rest.split("/")
        for depth in (3, 1):  # refs/convert/parquet
            revision = "/".join(parts[:depth])
            if (found := repository.commit(revision)) is not None:
                return found, "/".join(parts[depth:])
        self._refuse(404, "RevisionNotFound", "Invalid rev id")
        return None, ""

    def _commit(self, repository: Repository, revision: str) -> tuple[str, Files] | None:
        found = repository.commit(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _refuse(
        self, status: int, code: str, words: str, headers: Mapping[str, str] | None = None
    ) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": words} if code else {}
        body = json.dumps({"error": words}).encode()
        self._send(status, body, {"Content-Type": "application/json", **said, **(headers or {})})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str],
        *,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])
        if sent is not None:
            self.wfile.flush()
            self.close_connection = True


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {
        "type": "file",
        "oid": hashlib.sha1(data).hexdigest(),
        "size": len(data),
        "path": path,
    }
