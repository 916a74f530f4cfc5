"""Methods side by side."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from kit.errors import KitError
from kit.figures.style import FAINT, GREY, TEMPLATE, method_look

MANY = 10  # methods, from which on names stand for titles
NEEDED = ("method", "title", "n", "accuracy_mean", "accuracy_low", "accuracy_high")
UNITS = ((3 * 3600.0, 3600.0, "h"), (180.0, 60.0, "min"), (0.0, 1.0, "s"))  # from so many seconds on: this unit


def ablation(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy per method, in the table's order: mean with its 95% interval, and every seed as a faint dot below
    it.

    summary: columns method, title, n, accuracy_mean, accuracy_low, accuracy_high (in [0, 1]; the interval may be NaN
    where n = 1).
    runs: columns method, test_accuracy. Raises KitError naming the columns that are missing.
    """
    _check(summary, NEEDED, "summary")
    figure = go.Figure(
        layout={"template": TEMPLATE, "height": 130 + 52 * len(summary), "showlegend": False, "title": {"text": title}}
    )
    for place, row in enumerate(summary.itertuples()):
        color, _ = method_look(row.method)
        if runs is not None:
            _check(runs, ("method", "test_accuracy"), "runs")
            seeds = (runs.loc[runs["method"] == row.method, "test_accuracy"] * 100).tolist()
            figure.add_trace(
                go.Scatter(
                    x=seeds,
                    y=[place + 0.24] * len(seeds),
                    mode="markers",
                    name=f"{row.title}: seeds",
                    opacity=0.45,
                    marker={"size": 7, "color": color},
                    hovertemplate="%{x:.2f}%<extra>one seed</extra>",
                )
            )
        figure.add_trace(_dot(row, place, color))
    if len(summary):
        best = float(summary["accuracy_mean"].max()) * 100
        figure.add_shape(
            type="line",
            x0=best,
            x1=best,
            y0=0,
            y1=1,
            yref="y domain",
            layer="below",
            line={"color": GREY, "width": 1, "dash": "dot"},
        )
    figure.update_xaxes(title_text="test accuracy [%]: mean, 95% interval, single seeds")
    figure.update_yaxes(
        tickvals=list(range(len(summary))),
        ticktext=[f"{row.title} (n = {row.n:g})" for row in summary.itertuples()],
        range=[len(summary) - 0.4, -0.6],
        gridcolor=FAINT,
        title_text="method",
    )
    return figure


def _dot(row: object, place: int, color: str) -> go.Scatter:
    symbol = "circle" if method_look(row.method)[1] == "solid" else "circle-open"  # the dashed methods: a ring
    mean, low, high = (100 * getattr(row, f"accuracy_{k}") for k in ("mean", "low", "high"))
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [high - mean],
        "arrayminus": [mean - low],
        "color": color,
        "thickness": 2.5,
        "width": 6,
    }
    known = pd.notna(low) and pd.notna(high)
    text = f"{row.title}<br>{mean:.2f}%" + (f" [{low:.2f}, {high:.2f}]" if known else "") + f", n = {row.n:g}"
    return go.Scatter(
        x=[mean],
        y=[place],
        mode="markers",
        name=row.title,
        error_x=bars if known else None,
        marker={"size": 12, "color": color, "symbol": symbol, "line": {"width": 3 if symbol != "circle" else 0}},
        hovertemplate=text + "<extra></extra>",
    )


