"""Slider and play button over epochs. The figure itself shows the last frame, so its static twin is the end of the
story.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kit.figures.style import FAINT, GREY, INK, PALETTE

CONTROLS = 92  # pixels of the top margin that slider and button take; the static twin leaves them out
PLAY = 110  # milliseconds a frame


def controls(epochs: Sequence[int], height: float) -> dict[str, Any]:
    """Layout with a slider over the frames named by these epochs, and a play and a pause button, above a plot area of
    `height` pixels.
    """
    base = 1 + 40 / height
    steps = [{"label": str(e), "method": "animate", "args": [[str(e)], _how(0)]} for e in epochs]
    slider = {
        "active": len(steps) - 1,
        "steps": steps,
        "x": 0.12,
        "len": 0.88,
        "xanchor": "left",
        "y": base,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 0, "l": 0, "r": 0},
        "currentvalue": {"prefix": "epoch ", "xanchor": "left", "font": {"size": 15, "color": INK}},
        "bgcolor": FAINT,
        "activebgcolor": PALETTE["blue"],
        "bordercolor": GREY,
        "font": {"size": 11, "color": INK},
        "tickcolor": GREY,
        "transition": {"duration": 0},
    }
    buttons = [
        {"label": "▶ play", "method": "animate", "args": [None, _how(PLAY) | {"fromcurrent": True}]},
        {"label": "❚❚ pause", "method": "animate", "args": [[None], _how(0)]},
    ]
    menu = {
        "type": "buttons",
        "direction": "down",
        "showactive": False,
        "x": 0,
        "xanchor": "left",
        "y": base,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 4, "l": 0, "r": 0},
        "bgcolor": "white",
        "bordercolor": GREY,
        "font": {"size": 12, "color": INK},
        "buttons": buttons,
    }
    return {"sliders": [slider], "updatemenus": [menu], "meta": {"controls": CONTROLS}}


def _how(duration: int) -> dict[str, Any]:
    return {"mode": "immediate", "frame": {"duration": duration, "redraw": True}, "transition": {"duration": 0}}


def frames(
    epochs: Sequence[int], changes: Sequence[Mapping[int, Mapping[str, Any]]], layouts: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """One frame per epoch. changes: for each, trace number → what becomes of it, with its "type"; layouts: what becomes
    of the layout.
    """
    return [
        {
            "name": str(e),
            "traces": list(change),
            "data": list(change.values()),
            **({"layout": layouts[k]} if layouts else {}),
        }
        for k, (e, change) in enumerate(zip(epochs, changes))
    ]
