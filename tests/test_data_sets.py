"""Sets, splits, digits, normalisation, batches, and sets that stream."""

import copy
import gc
import hashlib
import threading

import numpy as np
import pytest
import torch
from tests_data import parts, same, sizes, some_set

from kit.data import (
    Batches,
    ImageSet,
    ImageSets,
    Source,
    Streamed,
    cache,
    fit,
    load_dataset,
    normalization,
    stratified_split,
    to_sets,
)
from kit.errors import KitError, unknown


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def some_sets(**changes):
    given = {"train": some_set(), "val": some_set(start=10), "test": some_set(start=20), "classes": ("a", "b")}
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
    assert len(ImageSet(images, labels)) == 4 and ImageSet(images, labels).index.tolist() == [0, 1, 2, 3]
    for bad, message in [
        ((images.float(), labels), "uint8"),
        ((images[0], labels), "uint8"),
        ((images, labels[:3]), "labels must be int64"),
        ((images, labels.int()), "labels must be"),
        ((images[:0], labels[:0]), "empty"),
        ((images, labels - 1), "start at 0"),
        ((images, labels, labels[:1]), "index must be"),
        ((images, labels, labels), "twice"),
    ]:
        with pytest.raises(KitError, match=message):
            ImageSet(*bad)


def test_image_sets_are_disjoint_and_agree():
    sets = some_sets()
    assert (sets.channels, sets.size, sets.num_classes) == (1, (4, 4), 2) and same(sets, sets.to("cpu"))
    both = sets.train_val()
    assert both.index.tolist() == list(range(20)) and torch.equal(both.images[10:], sets.val.images)
    for changes, message in [
        ({"val": some_set(1, start=9)}, r"1 samples are in both train and val \(index \[9\]\)"),
        ({"test": some_set(start=15)}, "both val and test"),
        ({"test": some_set(size=5, start=20)}, "agree"),
        ({"test": some_set(classes=3, start=20)}, "test has label 2, allowed are 0 to 1"),
        ({"classes": ("a",)}, "two classes"),
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
    made = [n and (torch.zeros(n, 1, 4, 4, dtype=torch.uint8), torch.arange(n) % 2) for n in given]
    sets = to_sets(Source(("a", "b"), *made), "fake", flip=False)
    assert sizes(sets) == expected and sets.split.startswith(split)
    index = torch.cat([part.index for part in parts(sets)])
    assert torch.equal(index.sort().values, torch.arange(sum(expected)))
    said = to_sets(Source(("a", "b"), *made, split="lists of X"), "fake", flip=False).split
    assert said.startswith("lists of X") and ("stratified" in said) == (given[1] is None)


def test_a_source_refuses_what_cannot_be_split():
    part = (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 2)
    for classes, given, message in [
        (("a", "b"), {"val": part}, "val as test"),
        (("a",), {}, "two classes are needed"),
        (("a", "b", "a"), {}, "two classes are called 'a'"),
    ]:
        with pytest.raises(KitError, match=message):
            Source(classes, part, **given)


# ---- digits, size, normalization -----------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_and_keep_their_split(digits):
    from sklearn.datasets import load_digits

    assert sizes(digits) == [1078, 270, 449] and not digits.flip and "60% train, 15% val, 25% test" in digits.split
    data, row = load_digits(), int(digits.val.index[7])
    assert np.array_equal(digits.val.images[7, 0].numpy(), np.rint(data.images[row] * 255 / 16))
    assert digits.val.labels[7] == data.target[row]
    digest = hashlib.sha256(b"".join(p.images.numpy().tobytes() + p.labels.numpy().tobytes() for p in parts(digits)))
    assert digest.hexdigest().startswith("7e1b5d5c09580691"), "results of earlier runs are on this split"


def test_fit_resizes_the_shorter_side_and_crops_the_centre(digits):
    images = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    images[..., 2:6] = 200
    square = fit(images, 4)
    assert torch.equal(square, torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)) and fit(square, 4) is square
    larger = load_dataset("digits", image_size=12)
    assert larger.size == (12, 12) and torch.equal(larger.test.labels, digits.test.labels)


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
        with pytest.raises(KitError, match=f"batch_size is {size} but the set has 23 images"):
            batches(batch_size=size)
    with pytest.raises(KitError, match="images=23, this one has images=22"):
        batches(some_set(22)).load_state_dict(batches().state_dict())
    with pytest.raises(KitError, match="batch_size=5, this one has batch_size=4"):
        batches(batch_size=4).load_state_dict(batches().state_dict())


# ---- sets that stream ----------------------------------------------------------------------------


def streamed(n=23, channels=2, size=3):
    """A set over a pool of n + 7 images, and the same set as tensors."""
    pool = some_set(n + 7, channels, size).images
    rows = torch.randperm(n + 7, generator=torch.Generator().manual_seed(1))[:n]
    labels = torch.arange(n) % 3
    return ImageSet(Streamed(pool, rows), labels, rows), ImageSet(pool[rows], labels, rows)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kit-prefetch")]


KEYS = [slice(3, 9), slice(5, 5), slice(None, None, 4), 3, -1, torch.tensor([4, 0, 4]), torch.tensor(6)]
KEYS += [torch.arange(23) % 2 == 0, (slice(None), 1), (slice(2, 5), 0, slice(1, 3)), (7, 1), (-2, 0, 1, 2)]


