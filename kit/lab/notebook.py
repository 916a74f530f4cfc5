"""What a notebook's second cell needs: its parameters checked before any compute, and the folder that relative paths
start from. papermill injects `-p name value` as a global and only warns about names that the parameters cell does not
declare; here every such name is a field of `kit.Config`, one of the notebook's own, or an error.

    values, own = notebook.config(globals(), extra={"seeds": int})
    config = kit.Config(**values)
"""

import ast
import contextlib
import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kit import errors
from kit.config import Config
from kit.errors import KitError

PLAIN = (str, int, float, bool, type(None), list, tuple, dict)
SEEN = "_kit_parameters"  # the globals' names at the first check, kept in the notebook itself


def config(
    namespace: MutableMapping[str, Any], extra: Mapping[str, type | None] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain variables of a notebook as (values for `kit.Config`, values of `extra`), both by name.

    namespace: `globals()` of the notebook. extra: the notebook's own parameters, name → type, into which a string is
    converted as for `kit.Config`'s fields; None: left as it is. What an IPython start-up file has defined is none of
    the notebook's. The environment variable KIT_PARAMETERS, a JSON object, overrides what concerns this notebook (tests
    run every notebook in seconds with it). Enters `home()`. Raises KitError for any other plain variable, naming the
    valid ones, and for a value that has not its parameter's type."""
    home()
    own = dict(extra or {})
    allowed = [*own, *Config.model_fields]
    others = {"In", "Out", *_from_startup(namespace)}
    plain = {k: v for k, v in namespace.items() if type(v) in PLAIN and not k.startswith("_") and k not in others}
    # a cell that is run again meets the variables of later cells
    seen = namespace.setdefault(SEEN, set(plain))
    given = {name: value for name, value in plain.items() if name in seen or name in allowed}
    given |= {name: value for name, value in _environment().items() if name in allowed}
    for name in given:
        if name not in allowed:
            own_name = "(A variable of your own that is no parameter: let its name begin with _.)"
            raise KitError(f"{errors.unknown('parameter', name, allowed)}. {own_name}")
    values = {name: typed(name, value) for name, value in given.items() if name not in own}
    extras = {name: _converted(name, value, own[name]) for name, value in given.items() if name in own}
    return values, extras


def typed(name: str, value: Any) -> Any:
    """A value for the field `name` of `kit.Config`, a string read as its type. Raises KitError for a misfit."""
    if name not in Config.model_fields:
        raise errors.unknown("parameter", name, Config.model_fields)
    return None if value is None else _converted(name, value, Config.model_fields[name].annotation)


def home() -> Path:
    """Make the repository root the working directory where a notebook was opened in notebooks/, as JupyterLab does;
    return it. So `out="runs"` is the same folder under papermill and in JupyterLab."""
    here = Path.cwd()
    if here.name == "notebooks" and (here.parent / "kit" / "__init__.py").is_file():
        os.chdir(here.parent)
    return Path.cwd()


def _from_startup(namespace: Mapping[str, Any]) -> set[str]:
    """The variables that were there before the first cell (IPython keeps them as hidden) and that no cell assigns."""
    hidden = getattr(namespace["get_ipython"](), "user_ns_hidden", {}) if "get_ipython" in namespace else {}
    assigned = set()
    for cell in namespace.get("_ih", ()):
        with contextlib.suppress(SyntaxError):
            names = (node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name))
            assigned |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name for name in hidden if name not in assigned and namespace.get(name) is hidden[name]}


def _environment() -> dict[str, Any]:
    text = os.environ.get("KIT_PARAMETERS", "{}")
    try:
        return TypeAdapter(dict[str, Any]).validate_json(text)
    except ValidationError:
        raise KitError(f"KIT_PARAMETERS={text!r} is not a JSON object such as {json.dumps({'epochs': 2})}") from None


def _converted(name: str, value: Any, kind: Any) -> Any:
    """The value in its parameter's type: a string is read as one, anything else has to be of it already. "none" means
    None, except where it may be a name (augment="none" is a policy)."""
    kind = Any if kind is None else kind
    if isinstance(value, str) and value.strip().lower() in ("none", "null") and kind is not str:
        return None
    try:
        if isinstance(value, str):
            return TypeAdapter(kind).validate_strings(value.strip())
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Input ").lower()
        hint = f"; as text: papermill -r {name} …, which converts nothing" if kind is str else ""
        raise KitError(f"parameter {name}={value!r} is of type {type(value).__name__}; it {said}{hint}") from None
