"""Every notebook in JupyterLab as a reader finds it again after it has run: at three widths, in the light and the dark
theme. Checks that nothing is cut off at the right and no cell shows an error, and leaves screenshots to look at.

    make look                            # or python tests/look.py [notebook …]

Ten minutes on two cores; papermill runs the notebooks first, as small as `make test` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests_browser import ROOT, SETTINGS, Notebook, chromium, jupyter

PICTURES = ROOT / "build" / "look"
WIDTHS, HEIGHT = (1000, 1280, 1920), 1600
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
THEME = "@jupyterlab/apputils-extension/themes"
# what is wider than the place where it stands, and what an output says in red
CUT = """() => [...document.querySelectorAll('.jp-OutputArea-output')].flatMap(output => {
    const place = output.getBoundingClientRect();
    return [...output.querySelectorAll('img, .plotly-graph-div, svg.main-svg')]
        .map(drawn => [drawn.tagName, drawn.getBoundingClientRect()])
        .filter(([tag, box]) => box.right > place.right + 2)
        .map(([tag, box]) => `${tag} of ${Math.round(box.width)} pixels in ${Math.round(place.width)}`);
})"""
ERRORS = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']"


def ran(names: list[str], folder: Path) -> list[str]:
    """Execute the notebooks into the folder; returns what failed."""
    failed = []
    for name in names:
        command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / name), str(folder / name)]
        if subprocess.run([*command, "--no-progress-bar"], cwd=ROOT, capture_output=True).returncode:
            failed.append(f"{name}: papermill failed")
    return failed


def wrong(page: Any, address: str, name: str, theme: str) -> list[str]:
    found = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        Notebook(page, address, name)
        page.wait_for_timeout(2000)
        found += [f"{name}, {width}, {theme}: {text}" for text in page.evaluate(CUT)]
        found += [f"{name}, {width}, {theme}: an error in a cell"] * bool(page.locator(ERRORS).count())
        pane = page.locator(".jp-WindowedPanel-outer").first
        tall, step = pane.evaluate("pane => [pane.scrollHeight, pane.clientHeight]")
        for part, top in enumerate(range(0, tall, step)):
            pane.evaluate("(pane, top) => pane.scrollTo(0, top)", top)
            page.wait_for_timeout(300)
            page.screenshot(path=PICTURES / f"{Path(name).stem}-{width}-{theme}-{part}.png")
    return found


def main() -> None:
    names = [f"{Path(name).stem}.ipynb" for name in sys.argv[1:]]
    names = names or sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    PICTURES.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        found = ran(names, Path(folder))
        for theme, title in THEMES.items():
            SETTINGS[THEME] = {"theme": title}
            scratch = Path(folder) / f"scratch-{theme}"
            scratch.mkdir()
            with jupyter(Path(folder), scratch) as address, chromium() as page:
                for name in names:
                    found += wrong(page, address, name, theme)
                    print(f"{name} in the {theme} theme", flush=True)
    print("\n".join(found) or f"nothing is cut off; look at {PICTURES.relative_to(ROOT)}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
