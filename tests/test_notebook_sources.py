"""The notebooks as they are committed: thin sources with their parameters tagged, and nobody's output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_source_has_tagged_parameters_and_no_outputs(path: Path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "parameters" in cells[0]["metadata"].get("tags", [])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
