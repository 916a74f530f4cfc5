"""The form of the panel: every field of `kit.Config` as a text, with what the preset and the method fill in shown where
it is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from kit import augment, data, hyper, space
from kit.arch import ARCH
from kit.config import Config
from kit.lab.notebook import _kinds, _typed
from kit.methods import METHODS, PRESETS

MAIN = ("dataset", "method", "preset", "seed")
REST = tuple(name for name in Config.model_fields if name not in MAIN)
BOOLEAN = ("true", "false")


def choices(name: str) -> tuple[str, ...]:
    """Names to offer for a field; others can be typed."""
    kinds, listed, _ = _kinds(name)
    known = {
        "dataset": data.datasets(),
        "space": space.SPACES,
        "arch": ARCH,
        "augment": augment.AUGMENT,
        "hyper": hyper.HYPER,
        "genotype": space.GENOTYPES,
        "device": ("auto", "cpu", "cuda"),
    }
    return tuple(known.get(name, listed or (BOOLEAN if bool in kinds else ())))


class Form:
    """`config()` reads it; `changed` is called after every change by hand. main: the widget of the fields that every
    run has, rest: of
    the others, folded."""

    def __init__(self, config: Config, changed: Callable[[], None]):
        self.changed, self.filling = changed, False
        self.fields = {name: _field(name) for name in Config.model_fields}
        for widget in self.fields.values():
            widget.observe(self._on_change, "value")
        self.main = widgets.HBox(
            [self.fields[name] for name in MAIN], layout=widgets.Layout(flex_flow="row wrap", width="100%")
        )
        grid = widgets.GridBox(
            [self.fields[name] for name in REST],
            layout=widgets.Layout(
                grid_template_columns="repeat(auto-fill, minmax(285px, 1fr))", grid_gap="2px 10px", width="100%"
            ),
        )
        self.rest = widgets.Accordion([grid], titles=("",), selected_index=None, layout=widgets.Layout(width="100%"))
        self.fill(config)

    def values(self) -> dict[str, Any]:
        """What is filled in, by name, in its field's type. Raises KitError for a text that is not of the type."""
        given = {name: widget.value.strip() for name, widget in self.fields.items()}
        return {name: _typed(name, text, *_kinds(name)) for name, text in given.items() if text}

    def config(self) -> Config:
        """Raises KitError for what `kit.Config` refuses."""
        config = Config(**self.values())
        self._suggest(config)
        return config

    def fill(self, config: Config) -> None:
        """Show a configuration: the main fields, and of the others those that differ from what preset and method fill
        in.
        """
        values = vars(config)  # a run of another version may lack some
        usual = _usual(config)
        self.filling = True
        for name, widget in self.fields.items():
            text = (
                _text(values.get(name)) if name in MAIN or values.get(name) != usual.get(name, values.get(name)) else ""
            )
            if not isinstance(widget, widgets.Dropdown) or text in widget.options:
                widget.value = text
        self.filling = False
        self._suggest(config)

    def enable(self, on: bool) -> None:
        for widget in self.fields.values():
            widget.disabled = not on

    def _on_change(self, _: object) -> None:
        if not self.filling:
            self.changed()

    def _suggest(self, config: Config) -> None:
        for name in REST:
            value = getattr(config, name, None)
            self.fields[name].placeholder = "–" if value is None else _text(value)
        given = [name for name in REST if self.fields[name].value.strip()]
        self.rest.set_title(
            0,
            "All settings"
            + (f" · given: {', '.join(given)}" if given else " · all as the preset and the method have them"),
        )


def _field(name: str) -> widgets.Widget:
    about = Config.model_fields[name].description or name.replace("_", " ")
    look = {
        "description": name,
        "tooltip": about,
        "style": {"description_width": "118px" if name not in MAIN else "initial"},
        "layout": widgets.Layout(width="auto", min_width="0"),
    }
    if name in ("method", "preset"):
        return widgets.Dropdown(options=list(METHODS if name == "method" else PRESETS), **look)
    if offered := choices(name):
        return widgets.Combobox(options=offered, continuous_update=False, **look)
    return widgets.Text(continuous_update=False, **look)


def _usual(config: Config) -> dict[str, Any]:
    """The values that the main fields alone lead to; of a run of another version, what it has."""
    try:
        return Config(**{name: getattr(config, name) for name in MAIN}).model_dump()
    except (ValueError, AttributeError):
        return {}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
