"""The panels of a run over its epochs: loss, η, and what α does."""

from __future__ import annotations

from typing import Any

import numpy as np

from kit.figures import tiles
from kit.figures.panels import Panel, level, line, log_span, span
from kit.figures.recorded import COLLAPSE, POINTS, Recorded, entropy, shares, thinned
from kit.figures.style import GREY, INK, PALETTE, log_ticks, op_color, op_title

KINDS = {"normal": ("normal cell", PALETTE["blue"]), "reduce": ("reduction cell", PALETTE["orange"])}
HYPER = {"lr": "learning rate", "weight_decay": "weight decay"}


def loss_panel(seen: Recorded) -> Panel | None:
    kinds = (("loss", "train", PALETTE["blue"]), ("val_loss", "validation", PALETTE["orange"]))
    drawn = [(name, color, thin(seen, key)) for key, name, color in kinds]
    drawn = [(name, color, (x, y)) for name, color, (x, y) in drawn if len(x)]
    if not drawn:
        return None
    traces = [line(x, y, name, color) for name, color, (x, y) in drawn]
    keys = [(f"━ {name}", color) for name, color, _ in drawn]
    if len(drawn) == 1:
        keys.append(
            (
                "(no validation loss: nothing was held out)" if "loss" in seen.frame else "(no training loss recorded)",
                GREY,
            )
        )
    return Panel(
        "loss", 125, traces, {"title": {"text": "nats"}, "range": span([y for *_, (_, y) in drawn], zero=True)}, keys
    )


def hyper_panels(seen: Recorded) -> list[Panel]:
    """One for each hyper-parameter that moves: the learned value and the effective one; one for each that is chosen
    from a list.
    """
    moving = [name for name in seen.frame if name.startswith("eta/") and seen.series(name).nunique() > 1]
    learned = [name.removeprefix("eta/") for name in moving]
    lists = dict.fromkeys(name.split("/")[0] for name in learned if "/" in name)
    names = dict.fromkeys(
        [*(name for name in learned if "/" not in name), *(name for name in HYPER if seen.series(name).nunique() > 1)]
    )
    return [
        *(_hyper_panel(seen, name, name in learned) for name in names),
        *(_list_panel(seen, name) for name in lists),
    ]


def _hyper_panel(seen: Recorded, name: str, learned: bool) -> Panel:
    title = HYPER.get(name, name.replace("_", " "))
    effective, found = (thin(seen, name, positive=True), thin(seen, f"eta/{name}"))
    same = learned and len(effective[1]) == len(found[1]) and np.allclose(effective[1], found[1], rtol=1e-4)
    traces, keys, values = [], [], []
    if len(effective[1]) and not same:  # what the optimizer used at the epoch's last step
        traces.append(line(*effective, "effective", PALETTE["black"], width=1.5))
        keys.append(("━ effective (× schedule)" if learned and name == "lr" else "━ effective", PALETTE["black"]))
        values.append(effective[1])
    if learned:
        traces.append(line(*found, "learned", PALETTE["vermillion"]))
        keys.insert(0, ("━ learned" + (" = effective, no schedule" if same else ""), PALETTE["vermillion"]))
        values.append(found[1])
    axis: dict[str, Any] = {"title": {"text": title}, "exponentformat": "power", "nticks": 5}
    logarithmic = all((v > 0).all() for v in values)
    if logarithmic:
        low, high = log_span(values)
        axis |= {"type": "log", "range": [low, high], **log_ticks(low, high)}
    else:
        axis["range"] = span(values)
    return Panel(
        f"η: {title}" + (", log scale" if logarithmic else "") + ("" if learned else ", not learned"),
        105,
        traces,
        axis,
        keys,
    )


def _list_panel(seen: Recorded, name: str) -> Panel:
    """A hyper-parameter of named values: the probability of each."""
    options = [column for column in seen.frame if column.startswith(f"eta/{name}/")]
    looks = list(zip(options, (color for key, color in PALETTE.items() if key not in ("yellow", "black"))))
    traces = [line(*thin(seen, option), option.rsplit("/", 1)[1], color) for option, color in looks]
    keys = [(f"━ {option.rsplit('/', 1)[1]}", color) for option, color in looks]
    return Panel(
        f"η: {name.replace('_', ' ')}", 90, traces, {"title": {"text": "probability"}, "range": [-0.03, 1.03]}, keys
    )


def alpha_panel(seen: Recorded) -> Panel | None:
    """Mean over the slots of the entropy of |α|, normalised over a slot's candidates."""
    if not seen.alpha or not searched(seen):
        return None
    values = entropy(shares(seen.alpha["alpha"])).mean(axis=1)
    at = thinned(len(values), POINTS)
    settled = 100 * seen.alpha["frozen"].mean(axis=1)
    traces = [line(seen.alpha["epoch"][at].tolist(), values[at].tolist(), "entropy", PALETTE["purple"])]
    slot = "node" if seen.cells else "block"
    return Panel(
        f"α: mean entropy of a {slot}",
        80,
        traces,
        {"title": {"text": "nats"}, "range": span([values], pad=0.15)},
        [(f"{settled[-1]:.0f}% frozen", GREY)] if settled[-1] else [],
    )


