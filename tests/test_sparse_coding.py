"""Sparse coding of the architecture (DHA eq. 5–7): gradients, supports, freezing, resource limits, resuming."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.nn import functional as F

from kit import space
from kit.arch import SparseCoding
from kit.arch.lasso import violation
from kit.arch.sparse import WIDTH
from kit.search import grads
from kit.search.learner import generator
from kit.space import Child
from kit.space.layers import last_norm
from kit.space.limits import Limits


@functools.cache
def _built() -> space.Network:
    torch.manual_seed(0)
    return space.build("cell", 3, (1, 8, 8), channels=2, cells=3)


def supernet() -> space.Network:
    return copy.deepcopy(_built())


def sparse(net: space.Network, seed: int = 0, **changes) -> SparseCoding:
    limits = Limits(net, changes.pop("max_params", None), changes.pop("max_macs", None))
    return SparseCoding(net.slots, generator(seed, "α"), limits, **({"arch_lr": 1e-2, "b_std": WIDTH**-0.5} | changes))


def batch(seed: int = 0, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8), torch.randint(0, 3, (n,), generator=g)


def random_gates(arch: SparseCoding, g: torch.Generator) -> list[torch.Tensor | None]:
    return [None if frozen else torch.randn(2, generator=g) for frozen in arch.frozen.tolist()]


# ---- eq. 5–7 -------------------------------------------------------------------------------------


def test_gradient_of_b_equals_finite_differences_of_the_sparse_forward():
    """L as a function of b through w = bᵀA − αᵀE on the support, α held constant (METHOD section 2a, 3)."""
    net = supernet().double().train()
    arch = sparse(net, seed=1)
    child = arch.sample()
    exact = Child(child.picks, tuple(g.detach().double().requires_grad_() for g in child.gates))
    x, y = batch()
    gradient = grads.backward(net.losses(x, y, exact)[0].mean(), net, exact)
    A, alpha, b = arch.A.clone(), arch.alpha.clone(), arch.b.detach().clone()
    arch.update(child, gates=gradient.gates)

    def loss_at(b: torch.Tensor) -> float:
        gates = []
        for j, chosen in enumerate(child.picks):
            E = A[j].T @ A[j] - torch.eye(A.shape[2], dtype=torch.float64)
            w = b[j] @ A[j] - alpha[j] @ E
            gates.append(w[list(chosen)])
        with torch.no_grad():
            return float(net.losses(x, y, Child(child.picks, tuple(gates)))[0].mean())

    h, expected = 1e-5, torch.zeros_like(b)
    for j in range(b.shape[0]):
        for i in range(b.shape[1]):
            up, down = b.clone(), b.clone()
            up[j, i] += h
            down[j, i] -= h
            expected[j, i] = (loss_at(up) - loss_at(down)) / (2 * h)
    assert (expected.abs().amax(1) > 1e-4).all()  # every node feels the loss
    # the gates travel to the network in float32
    torch.testing.assert_close(arch.b.grad, expected, rtol=1e-3, atol=1e-6)


def test_the_gates_are_the_papers_weights_on_the_support():
    arch = sparse(_built(), seed=2)
    child = arch.sample()
    for j, (chosen, gate) in enumerate(zip(child.picks, child.gates)):
        A, alpha, b = arch.A[j], arch.alpha[j], arch.b.detach()[j]
        w = A.T @ b - (A.T @ A - torch.eye(len(alpha), dtype=torch.float64)).T @ alpha
        torch.testing.assert_close(gate.detach().double(), w[list(chosen)], rtol=1e-5, atol=1e-6)
        assert gate.requires_grad and gate.is_leaf
        # at the LASSO's optimum b ≈ Aα, so w ≈ α on the support (ISTA-NAS, after its eq. 8)
        torch.testing.assert_close(w[list(chosen)], alpha[list(chosen)], rtol=1e-2, atol=2e-5)


def test_alpha_solves_the_lasso_and_padding_stays_zero():
    arch = sparse(_built(), seed=3)
    assert float(violation(arch.A, arch.b.detach(), arch.alpha, arch.options.lam).max()) <= 1e-9
    sizes = torch.tensor([len(slot.candidates) for slot in arch.slots])
    assert sizes.tolist() == [14, 21, 28, 35, 14, 21, 28, 35]
    padding = torch.arange(35) >= sizes.unsqueeze(1)
    assert (arch.alpha[padding] == 0).all() and (arch.A.mT[padding] == 0).all()
    torch.testing.assert_close(arch.A.norm(dim=1)[~padding], torch.ones(int((~padding).sum()), dtype=torch.float64))


def test_support_is_the_two_largest_of_every_node():
    arch, g = sparse(_built(), recover="step", arch_lr=0.05), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(15):
        child = arch.sample()
        for j, chosen in enumerate(child.picks):
            strength = arch.alpha[j].abs()[: len(arch.slots[j].candidates)]
            assert len(set(chosen)) == 2 and list(chosen) == sorted(chosen)
            rest = [float(strength[c]) for c in range(len(strength)) if c not in chosen]
            assert float(strength[list(chosen)].min()) >= max(rest)
        seen.add(child.picks)
        arch.update(child, gates=random_gates(arch, g))
    assert len(seen) > 3  # the support did move


def test_b_descends_by_adam_with_the_papers_constants():
    arch = sparse(_built(), arch_lr=0.03, recover="step")
    twin = arch.b.detach().clone().requires_grad_()
    adam = torch.optim.Adam([twin], lr=0.03, betas=(0.5, 0.999), weight_decay=1e-3)
    g, first = torch.Generator().manual_seed(0), arch.picks
    for _ in range(8):
        child, gates = arch.sample(), random_gates(arch, g)
        arch.update(child, gates=gates)
        twin.grad = torch.stack(
            [arch.A[j][:, list(c)] @ w.double() for j, (c, w) in enumerate(zip(child.picks, gates))]
        )
        adam.step()
        torch.testing.assert_close(arch.b.detach(), twin.detach(), rtol=1e-12, atol=1e-14)
    assert arch.picks != first  # each gradient went through the columns of its own child


# ---- recovery and freezing -----------------------------------------------------------------------


@pytest.mark.parametrize("recover", ["step", "epoch"])
def test_recovery_per_step_or_per_epoch(recover: str):
    arch, g = sparse(_built(), recover=recover, arch_lr=0.05), torch.Generator().manual_seed(0)
    first = arch.alpha.clone()
    for _ in range(5):
        arch.update(arch.sample(), gates=random_gates(arch, g))
    arch.sample()
    assert torch.equal(arch.alpha, first) == (recover == "epoch")
    arch.end_epoch(last=False)
    assert not torch.equal(arch.alpha, first)
    assert float(violation(arch.A, arch.b.detach(), arch.alpha, arch.options.lam).max()) <= 1e-9


def test_a_node_settles_by_its_own_movement_over_the_epoch():
    arch = sparse(_built(), recover="step", freeze_tol=1e-3)
    before = arch.alpha.clone()
    with torch.no_grad():
        arch.b[:4] += 0.2
        arch.sample()
        arch.b[4:6] += 1e-7
    settled = arch.end_epoch(last=False)
    assert settled == [4, 5, 6, 7]
    before, now = F.normalize(before, dim=1), F.normalize(arch.alpha, dim=1)
    torch.testing.assert_close(arch.moved, (now - before).norm(dim=1))
    arch.freeze(settled)
    assert arch.end_epoch(last=False) == [0, 1, 2, 3] and not arch.finished  # the others rested for an epoch
    arch.freeze([0, 1])
    with torch.no_grad():
        arch.b[2:4] += 0.2
    assert arch.end_epoch(last=True) == [2, 3]
    arch.freeze([2, 3])
    assert arch.finished and arch.end_epoch(last=True) == []


@pytest.mark.parametrize("recover", ["step", "epoch"])
def test_frozen_nodes_do_not_move(recover: str):
    arch, g = sparse(_built(), recover=recover, arch_lr=0.05), torch.Generator().manual_seed(0)
    for _ in range(3):  # Adam has momentum on every node
        arch.update(arch.sample(), gates=random_gates(arch, g))
    arch.end_epoch(last=False)
    arch.freeze([0, 5])
    b, alpha, picks = arch.b.detach().clone(), arch.alpha.clone(), arch.picks
    for _ in range(10):
        child = arch.sample()
        assert child.gates[0] is None and child.gates[5] is None and child.gates[1] is not None
        arch.update(child, gates=random_gates(arch, g))
        arch.end_epoch(last=False)
    rest = [j for j in range(8) if j not in (0, 5)]
    assert torch.equal(arch.b.detach()[[0, 5]], b[[0, 5]]) and torch.equal(arch.alpha[[0, 5]], alpha[[0, 5]])
    assert [arch.picks[j] for j in (0, 5)] == [picks[j] for j in (0, 5)]
    assert (arch.b.detach()[rest] != b[rest]).all(1).all()
    arch.freeze(rest)
    child = arch.sample()
    assert arch.finished and child.gates == (None,) * 8
    before = arch.b.detach().clone()
    arch.update(child, gates=[None] * 8)
    assert torch.equal(arch.b.detach(), before)


@pytest.mark.parametrize(("training", "affine"), [(True, False), (False, True)])
def test_freezing_absorbs_the_gate(training: bool, affine: bool):
    """The network's output is the same before a node's weight becomes its operations' affine part, and after; at rest
    or trained.
    """
    net, g = supernet().double().train(), torch.Generator().manual_seed(1)
    for norm in (m for m in net.modules() if affine and isinstance(m, torch.nn.BatchNorm2d)):
        norm.requires_grad_(True)
        for p in (norm.weight, norm.bias):
            p.data += torch.rand(p.shape, generator=g, dtype=p.dtype)
    arch, (x, _) = sparse(net, seed=4), batch(3, n=8)
    child = Child(arch.picks, tuple(g.detach().double() for g in arch.sample().gates))
    for images, _ in (batch(i) for i in range(3)):
        net(images, child)  # statistics away from their start
    net.train(training)
    with torch.no_grad(), net.frozen_statistics(child.picks):
        before = net(x, child)
        for slots in ([2, 6], [0, 1, 3, 4, 5, 7]):
            for slot in slots:
                net.freeze_slot(slot, child.picks[slot], child.gates[slot])
            child = Child(child.picks, tuple(None if i in slots else g for i, g in enumerate(child.gates)))
            torch.testing.assert_close(net(x, child), before, rtol=1e-10, atol=1e-12)
        assert float((net(x, Child(child.picks, (torch.full((2,), 0.5).double(),) * 8)) - before).abs().max()) > 1e-6


def test_affine_parts_rest_before_the_freeze_and_train_after():
    net = supernet()
    arch = sparse(net)
    picks = arch.picks
    trained = lambda: {id(p) for p in net.child_parameters(picks)}  # noqa: E731
    own = {
        slot: [
            m
            for cell in net.cells
            if slot in cell.mine
            for c in picks[slot]
            for m in cell.operation(slot, c)[0].modules()
            if isinstance(m, torch.nn.BatchNorm2d)
        ]
        for slot in range(8)
    }
    assert all(id(p) not in trained() for norms in own.values() for norm in norms for p in (norm.weight, norm.bias))
    net.freeze_slot(3, picks[3], torch.tensor([0.5, -2.0]))
    for slot, norms in own.items():
        assert all((id(p) in trained()) == (slot == 3) for norm in norms for p in (norm.weight, norm.bias))
    for cell in net.cells:
        if 3 in cell.mine:
            for k, value in enumerate((0.5, -2.0)):
                norm = last_norm(cell.operation(3, picks[3][k])[0])
                assert (norm.weight == value).all() and (norm.bias == 0).all()
    others = [
        p
        for cell in net.cells
        for name, op in cell.ops.items()
        for p in last_norm(op).parameters()
        if not p.requires_grad
    ]
    assert all(bool((p == p.flatten()[0]).all()) and float(p.flatten()[0]) in (0.0, 1.0) for p in others)


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "seed"), [("max_params", 0), ("max_macs", 1), ("both", 2)])
def test_no_child_ever_breaks_the_limits(bound: str, seed: int):
    net = _built()
    free = sparse(net, seed=seed)
    costs = [net.cost(free.picks)]
    g = torch.Generator().manual_seed(seed)
    low = [Limits(net).reach(name)[0] for name in ("max_params", "max_macs")]
    # between the cheapest child and what the unlimited search starts from: both bind
    limit = [int(0.75 * lo + 0.25 * hi) for lo, hi in zip(low, costs[0])]
    given = {name: limit[i] for i, name in enumerate(("max_params", "max_macs")) if bound in (name, "both")}
    arch = sparse(net, seed=seed, recover="step", arch_lr=0.1, **given)
    assert arch.picks != free.picks and arch.limits.allow(arch.picks)  # the first child was repaired
    taken = set()
    for _ in range(20):
        with torch.no_grad():
            arch.b += 0.3 * torch.randn(arch.b.shape, generator=g, dtype=torch.float64)
        child = arch.sample()
        cost = net.cost(child.picks)
        assert all(getattr(cost, name.removeprefix("max_")) <= value for name, value in given.items())
        assert all(len(set(chosen)) == 2 for chosen in child.picks)
        taken.add(child.picks)
        arch.update(child, gates=random_gates(arch, g))
    assert arch.refused > 0 and arch.summary()["alpha/refused"] == arch.refused
    assert len(taken) > 1 or arch.refused == 20


def test_the_first_child_keeps_what_it_can():
    """Repaired slot by slot: a limit just under the start's cost changes few picks."""
    net = _built()
    free = sparse(net)
    params = net.cost(free.picks).params
    arch = sparse(net, max_params=params - 1)
    changed = sum(len(set(a) - set(b)) for a, b in zip(free.picks, arch.picks))
    assert 1 <= changed <= 2 and net.cost(arch.picks).params < params


