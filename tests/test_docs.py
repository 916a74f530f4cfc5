"""The pages: links lead somewhere, every block of code runs or is checked by name, what follows from the code is
current, and every public name has its place. `make docs` itself, which needs minutes of nobody's time, is not run here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import getdoc, signature
from operator import attrgetter
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

import kit
from kit import registry
from kit.__main__ import main
from kit.augment import OPERATIONS
from kit.config import PARTS
from kit.data import DATASETS
from kit.lab import notebook, sweep
from kit.methods import METHODS, PRESETS
from kit.search.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# the language, the code, and what a comment above the block says of how it is run
BLOCK = re.compile(r"^(?:<!-- run with (.*?) blocked -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
MADE = re.compile(r"<!-- made: questions -->.*?<!-- end -->", re.S)

# what blocks get that would take minutes: the default preset's values
SHORT = {
    "epochs": 2,
    "channels": 4,
    "cells": 1,
    "search_channels": 4,
    "search_cells": 1,
    "reductions": 0,
    "batch_size": 32,
    "train_images": 100,
}
# commands that are not run, with the reason; their names and values are checked
NOT_RUN = {
    "make": "installs, opens a page, or takes minutes; docs/follow.py runs those of the first page",
    "papermill": "make test runs all notebooks, with other parameters",
    "torchrun": "several processes: tests/test_distributed.py",
    "mkdir": "nothing to see",
}
# in a process of its own, in which these cannot be imported
BLOCKED = """
import json, sys
for names, code in json.loads(sys.argv[1]):
    sys.modules |= dict.fromkeys(names)
    exec(code, {})
    for name in names:
        del sys.modules[name]
"""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(blocked, language, code) of a page; the questions' are run when they are made (docs/cases.py)."""
    return BLOCK.findall(MADE.sub("", page.read_text()))


# ---- blocks of code ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working directory for all pages, so that the same run is searched once."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def short(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for field, value in SHORT.items():
        monkeypatch.setitem(PRESETS["laptop"], field, value)
    monkeypatch.setattr(sweep, "run", first_of_each_method)
    monkeypatch.chdir(place)
    (place / "docs").is_symlink() or (place / "docs").symlink_to(ROOT / "docs")
    kinds = (METHODS, DATASETS, OPERATIONS, *PARTS.values(), registry._loaded)  # a page adds to them
    before = [dict(kind) for kind in kinds]
    yield
    for kind, rows in zip(kinds, before):
        for added in set(kind) - set(rows):
            del kind[added]


def first_of_each_method(*given: Any, **options: Any) -> sweep.Result:
    """In place of `sweep.run`, which starts processes (tests/test_sweep.py): one run of each method, in this one."""
    configs = signature(RUN).bind(*given, **options).arguments["configs"]
    chosen = {config.method: config for config in reversed(configs)}
    small = [config.but(dataset="digits") for config in chosen.values()]
    return sweep.Result([kit.search(config, progress=Silent()) for config in small], {})


RUN = sweep.run


@pytest.mark.filterwarnings("default")  # of torch.onnx
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_a_page_runs(page: Path, short: None):
    names, apart = {"__name__": "__main__"}, []
    for blocked, language, code in blocks(page):
        assert language in ("python", "sh", "text"), f"{name(page)}: say which language this is: {code[:60]!r}"
        if language == "sh":
            subprocess.run(["bash", "-n"], input=code.encode(), check=True)
            for line in code.replace("\\\n", " ").splitlines():
                run_or_check(shlex.split(line, comments=True))
        elif language == "python" and blocked:
            apart.append((re.findall(r"kit|torch", blocked), code))
        elif language == "python":
            exec(compile(code, name(page), "exec"), names)
    if apart:
        subprocess.run([sys.executable, "-c", BLOCKED, json.dumps(apart)], check=True)


