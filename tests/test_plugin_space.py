"""A search space in a user's own file (docs/recipes/space.py), and cells with an operation of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests_toy import batch, stream
from torch import nn

from kit import KitError, registry, space
from kit.arch import Dsnas, random_picks
from kit.search import grads
from kit.space import CellNetwork, Child
from kit.space.cell import Operation
from kit.space.layers import batch_norm
from kit.space.limits import Limits
from kit.zoo.darts import Darts
from kit.zoo.gdas import Gdas

RECIPE = Path(__file__).parent.parent / "docs" / "recipes" / "space.py"
IMAGE = (1, 8, 8)


@pytest.fixture(scope="module")
def net() -> space.Network:
    registry.load_plugins(str(RECIPE))
    torch.manual_seed(0)
    return space.build("small-cells", 3, IMAGE, channels=4, cells=3).train()


def test_the_recipe_is_short_and_says_what_it_is(net):
    assert len(RECIPE.read_text().splitlines()) <= 120
    part = space.SPACES["small-cells"]
    assert part.title == "Small cells" and part.values("laptop") == {"channels": 8}
    assert part.make.searchable and part.make.repeats and not part.make.absorbs_gates
    assert "cell_nodes" in part.options.model_fields
    assert len(space.build("small-cells", 3, IMAGE, channels=4, cells=3, cell_nodes=3, lr=0.1).slots) == 3


def test_learners_search_it(net):
    x, y = batch()
    for make in (Dsnas, Darts, Gdas):
        learner = make(net.slots, stream(), Limits(net), arch_lr=0.1)
        before = [v.detach().clone() for v in learner.variables()]
        child = learner.sample()
        gradient = grads.backward(net.losses(x, y, child)[0].mean(), net, child)
        learner.update(child, gates=gradient.gates)
        assert any(not torch.equal(a, b) for a, b in zip(before, learner.variables()))
        assert all(torch.isfinite(g).all() for g in gradient.theta)


@pytest.mark.parametrize("make", [Dsnas, Gdas])
def test_slots_behind_frozen_constant_ones_learn_nothing_from_them(net, make, monkeypatch):
    zero = net.layers[0].operations(0, ((0,),) * 6)[0]
    monkeypatch.setattr(type(zero), "forward", lambda self, x: torch.zeros_like(x))
    learner = make(net.slots, stream(), Limits(net), arch_lr=0.1)
    with torch.no_grad():
        learner.logits[:, 0] = 50.0  # "none" everywhere
    learner.freeze([3, 4, 5])  # all that leads to the last node
    child, (x, y) = learner.sample(), batch()
    gates = grads.backward(net.losses(x, y, child)[0].mean(), net, child).gates
    assert gates == [None] * 6
    assert not any(gradient.any() for gradient in learner.estimate(child, gates=gates))


def test_its_children_keep_to_limits_and_are_built_alone(net):
    reach = {name: Limits(net).reach(name) for name in ("max_params", "max_macs")}
    limits = Limits(net, **{name: int(0.6 * low + 0.4 * high) for name, (low, high) in reach.items()})
    picks = random_picks(net.slots, stream(1), limits)
    assert limits.allow(picks)
    alone = space.build(**json.loads(json.dumps(net.spec(picks))))
    assert sum(p.numel() for p in alone.parameters()) == net.cost(picks).params
    state = net.state_dict()
    alone.load_state_dict({name: state[name] for name in alone.state_dict()})
    torch.testing.assert_close(alone.eval()(batch()[0]), net.eval()(batch()[0], Child(picks)))
    net.train()


def test_its_genotype_is_readable_and_drawn(net):
    usual = net.genotypes[net.usual]
    assert net.genotype(net.picks_of(usual)) == usual
    assert net.graph(usual)["cell"][:2] == [("0", "1", "conv_3x3"), ("0", "2", "none")]
    with pytest.raises(KitError, match="genotype 0→1: it takes one of none, skip_connect.*conv_9x9"):
        net.picks_of({**usual, "0→1": "conv_9x9"})
    with pytest.raises(KitError, match="has the keys 0→1, 0→2"):
        net.picks_of({"0→1": "none"})


def test_a_subclass_of_the_cells_has_operations_of_its_own():
    def build_wide(c: int, stride: int, trained: bool) -> Operation:
        layers = nn.Conv2d(c, c, 7, stride, 3, bias=False), batch_norm(c, trained)
        return Operation(*layers, reads_relu=True)

    @space.register("wide-cells", title="Cells with a 7×7 convolution")
    class WideCells(CellNetwork):
        space = "wide-cells"
        operations = {"conv_7x7": build_wide, "skip_connect": CellNetwork.operations["skip_connect"]}

    net = space.build("wide-cells", 3, IMAGE, channels=4, cells=3).train()
    assert {op for slot in net.slots for op, _ in slot.candidates} == {"conv_7x7", "skip_connect"}
    picks = random_picks(net.slots, stream(), Limits(net))
    net.losses(*batch(), Child(picks))[0].sum().backward()
    assert net.picks_of(net.genotype(picks)) == picks
    with pytest.raises(KitError, match="operations conv_7x7, skip_connect"):
        net.picks_of(space.DARTS_V2)
