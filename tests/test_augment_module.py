"""`kit.augment.Augment` in loops of somebody's own: draws per image, seeds of workers, a run's policy, refusals."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from kit import augment
from kit.augment import Augment
from kit.errors import KitError

IMAGES = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
COPIES = IMAGES.expand(32, -1, -1, -1).contiguous()


@pytest.mark.parametrize("name", [name for name in augment.AUGMENT if name != "none"])
def test_every_policy_draws_for_each_image_follows_torchs_seed_and_rests_in_evaluation(name):
    def pictures() -> torch.Tensor:
        torch.manual_seed(5)
        return Augment(name)(COPIES)

    made = pictures()
    assert made.shape == COPIES.shape and made.dtype == torch.uint8 and len(made.unique(dim=0)) > 2
    assert torch.equal(made, pictures())
    assert torch.equal(Augment(name).eval()(COPIES), COPIES)


def test_every_size_and_copy_gets_draws_of_its_own():
    module = Augment("trivialaugment")
    assert module(COPIES[:, :, :9, :12]).shape == (32, 3, 9, 12)
    assert module(COPIES[:0]).shape == (0, 3, 16, 16)
    assert not torch.equal(pickle.loads(pickle.dumps(module))(COPIES), module(COPIES))
    assert not module.state_dict() and "trivialaugment" in str(module)


def test_workers_of_a_loader_draw_differently():
    module = Augment("randaugment")
    module(COPIES)  # what the workers inherit has been used
    collate = lambda rows: module(default_collate(rows)[0])
    first, second = DataLoader(TensorDataset(COPIES), 16, collate_fn=collate, num_workers=2)
    assert not torch.equal(first, second)


def test_a_runs_policy_is_drawn_from_as_it_was_found(finished):
    found = finished.policy
    module = Augment(finished, flip=False)
    policy = module.policy((8, 8), torch.device("cpu"))
    assert policy.ops == tuple(found["ops"])
    expected = torch.tensor(found["probabilities"])
    torch.testing.assert_close(policy.probabilities(), expected, rtol=1e-4, atol=1e-6)
    grey = torch.randint(0, 256, (20_000, 1, 8, 8), dtype=torch.uint8)
    assert module(grey).shape == grey.shape
    drawn = torch.bincount(policy.derived(20_000).index, minlength=expected.numel()) / 20_000
    assert float((drawn - expected.flatten()).abs().max()) < 0.02


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Augment("randaugmnt"), "unknown augmentation policy 'randaugmnt'"),
        (lambda: Augment(7), r"policy=7: give a name \(.*randaugment.*\) or a finished run"),
        (lambda: Augment("pair-softmax", strenth=1), "pair-softmax has no such options .*strenth.*: it has tau_lr"),
        (lambda: Augment("pair-softmax", tau_reach=9.0), "tau_reach=9 is not below"),
        (lambda: Augment()(COPIES.float()), r"must be uint8 \[N, C, H, W\], got a torch.float32 tensor"),
        (lambda: Augment()(COPIES[0]), r"uint8 \[N, C, H, W\], got .* \[3, 16, 16\]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, says):
    with pytest.raises(KitError, match=says):
        make()
