"""The lists of what kit needs agree: pyproject.toml is the one list, the others follow it; the customer's packages are
in it.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GIVEN = (
    "torch",
    "torchvision",
    "jupyterlab",
    "ipywidgets",
    "papermill",
    "plotly",
    "loss-landscapes",
    "pytest",
    "nbval",
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {canonical(re.match(r"[A-Za-z0-9._-]+", r).group()) for r in requirements}


def everything() -> set[str]:
    return names(PROJECT["dependencies"]) | {
        n for extra in PROJECT["optional-dependencies"].values() for n in names(extra)
    }


def test_the_given_packages_are_required():
    assert set(GIVEN) <= everything()


def test_every_requirement_has_a_tested_version():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), f"constraints.txt: {line!r} is not name==number"
    assert everything() <= {canonical(line.split("==")[0]) for line in lines}


def test_environment_yml_adds_nothing_of_its_own():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    entries = [line[2:] for line in lines if line.startswith("- ")]
    extras = ",".join(PROJECT["optional-dependencies"])
    assert f"--editable .[{extras}]" in entries
    assert "--constraint constraints.txt" in entries
    python = next(e for e in entries if e.startswith("python="))
    assert python.removeprefix("python=") == PROJECT["requires-python"].removeprefix(">=")
    assert {e for e in entries if not e.startswith(("--", "python="))} == {"pip", "pip:"}


def test_the_readme_names_the_command_that_ci_runs():
    command = re.search(r"^make [\w-]+", (ROOT / ".ci" / "run").read_text(), re.M).group()
    assert command in (ROOT / "README.md").read_text()


def test_the_pages_list_the_data_sets_and_notebooks_as_they_are():
    from kit.data import DATASETS

    page, readme = (ROOT / "docs" / "data.md").read_text(), (ROOT / "README.md").read_text()
    named = [part for part in DATASETS.values() if part.make.__module__ == "kit.data.named"]
    assert named and all(f"| `{part.name}` | {part.title}" in page for part in named)
    assert all(f"`{path.stem}`" in readme for path in (ROOT / "notebooks").glob("*.ipynb"))
