"""The compiled path against torch's: the same pixels, whatever the operation, the magnitude, the size and the
layout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

from kit.augment import Basics, Draw, PairSoftmax, Plain, operations
from kit.augment import policy as policies

pytest.importorskip("numba", reason="the compiled path needs numba: pip install 'kit[fast]'")
compiled = pytest.importorskip("kit.fast.augment")

ALL_OPS = operations()[:16]  # kit's own
PLAIN = Basics()
SIZES = [(1, 1), (1, 5), (6, 1), (3, 3), (8, 8), (33, 18), (97, 131)]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, channels: int, size: tuple[int, int], g: torch.Generator) -> torch.Tensor:
    """Noise, narrow-range, two-valued, flat and smooth images in turn."""
    images = torch.randint(0, 256, (n, channels, *size), generator=g, dtype=torch.uint8)
    images[1::5] = images[1::5] % 60 + 90
    images[2::5] = (images[2::5] > 200).to(torch.uint8) * 255
    images[3::5] = images[3::5, :, :1, :1]
    images[4::5] = torch.nn.functional.avg_pool2d(images[4::5].float(), 3, 1, 1).to(torch.uint8)
    return images


def draw_of(ops: torch.Tensor, g: torch.Generator, widest: float) -> Draw:
    """Half of the magnitudes are whole numbers, where factors, angles and thresholds meet their special values."""
    n, k = ops.shape
    magnitude = torch.rand(n, k, generator=g) * widest
    magnitude[::2] = magnitude[::2].round()
    return Draw(ops, magnitude, torch.randint(0, 2, (n, k), generator=g) * 2.0 - 1, torch.rand(n, k, 2, generator=g))


def both(images: torch.Tensor, draw: Draw, basics: Basics = PLAIN) -> tuple[torch.Tensor, torch.Tensor]:
    fast = compiled.apply(images, draw, basics)
    assert fast is not None and fast.dtype == torch.uint8 and fast.shape == images.shape
    return fast, Plain(basics, stream()).apply_by_torch(images, draw)


@pytest.mark.parametrize("widest", [10, 60])
@pytest.mark.parametrize("name", ALL_OPS)
def test_every_operation_equals_torchs(name, widest):
    g = stream(ALL_OPS.index(name))
    for size in SIZES:
        for channels in (1, 3):
            n = 60 if max(size) < 90 else 10
            images = pictures(n, channels, size, g)
            before = images.clone()
            fast, slow = both(images, draw_of(torch.full((n, 1), ALL_OPS.index(name)), g, widest))
            assert torch.equal(fast, slow), (size, channels)
            assert torch.equal(images, before) and fast.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "Equalize", "Sharpness"])
def test_large_images(name):
    g = stream(1)
    fast, slow = both(pictures(10, 3, (223, 224), g), draw_of(torch.full((10, 1), ALL_OPS.index(name)), g, 10))
    assert torch.equal(fast, slow)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_sequences_with_crop_flip_and_cutout(count, channels):
    g = stream(count)
    fill = torch.tensor([7, 130, 255], dtype=torch.uint8)[:channels]
    every = (
        Basics(),
        Basics(pad=1, flip=True),
        Basics(pad=4),
        Basics(flip=True),
        Basics(cutout=4),
        Basics(pad=2, flip=True, cutout=5, fill=fill),
    )
    for size in SIZES[:-1]:
        images = pictures(60, channels, size, g)
        for basics in every:
            drawn = draw_of(torch.randint(0, len(ALL_OPS), (60, count), generator=g), g, 10)
            fast, slow = both(images, Draw(**(vars(drawn) | basics.draw(60, g))), basics)
            assert torch.equal(fast, slow), (size, basics)
    if count == 0:  # no colours are mixed: any number of channels
        basics = every[1]
        fast, slow = both(
            pictures(20, 5, (8, 9), g),
            Draw(**(vars(draw_of(torch.zeros(20, 0).long(), g, 10)) | basics.draw(20, g))),
            basics,
        )
        assert torch.equal(fast, slow)


def test_a_policy_takes_the_compiled_path_on_the_cpu(monkeypatch):
    p = PairSoftmax(Basics(pad=1, flip=True, cutout=3), stream(), tau_lr=0.1)
    images, draw = pictures(64, 1, (8, 8), stream(1)), p.sample(64)
    expected = p.apply_by_torch(images, draw)
    monkeypatch.setattr(PairSoftmax, "apply_by_torch", None)
    assert torch.equal(p.apply(images, draw), expected)
    monkeypatch.undo()
    monkeypatch.setattr(policies, "fast_path", lambda: None)
    monkeypatch.setattr(compiled, "apply", None)
    assert torch.equal(p.apply(images, draw), expected)


def test_views_and_other_number_types():
    g = stream(3)
    draw = draw_of(torch.randint(0, len(ALL_OPS), (40, 2), generator=g), g, 10)
    images = pictures(80, 3, (20, 18), g)
    for view in (
        images[::2, :, ::2, 1::2],
        images[:40].to(memory_format=torch.channels_last),
        images[:1].expand(40, -1, -1, -1),
        images[40:],
    ):
        fast, slow = both(view, draw)
        assert torch.equal(fast, slow)
    precise = Draw(draw.ops.T.contiguous().T, draw.magnitude.double(), draw.sign.double(), draw.center.double())
    fast, slow = both(images[:40], precise)
    assert torch.equal(fast, slow)


def test_batches_in_several_threads_at_once():
    g = stream(4)
    basics = Basics(pad=4, flip=True, cutout=16)
    work = []
    for _ in range(4):
        images = pictures(31, 3, (40, 40), g)
        draw = Draw(**(vars(draw_of(torch.randint(0, len(ALL_OPS), (31, 2), generator=g), g, 10)) | basics.draw(31, g)))
        work.append((images, draw, compiled.apply(images, draw, basics)))
    equal = [False] * len(work)

    def repeat(i: int) -> None:
        images, draw, expected = work[i]
        equal[i] = all(torch.equal(compiled.apply(images, draw, basics), expected) for _ in range(10))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal)


def test_what_is_not_taken_or_not_valid_goes_the_way_of_torch():
    p = Plain(Basics(), stream())
    images = pictures(4, 3, (8, 8), stream())
    good = {
        "ops": torch.zeros(4, 1).long(),
        "magnitude": torch.ones(4, 1),
        "sign": torch.ones(4, 1),
        "center": torch.zeros(4, 1, 2),
    }
    assert compiled.apply(images, Draw(**good), p.basics) is not None
    for name, value, message in (
        ("ops", 99, "indices into operations"),
        ("ops", -1, "indices into operations"),
        ("magnitude", 60.1, "magnitude"),
        ("magnitude", float("nan"), "magnitude"),
        ("sign", 0.5, "sign"),
        ("center", 1.0, "center"),
    ):
        bad = good[name].clone()
        bad[2] = value
        assert compiled.apply(images, Draw(**(good | {name: bad})), p.basics) is None
        with pytest.raises(ValueError, match=message):
            p.apply(images, Draw(**(good | {name: bad})))
    with pytest.raises(ValueError, match="C = 1 or 3"):
        p.apply(images.repeat(1, 2, 1, 1), Draw(**good))
    with pytest.raises(TypeError, match="uint8"):
        p.apply(images.float(), Draw(**good))
    assert p.apply(images[:0], Draw(**{name: t[:0] for name, t in good.items()})).shape == (0, 3, 8, 8)


def test_numba_comes_with_the_first_batch_and_works_where_its_cache_cannot_be_written(tmp_path):
    """A small stand-in, quickly compiled, in a folder that numba cannot use, and no other place for its cache."""
    folder = tmp_path / "__pycache__"
    folder.write_text("a file where numba would make a folder")
    (tmp_path / "small.py").write_text("def run(x):\n    return x + 1\n")
    code = (
        f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(tmp_path)!r}); import kit, small\n"
        "assert 'numba' not in sys.modules\n"
        "from kit.fast import augment\nassert augment.compiled(small.run)(1) == 2"
    )
    environment = os.environ | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "NUMBA_CACHE_DIR": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
