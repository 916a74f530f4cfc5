"""What a notebook's second cell needs: its parameters checked before any compute, and the folder that relative paths
start from.

    values, own = notebook.config(globals(), extra={"seeds": int})
    config = kit.Config(**values)

papermill injects `-p name value` as a global and only warns about names that the parameters cell does not declare. Here
every such name is a field of `kit.Config`, one of the notebook's own, or an error.
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
CALLED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def config(
    namespace: MutableMapping[str, Any], extra: Iterable[str] | Mapping[str, type | None] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain variables of a notebook as (values for `kit.Config`, values of `extra`), both by name.

    namespace: `globals()` of the notebook. extra: names of the notebook's own parameters; as a mapping name → str, int,
    float or bool, their strings are converted as those of `kit.Config`'s fields are. The environment variable
    KIT_PARAMETERS, a JSON object, overrides what concerns this notebook (tests run every notebook in seconds with it).
    Enters `home()`. Raises KitError for any other plain variable, naming the valid ones, and for a value that has not
    its parameter's type.
    """
    home()
    own = dict(extra) if isinstance(extra, Mapping) else dict.fromkeys(extra)
    given = {name: namespace[name] for name in _parameters(namespace)}
    given |= {name: value for name, value in _environment().items() if name in own or name in Config.model_fields}
    values, extras = {}, {}
    for name, value in given.items():
        if name in own:
            extras[name] = value if own[name] is None else _converted(name, value, (own[name],))
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
    return _converted(name, value, _alternatives(Config.model_fields[name].annotation))


def home() -> Path:
    """Make the repository root the working directory where a notebook was opened in notebooks/, as JupyterLab does;
    return it. So `out="runs"` is the same folder under papermill at the root and in JupyterLab.
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
    """All plain variables at the first check, before any other cell has run. A cell that is run again meets what other
    cells have assigned since: of that, only what a parameters cell assigns counts.
    """
    plain = [
        name
        for name, value in namespace.items()
        if type(value) in PLAIN and not name.startswith("_") and name not in IPYTHON
    ]
    seen = namespace.setdefault(SEEN, tuple(plain))
    declared = {name for cell in namespace.get("In") or () for name in _declared(cell)}
    return [name for name in plain if name in seen or name in declared]


def _declared(cell: str) -> set[str]:
    """The names that a cell assigns, if it only assigns literals and one of them is a field of `kit.Config`."""
    names = set()
    try:
        for line in ast.parse(cell).body:
            if isinstance(line, ast.Assign):
                ast.literal_eval(line.value)
                names |= {target.id for target in line.targets if isinstance(target, ast.Name)}
            elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):
                return set()
    except (SyntaxError, ValueError):
        return set()
    return names if names & set(Config.model_fields) else set()


# ---- their types ---------------------------------------------------------------------------------


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types, and the listed values, that an annotation allows: int | None → (int, NoneType)."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(parts[0])
    if origin in (types.UnionType, typing.Union):
        return tuple(one for part in parts for one in _alternatives(part))
    return parts if origin is Literal else (annotation,)


def _converted(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """The value in its parameter's type. Only what can mean one thing is converted: "3" for an int, "true" for a bool.

    "none" means None, except where it may be a name (augment="none" is a policy). None leaves a field to the method and
    the preset.
    """
    kinds = {one for one in allowed if isinstance(one, type)} - {type(None)}
    listed = [one for one in allowed if not isinstance(one, type)]
    texts = str in kinds or any(isinstance(one, str) for one in listed)
    if isinstance(value, str):
        none = type(None) in allowed and value.strip().lower() in ("none", "null")
        read = None if none else value if texts else _parsed(value.strip())
    else:
        read = value
    if read is None or type(read) in kinds or (type(read) is int and float in kinds) or read in listed:
        return read
    said = ", ".join(map(repr, listed)) + " or ".join(
        CALLED.get(kind, kind.__name__) for kind in sorted(kinds, key=str)
    )
    hint = f"; as text: papermill -r {name} …, which converts nothing" if kinds == {str} and not listed else ""
    raise KitError(f"parameter {name}={value!r} is of type {type(value).__name__}; allowed: {said}{hint}")


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
