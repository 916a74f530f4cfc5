"""Sets, splits, digits, normalisation, batches, and sets that stream."""

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests_data import parts, same, save_images, sizes, some_set

from kit.data import (
    Batches,
    ImageSet,
    ImageSets,
    Source,
    Streamed,
    digest,
    drawn,
    fit,
    load_dataset,
    normalization,
    stratified_split,
    to_sets,
)
from kit.data.image import pixel_marks
from kit.errors import KitError, unknown


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def some_sets(**changes):
    given = {"train": some_set(), "val": some_set(11), "test": some_set(12), "classes": ("a", "b")}
    return ImageSets(**(given | {"name": "fake", "flip": True, "split": "made up"} | changes))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_unknown_puts_the_nearest_name_first():
    error = unknown("dataset", "digit", ["cifar10", "digits"])
    assert str(error) == "unknown dataset 'digit'. Did you mean 'digits'? Valid: digits, cifar10"
    assert "Did you mean 'dha'?" in str(unknown("method", "DHA", ["ista", "dha"]))
    assert "(none)" in str(unknown("method", 3, []))


# ---- contracts -----------------------------------------------------------------------------------


def test_image_set_refuses_what_breaks_its_contract():
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    assert len(ImageSet(images, labels)) == 4
    for bad, message in [
        ((images.float(), labels), "uint8"),
        ((images[0], labels), "uint8"),
        ((images, labels[:3]), "labels must be int64"),
        ((images, labels.int()), "labels must be"),
        ((images[:0], labels[:0]), "empty"),
        ((images, labels - 1), "one from 0 up"),
    ]:
        with pytest.raises(KitError, match=message):
            ImageSet(*bad)


def test_image_sets_agree():
    sets = some_sets()
    assert (sets.channels, sets.size, len(sets.classes)) == (1, (4, 4), 2) and same(sets, sets.to("cpu"))
    both = sets.train_val()
    assert torch.equal(both.images[10:], sets.val.images) and torch.equal(both.labels[:10], sets.train.labels)
    for changes, message in [
        ({"test": some_set(size=5)}, "agree"),
        ({"test": some_set(classes=3)}, "test has label 2, allowed are 0 to 1"),
    ]:
        with pytest.raises(KitError, match=message):
            some_sets(**changes)


# ---- splits --------------------------------------------------------------------------------------


def test_stratified_split_is_even_complete_and_the_same_everywhere():
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate([1, 2, 3, 37, 400])])
    kept, held = stratified_split(labels, 0.1)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    counts = torch.bincount(labels[held], minlength=5).tolist()
    assert counts[0] == 0 and counts[1:3] == [1, 1] and counts[3] in (3, 4) and counts[4] == 40
    small = torch.arange(30).repeat_interleave(8)
    assert len(stratified_split(small, 0.3)[1]) == 72, "remainders carry over from class to class"
    labels = torch.arange(40) % 4
    # Literal numbers: a change of library or machine that moves a split must fail here.
    assert stratified_split(labels, 0.2, seed=0)[1].tolist() == [7, 8, 10, 13, 14, 21, 27, 32]
    with pytest.raises(KitError, match="between 0 and 1"):
        stratified_split(labels, 1.0)


@pytest.mark.parametrize(
    "given, expected, split",
    [
        ((20, 4, 6), [20, 4, 6], "train, val and test as the source gives them"),
        ((20, None, 6), [18, 2, 6], "test as the source gives it; val is a stratified 10% of its training images"),
        ((20, None, None), [14, 2, 4], "the source has no split: stratified 70% train, 10% val, 20% test"),
    ],
)
def test_parts_are_used_as_given_and_the_rest_is_held_out(given, expected, split):
    pixels, start, made = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 1, 4, 4), 0, []
    for n in given:
        made.append(n and (pixels[start : start + n], torch.arange(n) % 2))
        start += n or 0
    sets = to_sets(Source(("a", "b"), *made), "fake", flip=False)
    assert sizes(sets) == expected and sets.split.startswith(split)
    found = torch.cat([part.images[:, 0, 0, 0] for part in parts(sets)])
    assert found.sort().values.tolist() == list(range(sum(expected))), "each image is in one part"
    said = to_sets(Source(("a", "b"), *made, split="lists of X"), "fake", flip=False).split
    assert said.startswith("lists of X") and ("stratified" in said) == (given[1] is None)


def test_a_source_refuses_what_cannot_be_split():
    part = (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 2)
    for classes, given, message in [
        (("a", "b"), {"val": part}, "val as test"),
        (("a",), {}, "at least two names"),
        (("a", "b", "a"), {}, "two classes look alike, 'a' and 'a'"),
    ]:
        with pytest.raises(KitError, match=message):
            Source(classes, part, **given)


