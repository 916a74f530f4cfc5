"""The notebooks' parameter check: what is a parameter, what is refused, what is converted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.lab import notebook

DECLARED = {"dataset": "digits", "method": "dha", "preset": "laptop", "seed": 0, "out": "runs"}


def test_fields_of_config_and_own_parameters_are_told_apart():
    values, extras = notebook.config({**DECLARED, "epochs": 3, "title": "x", "seeds": [0, 1]}, extra=("title", "seeds"))
    assert values == {**DECLARED, "epochs": 3}  # epochs: a field that the cell does not declare
    assert extras == {"title": "x", "seeds": [0, 1]}


def test_what_a_notebook_has_besides_plain_variables_is_ignored():
    import kit

    ipython = {
        "In": ["", "x"],
        "Out": {},
        "_": 3,
        "__name__": "__main__",
        "_i1": "x",
        "exit": object(),
        "kit": kit,
        "open": open,
    }
    values, extras = notebook.config({**ipython, **DECLARED})
    assert values == DECLARED and extras == {}


@pytest.mark.parametrize(
    "name, nearest", [("epoch", "epochs"), ("Method", "method"), ("titel", "title"), ("weight_decy", "weight_decay")]
)
def test_an_unknown_parameter_is_refused_with_the_nearest_first(name, nearest):
    with pytest.raises(KitError) as error:
        notebook.config({**DECLARED, name: 3}, extra=("title",))
    message = str(error.value)
    assert f"unknown parameter {name!r}. Did you mean {nearest!r}? Valid: {nearest}, " in message
    assert "dataset" in message and "title" in message


@pytest.mark.parametrize(
    "name, given, expected",
    [
        ("epochs", "3", 3),
        ("epochs", " 12 ", 12),
        ("epochs", "none", None),
        ("lr", "0.1", 0.1),
        ("lr", "1e-3", 1e-3),
        ("lr", "1", 1),
        ("lr", 1, 1),
        ("deterministic", "true", True),
        ("deterministic", "False", False),
        ("hold_out", "none", None),
        ("hold_out", "TRUE", True),
        ("root", "none", None),
        ("root", "/data", "/data"),
        ("augment", "none", "none"),
        ("max_params", "50000", 50000),
        ("max_params", None, None),
        ("recover", "step", "step"),
        ("epochs", None, None),
    ],
)
def test_strings_become_the_fields_type_where_they_mean_one_thing(name, given, expected):
    values, _ = notebook.config({name: given})
    assert values[name] == expected and type(values[name]) is type(expected)


@pytest.mark.parametrize(
    "name, given, says",
    [
        ("epochs", "three", "a whole number"),
        ("epochs", "3.0", "a whole number"),
        ("epochs", 3.0, "a whole number"),
        ("epochs", True, "a whole number"),
        ("epochs", "true", "a whole number"),
        ("epochs", "1_000", "a whole number"),
        ("lr", "fast", "a number"),
        ("lr", True, "a number"),
        ("lr", [0.1], "a number"),
        ("deterministic", "yes", "true or false"),
        ("deterministic", 1, "true or false"),
        ("method", 3, "text"),
        ("out", 2024, "-r out"),
        ("recover", "always", "'step', 'epoch'"),
        ("dataset", {"a": 1}, "text"),
    ],
)
def test_what_does_not_fit_names_the_parameter_the_value_and_what_is_allowed(name, given, says):
    with pytest.raises(KitError) as error:
        notebook.config({**DECLARED, name: given})
    message = str(error.value)
    assert message.startswith(f"parameter {name}={given!r}") and says in message


def test_own_parameters_with_a_type_are_converted_too():
    _, extras = notebook.config(
        {"workers": "2", "share": "0.5", "report": "true", "note": "5"},
        extra={"workers": int, "share": float, "report": bool, "note": str},
    )
    assert extras == {"workers": 2, "share": 0.5, "report": True, "note": "5"}
    with pytest.raises(KitError, match="workers='two'.*a whole number"):
        notebook.config({"workers": "two"}, extra={"workers": int})


def test_a_cell_run_again_ignores_later_variables_but_not_the_parameters_cell():
    namespace = {**DECLARED, "In": ["", "dataset = 'digits'\nseed = 0"]}
    notebook.config(namespace)
    namespace |= {"rows": [1, 2], "best": 0.9, "epochs": 7}  # of other cells
    values, extras = notebook.config(namespace)
    assert values == DECLARED and extras == {}
    namespace["In"] += ["rows = [1, 2]", "dataset = 'digits'  # again\nepochs = 7", "best = max(rows)"]
    values, _ = notebook.config(namespace)
    assert values == {**DECLARED, "epochs": 7}
    namespace["In"] += ["seed = 1\nepoch = 3"]
    namespace["epoch"] = 3
    with pytest.raises(KitError, match="unknown parameter 'epoch'"):
        notebook.config(namespace)


def test_home_leaves_the_notebooks_folder_of_a_checkout_only(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert notebook.home() == tmp_path / "notebooks"  # not a checkout
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").touch()
    notebook.config(dict(DECLARED))
    assert Path.cwd() == tmp_path == notebook.home()
    os.chdir(tmp_path / "kit")
    assert notebook.home() == tmp_path / "kit"