def test_streamed_images_are_read_like_a_tensor():
    lazy, whole = streamed()
    assert all(torch.equal(lazy.images[key], whole.images[key]) for key in KEYS)
    assert (lazy.images.shape, lazy.images.ndim, lazy.images.numel()) == ((23, 2, 3, 3), 4, 23 * 18)
    part, chosen = lazy.take(torch.tensor([5, 1, 22])), whole.take(torch.tensor([5, 1, 22]))
    assert part.images.pool is lazy.images.pool and torch.equal(part.images[:], chosen.images)
    for size in (1, 5, 100):
        for data in (lazy, whole):
            pieces = list(data.chunks(size))
            assert len(pieces) == -(-23 // size)
            assert equal(map(torch.cat, zip(*pieces, strict=True)), (whole.images, whole.labels))


def test_normalization_uses_the_sums_of_the_cache():
    lazy, whole = streamed(60)
    values = lazy.images.pool.to(torch.int64)
    sums = torch.stack([values.sum((2, 3)), (values**2).sum((2, 3))], dim=2)
    # a black pool: where the sums are known, no image is read
    known = ImageSet(Streamed(torch.zeros_like(lazy.images.pool), lazy.images.rows, sums=sums), lazy.labels)
    assert equal(normalization(lazy), normalization(whole)) and equal(normalization(known), normalization(whole))


def test_a_budget_decides_what_streams(monkeypatch, digits, capsys):
    size = sum(sizes(digits)) * 64
    for gigabytes, streams in (("0", True), (str((size - 1) / 1e9), True), (str(size / 1e9), False), ("1", False)):
        monkeypatch.setenv("KIT_RESIDENT_GB", gigabytes)
        moved = digits.to("cpu")
        assert all(isinstance(part.images, Streamed) == streams for part in parts(moved)) and same(moved, digits)
        assert same(moved.to("cpu"), digits) and torch.equal(moved.train_val().index, digits.train_val().index)
    for given in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("KIT_RESIDENT_GB", given)
        with pytest.raises(KitError, match=f"KIT_RESIDENT_GB='{given}' is no number of gigabytes"):
            digits.to("cpu")
    monkeypatch.delenv("KIT_RESIDENT_GB")
    pool, labels = some_set(40).images, torch.arange(40) % 2
    for free, streams in ((4 * 40 * 16 - 1, True), (4 * 40 * 16, False)):
        monkeypatch.setattr(cache, "free_memory", lambda device, free=free: free)
        sets = to_sets(Source(("a", "b"), (Streamed(pool), labels)), "fake", flip=False)
        assert isinstance(sets.train.images, Streamed) == streams
        assert not streams or sets.train_val().images.pool is pool, "train and val of one pool copy no image"
        assert isinstance(some_sets().to("cpu").train.images, torch.Tensor), "what is there already has found room"


@pytest.mark.parametrize("steps", [0, 2, 4, 5, 11])
def test_streamed_batches_are_the_resident_ones_and_resume(steps):
    lazy, whole = (batches(data) for data in streamed())
    assert all(equal(next(lazy), next(whole)) for _ in range(steps))
    state, expected = lazy.state_dict(), copy.deepcopy(whole.state_dict())
    assert torch.equal(state.pop("generator"), expected["generator"])
    assert state == {k: v for k, v in expected.items() if k != "generator"}, "what was handed out, not what was read"
    following = [next(whole) for _ in range(9)]
    assert all(equal(next(lazy), batch) for batch in following)
    generator = torch.Generator().manual_seed(7)
    for data in streamed():
        resumed = Batches(data, 5, generator)
        before = generator.get_state()
        next(resumed)
        resumed.load_state_dict(expected)
        assert all(equal(next(resumed), batch) for batch in following)
        assert torch.equal(generator.get_state(), before), "a generator that others share is not rewound"


def test_prefetching_reads_a_few_batches_ahead_and_raises_what_goes_wrong():
    asked, lazy = [], streamed()[0]

    def order():
        for i in range(100):
            asked.append(i)
            yield i, torch.tensor([i % 23 if i < 50 else 999])

    ahead = cache.prefetch(lazy.images, lazy.labels, order())
    assert next(ahead)[0] == 0 and len(asked) == cache.AHEAD + 1
    first = next(ahead)[1]
    expected = first.clone()
    assert [next(ahead)[0] for _ in range(48)] == list(range(2, 50)) and torch.equal(first, expected)
    with pytest.raises(IndexError):
        next(ahead)


def test_a_search_that_streams_is_the_search_that_does_not(finished, tmp_path, monkeypatch):
    from tests_micro import micro_config

    import kit
    from kit.search.progress import Silent

    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    run = kit.search(micro_config(), out=tmp_path, progress=Silent())
    assert run.history.equals(finished.history) and run.metrics["test_loss"] == finished.metrics["test_loss"]
    assert equal(run.model().state_dict().values(), finished.model().state_dict().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: streaming to a GPU is not tested here")
def test_streaming_to_a_gpu_gives_the_same_batches():
    data, whole = streamed(200, size=16)
    lazy, whole = batches(data.to("cuda"), batch_size=32), batches(whole.to("cuda"), batch_size=32)
    for _ in range(40):
        batch, expected = next(lazy), next(whole)
        assert batch[0].device == expected[0].device and equal(batch, expected)
    assert torch.equal(data.to("cuda").images.resident("cuda").cpu(), data.images[:])
    assert sum(len(images) for images, _ in data.to("cuda").chunks(33)) == 200
