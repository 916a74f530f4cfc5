"""Notebooks as a person sees them: JupyterLab in a browser runs them, and figures and the search answer to mouse and
buttons.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_browser import CHROMIUM, Notebook, chromium, copy_notebook, jupyter, until

import kit
from kit.search.progress import Silent

MISSING = [
    what
    for what, there in (
        ("Chromium", CHROMIUM),
        ("playwright", importlib.util.find_spec("playwright")),
        ("jupyterlab", importlib.util.find_spec("jupyterlab")),
    )
    if not there
]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the tests in a browser need them)"),
    # a browser that ends leaves its pipes to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
SMALL = {
    "epochs": 3,
    "search_epochs": 2,
    "channels": 4,
    "cells": 3,
    "train_images": 256,
    "batch_size": 128,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a server."""
    folder = tmp_path_factory.mktemp("lab")
    with jupyter(folder, tmp_path_factory.mktemp("scratch")) as address:
        yield address, folder


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as page:
        yield page


@pytest.fixture
def opened(lab: tuple[str, Path], page: Any):
    """opened("search.ipynb", epochs=3): the notebook with these parameters."""
    notebooks: list[Notebook] = []

    def open_notebook(name: str, **parameters: Any) -> Notebook:
        copy_notebook(name, lab[1], **parameters)
        notebooks.append(Notebook(page, lab[0], name))
        return notebooks[-1]

    yield open_notebook
    for notebook in notebooks:
        notebook.close()


def test_the_search_notebook_runs_and_its_figures_come_alive_under_the_mouse(opened, tmp_path: Path):
    notebook = opened("search.ipynb", **SMALL, out=str(tmp_path))
    notebook.run_all()
    page = notebook.page
    assert "test accuracy" in page.locator(".jp-OutputArea").all_inner_texts()[-2]
    pictures = page.locator(".jp-OutputArea-output .plot-img")
    assert pictures.count() >= 5  # every figure is there at once, as a picture
    notebook.touch(pictures.first)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    notebook.picture("search")


def test_the_slider_of_the_evolution_notebook_moves_the_heat_map(opened, tmp_path: Path):
    run = kit.search(kit.Config(dataset="digits", method="dha", **SMALL), out=tmp_path, progress=Silent())
    notebook = opened("evolution.ipynb", runs=str(run.path))
    notebook.run_all()
    page = notebook.page
    notebook.touch(page.locator(".jp-OutputArea-output .plot-img").nth(1))  # τ under a slider
    figure = page.locator(".js-plotly-plot:has(.slider-group)").last
    figure.locator(".slider-grip-rect").wait_for()

    def shown() -> tuple[str, str]:
        """The slider's epoch, and what is drawn."""
        texts = figure.evaluate("e => Array.from(e.querySelectorAll('text'), t => t.textContent)")
        label = next((text for text in texts if "epoch=" in text), "")  # none while it is being drawn
        return label, figure.evaluate(
            "e => JSON.stringify(e._fullData.map(t => Array.from(t.z, row => Array.from(row))))"
        )

    label, drawn = shown()
    assert label == "epoch=3"
    grip, rail = (figure.locator(part).bounding_box() for part in (".slider-grip-rect", ".slider-rail-rect"))
    height = grip["y"] + grip["height"] / 2
    page.mouse.move(grip["x"] + grip["width"] / 2, height)
    page.mouse.down()
    page.mouse.move(rail["x"] + rail["width"] * 2 / 3, height, steps=5)
    until(lambda: shown()[0] == "epoch=2", "the frame of epoch 2")
    assert shown()[1] != drawn
    page.mouse.move(rail["x"] + rail["width"] / 3, height, steps=5)
    page.mouse.up()
    until(lambda: shown()[0] == "epoch=1", "the frame of epoch 1")
    figure.locator(".updatemenu-button").first.click()
    until(lambda: shown() == (label, drawn), "the frames to play to the end")
    notebook.picture("evolution")


def test_the_dashboard_starts_stops_and_resumes_a_search(opened, tmp_path: Path):
    values = {**SMALL, "epochs": 2000, "search_epochs": 4, "train_images": 400, "batch_size": 256}
    notebook = opened("dashboard.ipynb", **values, out=str(tmp_path))
    notebook.run_all()
    page, line = notebook.page, notebook.page.locator(".kit-line")
    until(lambda: "ready" in line.inner_text(), "the panel")

    def press(name: str) -> None:
        page.locator(f"button:has-text('{name}')").click()

    def points() -> int:  # of the first curve
        lengths = "[...document.querySelectorAll('.js-plotly-plot')].map(drawn => drawn.data?.[0]?.x?.length ?? 0)"
        return max(page.evaluate(lengths), default=0)

    press("start")
    shown = until(points, "the curves", line.inner_text)
    until(lambda: points() > shown, "the curves to grow")
    assert page.locator(".js-plotly-plot").count() == 1 + 3  # the images, out of sight now, and the run's figures
    press("stop")
    until(lambda: "interrupted" in line.inner_text(), "the search to end")
    notebook.picture("dashboard")
    press("resume")
    until(lambda: "running" in line.inner_text(), "the search to go on")
    press("stop")
    until(lambda: "interrupted" in line.inner_text(), "the search to end")
    (folder,) = tmp_path.glob("digits-dha-*")
    assert kit.Run.load(folder).status == "interrupted"