def test_few_images_keep_the_shares_of_classes_and_of_val_and_too_few_are_refused(micro: str):
    ten = ImageSet(torch.zeros(200, 1, 2, 2, dtype=torch.uint8), torch.arange(200) % 10)
    assert drawn(ten, 10).labels.bincount().tolist() == [1] * 10 and drawn(ten, 200) is ten
    uneven = ImageSet(ten.images, (torch.arange(200) - 180).clamp(min=0) // 2)
    for part, n in ((ten, 3), (uneven, 12)):
        with pytest.raises(KitError, match=f"{n} of 200 images cannot be drawn evenly"):
            drawn(part, n)
    sets = load_dataset(micro)
    few = sets.few(60)
    assert len(few.train_val()) == 60 and few.test is sets.test
    assert set(few.train.labels.bincount().tolist()) == {4, 5}
    assert len(few.val) / 60 == pytest.approx(len(sets.val) / len(sets.train_val()), abs=0.05)
    with pytest.raises(KitError, match="train_images=12 of 10 classes, 10 held out: set 20 at least"):
        sets.few(12)
    with pytest.raises(KitError, match="train_images=241 but there are 240"):
        sets.few(241)


def test_the_digest_is_of_pixels_labels_and_names_however_they_are_held(tmp_path, monkeypatch):
    for i, name in enumerate("ab"):
        save_images(tmp_path / "pets" / name, 10, start=50 * i)
    held = load_dataset(tmp_path / "pets", root=tmp_path / "data")
    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    lazy = load_dataset(tmp_path / "pets", root=tmp_path / "data")
    assert isinstance(lazy.test.images, Streamed) and len(digest(held)) == 64
    alike = [load_dataset(tmp_path / "pets", tmp_path / "other"), lazy.to("cpu"), replace(lazy, name="x")]
    assert {digest(sets) for sets in alike} == {digest(held)}
    changed = held.test.images.clone()
    changed[-1, -1, -1, -1] ^= 1
    others = [
        replace(held, classes=("a", "c")),
        replace(held, test=ImageSet(changed, held.test.labels)),
        replace(held, test=ImageSet(held.test.images.flip(3), 1 - held.test.labels)),
        replace(held, train=held.train.take(torch.arange(len(held.train)).flip(0))),
        replace(held, val=held.test, test=held.val),
    ]
    assert len({digest(sets) for sets in [held, *others]}) == 6


# ---- digits, size, normalization -----------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_and_keep_their_split(digits):
    from sklearn.datasets import load_digits

    assert sizes(digits) == [1078, 270, 449] and not digits.flip and "60% train, 15% val, 25% test" in digits.split
    data = load_digits()
    known = {image.tobytes(): label for image, label in zip(np.rint(data.images * 255 / 16), data.target)}
    for image, label in zip(digits.val.images.numpy(), digits.val.labels.tolist()):
        assert known[image[0].astype(float).tobytes()] == label
    digest = hashlib.sha256(b"".join(p.images.numpy().tobytes() + p.labels.numpy().tobytes() for p in parts(digits)))
    assert digest.hexdigest().startswith("7e1b5d5c09580691"), "results of earlier runs are on this split"


def test_fit_resizes_the_shorter_side_and_crops_the_centre(digits):
    images = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    images[..., 2:6] = 200
    square = fit(images, 4, 4)
    assert torch.equal(square, torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)) and fit(square, 4, 4) is square
    larger = load_dataset("digits", image_size=12)
    assert larger.size == (12, 12) and torch.equal(larger.test.labels, digits.test.labels)
    with pytest.raises(KitError, match="image_size=3000: digits would take 16 GB, KIT_RESIDENT_GB=… allows"):
        load_dataset("digits", image_size=3000)


def test_normalization_is_exact():
    data = some_set(n=50, channels=3, size=5)
    mean, std = normalization(data)
    pixels = data.images.double() / 255
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == std.shape == (3,)
    assert torch.allclose(mean.double(), pixels.mean((0, 2, 3)), atol=1e-7)
    assert torch.allclose(std.double(), pixels.std((0, 2, 3), correction=0), atol=1e-7)
    mean, std = normalization(ImageSet(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8), torch.arange(3)))
    assert mean.item() == pytest.approx(0.2) and std.item() == pytest.approx(1 / 255), "no division by zero"


# ---- batches -------------------------------------------------------------------------------------


def batches(data=None, batch_size=5, seed=0):
    return Batches(some_set(23) if data is None else data, batch_size, torch.Generator().manual_seed(seed))


def rows(loader, steps):
    """The rows of the set in the next batches (images are random, so each is found by its pixels)."""
    found = [
        (x[:, None] == loader.data.images[None]).flatten(2).all(2).int().argmax(1) for x, _ in islice(loader, steps)
    ]
    return [part.tolist() for part in found]


