"""JupyterLab in headless Chromium, for the tests that need a person's view of a notebook.

Everything is the test's own: copies of the notebooks, a server on a loopback port with its settings in a temporary
folder, and a browser that talks to nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "build" / "test" / "screenshots"
PATIENCE = 300.0  # seconds for anything; a machine that does nothing else needs few
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
TOKEN = secrets.token_hex()
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-quic", "--disable-background-networking"]
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # pop-ups
    "@jupyterlab/notebook-extension/tracker": {
        "windowingMode": "none"
    },  # every cell is on the page, also one that is not in view
}


def until(happened: Callable[[], Any], what: str, otherwise: Callable[[], str] = str) -> Any:
    """What `happened` returns as soon as it is true. otherwise: what there is instead, for the message."""
    deadline = time.monotonic() + PATIENCE
    while not (result := happened()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}; {otherwise()}"
        time.sleep(0.1)
    return result


def copy_notebook(name: str, folder: Path, **parameters: Any) -> None:
    """The notebook as papermill would leave it: the parameters in a cell after those that it declares."""
    notebook = json.loads((ROOT / "notebooks" / name).read_text())
    place = next(i for i, cell in enumerate(notebook["cells"]) if "parameters" in cell["metadata"].get("tags", []))
    lines = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    cell = {
        "cell_type": "code",
        "id": "injected",
        "metadata": {},
        "source": lines,
        "outputs": [],
        "execution_count": None,
    }
    notebook["cells"].insert(place + 1, cell)
    (folder / name).write_text(json.dumps(notebook))


@contextlib.contextmanager
def jupyter(folder: Path, scratch: Path) -> Iterator[str]:
    """A JupyterLab server over `folder`; yields its address."""
    for name, values in SETTINGS.items():
        file = scratch / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    own = {
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {
        name: value for name, value in os.environ.items() if name != "KIT_PARAMETERS"
    }  # the test command sets it for nbval's notebooks
    environment = {
        **inherited,
        **{name: str(scratch / where) for name, where in own.items()},
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--IdentityProvider.token={TOKEN}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
    ]
    log = scratch / "server.log"
    with open(log, "wb") as file:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: server.poll() is not None or _ask(f"{address}/api/status"), "JupyterLab to answer")
        assert server.poll() is None, log.read_text()[-3000:]
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:  # its kernels end with it
            server.kill()
            server.wait()


def _ask(address: str, method: str = "GET") -> Any:
    """What the server answers, None if it does not."""
    request = urllib.request.Request(address, headers={"Authorization": f"token {TOKEN}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer) if method == "GET" else None
    except OSError:
        return None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A page of a browser that has nothing of the user's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE * 1000)
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 2200})
            page.set_default_timeout(PATIENCE * 1000)
            yield page
        finally:
            browser.close()


class Notebook:
    """A notebook that is open in the page, with its kernel ready."""

    def __init__(self, page: Any, address: str, name: str):
        self.page, self.address, self.name = page, address, name
        page.goto(f"{address}/lab/tree/{name}?reset&token={TOKEN}")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        until(self._ready, f"the kernel of {name}")
        page.locator(
            ".jp-SideBar [data-id=filebrowser].lm-mod-current"
        ).click()  # folds the list of files away: room for figures

    def _ready(self) -> bool:
        choose = self.page.locator(".jp-Dialog:has-text('Select Kernel') .jp-mod-accept")
        if choose.count():
            choose.first.click()
        kernels = [
            session["kernel"] for session in _ask(f"{self.address}/api/sessions") or [] if session["path"] == self.name
        ]
        return any(kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels)

    def run_all(self) -> None:
        """Run all cells and wait until each has its number. Fails with the traceback that a cell shows."""
        self.page.locator(".lm-MenuBar-itemLabel:text-is('Run')").click()
        self.page.locator(".lm-Menu-itemLabel:text-is('Run All Cells')").click()
        until(self._done, f"all cells of {self.name} to run")

    def _done(self) -> bool:
        errors = self.page.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']:has-text('Error')"
        )
        assert not errors.count(), errors.first.inner_text()
        prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        return bool(prompts) and all(prompt.strip("[]:").strip().isdigit() for prompt in prompts)

    def touch(self, place: Any) -> None:
        """Move the mouse over a picture until it has given way to the living figure (playwright's own `hover` would
        wait for the picture).
        """
        place.scroll_into_view_if_needed()
        picture = place.element_handle()  # a locator would find the next picture once this one is gone

        def gone() -> bool:
            if box := picture.bounding_box():
                self.page.mouse.move(box["x"] + 5, box["y"] + 5)
                self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            return box is None

        until(gone, "the picture to come alive")

    def picture(self, name: str) -> None:
        """A screenshot among the test's artefacts."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def close(self) -> None:
        """Shut the kernel down, and with it what it started."""
        for session in _ask(f"{self.address}/api/sessions") or []:
            _ask(f"{self.address}/api/sessions/{session['id']}", "DELETE")
