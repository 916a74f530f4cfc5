"""A web server on the loopback address that stands for every publisher of a data set."""

from __future__ import annotations

import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kit.data import named


class Server:
    """folder: its files are what the publishers offer, each under its own name; asked: the names that were fetched."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []
        folder.mkdir()

    def offer(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            (self.folder / name).write_bytes(content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """torchvision's downloads are led here by the last part of their address, kit's own by patched addresses."""
    served = Server(tmp_path / "published")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            served.asked.append(self.path.lstrip("/"))
            super().do_GET()

        def log_message(self, *args):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served.folder))
    running.daemon_threads = True
    address = f"http://127.0.0.1:{running.server_address[1]}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def here(request, **options):
        url = f"{address}/{request.full_url.rpartition('/')[2]}"
        return opener.open(urllib.request.Request(url, method=request.get_method()), **options)

    monkeypatch.setattr("urllib.request.urlopen", here)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("EVENTS", "INDOOR", "SUN_PARTITIONS"):
        monkeypatch.setattr(named, name, f"{address}/{getattr(named, name).rpartition('/')[2]}")
    monkeypatch.setattr(named, "BENCHMARK", address)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    running.shutdown()
    running.server_close()
    thread.join()
