"""An operation in a file of one's own: docs/recipes/operation.py, in every way that kit's own operations go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kit import augment, errors, registry
from kit.augment import OPS, Basics, Draw, PairSoftmax, PolicyGradient, apply_mixed, apply_op, operations

RECIPE = Path(__file__).parent.parent / "docs" / "recipes" / "operation.py"


@pytest.fixture(scope="module", autouse=True)
def _recipe():
    registry.load_plugins(str(RECIPE))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 40, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 9, 7), generator=stream(1), dtype=torch.uint8)


def by_hand(image: torch.Tensor, magnitude: float, sign: float) -> torch.Tensor:
    return ((image / 255) ** (4.0 ** (sign * magnitude / 10)) * 255).round().to(torch.uint8)


def test_it_is_short_and_comes_last():
    assert len(RECIPE.read_text().splitlines()) <= 15
    assert operations()[:14] == OPS and "Gamma" in operations()[16:]
    assert len(OPS) == 14 and augment.OPERATIONS["Gamma"].settings["signed"]


def test_by_name_and_mixed_with_others_in_both_ways():
    images, g = pictures(), stream(2)
    magnitude = torch.rand(40, generator=g) * 10
    sign = torch.randint(0, 2, (40,), generator=g) * 2.0 - 1
    expected = torch.stack([by_hand(*row) for row in zip(images, magnitude.tolist(), sign.tolist())])
    assert torch.equal(apply_op("Gamma", images, magnitude, sign), expected)
    ops = torch.randint(0, 16, (40,), generator=g)
    others = apply_mixed(images, ops, magnitude, sign)
    chosen = torch.arange(40) % 3 == 0
    mixed = torch.where(chosen, operations().index("Gamma"), ops)
    for grouped in (True, False):
        done = apply_mixed(images, mixed, magnitude, sign, grouped=grouped)
        assert torch.equal(done, torch.where(chosen[:, None, None, None], expected, others)), grouped


@pytest.mark.parametrize("name", ["pair-softmax", "policy-gradient"])
def test_learned_policies_search_and_learn_it(name: str):
    usual = augment.searched(name)
    assert augment.searched(name, "+Gamma") == (*usual, "Gamma")
    policy = augment.build(name, stream(), (9, 7), tau_lr=0.1, operations="Rotate, Gamma")
    assert isinstance(policy, (PairSoftmax, PolicyGradient)) and policy.ops == ("Rotate", "Gamma")
    draw = policy.sample(40)
    gamma = operations().index("Gamma")
    assert (draw.ops == gamma).any() and not (draw.ops == gamma).any(1).all()
    before = policy.probabilities()
    signal = (draw.index == 3).float()  # the pair (Gamma, Gamma)
    policy.update(draw, losses=signal, rewards=lambda: signal)
    assert policy.probabilities()[1, 1] > before[1, 1]
    assert policy.snapshot()["probabilities"].shape == (2, 2)


def test_a_batch_that_draws_it_has_the_same_pixels_for_all_other_images():
    policy = PairSoftmax(Basics(pad=1, flip=True, cutout=3), stream(), ops=(*OPS, "Gamma"))
    images, draw = pictures(200), policy.sample(200)
    own = (draw.ops == operations().index("Gamma")).any(1)
    others = Draw(**{name: None if t is None else t[~own] for name, t in vars(draw).items()})
    assert own.any() and torch.equal(policy.apply(images, draw)[~own], policy.apply(images[~own], others))


def test_what_is_wrong_is_refused_by_name():
    with pytest.raises(
        errors.KitError, match="operations='.Gama': unknown augmentation operation 'Gama'. Did you mean 'Gamma'"
    ):
        augment.searched("pair-softmax", "+Gama")
    with pytest.raises(errors.KitError, match="'Rotate' .* already registered by .*ops"):
        augment.register("Rotate")(lambda images, magnitude, sign: images)


def test_what_an_operation_returns_is_checked_and_its_definition_may_be_run_again():
    for width in (4, 7):

        @augment.register("Narrow")
        def narrow(images, magnitude, sign, width=width):
            return images[..., :width]

        if width == 4:
            with pytest.raises(
                errors.KitError, match=r"'Narrow' must return uint8 \[40, 3, 9, 7\], got a torch.uint8 .*\[40"
            ):
                apply_op("Narrow", pictures(), 1.0)
    assert torch.equal(apply_op("Narrow", pictures(), 1.0), pictures())


def test_an_unsigned_operation_sees_no_sign_and_may_write_into_its_images():
    @augment.register("Shift")
    def shift(images, magnitude, sign):
        return images.add_(sign.to(torch.uint8)[:, None, None, None])

    images = pictures()
    kept, index = images.clone(), torch.full((40,), operations().index("Shift"))
    for grouped in (True, False):
        assert torch.equal(apply_mixed(images, index, 1.0, -torch.ones(40), grouped=grouped), kept + 1)
    assert torch.equal(images, kept)


def test_a_policy_is_registered_by_the_same_name():
    @augment.register("always-gamma", title="Gamma for all")
    class Always(augment.Policy):
        def draw(self, n: int) -> Draw:
            ops = torch.full((n, 1), operations().index("Gamma"))
            return self.complete(ops, torch.full((n, 1), 5.0))

    policy = augment.build("always-gamma", stream(), (8, 8))
    assert augment.AUGMENT["always-gamma"].title == "Gamma for all" and augment.searched("always-gamma") == ()
    assert policy.variables() == [] and policy.sample(3).shift is not None
    policy.update(policy.sample(3), losses=torch.ones(3), rewards=lambda: torch.ones(3))