# ---- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recover", ["step", "epoch"])
def test_resumed_search_draws_the_same_children(recover: str):
    def move(arch: SparseCoding, g: torch.Generator) -> list:
        seen = []
        for i in range(8):
            child = arch.sample()
            seen.append((child.picks, [None if w is None else w.detach().clone() for w in child.gates]))
            arch.update(child, gates=random_gates(arch, g))
            if i % 4 == 3:
                arch.freeze(arch.end_epoch(last=False))
        return seen

    whole = sparse(_built(), seed=5, recover=recover, arch_lr=0.05, freeze_tol=0.3)
    g = torch.Generator().manual_seed(0)
    move(whole, g)
    state, stream = copy.deepcopy(whole.state_dict()), g.get_state()
    resumed = sparse(_built(), seed=99, recover=recover, arch_lr=0.05, freeze_tol=0.3)
    resumed.load_state_dict(state)
    rest = move(whole, g)
    g.set_state(stream)
    again = move(resumed, g)
    for (picks, gates), (picks_2, gates_2) in zip(rest, again):
        assert picks == picks_2
        assert all(a is b is None or F.mse_loss(a, b) == 0 for a, b in zip(gates, gates_2))
    for name, value in whole.state_dict().items():
        other = resumed.state_dict()[name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else True, name
    assert 0 < int(whole.frozen.sum()) and torch.equal(whole.b, resumed.b) and whole.summary() == resumed.summary()
