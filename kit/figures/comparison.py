"""Methods side by side."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.style import FAINT, GREY, TEMPLATE, method_look

NEEDED = ("method", "title", "n", "accuracy_mean", "accuracy_low", "accuracy_high")
UNITS = ((3 * 3600.0, 3600.0, "h"), (180.0, 60.0, "min"), (0.0, 1.0, "s"))  # from so many seconds on: this unit


def ablation(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy per method, in the table's order: mean with its 95% interval, and every seed as a faint dot below it.

    summary: columns method, title, n, accuracy_mean, accuracy_low, accuracy_high (in [0, 1]; the interval may be NaN where n = 1).
    runs: columns method, test_accuracy. Raises KitError naming the columns that are missing.
    """
    _check(summary, NEEDED, "summary")
    figure = go.Figure(layout={"template": TEMPLATE, "height": 130 + 52 * len(summary), "showlegend": False, "title": {"text": title}})
    for place, row in enumerate(summary.itertuples()):
        color, _ = method_look(row.method)
        if runs is not None:
            _check(runs, ("method", "test_accuracy"), "runs")
            seeds = (runs.loc[runs["method"] == row.method, "test_accuracy"] * 100).tolist()
            figure.add_trace(go.Scatter(x=seeds, y=[place + 0.24] * len(seeds), mode="markers", name=f"{row.title}: seeds", opacity=0.45,
                                        marker={"size": 7, "color": color}, hovertemplate="%{x:.2f}%<extra>one seed</extra>"))  # fmt: skip
        figure.add_trace(_dot(row, place, color))
    if len(summary):
        best = float(summary["accuracy_mean"].max()) * 100
        figure.add_shape(type="line", x0=best, x1=best, y0=0, y1=1, yref="y domain", layer="below", line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text="test accuracy [%]: mean, 95% interval, single seeds")
    figure.update_yaxes(tickvals=list(range(len(summary))), ticktext=[f"{row.title} (n = {row.n:g})" for row in summary.itertuples()],
                        range=[len(summary) - 0.4, -0.6], gridcolor=FAINT, title_text="method")  # fmt: skip
    return figure


def _dot(row: object, place: int, color: str) -> go.Scatter:
    mean, low, high = (100 * getattr(row, f"accuracy_{k}") for k in ("mean", "low", "high"))
    bars = {"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low], "color": color, "thickness": 2.5, "width": 6}
    known = pd.notna(low) and pd.notna(high)
    text = f"{row.title}<br>{mean:.2f}%" + (f" [{low:.2f}, {high:.2f}]" if known else "") + f", n = {row.n:g}"
    return go.Scatter(x=[mean], y=[place], mode="markers", name=row.title, error_x=bars if known else None,
                      marker={"size": 12, "color": color}, hovertemplate=text + "<extra></extra>")  # fmt: skip


def accuracy_against_time(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy over the wall-clock of a run: mean and 95% interval per method, single runs faint.

    summary: as for `ablation`, and `seconds`. runs: columns method, test_accuracy, seconds. Raises KitError naming missing columns.
    """
    _check(summary, (*NEEDED, "seconds"), "summary")
    longest = float(summary["seconds"].max()) if len(summary) else 0.0
    factor, unit = next((factor, unit) for least, factor, unit in UNITS if longest >= least or not least)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 560, "showlegend": False, "title": {"text": title}})
    if runs is not None:
        _check(runs, ("method", "test_accuracy", "seconds"), "runs")
        for method, rows in runs.groupby("method", sort=False):
            figure.add_trace(go.Scatter(x=(rows["seconds"] / factor).tolist(), y=(rows["test_accuracy"] * 100).tolist(), mode="markers",
                                        name=f"{method}: seeds", opacity=0.35, marker={"size": 6, "color": method_look(str(method))[0]}))  # fmt: skip
    for row in summary.itertuples():
        dot = _dot(row, 0, method_look(row.method)[0])
        figure.add_trace(dot.update(x=[row.seconds / factor], y=dot.x, error_x=None, error_y=dot.error_x.to_plotly_json() or None))
    _labels(figure, summary, factor)
    figure.update_xaxes(title_text=f"wall-clock of a run [{unit}]")
    figure.update_yaxes(title_text="test accuracy [%]: mean and 95% interval")
    return figure


def _labels(figure: go.Figure, summary: pd.DataFrame, factor: float) -> None:
    """Titles beside their dots: of four sides and two distances, the first that keeps clear of dots and earlier titles."""
    if summary.empty:
        return
    x = summary["seconds"] / factor
    y = summary["accuracy_mean"] * 100
    low, high = summary["accuracy_low"].mul(100).fillna(y).min(), summary["accuracy_high"].mul(100).fillna(y).max()
    reach = max(float(x.max() - x.min()), 0.05 * float(x.max()), 1e-9)
    left, right = float(x.min()) - 0.08 * reach, float(x.max()) + 0.3 * reach
    # about a 1200 px picture: pixels per unit
    across, up = 1080 / (right - left), 400 / max(float(high - low) * 1.1, 1e-9)
    taken = [(a * across - 8, b * up - 8, a * across + 8, b * up + 8) for a, b in zip(x, y)]
    for a, b, name, method in zip(x, y, summary["title"], summary["method"]):
        wide = 7.0 * len(name)
        spots = [(dx, dy) for far in (0, 18, 36) for dx, dy in ((12, far), (12, -far), (-12 - wide, far), (-12 - wide, -far))]
        boxes = [(a * across + dx, b * up + dy - 9, a * across + dx + wide, b * up + dy + 9) for dx, dy in spots]
        overlaps = [sum(_overlap(box, other) for other in taken) + (1e6 if box[2] > right * across or box[0] < left * across else 0) for box in boxes]
        best = min(range(len(spots)), key=lambda k: (overlaps[k], k))
        taken.append(boxes[best])
        dx, dy = spots[best]
        figure.add_annotation(x=a, y=b, text=name, showarrow=False, xanchor="left", xshift=dx, yshift=dy, font={"color": method_look(method)[0]})
    figure.update_xaxes(range=[max(0.0, left), right])


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _check(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        raise KitError(f"{what} has no column {', '.join(missing)}; it has: {', '.join(map(str, frame.columns)) or 'none'}")
