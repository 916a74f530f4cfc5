"""Every kind of figure on a page of each width, by geometry: no text lies over another, and none leaves its figure."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_figures_landscape import bowl
from tests_browser import CHROMIUM, chromium
from tests_recorded import blocks_walk, write_run

import kit
from kit import figures
from kit.methods import METHODS
from kit.studies import page, tables

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and importlib.util.find_spec("playwright")), reason="needs Chromium and playwright"
    ),
    # a browser that ends leaves its pipes to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
# boxes of the texts of each figure, and its own; text that is turned has a larger box than ink
BOXES = """() => [...document.querySelectorAll('.plotly-graph-div')].map(figure => ({
    own: figure.querySelector('.main-svg').getBoundingClientRect().toJSON(),
    texts: [...figure.querySelectorAll('.main-svg text')]
        .filter(text => text.textContent.trim() && getComputedStyle(text).visibility != 'hidden')
        .filter(text => !/rotate\\((?!0[,)])/.test(text.getAttribute('transform') || ''))
        .map(text => ({words: text.textContent, ...text.getBoundingClientRect().toJSON()}))
}))"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[kit.Run]:
    folder = tmp_path_factory.mktemp("runs")
    methods = ("dha", "seq-dha", "joint", "plain")
    return [
        write_run(folder / f"{method}-{seed}", method=method, seed=seed, hold_out=True)
        for method in methods
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def drawn(runs: list[kit.Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    rows = pd.DataFrame(
        [
            {
                "method": method,
                "title": METHODS[method].title,
                "test_accuracy": 0.9 + place / 200 + noise,
                "seconds": 10 + place,
            }
            for place, method in enumerate(kit.methods()[:19])
            for noise in chance.normal(0, 0.003, 5)
        ]
    )
    summary = tables.grouped(rows, ["method"], seconds=("seconds", "mean"))
    changes = {"space": "choice", "channels": 16, "cells": 20, "image_size": 16}
    walk = blocks_walk(np.random.default_rng(2), 12, 20)
    chain = write_run(tmp_path_factory.mktemp("chain") / "choice", arrays={"alpha": walk}, **changes)
    planes = [bowl(f"{METHODS[name].title.partition(':')[0]} · seed 0", name, 5.0) for name in ("dha", "ista", "plain")]
    many = pd.DataFrame({"method": ["seq-nas+hpo", "dha"] * 4, "seed": range(8), "augment": ["flip-crop-cutout"] * 8})
    many = many.assign(lr=[0.1, 0.05] * 4, test_accuracy=np.linspace(0.91, 0.99, 8))
    classes = ["Leaf, healthy", "rust", "early blight of potatoes", "mosaic virus"]
    taken = SimpleNamespace(
        names=[classes[i] for i in chance.integers(0, 4, 12)], probabilities=torch.full((12, 4), 0.25)
    )
    pictures = torch.zeros(12, 3, 16, 16, dtype=torch.uint8)
    return {
        "parallel": figures.parallel(many, ["method", "seed", "augment", "lr"]),
        "confusion": figures.confusion(classes * 3, taken, classes, title="plants: test images"),
        "predictions": figures.predictions(pictures, taken, classes * 3, title="Surest mistakes"),
        "evolution": figures.evolution(runs[0]),
        "policy": figures.policy(runs[0]),
        "moving policy": figures.tau_evolution(runs[0]),
        "architecture": figures.architecture(runs[0]),
        "cells": figures.cells(runs[0]),
        "two cells": figures.cells_compared(runs[0], runs[1]),
        "blocks": figures.cells(chain),
        "ablation": figures.ablation(summary, rows, title="digits: joint search beside other methods"),
        "time": figures.accuracy_against_time(summary, title="digits"),
        "progress": figures.progress(runs),
        "contours": figures.landscape_contours(planes),
        "lines": figures.landscape_lines(planes),
    }


def overlap(a: dict, b: dict) -> float:
    """Pixels that two boxes share in the direction in which they share fewer."""
    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
    return min(across, min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]))


def test_no_text_lies_over_another_or_leaves_its_figure(drawn: dict[str, Any], tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(page.assemble("figures", *drawn.values()))
    with chromium() as shown:
        for width in (420, 820, 1180):  # a telephone, JupyterLab's column in a window of 1000, a wide page
            shown.set_viewport_size({"width": width, "height": 1000})
            shown.goto(path.as_uri())
            shown.wait_for_function(f"document.querySelectorAll('.main-svg .xtick, .annotation').length > {len(drawn)}")
            found = shown.evaluate(BOXES)
            assert len(found) == len(drawn) and sum(len(figure["texts"]) for figure in found) > 200
            wrong = []
            for name, figure in zip(drawn, found):
                own, texts = figure["own"], figure["texts"]
                wrong += [
                    (width, name, text["words"], "leaves the figure")
                    for text in texts
                    if text["left"] < own["left"] - 1 or text["right"] > own["right"] + 1
                ]
                wrong += [
                    (width, name, one["words"], other["words"])
                    for i, one in enumerate(texts)
                    for other in texts[:i]
                    if overlap(one, other) > 3
                ]
            assert not wrong, sorted(set(wrong))[:40]
            assert shown.evaluate("document.documentElement.scrollWidth") <= width  # a wide figure scrolls by itself
