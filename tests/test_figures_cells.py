"""Architectures drawn: cells, strips of choice blocks, two runs beside each other, the child over the epochs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from tests_recorded import alpha_walk, blocks_walk, write_run

import kit
from kit import figures, registry
from kit.errors import KitError
from kit.figures import look, op_title

ONE = {
    "normal": [
        [("sep_conv_3x3", 0), ("skip_connect", 1)],
        [("sep_conv_3x3", 0), ("max_pool_3x3", 0)],
        [("dil_conv_5x5", 2), ("sep_conv_5x5", 3)],
        [("avg_pool_3x3", 4), ("dil_conv_3x3", 1)],
    ],
    "reduce": [
        [("max_pool_3x3", 0), ("max_pool_3x3", 1)],
        [("sep_conv_3x3", 2), ("skip_connect", 1)],
        [("sep_conv_3x3", 0), ("sep_conv_5x5", 2)],
        [("skip_connect", 2), ("skip_connect", 3)],
    ],
}
OTHER = {  # three edges of the normal cell are others; the reduction cell has the same in another order
    "normal": [
        [("skip_connect", 1), ("sep_conv_3x3", 0)],
        [("sep_conv_3x3", 1), ("max_pool_3x3", 0)],
        [("dil_conv_3x3", 2), ("sep_conv_5x5", 3)],
        [("avg_pool_3x3", 4), ("dil_conv_3x3", 0)],
    ],
    "reduce": [list(reversed(node)) for node in ONE["reduce"]],
}
SHUFFLE = ["shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "xception", "shuffle_3x3", "xception"]
MOBILE = ["k3_e3", "k3_e6", "k5_e3", "k5_e6", "k3_e3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


def found(folder, name: str, genotype: dict, **changes) -> kit.Run:
    run = write_run(folder / name, 4, arrays={"alpha": {}, "tau": {}}, **changes)
    path = run.path / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"genotype": genotype}))
    return kit.Run.load(run.path)


def plain(text: str | None) -> str:
    return re.sub(r"</?b>", "", text or "")


def texts(figure: go.Figure) -> list[str]:
    return [plain(note.text) for note in figure.layout.annotations]


OP_COLORS = {op: look(op).color for op in (*kit.space.CELL_OPS, *SHUFFLE, *MOBILE)}


# ---- one architecture ----------------------------------------------------------------------------


def test_a_finished_runs_cells_are_those_it_found(folder):
    figure = figures.cells(found(folder, "one", ONE))
    names = [plain(note.text) for note in figure.layout.annotations if note.bgcolor in OP_COLORS.values()]
    assert sorted(names) == sorted(op_title(op) for nodes in ONE.values() for node in nodes for op, _ in node)
    assert "the architecture found" in figure.layout.title.text and {"normal cell", "reduction cell"} <= set(
        texts(figure)
    )


def test_an_edge_leaves_its_input_and_enters_its_node():
    figure = figures.cell(ONE)
    edges = [trace for trace in figure.data if trace.line.color in OP_COLORS.values()]
    nodes = {
        (note.xref, plain(note.text)): (note.x, note.y)
        for note in figure.layout.annotations
        if note.bgcolor == "#F2F2F2"
    }
    names = ("cₖ₋₂", "cₖ₋₁", "0", "1", "2", "3")
    wanted = [
        (axis, names[source], str(node))
        for axis, kind in (("x", "normal"), ("x2", "reduce"))
        for node, entries in enumerate(ONE[kind])
        for _, source in entries
    ]
    for trace, (axis, source, target) in zip(edges, wanted, strict=True):
        assert (trace.x[0], trace.y[0]) == pytest.approx(nodes[axis, source], abs=1e-5)
        assert (trace.x[-1], trace.y[-1]) == pytest.approx(nodes[axis, target], abs=1e-5)


@pytest.mark.parametrize("columns", [1, 2])
def test_names_of_operations_do_not_touch_nodes_at_1000_pixels(folder, columns):
    run = found(folder, f"wide{columns}", ONE)
    figure = figures.cells(run) if columns == 1 else figures.cells_compared(run, run)
    wide = 6.6 if columns == 1 else 6.1  # pixels of a character at 12 and 11 px, padding beside
    for axis in ("", "2"):
        x = figure.layout[f"xaxis{axis}"]
        unit = (1000 - 40) * (x.domain[1] - x.domain[0]) / (x.range[1] - x.range[0])
        for note in figure.layout.annotations:
            if note.xref == f"x{axis}" and note.borderpad in (2, 3):  # names of operations
                half = (len(plain(note.text)) * wide / 2 + note.borderpad + 1) / unit
                node = np.ceil(note.x)
                assert note.x + half < node - 14 / unit and note.x - half > node - 1 + 14 / unit, (
                    note.text
                )  # half a node, and air


def test_blocks_are_a_strip_with_their_stages_apart(folder):
    run = found(folder, "blocks", {"blocks": SHUFFLE}, space="choice", channels=16, cells=6)
    figure = figures.cells(run)
    boxes = [trace for trace in figure.data if trace.fill == "toself"]
    assert [(trace.name, trace.fillcolor) for trace in boxes] == [(op_title(op), OP_COLORS[op]) for op in SHUFFLE]
    steps = np.diff([trace.x[0] for trace in boxes])
    stages = [text for text in texts(figure) if text.startswith("stage")]
    assert np.isclose(steps, 1.5).sum() == len(stages) - 1 == 3 and "stage 1<br>16 channels" in stages
    heights = [max(trace.y) for trace in boxes[:3]]
    assert heights[0] < heights[1] < heights[2]  # the kernel
    legend = {trace.name for trace in figure.data if trace.showlegend}
    assert legend == {op_title(op) for op in SHUFFLE}  # the full names
    mobile = figures.cells(found(folder, "mobile", {"blocks": MOBILE}, space="mobile", channels=8, cells=6))
    assert "stage 1<br>8 channels" in texts(mobile)


def test_a_path_of_unknown_blocks_is_drawn_and_what_is_none_is_refused():
    assert "fused" in texts(figures.cell({"blocks": ["fused", "k3_e3"]}))
    for wrong in ({"blocks": []}, {"blocks": "k3_e3"}, {"blocks": [3]}):
        with pytest.raises(KitError, match="a genotype of choice blocks is"):
            figures.cell(wrong)


def test_a_space_of_ones_own_is_drawn_by_its_graph():
    registry.load_plugins(str(Path(__file__).parent.parent / "docs" / "recipes" / "space.py"))
    part = kit.space.SPACES["small-cells"]
    genotype = part.make.genotypes["small-resnet"]
    figure = figures.cell(genotype, space="small-cells")
    edges = [trace for trace in figure.data if trace.mode == "lines"]
    assert [trace.name for trace in edges] == [op_title(op) for op in genotype.values()]
    assert {"cell", "0", "1", "2", "3", "conv 3×3", "none", "skip"} == set(texts(figure))
    assert look("small-cells").title == part.title == "Small cells"  # without an entry in kit.figures
    with pytest.raises(KitError, match="figures.cell.genotype, space='its name'"):
        figures.cell(genotype)


def test_a_run_without_a_model_draws_where_alpha_stands(folder):
    going = write_run(folder / "going", 4, finished=False)
    figure = figures.cells(going)
    assert "after epoch 4, so far" in figure.layout.title.text
    names = sorted(plain(note.text) for note in figure.layout.annotations if note.bgcolor in OP_COLORS.values())
    ops = [
        slot.candidates[c][0]
        for slot, row in zip(kit.space.cell.cell_slots(), going.alpha["support"][-1])
        for c in np.nonzero(row)[0]
    ]
    assert names == sorted(map(op_title, ops))
    with pytest.raises(KitError, match="neither a model nor a recorded α"):
        figures.cells(write_run(folder / "empty", 4, finished=False, leave_out=("alpha.npz",)))


# ---- two architectures ---------------------------------------------------------------------------


def test_what_two_runs_share_is_pale_and_what_differs_stands_out(folder):
    figure = figures.cells_compared(found(folder, "a", ONE), found(folder, "b", OTHER))
    assert figure.layout.title.text == "normal cell: 5 of 8 in common · reduction cell: 8 of 8 in common (pale)"
    edges = [trace for trace in figure.data if trace.line.color in OP_COLORS.values()]
    bold = [trace for trace in edges if trace.opacity == 1]
    assert len(edges) == 32 and len(bold) == 6 and all(t.line.width == 5 for t in bold)
    marked = [plain(note.text) for note in figure.layout.annotations if note.borderwidth == 2 and note.borderpad == 2]
    assert sorted(marked) == sorted(["sep 3×3", "dil 5×5", "dil 3×3"] + ["sep 3×3", "dil 3×3", "dil 3×3"])
    assert any("a · test accuracy 97.00%" in text for text in texts(figure))


def test_two_paths_are_compared_block_by_block(folder):
    changed = ["xception", *SHUFFLE[1:5], "shuffle_7x7"]
    runs = [
        found(folder, name, {"blocks": blocks}, space="choice", channels=16, cells=6)
        for name, blocks in (("p", SHUFFLE), ("q", changed))
    ]
    figure = figures.cells_compared(*runs)
    assert figure.layout.title.text == "blocks: 4 of 6 in common (pale)"
    filled = [trace for trace in figure.data if trace.fillcolor in OP_COLORS.values()]
    assert len(filled) == 4  # the two that differ, in both


@pytest.mark.parametrize("other, says", [({"blocks": SHUFFLE}, "choice"), ({"network": "wrn-16-2"}, "wrn-16-2")])
def test_different_spaces_are_drawn_and_not_compared(folder, other, says):
    learner = {"arch": "given", "method": "plain"} if "network" in other else {}
    a = found(folder, f"cell-{says}", ONE)
    b = found(folder, f"other-{says}", other, space=says, channels=16, **learner)
    for figure, first in ((figures.cells_compared(a, b), "cell"), (figures.cells_compared(b, a), says)):
        title = figure.layout.title.text
        assert title.startswith(f"Spaces {first} and ") and "not compared" in title
        edges = [trace for trace in figure.data if trace.line.color in OP_COLORS.values()]
        assert len(edges) == 16 and all(trace.opacity == 1 for trace in edges)
        assert any(says in text for text in texts(figure))


# ---- over the epochs -----------------------------------------------------------------------------


def test_the_animation_follows_support_weights_and_freezing(folder):
    walk = alpha_walk(np.random.default_rng(5), 9, 6)
    walk["frozen"][3:, 2] = True  # node 2 of the normal cell settles early
    run = write_run(folder / "moving", 9, arrays={"alpha": walk})
    figure = figures.cells_animated(run)
    slots = kit.space.cell.cell_slots()
    assert [frame.name for frame in figure.frames] == [str(e) for e in range(10)]
    for epoch, frame in enumerate(figure.frames):
        marks = [plain(note.text) for note in frame.layout.annotations if "◆" in note.text]
        assert marks == [f"{node} ◆" for i in range(8) if walk["frozen"][epoch, i] for node in [i % 4]]
        names = sorted(plain(note.text) for note in frame.layout.annotations if note.bgcolor in OP_COLORS.values())
        assert names == sorted(
            op_title(slots[i].candidates[c][0]) for i in range(8) for c in np.nonzero(walk["support"][epoch, i])[0]
        )
        share = np.abs(walk["alpha"][epoch]) / np.abs(walk["alpha"][epoch]).sum(axis=1, keepdims=True)
        widths = sorted(trace.line.width for trace in frame.data if trace.line.color in OP_COLORS.values())
        assert np.allclose(widths, sorted(1.5 + 14 * share[walk["support"][epoch]]), rtol=1e-4)


def test_frames_move_the_same_traces_and_notes(folder):
    """plotly merges a frame into what is shown, note by note: one with other keys would keep an earlier one's border or
    anchor."""
    walk, blocks = alpha_walk(np.random.default_rng(2), 8, 5), blocks_walk(np.random.default_rng(1), 8, 6)
    walk["support"][:3, 1] = False  # a node without its operations
    for name, arrays, changes in (("cells", walk, {}), ("strips", blocks, {"space": "choice", "channels": 16})):
        figure = figures.cells_animated(write_run(folder / f"same-{name}", 8, arrays={"alpha": arrays}, **changes))
        assert {len(frame.data) for frame in figure.frames} == {len(figure.data)}
        for places in zip(
            figure.layout.annotations, *(frame.layout.annotations for frame in figure.frames), strict=True
        ):
            assert len({frozenset(note.to_plotly_json()) for note in places}) == 1


def test_blocks_freeze_in_the_strip(folder):
    walk = blocks_walk(np.random.default_rng(4), 8, 6)
    run = write_run(folder / "strip", 8, arrays={"alpha": walk}, space="choice", channels=16, cells=6)
    for epoch, frame in enumerate(figures.cells_animated(run).frames):
        marks = [plain(note.text) for note in frame.layout.annotations if "◆" in note.text]
        assert marks == [f"{k} ◆" for k in range(6) if walk["frozen"][epoch, k]]
        assert sum(trace.fill == "toself" for trace in frame.data) == 6
