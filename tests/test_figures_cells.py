"""Architectures drawn: cells, chains of choice blocks, spaces of one's own, two runs beside each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from tests_recorded import write_run

import kit
from kit import figures, registry
from kit.errors import KitError
from kit.figures import look

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
OP_COLORS = {op: look(op).color for op in (*kit.space.CELL_OPS, *SHUFFLE)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


def found(folder, name: str, genotype: dict, **changes) -> kit.Run:
    run = write_run(folder / name, 4, arrays={"alpha": {}, "tau": {}}, **changes)
    path = run.path / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"genotype": genotype}))
    return kit.Run.load(run.path)


def plain(text: str | None) -> str:
    return re.sub(r"</?b>", "", text or "").replace("<br>", " ")


def texts(figure: go.Figure) -> list[str]:
    return [plain(note.text) for note in figure.layout.annotations]


def operations(figure: go.Figure) -> list[str]:
    return sorted(plain(note.text) for note in figure.layout.annotations if note.bgcolor in OP_COLORS.values())


def edges(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.line.color in OP_COLORS.values()]


def test_a_finished_runs_cells_are_those_it_found(folder):
    figure = figures.cells(found(folder, "one", ONE))
    assert operations(figure) == sorted(look(op).title for nodes in ONE.values() for node in nodes for op, _ in node)
    assert "the architecture found" in figure.layout.title.text
    assert {"normal cell", "reduce cell"} <= set(texts(figure))


def test_an_edge_leaves_its_input_and_enters_its_node():
    figure = figures.cell(ONE)
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
    for trace, (axis, source, target) in zip(edges(figure), wanted, strict=True):
        assert (trace.x[0], trace.y[0]) == pytest.approx(nodes[axis, source], abs=1e-5)
        assert (trace.x[-1], trace.y[-1]) == pytest.approx(nodes[axis, target], abs=1e-5)


def test_names_of_operations_do_not_touch_nodes_at_1000_pixels():
    figure = figures.cell(ONE)
    for axis in ("", "2"):
        x = figure.layout[f"xaxis{axis}"]
        unit = (1000 - 40) / (x.range[1] - x.range[0])
        for note in figure.layout.annotations:
            if note.xref == f"x{axis}" and note.bgcolor in OP_COLORS.values():
                half = (len(plain(note.text)) * 6.6 / 2 + 4) / unit  # 6.6 pixels a character
                node = np.ceil(note.x)
                assert note.x + half < node - 14 / unit and note.x - half > node - 1 + 14 / unit, note.text


def test_blocks_are_boxes_in_a_row(folder):
    figure = figures.cells(found(folder, "blocks", {"blocks": SHUFFLE * 3}, space="choice", channels=16, cells=18))
    assert operations(figure) == sorted(look(op).title for op in SHUFFLE * 3)
    at = [(note.x, note.y) for note in figure.layout.annotations if note.bgcolor in OP_COLORS.values()]
    assert len(set(at)) == 18 and len({y for _, y in at}) == 2  # two lines


def test_a_space_of_ones_own_is_drawn_by_its_graph():
    registry.load_plugins(str(Path(__file__).parent.parent / "docs" / "recipes" / "space.py"))
    genotype = kit.space.SPACES["small-cells"].make.genotypes["small-resnet"]
    figure = figures.cell(genotype, space="small-cells")
    assert [trace.name for trace in figure.data] == [look(op).title for op in genotype.values()]
    assert {"cell", "0", "1", "2", "3", "conv 3×3", "none", "skip"} == set(texts(figure))


@pytest.mark.parametrize("wrong", [{"blocks": ["k3_e3"]}, ["normal"]])
def test_what_is_no_genotype_of_the_space_is_refused(wrong):
    with pytest.raises(KitError, match="no genotype of space 'cell'"):
        figures.cell(wrong)


def test_a_run_without_a_model_draws_where_alpha_stands(folder):
    going = write_run(folder / "going", 4, finished=False)
    figure = figures.cells(going)
    assert "so far (interrupted)" in figure.layout.title.text
    slots, support = kit.space.cell.cell_slots(), going.alpha["support"][-1]
    ops = [slot.candidates[c][0] for slot, row in zip(slots, support) for c in np.nonzero(row)[0]]
    assert operations(figure) == sorted(look(op).title for op in ops)
    with pytest.raises(KitError, match="neither a model nor a recorded α"):
        figures.cells(write_run(folder / "empty", 4, finished=False, leave_out=("alpha.npz",)))


def test_what_two_runs_share_is_pale_and_what_differs_stands_out(folder):
    figure = figures.cells_compared(found(folder, "a", ONE), found(folder, "b", OTHER))
    title = "normal cell: 5 of 8 in common (pale) · reduce cell: 8 of 8 in common (pale)"
    assert figure.layout.title.text == title
    bold = [trace for trace in edges(figure) if trace.opacity == 1]
    assert len(edges(figure)) == 32 and len(bold) == 6
    assert operations(figure) == sorted(trace.name for trace in bold)


def test_two_paths_are_compared_block_by_block(folder):
    changed = ["xception", *SHUFFLE[1:5], "shuffle_7x7"]
    runs = [
        found(folder, name, {"blocks": blocks}, space="choice", channels=16, cells=6)
        for name, blocks in (("p", SHUFFLE), ("q", changed))
    ]
    figure = figures.cells_compared(*runs)
    assert figure.layout.title.text == "blocks: 4 of 6 in common (pale)"
    assert len(operations(figure)) == 4  # the two that differ, in both


@pytest.mark.parametrize("other, says", [({"blocks": SHUFFLE}, "choice"), ({"network": "wrn-16-2"}, "wrn-16-2")])
def test_different_spaces_are_drawn_and_not_compared(folder, other, says):
    learner = {"arch": "given", "method": "plain"} if "network" in other else {}
    a = found(folder, f"cell-{says}", ONE)
    b = found(folder, f"other-{says}", other, space=says, channels=16, **learner)
    figure = figures.cells_compared(a, b)
    assert figure.layout.title.text.startswith(f"Spaces cell and {says}") and len(edges(figure)) == 16
    assert any(f"other-{says}" in text for text in texts(figure))
