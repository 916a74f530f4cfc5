"""Names of data sets and classes are others' text: in no document do they become markup, a command or a formula."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests_pages import Fetched

import kit
from kit import Run, figures
from kit.run import text
from kit.studies import page, report

EVIL = "<img src=x onerror=alert(1)>[x](javascript:alert(1))|\\write18{rm}&lt;script>\n# =HYPERLINK(1)"


@pytest.fixture(scope="module")
def written(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every document about a run whose data set, classes and split are called so, by ending."""
    folder = tmp_path_factory.mktemp("evil")
    run = Path(shutil.copytree(finished.path, folder / "run"))
    for name, change in (
        ("config.json", {"dataset": f"/data/{EVIL.replace('/', '')}"}),
        ("model/model.json", {"classes": [f"{EVIL}{i}" for i in range(10)]}),
        ("provenance.json", {"split": EVIL}),
    ):
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | change))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "FIGURES", (figures.architecture,))
        patch.setattr(figures, "png", lambda figure: b"!")
        patch.setattr(figures, "save_all", lambda *_, **__: [])
        opened = Run.load(run)
        path = report.write("ablation", [opened], folder, note=EVIL)
        assert re.fullmatch(r"[\w.+-]+", path.name)
        found = {end: path.with_suffix(end).read_text() for end in (".md", ".html", ".tex", ".csv")}
        return found | {"card.md": opened.card(), "page.html": page.of_run(opened)}


def test_html_has_no_element_of_theirs(written):
    for name in (".html", "page.html"):
        found = Fetched(written[name])
        assert found.fetched == [] and "<img src=x" not in written[name] and 'href="javascript' not in written[name]
        assert any("onerror=alert" in words for words in found.words), "it is shown as text"


def test_markdown_has_no_html_link_or_line_of_theirs(written):
    for name in (".md", "card.md"):
        assert "<img" not in written[name] and "](javascript" not in written[name]
        assert "\n# =HYPERLINK" not in written[name] and "&amp;lt;script>" in written[name]


def test_latex_has_no_command_of_theirs(written):
    assert "\\write18" not in written[".tex"] and r"\textbackslash{}write18\{rm\}" in written[".tex"]


def test_csv_has_no_formula():
    table = pd.DataFrame({"name": ["=HYPERLINK(1)", "+1", "-1", "@x", "plain"], "value": [-1.5, 2, 3, 4, 5]})
    lines = text.csv(table).splitlines()
    assert lines[1:] == ["'=HYPERLINK(1),-1.5", "'+1,2.0", "'-1,3.0", "'@x,4.0", "plain,5.0"]


def test_every_template_is_escaped():
    """One hostile value through each way of writing a value that the templates have."""
    assert text.markdown("a < b & c [1, 2] `d` *e*") == "a < b & c [1, 2] `d` *e*"  # what is none stays readable
    assert page.markdown_table(pd.DataFrame({"a": [EVIL]})).count("\n") == 2
    for template in Path(kit.__file__).parent.rglob("*.j2"):
        assert "|safe" not in template.read_text().replace(" ", ""), template.name
