"""What the notebooks' second cell needs: the parameters checked before any compute, and the folder that relative paths
start from.

    config(globals()) -> (values for kit.Config, the notebook's own parameters)

papermill injects `-p name value` as a global and only warns about names that the parameters cell does not declare. Here
every such name is
a field of `kit.Config`, one of the notebook's own, or an error.
"""

from __future__ import annotations

import ast
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

from kit import errors
from kit.config import Config
from kit.errors import KitError

PLAIN = (str, int, float, bool, type(None), list, tuple, dict)
IPYTHON = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})
SEEN = "_kit_parameters"  # the globals' names at the first check, kept in the notebook itself
WORDS = {"true": True, "false": False, "none": None, "null": None}


def config(
    namespace: MutableMapping[str, Any], extra: Iterable[str] | Mapping[str, type] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain variables of a notebook as (values for `kit.Config`, values of `extra`), both by name.

    namespace: `globals()` of the notebook. extra: the notebook's own parameters; as a mapping name → type (str, int,
    float or bool), their
    strings are converted as those of `kit.Config`'s fields are. The environment variable KIT_PARAMETERS, a JSON object,
    overrides what
    concerns this notebook (tests run every notebook in seconds with it). Enters `home()`. Raises KitError for any other
    plain variable, naming the
    valid ones, and for a value that has not its parameter's type.
    """
    home()
    own = dict(extra) if isinstance(extra, Mapping) else dict.fromkeys(extra)
    values: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    overriding = {name: value for name, value in _environment().items() if name in own or name in Config.model_fields}
    for name, value in ({name: namespace[name] for name in _parameters(namespace)} | overriding).items():
        if name in own:
            kind = own[name]
            extras[name] = value if kind is None else _typed(name, value, frozenset({kind}))
        elif name in Config.model_fields:
            values[name] = typed(name, value)
        else:
            error = errors.unknown("parameter", name, [*own, *Config.model_fields])
            raise KitError(f"{error}. (A variable of your own that is no parameter: let its name begin with _.)")
    return values, extras


def typed(name: str, value: Any) -> Any:
    """A value for the field `name` of `kit.Config`, a string read as its type. Raises KitError for an unknown field and
    a value that does not fit.
    """
    if name not in Config.model_fields:
        raise errors.unknown("parameter", name, Config.model_fields)
    return _typed(name, value, *_kinds(name))


def home() -> Path:
    """Make the repository root the working directory where a notebook was opened in notebooks/, as JupyterLab does;
    return it.

    So `out="runs"` is the same folder, and the same run, under papermill at the root and in JupyterLab. Elsewhere
    nothing changes.
    """
    here = Path.cwd()
    if here.name == "notebooks" and (here.parent / "kit" / "__init__.py").is_file():
        os.chdir(here.parent)
    return Path.cwd()


def _environment() -> dict[str, Any]:
    text = os.environ.get("KIT_PARAMETERS", "{}")
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise KitError(f'KIT_PARAMETERS={text!r} is not a JSON object such as {{"epochs": 2}}')
    return given


# ---- which variables are parameters --------------------------------------------------------------


def _parameters(namespace: MutableMapping[str, Any]) -> list[str]:
    """All plain variables at the first check, before any other cell has run. Later checks in the same session (a cell
    run again) leave
    out what other cells have assigned since, but not what a parameters cell has."""
    plain = [
        name
        for name, value in namespace.items()
        if type(value) in PLAIN and not name.startswith("_") and name not in IPYTHON
    ]
    seen = namespace.setdefault(SEEN, tuple(plain))
    declared = {name for cell in namespace.get("In") or () for name in _declared(cell)}
    return [name for name in plain if name in seen or name in declared]


def _declared(cell: str) -> set[str]:
    """The names that a cell assigns, if it only assigns literals and one of them is a field of kit.Config."""
    try:
        body = ast.parse(cell).body
        names = {
            target.id
            for line in body
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
        for line in body:
            if isinstance(line, ast.Assign):
                ast.literal_eval(line.value)
            elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):
                return set()
    except (SyntaxError, ValueError):
        return set()
    return names if names & set(Config.model_fields) else set()


# ---- their types ---------------------------------------------------------------------------------


def _kinds(name: str) -> tuple[frozenset[type], tuple[Any, ...], bool]:
    """(types, the only values if they are listed, whether None is one of them) of a field of kit.Config."""
    annotation = Config.model_fields[name].annotation
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    parts = typing.get_args(annotation) if union else (annotation,)
    listed = tuple(value for part in parts if typing.get_origin(part) is Literal for value in typing.get_args(part))
    kinds = {type(value) for value in listed} | {part for part in parts if isinstance(part, type)}
    return frozenset(kinds - {type(None)}), listed, type(None) in kinds


def _typed(name: str, value: Any, kinds: frozenset[type], listed: tuple[Any, ...] = (), optional: bool = False) -> Any:
    """The value in its parameter's type. Only what can mean one thing is converted: "3" for an int, "true" for a bool.

    "none" means None, except where it may be a name (augment="none" is a policy). None leaves a field to the method and
    the preset.
    """
    read = value
    if isinstance(value, str) and (str not in kinds or (optional and value.strip().lower() in ("none", "null"))):
        read = _parsed(value.strip())
    if read is None:
        return None
    if read in listed if listed else type(read) in kinds or (type(read) is int and float in kinds):
        return read
    hint = f"; as text: papermill -r {name} …, which converts nothing" if kinds == {str} and not listed else ""
    raise KitError(
        f"parameter {name}={value!r} is of type {type(value).__name__}; allowed: {_allowed(kinds, listed)}{hint}"
    )


def _parsed(text: str) -> Any:
    """A word or number that a string spells; the string itself if it spells none."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text) if "_" not in text else text
        except ValueError:
            continue
    return text


def _allowed(kinds: frozenset[type], listed: tuple[Any, ...]) -> str:
    if listed:
        return ", ".join(map(repr, listed))
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return " or ".join(names.get(kind, kind.__name__) for kind in sorted(kinds, key=str))
