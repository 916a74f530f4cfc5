"""What the tests of pages and comparisons share: run directories written by hand, what a page fetches, a browser where
there is one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import kit

PATIENCE = 300_000.0  # milliseconds for anything in a browser; a machine that does nothing else needs few
GENOTYPE = {
    "normal": [
        [["sep_conv_3x3", 0], ["sep_conv_3x3", 1]],
        [["skip_connect", 0], ["max_pool_3x3", 2]],
        [["sep_conv_5x5", 1], ["dil_conv_3x3", 3]],
        [["avg_pool_3x3", 0], ["sep_conv_3x3", 4]],
    ],
    "reduce": [
        [["max_pool_3x3", 0], ["max_pool_3x3", 1]],
        [["skip_connect", 0], ["sep_conv_3x3", 2]],
        [["dil_conv_5x5", 1], ["sep_conv_3x3", 2]],
        [["avg_pool_3x3", 0], ["skip_connect", 2]],
    ],
}


def write_run(
    folder: Path,
    accuracy: float | None,
    *,
    image: int = 8,
    genotype: Any = GENOTYPE,
    metrics: dict | None = None,
    place: dict | None = None,
    **config: Any,
) -> kit.Run:
    """A run directory as a search leaves it, without weights and curves; accuracy=None: not finished."""
    made = kit.Config(**{"dataset": "digits", **config})
    path = folder / made.name
    (path / "model").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(made.model_dump()))
    if accuracy is not None:
        found = {
            "network": {"space": made.space, "image": [1, image, image], "classes": 10},
            "genotype": genotype,
            "classes": list("0123456789"),
            "policy": {"name": made.augment},
            "hyper": {"lr": 0.1, "weight_decay": 3e-4},
        }
        usual = {
            "test_accuracy": accuracy,
            "test_images": 449,
            "val_accuracy": None,
            "val_images": 0,
            "params": 1000,
            "macs": 5000,
            "seconds": 60.0,
            "peak_memory_mb": 900.0,
            "epochs": made.epochs,
            "train_images": 1348,
        }
        where = {
            "device": "cpu",
            "processor": "a",
            "threads": 1,
            "split": "the same",
            "trained_on": "train",
            "commit": "abc",
        }
        (path / "model" / "model.json").write_text(json.dumps(found))
        (path / "provenance.json").write_text(json.dumps(where | (place or {})))
        (path / "metrics.json").write_text(json.dumps(usual | (metrics or {})))
    return kit.Run.load(path)


class Fetched(HTMLParser):
    """What a page would fetch, its script elements, and the pictures that it shows without JavaScript."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.pictures = 0
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        fetching = ("src", "srcset", "data", "poster", "action", *(["href"] if tag == "link" else []))
        self.addresses += [value or "" for name, value in attributes if name in fetching]
        if tag == "script":
            self.scripts.append(given)
        self.pictures += tag == "img"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def fetched(self) -> list[str]:
        return [address for address in self.addresses if not address.startswith("data:")]


@contextmanager
def browser(**context: Any) -> Iterator[Any]:
    """A page of a headless Chromium, 1200 pixels wide; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        try:
            flags = [
                "--no-sandbox",
                "--disable-dev-shm-usage",
            ]  # a container's shared memory may be too small for a page
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=flags, timeout=PATIENCE
            )
        except api.Error as error:
            pytest.skip(f"needs Chromium: playwright install chromium ({str(error).splitlines()[0]})")
        page = chromium.new_context(viewport={"width": 1200, "height": 900}, **context).new_page()
        page.set_default_timeout(PATIENCE)
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        chromium.close()
