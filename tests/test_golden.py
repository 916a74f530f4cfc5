"""The data and the public names are what `tests/golden.json` recorded; see tests/golden.py. Every method's history and
weights: tests/test_methods.py."""

from __future__ import annotations

import json

import golden

RECORDED = json.loads(golden.FILE.read_text())


def test_the_splits_and_pixels_of_the_embedded_data():
    assert golden.of_data("digits") == RECORDED["data"]["digits"]


def test_every_method_is_recorded_and_no_public_name_is_lost():
    assert set(golden.kit.methods()) <= set(RECORDED["runs"])
    assert golden.public() == golden.PUBLIC