def run_or_check(words: list[str]) -> None:
    """A command of a page. `python -m kit` runs, where its data are here; others are checked as NOT_RUN says."""
    words = words[next((i for i, word in enumerate(words) if "=" not in word), len(words)) :]  # without VARIABLE=value
    if not words:
        return
    command, *arguments = words
    command = command.removeprefix(".venv/bin/")
    if command == "python" and arguments[:2] == ["-m", "kit"]:
        config = kit.Config(**notebook.assigned(arguments[2:]))
        if config.dataset in ("digits", "stripes") or Path(config.dataset).exists():
            main([*arguments[2:], "device=cpu"])
        return
    assert command in NOT_RUN, f"{command!r} is neither run nor listed in NOT_RUN"
    if command == "make":
        makefile = (ROOT / "Makefile").read_text()
        for word in arguments:
            variable, given, _ = word.partition("=")
            assert re.search(rf"\$\({variable}\)" if given else rf"^{word}:", makefile, re.M), f"make {word}"
    elif command == "papermill":
        options = [i for i, word in enumerate(arguments) if word == "-p"]
        passed = {arguments[i + 1]: arguments[i + 2] for i in options}
        declared = set(papermill.inspect_notebook(str(ROOT / arguments[0])))
        fields = {name: value for name, value in passed.items() if name in kit.Config.model_fields}
        assert set(passed) - set(fields) <= declared, f"{arguments[0]} has no {set(passed) - set(fields) - declared}"
        kit.Config(**{field: notebook.typed(field, value) for field, value in fields.items()})
    elif command == "torchrun":
        assert arguments[arguments.index("-m") + 1] == "kit"
        kit.Config(**notebook.assigned(arguments[arguments.index("-m") + 2 :]))


# ---- links, navigation, what is made -------------------------------------------------------------


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_every_link_between_pages_leads_somewhere():
    texts = {page: page.read_text() for page in (*PAGES, ROOT / "CHANGELOG.md", *(ROOT / "reports").glob("*.md"))}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = 0
    for page, text in texts.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" not in target:
                links, (path, _, anchor) = links + 1, target.partition("#")
                there = page.parent / path if path else page
                assert there.exists(), f"{name(page)}: {target}"
                headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M) if anchor else []
                assert not anchor or anchor in map(slug, headings), f"{name(page)}: {target}"
    assert links > 150


def test_the_navigation_has_every_page_once():
    def paths(entry: Any) -> Iterator[str]:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from [inner] if isinstance(inner, str) else paths(inner)

    listed = list(paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert all((ROOT / path).is_file() for path in listed) and len(listed) == len(set(listed))
    assert set(map(name, PAGES)) <= set(listed)


def test_what_is_made_of_the_code_and_the_reports_is_current():
    """In a process of its own, in which no other test's plug-ins are loaded."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    check = [sys.executable, str(ROOT / "docs" / "pages.py"), "--check"]
    found = subprocess.run(check, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, f"make pages writes them anew: {found.stdout} {found.stderr[-2000:]}"


# ---- names ---------------------------------------------------------------------------------------

# DESIGN's public API, and what else `kit` has by name; of a class, its page has the members
PUBLIC = """
datasets load_dataset methods Config search Run Prediction ImageSets KitError dashboard methods.register
augment.OPS augment.apply_op arch.lasso landscape.plane landscape.sharpness sweep.grid sweep.run
data.register augment.register arch.register hyper.register space.register
""".split()
if hasattr(kit.augment, "Augment"):
    PUBLIC.append("augment.Augment")
VALUES = {"augment.OPS"}  # which has no docstring of its own


def located(path: str) -> Any:
    """What stands under a dotted path; `kit.search` is a function, and `kit.search.engine` a module all the same."""
    module = max((module for module in sys.modules if path.startswith(f"{module}.")), key=len)
    return attrgetter(path.removeprefix(f"{module}."))(sys.modules[module])


def test_every_public_name_has_its_page():
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = [located(path) for path in re.findall(r"^::: (\S+)$", text, re.M)]
    assert all(getdoc(thing) for thing in shown) and len(shown) > 30
    for path in PUBLIC:
        assert f"kit.{path}" in text, path
        thing = attrgetter(path)(kit)
        assert path in VALUES or getattr(thing, "__func__", thing) in shown, path


def test_a_public_class_has_the_members_that_users_rely_on():
    members = "load history genotype policy hyper model export metrics predict".split()
    assert all(getdoc(getattr(kit.Run, member)) for member in members)


def test_methods_are_shown_with_what_each_one_searches():
    table = repr(kit.methods())
    assert "dha" in table and "τ α η  DHA: NAS + DA + HPO, joint" in table and "· α ·" in table
