"""A web server on the loopback address that the tests of the data room download from, and that misbehaves as they
say.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kit.data import download


@dataclass
class Sent:
    """One answer: the file, the Range that was asked for, the status, and how many bytes of the body were sent."""

    path: str
    range: str | None
    status: int
    size: int


@dataclass
class Server:
    """files: path -> content. breaks: path -> after how many bytes of the body the next answers end (None: whole).
    statuses: path -> statuses of the next answers instead of a file."""

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, list[int | None]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    abrupt: bool = False  # break with a reset, not with an orderly end
    sent: list[Sent] = field(default_factory=list)
    address: str = ""

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def add(self, path: str, content: bytes) -> str:
        self.files[path] = content
        return self.url(path)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lstrip("/")
            if server.statuses.get(path):
                return self.refuse(path, server.statuses[path].pop(0))
            if path not in server.files:
                return self.refuse(path, 404)
            body = server.files[path]
            tag = f'"{hashlib.md5(body).hexdigest()}"'
            asked = self.headers.get("Range") if server.ranges else None
            start = (
                int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.headers.get("If-Range") == tag else 0
            )
            if start >= len(body) > 0:
                return self.refuse(path, 416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if server.tags:
                self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = server.breaks[path].pop(0) if server.breaks.get(path) else None
            piece = body[start:] if cut is None else body[start : start + cut]
            server.sent.append(Sent(path, self.headers.get("Range"), 206 if start else 200, len(piece)))
            self.wfile.write(piece)
            if cut is not None and server.abrupt:
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        def refuse(self, path, status):
            server.sent.append(Sent(path, self.headers.get("Range"), status, 0))
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    return Handler


@pytest.fixture
def server(monkeypatch):
    """A Server that runs for one test; only the loopback address is reached, without a proxy and without waiting
    between retries.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def only_here(request, **kwargs):
        assert request.full_url.startswith("http://127.0.0.1:"), request.full_url
        return opener.open(request, **kwargs)

    monkeypatch.setattr("urllib.request.urlopen", only_here)
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    description = Server()
    running = ThreadingHTTPServer(("127.0.0.1", 0), _handler(description))
    running.daemon_threads = True
    description.address = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield description
    running.shutdown()
    running.server_close()
    thread.join()
