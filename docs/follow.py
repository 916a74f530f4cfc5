"""Follow docs/start.md word for word in a fresh clone, and time it: python docs/follow.py [--venv FOLDER]

Every block of the page is run as it stands, in its order: commands by bash, Python by the clone's interpreter. `make
lab` has to answer, and its notebook is then run as *Run All Cells* does. --venv: an environment that is already
installed, in place of the page's `make install`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NOTEBOOK = "mkdir -p build && .venv/bin/papermill --no-progress-bar notebooks/start.ipynb build/start.ipynb"


def clone(folder: Path, venv: Path | None) -> Path:
    there = folder / "kit"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(there)], check=True)
    if venv:  # its files under this clone's name, so that nothing is installed into it
        (there / ".venv").mkdir()
        for name in ("bin", "lib", "include", "pyvenv.cfg"):
            (there / ".venv" / name).symlink_to(venv.resolve() / name)
        (there / ".venv" / ".installed").touch()
    return there


def lab(there: Path, environment: dict[str, str]) -> None:
    """`make lab` until it answers, then its notebook, then its end."""
    log = there / "lab.log"
    with open(log, "wb") as file:
        server = subprocess.Popen(
            ["make", "lab"], cwd=there, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        until = time.monotonic() + 120
        while "http://" not in log.read_text():
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"make lab does not answer: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        subprocess.run(["bash", "-ec", NOTEBOOK], cwd=there, env=environment, check=True)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path)
    venv = parser.parse_args().venv
    seconds: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        there = clone(Path(folder), venv)
        settings = there / "settings" / "jupyter_server_config.json"
        settings.parent.mkdir()
        settings.write_text(
            '{"ServerApp": {"open_browser": false, "allow_root": true}, "LabApp": {"open_browser": false}}'
        )
        environment = os.environ | {"PYTHONPATH": str(there), "JUPYTER_CONFIG_DIR": str(settings.parent)}
        for language, code in BLOCK.findall((there / "docs" / "start.md").read_text()):
            print(f"$ {code.strip()}", flush=True)
            start = time.monotonic()
            if code.strip() == "make lab":
                lab(there, environment)
            else:
                how = ["bash", "-ec"] if language == "sh" else [".venv/bin/python", "-c"]
                subprocess.run([*how, code], cwd=there, env=environment, check=True)
            seconds.append((code.strip().splitlines()[0], time.monotonic() - start))
    for line, spent in seconds:
        print(f"{spent:7.1f} s  {line}")
    spent = sum(s for line, s in seconds if line != "make install")
    print(f"{spent / 60:.1f} minutes after the install")
    sys.exit(spent > 600)


if __name__ == "__main__":
    main()
