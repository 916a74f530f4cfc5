"""What notebooks need: `kit.dashboard`, and their parameters checked before any compute. papermill injects `-p name
value` as a global and only warns about names that the parameters cell does not declare; here every such name is a field
of `kit.Config`, one of the notebook's own, or an error."""

import ast
import contextlib
import os
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import Json, TypeAdapter, ValidationError

from kit.config import Config
from kit.errors import KitError, shown, unknown
from kit.registry import load_plugins
from kit.run.run import Run

PLAIN = (str, int, float, bool, type(None), list, tuple, dict)
SEEN = "_kit_parameters"  # the globals' names at the first check, kept in the notebook itself


def config(namespace: MutableMapping[str, Any], extra: Mapping[str, type | None] | None = None) -> tuple[dict, dict]:
    """The plain variables of a notebook as (values for `kit.Config`, values of `extra`), both by name.

    namespace: `globals()` of the notebook. extra: the notebook's own parameters, name → type, into which a string is
    converted as for `kit.Config`'s fields; None: left as it is. What an IPython start-up file has defined is none of
    the notebook's. The environment variable KIT_PARAMETERS, a JSON object, overrides what concerns this notebook (tests
    run them in seconds with it). Raises KitError for any other plain variable, and for a value of another type."""
    here = Path.cwd()  # out="runs" is the same folder under papermill and in JupyterLab, which starts in notebooks/
    if here.name == "notebooks" and (here.parent / "kit" / "__init__.py").is_file():
        os.chdir(here.parent)
    if type(plugins := namespace.get("plugins")) is str and plugins:  # whose options are fields, too
        load_plugins(plugins)
    own, hidden = dict(extra or {}), {"In", "Out", *_from_startup(namespace)}
    kinds = own | {name: field.annotation for name, field in Config.model_fields.items()} | own
    plain = {k: v for k, v in namespace.items() if type(v) in PLAIN and not k.startswith("_") and k not in hidden}
    # a cell that is run again meets the variables of later cells
    seen = namespace.setdefault(SEEN, set(plain))
    given = {name: value for name, value in plain.items() if name in seen or name in kinds}
    overrides = _converted("KIT_PARAMETERS", os.environ.get("KIT_PARAMETERS", "{}"), Json[dict[str, Any]])
    given |= {name: value for name, value in overrides.items() if name in kinds}
    if others := [name for name in given if name not in kinds]:
        raise KitError(f"{unknown('parameter', others[0], kinds)}. (Variables of your own begin with _.)")
    values = {name: _converted(name, value, kinds[name]) for name, value in given.items()}
    return {k: v for k, v in values.items() if k not in own}, {k: v for k, v in values.items() if k in own}


def typed(name: str, value: Any) -> Any:
    """A value for the field `name` of `kit.Config`, a string read as its type. Raises KitError for a misfit."""
    if name not in Config.model_fields:
        raise unknown("parameter", name, Config.model_fields)
    return _converted(name, value, Config.model_fields[name].annotation)


def assigned(texts: Iterable[str]) -> dict[str, Any]:
    """Values for `kit.Config` from texts like "epochs=10". Raises KitError for a text of another form and a misfit."""
    parts = {text: text.partition("=") for text in texts}
    if wrong := [text for text, (_, equals, _) in parts.items() if not equals]:
        raise KitError(f"{shown(wrong[0])} is not name=value: kit.Config.model_fields has the names")
    given = {name: value for name, _, value in parts.values()}
    if given.get("plugins"):  # whose options are fields, too
        load_plugins(given["plugins"])
    return {name: typed(name, value) for name, value in given.items()}


def dashboard(config: Config | None = None, run: str | Path | Run | None = None, live: bool | None = None) -> Any:
    """A panel for a notebook cell, whose last line the call has to be: choose, start, pause, stop, resume; curves, τ
    and cells while the search runs, in a process of its own that ends with the kernel.

    config: what the form begins with (None: the defaults). run: a run, or its path, to look at instead. live: True
    makes widgets, False none; None: in JupyterLab. Without widgets the search runs in this process (or the given run is
    read), its figures are shown, and the run is returned. Raises KitError for what is no configuration or run."""
    if not isinstance(config, (Config, type(None))) or (config and run):
        raise KitError("kit.dashboard takes a configuration, kit.dashboard(kit.Config(...)), or a run, run=path")
    opened = run if isinstance(run, Run) or run is None else Run.load(run)
    if "JPY_SESSION_NAME" in os.environ if live is None else live:
        from kit.lab.panel import Dashboard  # widgets and figures are not imported with kit

        return Dashboard(config, opened)
    from kit import figures
    from kit.search.engine import search
    from kit.search.progress import Lines

    opened = opened or search(config or Config(), progress=Lines())
    for make in (figures.curves, figures.policy, figures.cells):
        figures.show(make(opened))
    return opened


def _from_startup(namespace: Mapping[str, Any]) -> set[str]:
    """The variables that were there before the first cell (IPython keeps them as hidden) and that no cell assigns."""
    hidden = getattr(namespace["get_ipython"](), "user_ns_hidden", {}) if "get_ipython" in namespace else {}
    assigned = set()
    for cell in namespace.get("_ih", ()):
        with contextlib.suppress(SyntaxError):
            names = (node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name))
            assigned |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name for name in hidden if name not in assigned and namespace.get(name) is hidden[name]}


def _converted(name: str, value: Any, kind: Any) -> Any:
    """The value in its parameter's type (None: any): a string is read as one, anything else has to be of it already or
    None. "none" means None, except where it may be a name (augment="none" is a policy)."""
    text = value.strip() if isinstance(value, str) else None
    if value is None or (text and text.lower() in ("none", "null") and kind is not str):
        return None
    adapter = TypeAdapter(Any if kind is None else kind)
    try:
        return adapter.validate_python(value, strict=True) if text is None else adapter.validate_strings(text)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Input ").lower()
        hint = f"; as text: papermill -r {name} …, which converts nothing" if kind is str else ""
        raise KitError(f"parameter {name}={shown(value)} of type {type(value).__name__}: {said}{hint}") from None
