"""Parts by name: a learner, a policy, an operation or a space is one class (or function) that owns everything about
itself, and one call registers it. A user's own file makes the same call as kit's files do, and is loaded by name:
`kit.Config(plugins="my_file.py")`, `papermill … -p plugins my_file.py`, or simply by being run in a notebook."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from kit.errors import KitError, unknown
from kit.files import place

T = TypeVar("T")


class Options(BaseModel):
    """Base of a part's own options: annotated fields with a default, a range and a description, as in pydantic. Each
    becomes a field of the flat `kit.Config`. Parts may share an option's name where type, range and default agree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Part:
    """What is registered under a name.

    make: the class or function; its classmethod `check(config)`, where it has one, may refuse a configuration. title,
    colour: how figures and tables show it. brings: values for fields of the configuration wherever this part is chosen,
    each one value or {preset: value}. declared: options of a function, which has no `Options` of its own. settings:
    keyword arguments that tell apart the names under which one class is registered."""

    name: str
    make: Any
    title: str
    colour: str | None = None
    brings: Mapping[str, Any] = field(default_factory=dict)
    declared: type[Options] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> type[Options] | None:
        return self.declared or getattr(self.make, "Options", None)

    def arguments(self, config: Any) -> dict[str, Any]:
        """What `make` takes by name: the settings, and the options as the configuration has them."""
        names = self.options.model_fields if self.options else ()
        return {**self.settings, **{name: getattr(config, name) for name in names}}

    def values(self, preset: str) -> dict[str, Any]:
        brought = {name: v.get(preset) if isinstance(v, Mapping) else v for name, v in self.brings.items()}
        return {name: value for name, value in brought.items() if value is not None}


class Registry(dict[str, Part]):
    """The parts of one kind, in the order of their registration; `kind` is what messages call them. Raises KitError,
    nearest names first, for a name that is not registered."""

    #: called with (registry, part) before each part is registered; it may refuse it by raising KitError
    listener: "Callable[[Registry, Part], None]" = staticmethod(lambda registry, part: None)

    def __init__(self, kind: str):
        self.kind = kind

    def __missing__(self, name: str) -> Part:
        raise unknown(self.kind, name, self)

    def register(self, name: str, *, title="", colour=None, brings=None, options=None, **settings) -> Callable[[T], T]:
        """A decorator that registers a class or function under `name`; see `Part`. The same definition again, as of a
        notebook's cell, replaces it; another one of the name raises KitError."""

        def add(make: T) -> T:
            part = Part(name, make, title or name, colour, brings or {}, options, settings)
            taken = self.get(name, part).make
            if (taken.__module__, taken.__qualname__) != (make.__module__, make.__qualname__):
                by = f"is already registered by {taken.__module__}"
                raise KitError(f"{self.kind} {name!r} {by}: give yours another name")
            Registry.listener(self, part)
            self[name] = part
            return make

        return add


_loaded: dict[Path, bytes] = {}


def load_plugins(files: str) -> str:
    """Run plug-in files, once each, so that they register their parts; returns a sha256 of their contents. files: paths
    with commas between them. Raises KitError, with the file and the line, for one that is missing or raises."""
    whole = hashlib.sha256()
    for name in map(str.strip, files.split(",")):
        path = place(name).absolute()
        if not path.is_file():
            raise KitError(f"plug-in {name!r} is not a file: give the path of a Python file, plugins='my_file.py'")
        digest = hashlib.sha256(path.read_bytes()).digest()
        whole.update(digest)
        if _loaded.get(path) == digest:
            continue
        try:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)  # so that classes of the file know where they come from
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
            line = lines[-1] if lines else getattr(error, "lineno", "?")
            what = f"{type(error).__name__}: {error}"
            raise KitError(f"plug-in {path.name}, line {line}: {what}; mend the file") from error
        _loaded[path] = digest
    return whole.hexdigest()
