"""Text, colours and number formats of plotly in matplotlib's terms."""

from __future__ import annotations

import html
import re
from typing import Any

from matplotlib.colors import to_rgba

from kit.errors import KitError

POINTS = 0.72 * 0.95  # pixels at 100 dpi to points; DejaVu Sans runs wider than plotly's Open Sans
HORIZONTAL = {"left": "left", "center": "center", "middle": "center", "right": "right"}
VERTICAL = {"top": "top", "middle": "center", "center": "center", "bottom": "bottom"}


def lines(text: Any) -> list[tuple[str, bool]]:
    """plotly's markup as (line, bold); other tags are dropped."""
    bold, result = False, []
    for part in re.split(r"<br\s*/?>", str(text)):
        heavy = bold or "<b>" in part
        for tag in re.findall(r"<(/?b)>", part):
            bold = tag == "b"
        result.append((html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", "", part)), heavy))
    return result


def words(text: Any) -> str:
    return "\n".join(line for line, _ in lines(text))


def font(settings: dict[str, Any] | None, default: dict[str, Any], text: Any = "") -> dict[str, Any]:
    """Keyword arguments for matplotlib's text: size in points, colour, weight, no mathematics between dollars."""
    both = {**default, **(settings or {})}
    bold = any(heavy for _, heavy in lines(text)) or both.get("weight") in ("bold", 700)
    return {
        "fontsize": both.get("size", 12) * POINTS,
        "color": color(both.get("color", "#444")),
        "parse_math": False,
        "fontweight": "bold" if bold else "normal",
    }


def color(value: Any, opacity: float = 1.0) -> tuple[float, float, float, float]:
    if value in (None, "transparent"):
        return (0.0, 0.0, 0.0, 0.0)
    match = re.fullmatch(r"rgba?\(([^)]*)\)", str(value).replace(" ", ""))
    if match:
        r, g, b, *a = (float(v) for v in match.group(1).split(","))
        rgba = (r / 255, g / 255, b / 255, a[0] if a else 1.0)
    else:
        rgba = to_rgba(str(value))
    return (*rgba[:3], rgba[3] * opacity)


def dash(name: Any) -> Any:
    styles = {"dash": (0, (6, 3)), "dot": (0, (1.2, 2)), "dashdot": "-.", "longdash": (0, (10, 3)), "longdashdot": "-."}
    return styles.get(name or "solid", "-")


def number(value: float, pattern: str | None) -> str:
    """A number by a d3 format of the kinds that axes use: ".1%", ".2f", "d", ".1e", ".3s", ",", with or without "~"."""
    if not pattern:
        return f"{value:.10g}".replace("-", "−")
    trimmed = pattern.replace("~", "")
    if trimmed.endswith("e"):
        digits, exponent = format(value, trimmed).split("e")
        text = f"{digits.rstrip('0').rstrip('.') if '~' in pattern and '.' in digits else digits}e{int(exponent)}"
    elif trimmed.endswith("s"):
        text = _prefixed(value, int(re.sub(r"\D", "", trimmed) or 3))
    elif trimmed.endswith("d"):
        text = format(int(round(value)), trimmed)
    else:
        text = format(value, trimmed)
    return text.replace("-", "−")


def _prefixed(value: float, digits: int) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= factor or value == 0:
            break
    return f"{0 if value == 0 else value / factor:.{digits}g}{'' if value == 0 else letter}"


def refuse(what: str) -> KitError:
    return KitError(
        f"the static picture cannot draw {what}; it draws scatter, bar, heatmap, contour and image. Open the interactive figure instead"
    )