def islice(loader, steps):
    return [next(loader) for _ in range(steps)]


def test_an_epoch_has_no_repeats_and_depends_on_the_seed_alone():
    loader = batches()
    first, second = rows(loader, 4), rows(loader, 4)
    assert loader.steps_per_epoch == 4
    assert len(set(sum(first, []))) == len(set(sum(second, []))) == 20 and first != second
    assert rows(batches(), 6) == rows(batches(), 6) != rows(batches(seed=1), 6)
    generator = torch.Generator().manual_seed(0)
    train, val = Batches(some_set(23), 5, generator), Batches(some_set(23), 5, generator)
    assert rows(train, 4) != rows(val, 4), "two loaders of one generator have orders of their own"


def test_batches_refuse_what_does_not_fit():
    for size in (24, 0, -1):
        with pytest.raises(KitError, match=f"batch_size={size} but the set has 23 images"):
            batches(batch_size=size)


# ---- sets that stream ----------------------------------------------------------------------------


def streamed(n=23, channels=2, size=3):
    """A set over a pool of n + 7 images, and the same set as tensors."""
    pool = some_set(n + 7, channels, size).images
    rows = torch.randperm(n + 7, generator=torch.Generator().manual_seed(1))[:n]
    labels = torch.arange(n) % 3
    return ImageSet(Streamed(pool, pixel_marks(pool), rows), labels), ImageSet(pool[rows], labels)


def test_streamed_images_are_read_like_a_tensor():
    lazy, whole = streamed()
    for rows in (slice(3, 9), slice(None), torch.tensor([4, 0, 4])):
        assert torch.equal(lazy.images[rows], whole.images[rows])
    assert (lazy.images.shape, lazy.images.ndim, lazy.device) == ((23, 2, 3, 3), 4, whole.device)
    part, chosen = lazy.take(torch.tensor([5, 1, 22])), whole.take(torch.tensor([5, 1, 22]))
    assert part.images.pool is lazy.images.pool and torch.equal(part.images[:], chosen.images)
    for size in (1, 5, 100):
        for data in (lazy, whole):
            pieces = list(data.chunks(size))
            assert len(pieces) == -(-23 // size)
            assert equal(map(torch.cat, zip(*pieces, strict=True)), (whole.images, whole.labels))
    assert equal(normalization(lazy), normalization(whole))


@pytest.mark.parametrize("steps", [0, 2, 4, 5, 11])
def test_streamed_batches_are_the_resident_ones_and_resume(steps):
    lazy, whole = (batches(data) for data in streamed())
    assert all(equal(next(lazy), next(whole)) for _ in range(steps))
    state, expected = lazy.state_dict(), copy.deepcopy(whole.state_dict())
    assert torch.equal(state.pop("generator"), expected["generator"])
    assert state == {k: v for k, v in expected.items() if k != "generator"}
    following = [next(whole) for _ in range(9)]
    assert all(equal(next(lazy), batch) for batch in following)
    generator = torch.Generator().manual_seed(7)
    for data in streamed():
        resumed = Batches(data, 5, generator)
        before, others = generator.get_state(), torch.get_rng_state()
        next(resumed)
        resumed.load_state_dict(expected)
        assert all(equal(next(resumed), batch) for batch in following)
        assert torch.equal(generator.get_state(), before), "a generator that others share is not rewound"
        assert torch.equal(torch.get_rng_state(), others), "nor is torch's own drawn from"


def test_a_search_that_streams_is_the_search_that_does_not(tmp_path, monkeypatch):
    from tests_micro import micro_config

    import kit
    from kit.search.progress import Silent

    for i, name in enumerate("ab"):
        save_images(tmp_path / "pets" / name, 40, size=(8, 8), start=100 * i)
    monkeypatch.setenv("KIT_DATA", str(tmp_path / "data"))
    config = micro_config(dataset=str(tmp_path / "pets"), batch_size=8, epochs=1)
    held = kit.search(config, out=tmp_path / "held", progress=Silent())
    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    run = kit.search(config, out=tmp_path / "streamed", progress=Silent())
    assert run.history.equals(held.history) and run.metrics["test_loss"] == held.metrics["test_loss"]
    assert equal(run.model().state_dict().values(), held.model().state_dict().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: streaming to a GPU is not tested here")
def test_streaming_to_a_gpu_gives_the_same_batches():
    data, whole = streamed(200, size=16)
    lazy, whole = batches(data.to("cuda"), batch_size=32), batches(whole.to("cuda"), batch_size=32)
    for _ in range(40):
        batch, expected = next(lazy), next(whole)
        assert batch[0].device == expected[0].device and equal(batch, expected)
    assert torch.equal(data.to("cuda").images[:].cpu(), data.images[:])
    assert sum(len(images) for images, _ in data.to("cuda").chunks(33)) == 200
