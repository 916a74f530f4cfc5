"""The block-chain spaces: ShuffleNetV2 choices (DSNAS, DiffAutoML) and MobileNetV2 (AutoHAS): their layouts, functions
and published costs."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from test_space import images_for, supernet, unlike_their_start
from torch import nn
from torch.nn import functional as F

from kit import space
from kit.errors import KitError
from kit.space import DARTS_V2, Child
from kit.space.blocks import shares, shuffle
from kit.space.network import everything

SPACES = {"choice": space.ChoiceNetwork, "mobile": space.MobileNetwork}


def every_candidate(net: space.Network, seed: int = 0) -> Child:
    """One candidate per slot; all of them come up."""
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    return Child(tuple((order[i % 4],) for i in range(len(net.slots))))


@functools.cache
def paper_size(name: str) -> space.Network:
    channels, cells = {"choice": (64, 20), "mobile": (32, 17)}[name]
    return space.build(name, 1000, (3, 224, 224), channels=channels, cells=cells)


# ---- layout --------------------------------------------------------------------------------------


def test_the_papers_layouts():
    choice, mobile = paper_size("choice"), paper_size("mobile")
    widths = [64] * 4 + [160] * 4 + [320] * 8 + [640] * 4
    assert [c_out for _, c_out, _ in choice.strides] == widths and choice.strides[0][0] == 16
    assert [i for i, (_, _, stride) in enumerate(choice.strides) if stride == 2] == [0, 4, 8, 16]
    assert choice.classifier.in_features == 1024
    assert [slot.name for slot in choice.slots][3:5] == ["stage1/block3", "stage2/block0"]
    widths = [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
    assert [c_out for _, c_out, _ in mobile.strides] == widths and mobile.strides[0][0] == 16
    assert [i for i, (_, _, stride) in enumerate(mobile.strides) if stride == 2] == [0, 2, 5, 12]
    assert mobile.classifier.in_features == 1280


def test_blocks_are_dealt_to_the_stages():
    assert shares(20, (1, 1, 2, 1)) == [4, 4, 8, 4] and shares(5, (1, 1, 2, 1)) == [1, 1, 2, 1]
    for n in range(4, 60):
        dealt = shares(n, (1, 1, 2, 1))
        assert sum(dealt) == n and min(dealt) >= 1
        assert all(abs(have - n * w / 5) < 1 for have, w in zip(dealt, (1, 1, 2, 1)))
    widths = {n: [c for _, c, _ in supernet("mobile", (3, 28, 28), cells=n).strides] for n in (4, 6, 7, 10)}
    assert widths[4] == [8, 8, 16] and widths[6] == [8, 8, 16, 24, 40] and widths[7] == [8, 8, 16, 24, 40, 80]
    assert len(widths[10]) == 9 and [len(supernet("choice", cells=n).slots) for n in (4, 5, 9)] == [4, 5, 9]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    ("size", "reductions"), [((2, 2), 0), ((9, 7), 2), ((15, 29), 3), ((28, 28), 3), ((128, 128), 4)]
)
def test_candidates_of_a_block_agree_in_size_and_layout(name: str, size: tuple[int, int], reductions: int):
    net = supernet(name, (1, *size), cells=7).to(memory_format=torch.channels_last).eval()
    assert net.reductions == reductions and net.large == (size[0] >= 128)
    assert all(c % 4 == 0 for _, c, _ in net.strides)
    with torch.no_grad():
        x = net.stem(net.prepare(images_for(net, 2)))
        for slot, candidates in enumerate(net.blocks):
            outputs = [block(x) for block in candidates.values()]
            assert len({y.shape for y in outputs}) == 1 and len(outputs) == 4
            assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs)
            x = outputs[slot % 4]
        assert min(x.shape[2:]) >= 2
    halving = [slot.name for slot, (_, _, stride) in zip(net.slots, net.strides) if stride == 2]
    stages = (1, 2, 3, 4) if name == "choice" else (1, 2, 3, 5)
    assert halving == [f"stage{i}/block0" for i in stages[4 - reductions :]]  # the last ones


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
@pytest.mark.parametrize(("image", "settings"), [((1, 15, 9), {"cells": 8}), ((2, 128, 128), {"cells": 4})])
def test_child_equals_a_plain_reference_network(name: str, image, settings):
    net = unlike_their_start(supernet(name, image, **settings)).double().eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data *= 3  # so that some values are beyond ReLU6
    x, stem = images_for(net), 2 if net.large else 1
    for seed in range(3):
        child = every_candidate(net, seed)
        reference = Reference(net.state_dict(), net.strides, name == "mobile")
        expected = reference.scores(x, net.genotype(child.picks)["blocks"], stem)
        torch.testing.assert_close(net(x, child), expected, rtol=1e-9, atol=1e-10)


def test_both_ways_to_shuffle_agree():
    x = torch.arange(2 * 12 * 3 * 2.0).view(2, 12, 3, 2)
    expected = x[:, [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = x.contiguous(memory_format=memory_format)
        for left in (6, 4):  # halves at once, and after concatenation
            assert torch.equal(shuffle(y[:, :left], y[:, left:]), expected)


def test_a_child_exports_with_any_batch():
    for name, kind in SPACES.items():
        net = space.build(name, 3, (3, 8, 8), channels=8, cells=4, genotype={"blocks": kind.labels[3]}).eval()
        any_batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.export.export(net, (images_for(net, 2),), dynamic_shapes=any_batch)
        x = images_for(net, 5)
        torch.testing.assert_close(program.module()(x), net(x))


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
    net.cost(everything(net.slots))  # all blocks in one pass
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


def test_all_k3_e6_is_mobilenet_v2():
    from torchvision.models import mobilenet_v2

    net = paper_size("mobile")
    with torch.device("meta"):
        theirs = sorted(tuple(p.shape) for p in mobilenet_v2().parameters())
    picks = net.picks_of(net.genotypes["mobilenet-v2"])
    assert net.cost(picks) == (3_504_872, 300_774_272)
    assert sorted(tuple(p.shape) for p in space.build(**net.spec(picks)).parameters()) == theirs


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_genotypes_by_name_and_word(name: str):
    net, kind = supernet(name), SPACES[name]
    label, count = kind.genotypes[kind.usual]["blocks"], len(net.slots)
    assert net.picks_of({"blocks": label}) == net.picks_of({"blocks": [label] * count})
    alone = space.build(name, 3, (3, 8, 8), channels=8, cells=4, genotype={"blocks": label})
    assert all(list(block) == [label] for block in alone.blocks)
    other = SPACES["mobile" if name == "choice" else "choice"]
    wrong = [*other.genotypes.values(), {"blocks": [label] * 3}, {"blocks": 3}, {}, DARTS_V2, None, [label]]
    for genotype in (*wrong, {"blocks": [["a"]] * count}):
        with pytest.raises(KitError, match=f"genotype.*{label}"):
            net.picks_of(genotype)


@pytest.mark.parametrize("name", SPACES)
def test_what_cannot_be_built_is_refused(name: str):
    for image, settings, said in (
        ((3, 8, 8), {"cells": 3}, "needs 4 blocks or more, got 3: set cells to 4 or more"),
        ((3, 8, 8), {"reductions": 3}, "too deep .*images of 8×8 pixels: set reductions to 0…2, more cells or"),
        ((3, 64, 64), {"reductions": 5}, "set reductions to 0…4, more cells"),
        ((3, 1, 9), {}, "images of 1×9 pixels"),
    ):
        with pytest.raises(KitError, match=said):
            supernet(name, image, **settings)