def accuracy_against_time(summary: pd.DataFrame, runs: pd.DataFrame | None = None, title: str = "") -> go.Figure:
    """Test accuracy over the wall-clock of a run: mean and 95% interval per method, single runs faint.

    summary: as for `ablation`, and `seconds`. runs: columns method, test_accuracy, seconds. Raises KitError naming
    missing columns.
    """
    _check(summary, (*NEEDED, "seconds"), "summary")
    longest = float(summary["seconds"].max()) if len(summary) else 0.0
    factor, unit = next((factor, unit) for least, factor, unit in UNITS if longest >= least or not least)
    figure = go.Figure(layout={"template": TEMPLATE, "height": 560, "showlegend": False, "title": {"text": title}})
    if runs is not None:
        _check(runs, ("method", "test_accuracy", "seconds"), "runs")
        for method, rows in runs.groupby("method", sort=False):
            figure.add_trace(
                go.Scatter(
                    x=(rows["seconds"] / factor).tolist(),
                    y=(rows["test_accuracy"] * 100).tolist(),
                    mode="markers",
                    name=f"{method}: seeds",
                    opacity=0.35,
                    marker={"size": 6, "color": method_look(str(method))[0]},
                )
            )
    for row in summary.itertuples():
        dot = _dot(row, 0, method_look(row.method)[0])
        figure.add_trace(
            dot.update(x=[row.seconds / factor], y=dot.x, error_x=None, error_y=dot.error_x.to_plotly_json() or None)
        )
    _labels(figure, summary, factor)
    figure.update_xaxes(title_text=f"wall-clock of a run [{unit}]")
    figure.update_yaxes(title_text="test accuracy [%]: mean and 95% interval")
    return figure


def _labels(figure: go.Figure, summary: pd.DataFrame, factor: float) -> None:
    """Titles (names, where there are many) beside their dots: of the places around each, the first that keeps clear of
    dots, intervals and
    earlier titles."""
    if summary.empty:
        return
    rows = summary.assign(
        text=summary["method" if len(summary) > MANY else "title"],
        x=summary["seconds"] / factor,
        y=summary["accuracy_mean"] * 100,
    )
    rows["low"], rows["high"] = (
        rows["accuracy_low"].mul(100).fillna(rows["y"]),
        rows["accuracy_high"].mul(100).fillna(rows["y"]),
    )
    reach = max(float(rows["x"].max() - rows["x"].min()), 0.05 * float(rows["x"].max()), 1e-9)
    left, right = max(0.0, float(rows["x"].min()) - 0.1 * reach), float(rows["x"].max()) + 0.3 * reach
    across, up = (
        1080 / (right - left),
        400 / max(float(rows["high"].max() - rows["low"].min()) * 1.1, 1e-9),
    )  # pixels per unit, at 1200 px
    taken = [(r.x * across - 7, r.low * up - 5, r.x * across + 7, r.high * up + 5) for r in rows.itertuples()]
    for row in rows.itertuples():
        dx, dy, box = _spot(row.x * across, row.y * up, 7.4 * len(row.text), (left * across, right * across), taken)
        taken.append(box)
        figure.add_annotation(
            x=row.x,
            y=row.y,
            text=row.text,
            showarrow=False,
            xanchor="left" if dx > 0 else "right",
            xshift=dx,
            yshift=dy,
            font={"color": method_look(row.method)[0]},
        )
    figure.update_xaxes(range=[left, right])


def _spot(
    x: float, y: float, wide: float, ends: tuple[float, float], taken: list[tuple[float, ...]]
) -> tuple[float, float, tuple[float, ...]]:
    """Shift (pixels) and box of a title that is `wide` and stands beside (x, y)."""
    spots = [(dx, dy) for far in (0, 16, 32, 48) for dy in ((far, -far) if far else (0,)) for dx in (12, -12)]
    boxes = [
        (x + dx if dx > 0 else x + dx - wide, y + dy - 9, x + dx + wide if dx > 0 else x + dx, y + dy + 9)
        for dx, dy in spots
    ]
    cost = [
        sum(_overlap(box, other) for other in taken) + 1e6 * (box[0] < ends[0] or box[2] > ends[1]) for box in boxes
    ]
    best = min(range(len(spots)), key=lambda k: (cost[k], k))
    return *spots[best], boxes[best]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _check(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        raise KitError(
            f"{what} has no column {', '.join(missing)}; it has: {', '.join(map(str, frame.columns)) or 'none'}"
        )
