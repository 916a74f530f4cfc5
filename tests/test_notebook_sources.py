"""The notebooks as they are committed: thin sources with their parameters tagged, and nobody's output."""

from __future__ import annotations

import json
import re
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_source_has_tagged_parameters_and_no_outputs(path: Path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "parameters" in cells[0]["metadata"].get("tags", [])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.filterwarnings("default")
def test_papermill_knows_every_parameter_that_a_page_passes():
    """It warns of others: "Passed unknown parameter"."""
    declared = {path.stem: set(papermill.inspect_notebook(str(path))) for path in NOTEBOOKS}
    pages = [
        ROOT / "README.md",
        ROOT / "Makefile",
        *NOTEBOOKS,
        *(path for path in (ROOT / "docs").rglob("*.*") if "__pycache__" not in path.parts),
        *(ROOT / "kit").rglob("*.py"),
    ]
    passed = set()
    for page in pages:
        for notebook, arguments in re.findall(r"papermill notebooks/(\w+)\.ipynb([^`]*?)(?<!\\)\n", page.read_text()):
            passed |= {(notebook, name) for name in re.findall(r"-p (\w+)", arguments)}
    assert len(passed) > 30
    assert [(book, name) for book, name in sorted(passed) if book in declared and name not in declared[book]] == []
    assert "overrides" in declared["sweep"]