def skip_panel(seen: Recorded) -> Panel | None:
    if not seen.skips or not searched(seen):
        return None
    traces, keys, over = [level(100 * COLLAPSE, seen.last, PALETTE["vermillion"])], [], []
    for kind, values in seen.skips.items():
        name, color = KINDS[kind]
        at = thinned(len(values), POINTS)
        dash = "solid" if kind == "normal" else "dash"
        traces.append(line(seen.alpha["epoch"][at].tolist(), (100 * values[at]).tolist(), name, color, dash=dash))
        keys.append((f"━ {name.split()[0]}", color))
        over += [name] if values[-1] > COLLAPSE else []
    keys.append((f"- - collapse > {COLLAPSE:.0%}", PALETTE["vermillion"]))
    heading = f"⚠ skips: collapse ({', '.join(name.split()[0] for name in over)})" if over else "α: share of skips"
    return Panel(heading, 80, traces, {"title": {"text": "%"}, "range": [-5, 105], "tickvals": [0, 50, 100]}, keys)


def picks_panel(seen: Recorded) -> Panel | None:
    """A row for each pick of each slot, with a bar of the operation's colour as long as it is in use; a diamond where
    the slot froze.
    """
    if not seen.alpha:
        return None
    rows, places, marks, points = 0, [], [], ([], [], [])
    bars: dict[str, list[tiles.Rectangle]] = {op: [] for slot in seen.slots for op, _ in slot.candidates}
    at = thinned(len(seen.alpha["epoch"]), POINTS)
    epochs = seen.alpha["epoch"][at].tolist()
    for i, (slot, columns) in enumerate(zip(seen.slots, seen.picked)):
        places.append((rows + (slot.takes - 1) / 2, label(slot.name)))
        for k in range(slot.takes):
            for candidate, start, end in _stretches(columns[at, k], tiles.borders(epochs)):
                bars[slot.candidates[candidate][0]].append((start, end, rows + k - 0.45, rows + k + 0.45))
            points[0].extend(epochs)
            points[1].extend([rows + k] * len(epochs))
            points[2].extend(_words(seen, i, c) for c in columns[at, k].tolist())
        rows += slot.takes
        frozen = seen.alpha["frozen"][:, i].astype(bool)
        if frozen.any() and searched(seen):
            marks.append((int(seen.alpha["epoch"][frozen.argmax()]), places[-1][0]))
    traces = [tiles.filled(found, op_color(op), name=op_title(op), showlegend=True) for op, found in bars.items()]
    traces.append(tiles.values(*points, "epoch %{x}, %{customdata}"))
    if marks:
        look = {"symbol": "diamond", "size": 11, "color": "white", "line": {"color": INK, "width": 1.5}}
        traces.append(
            {
                "type": "scatter",
                "x": [x for x, _ in marks],
                "y": [y for _, y in marks],
                "mode": "markers",
                "showlegend": False,
                "marker": look,
                "cliponaxis": False,
                "hovertemplate": "frozen at epoch %{x}<extra></extra>",
            }
        )
    what = "operations of each node's two inputs" if seen.cells else "operation of each block"
    axis = {
        "tickvals": [y for y, _ in places],
        "ticktext": [text for _, text in places],
        "range": [rows - 0.5, -0.5],
        "showgrid": False,
        "tickfont": {"size": 10 if len(places) > 12 else 11},
        "title": {"text": "node" if seen.cells else "block"},
    }
    return Panel(
        f"α: {what}",
        13 * rows,
        traces,
        axis,
        [("◇ the node froze" if seen.cells else "◇ the block froze", INK)] if marks else [],
    )


def _stretches(picks: np.ndarray, edges: list[float]) -> list[tuple[int, float, float]]:
    """(candidate, start, end) of each stretch of epochs with the same pick."""
    starts = [0, *(np.nonzero(np.diff(picks))[0] + 1).tolist(), len(picks)]
    return [(int(picks[a]), edges[a], edges[b]) for a, b in zip(starts, starts[1:]) if picks[a] >= 0]


def _words(seen: Recorded, i: int, candidate: int) -> str:
    if candidate < 0:
        return f"{label(seen.slots[i].name)}: nothing"
    op, edge = seen.slots[i].candidates[candidate]
    source = f" ← {('cell before last', 'last cell')[edge] if edge < 2 else f'node {edge - 2}'}" if seen.cells else ""
    return f"{label(seen.slots[i].name)}: {op_title(op)}{source}"


def label(name: str) -> str:
    kind, node = name.split("/")
    return f"{kind} {node}" if kind in KINDS else node


def searched(seen: Recorded) -> bool:
    """Whether α moved at all: a fixed architecture has nothing to tell over the epochs."""
    return len(seen.alpha["alpha"]) > 1 and bool((seen.alpha["alpha"] != seen.alpha["alpha"][:1]).any())


def thin(seen: Recorded, name: str, positive: bool = False) -> tuple[list[int], np.ndarray]:
    values = seen.series(name)
    values = values[values > 0] if positive else values
    at = thinned(len(values), POINTS)
    return values.index[at].tolist(), values.to_numpy()[at]
