"""The notebooks' parameter check: what is a parameter, what is refused, what is converted."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit.errors import KitError
from kit.lab import notebook

DECLARED = {"dataset": "digits", "method": "dha", "preset": "laptop", "seed": 0, "out": "runs"}


def test_fields_of_config_and_own_parameters_are_told_apart():
    own = {"title": str, "seeds": None}
    values, extras = notebook.config({**DECLARED, "epochs": 3, "title": "x", "seeds": "0,1"}, extra=own)
    assert values == {**DECLARED, "epochs": 3}  # epochs: a field that the cell does not declare
    assert extras == {"title": "x", "seeds": "0,1"}


def test_what_a_notebook_has_besides_plain_variables_is_ignored():
    import kit

    ipython = {"In": ["", "x"], "Out": {}, "_": 3, "__name__": "__main__", "_i1": "x", "exit": object(), "open": open}
    values, extras = notebook.config({**ipython, "kit": kit, **DECLARED})
    assert values == DECLARED and extras == {}


@pytest.mark.parametrize("name, nearest", [("epoch", "epochs"), ("Method", "method"), ("titel", "title")])
def test_an_unknown_parameter_is_refused_with_the_nearest_first(name, nearest):
    with pytest.raises(KitError) as error:
        notebook.config({**DECLARED, name: 3}, extra={"title": str})
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
        ("lr", "1", 1.0),
        ("lr", 1, 1.0),
        ("deterministic", "true", True),
        ("deterministic", "False", False),
        ("hold_out", "none", None),
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
        ("epochs", "three", "valid integer"),
        ("epochs", 3.0, "valid integer"),
        ("epochs", True, "valid integer"),
        ("lr", "fast", "valid number"),
        ("lr", [0.1], "valid number"),
        ("deterministic", "perhaps", "valid boolean"),
        ("deterministic", 1, "valid boolean"),
        ("method", 3, "valid string"),
        ("out", 2024, "-r out"),
        ("recover", "always", "'step' or 'epoch'"),
    ],
)
def test_what_does_not_fit_names_the_parameter_the_value_and_what_is_allowed(name, given, says):
    with pytest.raises(KitError) as error:
        notebook.config({**DECLARED, name: given})
    message = str(error.value)
    assert message.startswith(f"parameter {name}={given!r}") and says in message


def test_own_parameters_are_converted_too():
    own = {"workers": int, "share": float, "report": bool, "note": str, "seeds": None}
    given = {"workers": "2", "share": "0.5", "report": "true", "note": "5", "seeds": "3"}
    _, extras = notebook.config(given, extra=own)
    assert extras == {"workers": 2, "share": 0.5, "report": True, "note": "5", "seeds": "3"}
    with pytest.raises(KitError, match="workers='two'.*a valid integer"):
        notebook.config({"workers": "two"}, extra={"workers": int})


def test_a_cell_run_again_ignores_the_variables_of_later_cells():
    namespace = dict(DECLARED)
    notebook.config(namespace)
    namespace |= {"rows": [1, 2], "best": 0.9, "seed": 1, "epochs": 7}
    values, extras = notebook.config(namespace)
    assert values == {**DECLARED, "seed": 1, "epochs": 7} and extras == {}


def test_what_a_start_up_file_has_defined_is_no_parameter():
    ipython = SimpleNamespace(user_ns_hidden={"PROJECT": "/data", "epochs": 5, "lr": 0.1, "seed": 0, "out": "there"})
    cells = ["", "seed = 0", "lr, x = 0.1, print", "%magic"]
    namespace = {**ipython.user_ns_hidden, "get_ipython": lambda: ipython, "_ih": cells, "out": "here"}
    assert notebook.config(namespace) == ({"seed": 0, "lr": 0.1, "out": "here"}, {})
    with pytest.raises(KitError, match="unknown parameter 'PROJECT'"):  # a cell's own is one as ever
        notebook.config({**namespace, "_ih": ["PROJECT = '/data'"], "_kit_parameters": {"PROJECT"}})


def test_the_environment_overrides_what_concerns_this_notebook(monkeypatch):
    monkeypatch.setenv("KIT_PARAMETERS", '{"epochs": 2, "workers": 1, "steps": 5}')
    assert notebook.config({**DECLARED}, extra={"workers": int}) == ({**DECLARED, "epochs": 2}, {"workers": 1})
    monkeypatch.setenv("KIT_PARAMETERS", "epochs=2")
    with pytest.raises(KitError, match="KIT_PARAMETERS='epochs=2' .*invalid json"):
        notebook.config(dict(DECLARED))


def test_home_leaves_the_notebooks_folder_of_a_checkout_only(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    notebook.config(dict(DECLARED))
    assert Path.cwd() == tmp_path / "notebooks"  # not a checkout
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").touch()
    notebook.config(dict(DECLARED))
    assert Path.cwd() == tmp_path
    os.chdir(tmp_path / "kit")
    notebook.config(dict(DECLARED))
    assert Path.cwd() == tmp_path / "kit"
