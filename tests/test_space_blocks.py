"""The block-chain spaces: ShuffleNetV2 choices (DSNAS, DiffAutoML) and MobileNetV2 (AutoHAS). One block per slot runs,
learns and counts.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from test_space import counted, images_for, unlike_their_start
from torch import nn
from torch.nn import functional as F

from kit import space
from kit.errors import KitError
from kit.search import build
from kit.space import DARTS_V2, SPACES, Child
from kit.space.blocks import shares, shuffle

SPACES = ("choice", "mobile")
LABELS = {
    "choice": ("shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "xception"),
    "mobile": ("k3_e3", "k3_e6", "k5_e3", "k5_e6"),
}


def chain(name: str, image: tuple[int, int, int] = (3, 8, 8), cells: int = 6, **settings) -> space.Network:
    torch.manual_seed(0)
    return space.build(
        name,
        3,
        image,
        torch.full((image[0],), 0.3),
        torch.full((image[0],), 0.4),
        **{"channels": 8, "cells": cells} | settings,
    )


def child_of(net: space.Network, seed: int) -> Child:
    """One candidate per slot; every candidate comes up."""
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    return Child(tuple((order[i % 4],) for i in range(len(net.slots))))


def paper_size(name: str) -> space.Network:
    with torch.device("meta"):
        return space.build(
            name,
            1000,
            (3, 224, 224),
            channels={"choice": 64, "mobile": 32}[name],
            cells={"choice": 20, "mobile": 17}[name],
        )


# ---- layout --------------------------------------------------------------------------------------


def test_the_papers_layouts():
    choice, mobile = paper_size("choice"), paper_size("mobile")
    widths = [64] * 4 + [160] * 4 + [320] * 8 + [640] * 4
    assert [c_out for _, c_out, _ in choice.strides] == widths and [c for c, _, _ in choice.strides] == [
        16,
        *widths[:-1],
    ]
    assert [i for i, (_, _, stride) in enumerate(choice.strides) if stride == 2] == [0, 4, 8, 16]
    assert choice.classifier.in_features == 1024 and [s.name for s in choice.slots][3:5] == [
        "stage1/block3",
        "stage2/block0",
    ]
    widths = [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
    assert [c_out for _, c_out, _ in mobile.strides] == widths and mobile.strides[0][0] == 16
    assert [i for i, (_, _, stride) in enumerate(mobile.strides) if stride == 2] == [0, 2, 5, 12]
    assert mobile.classifier.in_features == 1280
    for net in (choice, mobile):
        assert all(
            slot.candidates == tuple((label, 0) for label in LABELS[net.space]) and slot.takes == 1
            for slot in net.slots
        )
        x = torch.empty((2, 3, 224, 224), device="meta")
        maps = []
        net.head.register_forward_pre_hook(lambda m, inputs, maps=maps: maps.append(inputs[0].shape[2:]))
        assert net.eval().scores(x, child_of(net, 0))[0].shape == (2, 1000) and maps == [(7, 7)]


def test_blocks_are_dealt_to_the_stages():
    assert shares(20, (1, 1, 2, 1)) == [4, 4, 8, 4] and shares(5, (1, 1, 2, 1)) == [1, 1, 2, 1]
    for n in range(4, 60):
        dealt = shares(n, (1, 1, 2, 1))
        assert (
            sum(dealt) == n
            and min(dealt) >= 1
            and all(abs(have - n * w / 5) < 1 for have, w in zip(dealt, (1, 1, 2, 1)))
        )
    widths = {n: [c for _, c, _ in chain("mobile", (3, 28, 28), n).strides] for n in (4, 6, 7, 10)}
    assert (
        widths[4] == [8, 8, 16]
        and widths[6] == [8, 8, 16, 24, 40]
        and widths[7] == [8, 8, 16, 24, 40, 80]
        and len(widths[10]) == 9
    )
    assert [len(chain("choice", cells=n).slots) for n in (4, 5, 9)] == [4, 5, 9]


@pytest.mark.parametrize("channels", [2, 4, 6, 10, 36])
def test_every_width_is_a_multiple_of_four(channels: int):
    for name in SPACES:
        net = chain(name, channels=channels, reductions=2)
        assert all(c % 4 == 0 for _, c, _ in net.strides)
        assert net.eval()(images_for(net, 2), child_of(net, 0)).shape == (2, 3)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    ("size", "reductions", "left"),
    [
        ((2, 2), 0, 2),
        ((4, 4), 1, 2),
        ((7, 7), 2, 2),
        ((8, 8), 2, 2),
        ((9, 7), 2, 2),
        ((9, 9), 3, 2),
        ((14, 14), 3, 2),
        ((15, 29), 3, 2),
        ((16, 16), 3, 2),
        ((28, 28), 3, 4),
        ((32, 32), 3, 4),
        ((64, 64), 3, 8),
        ((128, 128), 4, 4),
    ],
)
def test_sizes_and_candidates_agree(name: str, size: tuple[int, int], reductions: int, left: int):
    net = chain(name, (1, *size), cells=7).to(memory_format=torch.channels_last).eval()
    assert net.reductions == reductions and net.stem_kind == ("imagenet" if size[0] >= 128 else "small")
    with torch.no_grad():
        x = net.stem(net.prepare(images_for(net, 2)))
        for slot, candidates in enumerate(net.blocks):
            assert tuple(x.shape[1:]) == net._layout[1][slot]
            outputs = [block(x) for block in candidates.values()]
            assert len({y.shape for y in outputs}) == 1 and len(outputs) == 4
            assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs)
            x = outputs[slot % 4]
        assert min(x.shape[2:]) == left
        halving = [slot.name for slot, (_, _, stride) in zip(net.slots, net.strides) if stride == 2]
        stages = (1, 2, 3, 4) if name == "choice" else (1, 2, 3, 5)
        assert halving == [f"stage{i}/block0" for i in stages[4 - reductions :]]  # the last ones
        assert torch.isfinite(net(images_for(net, 2), child_of(net, 0))).all()


# ---- the same function ---------------------------------------------------------------------------


class Reference:
    """The networks once more, from the papers' figures, on a state dict: plain functions, channels first."""

    def __init__(self, state: dict[str, torch.Tensor], strides: list[tuple[int, int, int]], mobile: bool):
        self.state, self.strides, self.relu, self.eps = (
            state,
            strides,
            F.relu6 if mobile else F.relu,
            1e-5 if mobile else 1e-2,
        )

    def layer(self, name: str, x: torch.Tensor, stride: int = 1, activated: bool = False) -> torch.Tensor:
        s, weight = self.state, self.state[f"{name}.0.weight"]
        y = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, x.shape[1] // weight.shape[1])
        scale, shift, mean, var = (
            s[f"{name}.1.{k}"].view(1, -1, 1, 1) for k in ("weight", "bias", "running_mean", "running_var")
        )
        y = (y - mean) / (var + self.eps).sqrt() * scale + shift
        return self.relu(y) if activated else y

    def branch(self, name: str, x: torch.Tensor, activated: list[bool], stride: int, at: int) -> torch.Tensor:
        for i, on in enumerate(activated):
            x = self.layer(f"{name}.{i}", x, stride if i == at else 1, on)
        return x

    def shuffle_unit(self, name: str, label: str, x: torch.Tensor, stride: int, same: bool) -> torch.Tensor:
        left, right = (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]) if same else (None, x)
        if label == "xception":
            right = self.branch(f"{name}.main", right, [False, True] * 3, stride, 0)
        else:
            right = self.branch(f"{name}.main", right, [True, False, True], stride, 1)
        left = left if same else self.branch(f"{name}.projection", x, [False, True], stride, 0)
        y = torch.cat([left, right], 1)
        half = y.shape[1] // 2
        return y[:, [i // 2 + half * (i % 2) for i in range(2 * half)]]

    def inverted(self, name: str, x: torch.Tensor, stride: int, same: bool) -> torch.Tensor:
        y = self.branch(f"{name}.layers", x, [True, True, False], stride, 1)
        return x + y if same and stride == 1 else y

    def scores(self, x: torch.Tensor, names: list[str], stem: int) -> torch.Tensor:
        x = (x.double() / 255 - self.state["mean"]) / self.state["std"]
        if "stem.1.layers.0.0.weight" in self.state:
            x = self.layer("stem.0", x, stem, True)
            y = self.branch("stem.1.layers", x, [True, False], 1, 0)
            x = x + y if x.shape == y.shape else y
        else:
            x = self.layer("stem", x, stem, True)
        for i, (label, (c_in, c_out, stride)) in enumerate(zip(names, self.strides)):
            same, name = c_in == c_out and stride == 1, f"blocks.{i}.{label}"
            x = (
                self.inverted(name, x, stride, same)
                if label.startswith("k")
                else self.shuffle_unit(name, label, x, stride, same)
            )
        x = self.layer("head", x, 1, True).mean((2, 3))
        return x @ self.state["classifier.weight"].T + self.state["classifier.bias"]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    ("image", "settings"),
    [
        ((3, 8, 8), {}),
        ((1, 15, 9), {"cells": 8}),
        ((2, 40, 40), {"stem": "imagenet"}),
        ((3, 8, 8), {"channels": 12, "cells": 20}),
    ],
)
def test_child_equals_a_plain_reference_network(name: str, image, settings):
    net = unlike_their_start(chain(name, image, **settings)).double().eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data *= 3  # so that some values are beyond ReLU6
    x = images_for(net)
    for seed in range(3):
        child = child_of(net, seed)
        names = net.genotype(child.picks)["blocks"]
        expected = Reference(net.state_dict(), net.strides, name == "mobile").scores(
            x, names, 2 if net.stem_kind == "imagenet" else 1
        )
        torch.testing.assert_close(net(x, child), expected, rtol=1e-9, atol=1e-10)


def test_both_ways_to_shuffle_agree():
    x = torch.arange(2 * 12 * 3 * 2.0).view(2, 12, 3, 2)
    expected = x[:, [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = x.contiguous(memory_format=memory_format)
        for left in (6, 4):  # halves at once, and after concatenation
            assert torch.equal(shuffle(y[:, :left], y[:, left:]), expected)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("image", [(1, 28, 28), (3, 8, 8)])
def test_the_child_built_alone_from_its_spec_is_the_same_network(name: str, image):
    net = unlike_their_start(chain(name, image)).eval()
    child, x = child_of(net, 3), images_for(net)
    alone = space.build(**net.spec(child.picks)).eval()
    assert alone.state_dict().keys() < net.state_dict().keys()
    alone.load_state_dict(build.extract(net, child.picks))
    assert torch.equal(alone(x), net(x, child))
    assert alone.genotype(alone.only_child().picks) == net.genotype(child.picks)
    assert (
        alone.picks_of(alone.genotype(alone.only_child().picks))
        == child.picks
        == net.picks_of(net.genotype(child.picks))
    )
    assert alone.spec(alone.only_child().picks) == net.spec(child.picks)
    with pytest.raises(KitError, match="supernet"):
        net(x)


def test_a_child_exports_with_any_batch():
    for name in SPACES:
        net = chain(name, cells={"choice": 4, "mobile": 8}[name], genotype={"blocks": LABELS[name][3]}).eval()
        program = torch.export.export(
            net, (images_for(net, 2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
        )
        x = images_for(net, 5)
        torch.testing.assert_close(program.module()(x), net(x))


# ---- nothing else --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_only_the_picked_blocks_run_learn_and_are_stored(name: str):
    net = chain(name).train()
    child, x, y = child_of(net, 1), images_for(net), torch.tensor([0, 1, 2, 0])
    ran = set()
    for module in net.modules():
        module.register_forward_hook(lambda m, i, o: ran.add(id(m)))
    losses, _ = net.losses(x, y, child)
    assert ran == {id(m) for top in net.modules_of(child.picks) for m in top.modules()}
    trainable = [p for p in net.parameters() if p.requires_grad]
    used = [
        p for p, g in zip(trainable, torch.autograd.grad(losses.sum(), trainable, allow_unused=True)) if g is not None
    ]
    mine = net.child_parameters(child.picks)
    assert {id(p) for p in used} == {id(p) for p in mine} and len(used) == len(mine) < len(trainable) / 2
    alone = space.build(**net.spec(child.picks), mean=net.mean.flatten(), std=net.std.flatten()).train()
    assert kept_bytes(net, x, child) == kept_bytes(alone, x, alone.only_child())


def kept_bytes(net: space.Network, x: torch.Tensor, child: Child) -> int:
    """Bytes of the storages that autograd keeps for the backward pass, the weights' own and single numbers (gates) not
    counted.
    """
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}
    alive = []  # so that no storage is given to two tensors

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own and t.numel() > 1:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        losses, _ = net.losses(x, torch.zeros(len(x), dtype=torch.int64), child)
    return sum(kept.values())


def test_freezing_makes_the_parameters_known_anew():
    net = chain("choice")
    child = child_of(net, 0)
    before = net.child_parameters(child.picks)
    net.classifier.bias.requires_grad_(False)
    net.freeze_slot(0, child.picks[0], torch.ones(1))
    assert len(net.child_parameters(child.picks)) == len(before) - 1


# ---- cost ----------------------------------------------------------------------------------------

# Multiply-adds in the table of DSNAS's public code: first block of a stage and the others, for the candidates in our
# order.
DSNAS = [
    (13396992, 15805440, 19418112, 13146112),
    (7325696, 8931328, 11339776, 12343296),
    (26304768, 28111104, 30820608, 20296192),
    (10599680, 11603200, 13108480, 16746240),
    (30670080, 31673600, 33178880, 21199360),
    (10317440, 10819200, 11571840, 15899520),
    (30387840, 30889600, 31642240, 20634880),
    (10176320, 10427200, 10803520, 15476160),
]


def test_the_choice_blocks_have_the_published_cost():
    net = paper_size("choice")
    fixed = 9 * 3 * 16 * 112**2 + 640 * 1024 * 7**2 + 1024 * 1000
    base = tuple((0,) for _ in net.slots)
    for slot, candidate in itertools.product(range(20), range(4)):
        stage, first = next((s, slot == b) for s, b in ((3, 16), (2, 8), (1, 4), (0, 0)) if slot >= b)
        row = DSNAS[2 * stage + (not first)]
        picks = (*base[:slot], (candidate,), *base[slot + 1 :])
        assert net.cost(picks).macs - net.cost(base).macs == row[candidate] - row[0]
    rows = [DSNAS[2 * s + (b > 0)] for s, n in enumerate((4, 4, 8, 4)) for b in range(n)]
    assert net.cost(base).macs == fixed + sum(row[0] for row in rows) == 295_842_496
    low, high = fixed + sum(map(min, rows)), fixed + sum(map(max, rows))
    assert (low, high) == (
        270_359_360,
        398_609_216,
    ) and low < 318e6 < 324e6 < high  # what DiffAutoML and DSNAS found lies within


def by_hand(net: space.Network, names: list[str], side: int) -> int:
    """Multiply-adds of a choice-block child from its widths alone."""
    macs = 27 * net.strides[0][0] * side**2
    for name, (c_in, c_out, stride) in zip(names, net.strides):
        out, half, same = side // stride, c_out // 2, c_in == c_out and stride == 1
        c = c_in // 2 if same else c_in
        left = half if same else min(c_in, half)
        if name == "xception":
            macs += out**2 * (9 * c + c * half + 9 * half + half**2 + 9 * half + half * (c_out - left))
        else:
            k = int(name[-1])
            macs += side**2 * c * half + out**2 * (k**2 * half + half * (c_out - left))
        macs += 0 if same else out**2 * ((9 if name == "xception" else k**2) * c_in + c_in * left)
        side = out
    return macs + side**2 * net.strides[-1][1] * 16 * net.channels + 16 * net.channels * net.classes


def test_a_choice_child_counted_by_hand():
    net = paper_size("choice")
    for seed in range(3):
        picks = child_of(net, seed).picks
        assert net.cost(picks).macs == by_hand(net, net.genotype(picks)["blocks"], 112)
    small = chain("choice", (3, 32, 32), cells=9, channels=16)
    picks = child_of(small, 1).picks
    assert small.cost(picks).macs == by_hand(small, small.genotype(picks)["blocks"], 32)


def test_all_k3_e6_is_mobilenet_v2():
    from torchvision.models import mobilenet_v2

    net = paper_size("mobile")
    with torch.device("meta"):
        theirs = mobilenet_v2()
    params, macs = net.cost(net.picks_of(SPACES["mobile"].make.genotypes["mobilenet-v2"]))
    assert params == sum(p.numel() for p in theirs.parameters()) == 3_504_872 and macs == 300_774_272
    alone = sorted(
        tuple(p.shape)
        for p in space.build(**net.spec(net.picks_of(SPACES["mobile"].make.genotypes["mobilenet-v2"]))).parameters()
    )
    assert alone == sorted(tuple(p.shape) for p in theirs.parameters())


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    ("image", "settings"),
    [((3, 8, 8), {}), ((1, 9, 7), {"cells": 4}), ((3, 15, 15), {"cells": 9}), ((3, 130, 130), {})],
)
def test_cost_equals_what_the_child_alone_has_and_does(name: str, image, settings):
    net = chain(name, image, **settings)
    base = tuple((0,) for _ in net.slots)
    for seed in range(2):
        picks = child_of(net, seed).picks
        assert tuple(net.cost(picks)) == counted(space.build(**net.spec(picks)))
        steps = [net.cost((*base[:i], pick, *base[i + 1 :])) for i, pick in enumerate(picks)]
        for i in range(2):  # slots add up
            assert net.cost(picks)[i] == net.cost(base)[i] + sum(step[i] - net.cost(base)[i] for step in steps)


# ---- bad input -----------------------------------------------------------------------------------


def test_genotypes_by_name_and_word():
    for name, label, other in (("choice", "shuffle_3x3", "mobilenet-v2"), ("mobile", "k3_e6", "shufflenet-v2")):
        net = chain(name)
        same = GENOTYPES[{"choice": "shufflenet-v2", "mobile": "mobilenet-v2"}[name]]
        assert (
            net.picks_of(same)
            == net.picks_of({"blocks": [label] * len(net.slots)})
            == ((LABELS[name].index(label),),) * len(net.slots)
        )
        alone = chain(name, genotype=same)
        assert all(list(block) == [label] for block in alone.blocks)
        for wrong in (
            GENOTYPES[other],
            {"blocks": [label] * 3},
            {"blocks": 3},
            {},
            DARTS_V2,
            None,
            [label],
            {"blocks": [["a"]] * len(net.slots)},
        ):
            with pytest.raises(KitError, match=f"genotype.* of space '{name}'.*{label}"):
                net.picks_of(wrong)
            if wrong is not None:
                with pytest.raises(KitError, match="genotype"):
                    chain(name, genotype=wrong)
    cell, fixed = chain("cell", cells=3), chain("wrn-16-2")
    assert (
        cell.picks_of(cell.genotype(cell.picks_of(DARTS_V2))) == cell.picks_of(DARTS_V2)
        and fixed.picks_of({"network": "wrn-16-2"}) == ()
    )
    with pytest.raises(KitError, match="'normal' and 'reduce'"):
        cell.picks_of({"blocks": "k3_e6"})


@pytest.mark.parametrize("name", SPACES)
def test_what_cannot_be_built_is_refused(name: str):
    with pytest.raises(KitError, match=r"needs 4 blocks or more, got 3: set cells to 4 or more"):
        chain(name, cells=3)
    with pytest.raises(
        KitError, match=r"too deep for images of 8×8 pixels: 3 halvings leave 1×1.* at most 2 fit. Set reductions=2 or"
    ):
        chain(name, reductions=3)
    with pytest.raises(KitError, match=r"set reductions to 0…4, or leave it out"):
        chain(name, (3, 64, 64), reductions=5)
    with pytest.raises(KitError, match=r"images of 2×2 pixels: 1 halvings leave 1×1.* Set stem='small'"):
        chain(name, (3, 2, 2), stem="imagenet")
    with pytest.raises(KitError, match=r"images of 1×9 pixels"):
        chain(name, (3, 1, 9))
    assert chain(name, (3, 130, 130), reductions=2).reductions == 2 and chain(name, reductions=0).reductions == 0


def test_fewer_mobile_blocks_halve_less_often():
    with pytest.raises(KitError, match="3 stages .* with 4 blocks can halve the resolution; set reductions to 0…3"):
        chain("mobile", (3, 64, 64), 4, reductions=4)
    assert [chain("mobile", (3, 224, 224), n).reductions for n in (4, 5, 6)] == [3, 3, 4]
