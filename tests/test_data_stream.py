"""Sets that stay off the device: the same images, batches and numbers as a set that lives there."""

import copy
import gc
import threading
import time

import pytest
import torch
from tests_data import digits, no_network, same, some_set, some_sets  # noqa: F401

from kit.data import Batches, ImageSet, normalization, stream, to_sets
from kit.data.source import Source
from kit.data.stream import DEPTH, Ahead, Streamed
from kit.errors import KitError


def streamed(n=23, rows=None, channels=2, size=3):
    """A set over a pool of n + 7 images, and the same set as tensors."""
    pool = some_set(n + 7, channels, size).images
    rows = torch.randperm(n + 7, generator=torch.Generator().manual_seed(1))[:n] if rows is None else rows
    labels = torch.arange(len(rows)) % 3
    return ImageSet(Streamed(pool, rows), labels, rows), ImageSet(pool[rows], labels, rows)


def loader(data, seed=0, batch_size=5):
    return Batches(data, batch_size, torch.Generator().manual_seed(seed))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def prefetchers():
    return [thread for thread in threading.enumerate() if thread.name == "kit-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if prefetchers():
        gc.collect()
    assert not prefetchers()


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(
    "key",
    [
        slice(None),
        slice(3, 9),
        slice(20, 40),
        slice(5, 5),
        slice(None, None, 4),
        3,
        -1,
        torch.tensor([4, 0, 4]),
        torch.tensor(6),
        [1, 2],
        torch.arange(23) % 2 == 0,
        (slice(None), 1),
        (slice(2, 5), 0, slice(1, 3)),
        (7, 1),
        (slice(None), slice(None), 0, 0),
        (-2, 0, 1, 2),
    ],
)
def test_streamed_images_are_read_like_a_tensor(key):
    lazy, whole = streamed()
    assert torch.equal(lazy.images[key], whole.images[key])


def test_streamed_images_describe_themselves_and_give_parts_without_reading():
    lazy, whole = streamed()
    images = lazy.images
    assert (images.shape, images.dtype, images.ndim, images.numel(), len(images)) == (
        (23, 2, 3, 3),
        torch.uint8,
        4,
        23 * 18,
        23,
    )
    assert images.device == torch.device("cpu") and "[23, 2, 3, 3]" in repr(images)
    rows = torch.tensor([5, 1, 22])
    part = lazy.take(rows)
    assert part.images.pool is images.pool and same_sets(part, whole.take(rows))
    assert torch.equal(images.index_select(0, rows), whole.images[rows]) and torch.equal(
        images.resident("cpu"), whole.images
    )
    with pytest.raises(KitError, match="first axis"):
        images.index_select(1, rows)
    with pytest.raises(IndexError):
        images[23]


def same_sets(a, b):
    return torch.equal(a.images[:], b.images[:]) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)


@pytest.mark.parametrize("size", [1, 5, 23, 100])
def test_chunks_cover_the_set_in_order(size):
    lazy, whole = streamed()
    for data in (lazy, whole):
        pieces = list(data.chunks(size))
        assert len(pieces) == -(-23 // size) and len(pieces[0][0]) == min(size, 23)
        assert equal((torch.cat(part) for part in zip(*pieces, strict=True)), (whole.images, whole.labels))
    next(lazy.chunks(2))  # one that is not read to its end keeps no thread


def test_normalization_is_the_same_with_sums_and_without():
    lazy, whole = streamed(60)
    values = lazy.images.pool.to(torch.int64)
    sums = torch.stack([values.sum((2, 3)), (values**2).sum((2, 3))], dim=2)
    # a black pool: where the sums are known, no image is read
    known = ImageSet(Streamed(torch.zeros_like(lazy.images.pool), lazy.images.rows, sums=sums), lazy.labels)
    expected = normalization(whole)
    assert equal(normalization(lazy), expected) and equal(normalization(known), expected)
    assert equal(normalization(known.take(torch.arange(9))), normalization(whole.take(torch.arange(9))))


# ---------------------------------------------------------------- what lives where


def test_a_budget_decides_what_streams(monkeypatch, digits):
    size = sum(len(part) for part in (digits.train, digits.val, digits.test)) * 64
    monkeypatch.delenv("KIT_RESIDENT_GB", raising=False)
    assert isinstance(digits.to("cpu").train.images, torch.Tensor)
    for budget, streams in ((0, True), ((size - 1) / 1e9, True), (size / 1e9, False), (1, False)):
        for sets in (digits, digits.to("cpu", resident_gb=0)):  # from tensors, and from a set that streams
            moved = sets.to("cpu", resident_gb=budget)
            assert all(isinstance(part.images, Streamed) == streams for part in (moved.train, moved.val, moved.test))
            assert same_sets(moved.train, digits.train) and same_sets(moved.test, digits.test)
    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    assert isinstance(digits.to("cpu").val.images, Streamed)
    monkeypatch.setenv("KIT_RESIDENT_GB", "1")
    assert isinstance(digits.to("cpu").val.images, torch.Tensor)


def test_without_a_budget_a_quarter_of_the_free_memory_is(monkeypatch):
    pool, labels = some_set(40).images, torch.arange(40) % 2
    monkeypatch.delenv("KIT_RESIDENT_GB", raising=False)
    for free, streams in ((4 * 40 * 16 - 1, True), (4 * 40 * 16, False)):
        monkeypatch.setattr(stream, "free_memory", lambda device: free)
        sets = to_sets(Source(("a", "b"), (Streamed(pool), labels)), "fake", flip=False)
        assert isinstance(sets.train.images, Streamed) == streams
        assert isinstance(to_sets(Source(("a", "b"), (pool, labels)), "fake", flip=False).train.images, torch.Tensor), (
            "there already"
        )


@pytest.mark.parametrize("given", ["much", "-1", "nan", "inf"])
def test_a_budget_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("KIT_RESIDENT_GB", given)
    with pytest.raises(KitError, match=f"KIT_RESIDENT_GB='{given}' is not a number of gigabytes"):
        some_sets().to("cpu")
    with pytest.raises(KitError, match="resident_gb=-2"):
        some_sets().to("cpu", resident_gb=-2)


def test_the_machine_says_how_much_is_free():
    assert 2**20 < stream.free_memory("cpu") < 2**50


def test_train_val_of_one_pool_copies_no_image(monkeypatch):
    pool, labels = some_set(40).images, torch.arange(40) % 2
    sets = to_sets(Source(("a", "b"), (pool, labels)), "fake", flip=False)
    apart = sets.to("cpu", resident_gb=0)  # tensors of three parts: pools of their own
    assert same_sets(apart.train_val(), sets.train_val())
    parted = to_sets(
        Source(
            ("a", "b"),
            (Streamed(pool, torch.arange(30)), labels[:30]),
            test=(Streamed(pool, torch.arange(30, 40)), labels[30:]),
        ),
        "fake",
        flip=False,
    )
    assert same(
        parted, to_sets(Source(("a", "b"), (pool[:30], labels[:30]), test=(pool[30:], labels[30:])), "fake", flip=False)
    )
    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    lazy = to_sets(Source(("a", "b"), (Streamed(pool), labels)), "fake", flip=False)
    both = lazy.train_val()
    assert same_sets(both, sets.train_val()) and both.images.pool is lazy.test.images.pool is pool


# ---------------------------------------------------------------- batches


def test_streamed_batches_are_the_resident_ones():
    lazy, whole = (loader(data) for data in streamed())
    for _ in range(11):
        assert equal(next(lazy), next(whole))
    assert len(prefetchers()) == 1


@pytest.mark.parametrize("steps", [0, 2, 4, 5, 11])
def test_the_state_is_what_was_consumed(steps):
    lazy, whole = (loader(data) for data in streamed())
    for _ in range(steps):
        next(lazy), next(whole)
    time.sleep(0.01)  # the thread is ahead by now
    state, expected = lazy.state_dict(), whole.state_dict()
    assert torch.equal(state.pop("generator"), expected["generator"]) and state == {
        k: v for k, v in expected.items() if k != "generator"
    }
    state = copy.deepcopy(whole.state_dict())
    following = [next(whole) for _ in range(9)]
    assert all(equal(next(lazy), batch) for batch in following)
    resumed = loader(streamed()[0], seed=7)
    next(resumed)  # its thread is at work when the state comes
    resumed.load_state_dict(state)
    assert all(equal(next(resumed), batch) for batch in following)
    lazy.load_state_dict(state)
    assert all(equal(next(lazy), batch) for batch in following)


def test_a_batch_is_the_consumers_own():
    lazy, whole = (loader(data) for data in streamed())
    first, expected = next(lazy), next(whole)
    for _ in range(3 * DEPTH):
        next(lazy)
    assert equal(first, expected), "no buffer is filled anew under it"
    first[0].zero_()
    assert streamed()[0].images.pool.equal(lazy.data.images.pool)


def test_the_thread_fetches_a_few_batches_ahead_and_no_more():
    asked = []

    def order():
        for i in range(100):
            asked.append(i)
            yield i, torch.tensor([i % 23])

    lazy, _ = streamed()
    ahead = Ahead(lazy.images, lazy.labels, order())
    for _ in range(200):
        time.sleep(0.005)
        if len(asked) == DEPTH + 1:
            break
    time.sleep(0.02)
    assert len(asked) == DEPTH + 1, "those that wait, and the one that finds no place"
    assert [mark for mark, _, _ in ahead] == list(range(100))


def test_an_error_of_the_thread_is_raised_by_the_step_that_needed_the_batch():
    def order():
        yield 0, torch.tensor([1])
        yield 1, torch.tensor([999])

    lazy, _ = streamed()
    ahead = Ahead(lazy.images, lazy.labels, order())
    assert next(ahead)[0] == 0
    for _ in range(2):  # and again when asked again, rather than a wait for a thread that has ended
        with pytest.raises(IndexError):
            next(ahead)
    assert not prefetchers()


def test_the_thread_ends_with_its_object():
    lazy = loader(streamed()[0])
    next(lazy)
    (thread,) = prefetchers()
    del lazy
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_search_that_streams_is_the_search_that_does_not(finished, tmp_path, monkeypatch):
    from tests_micro import micro_config

    import kit
    from kit.search.progress import Silent

    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    asked = []
    monkeypatch.setattr(stream, "_fill", lambda *args, fill=stream._fill: asked.append(args) or fill(*args))
    run = kit.search(micro_config(), out=tmp_path, progress=Silent())
    assert asked, "it did stream"
    assert run.history.equals(finished.history) and run.metrics["test_loss"] == finished.metrics["test_loss"]
    assert equal(run.model().state_dict().values(), finished.model().state_dict().values())


# ---------------------------------------------------------------- GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: streaming to a GPU is not tested here")
def test_streaming_to_a_gpu_gives_the_same_batches():
    data, whole = streamed(200, size=16)
    lazy, whole = loader(data.to("cuda"), batch_size=32), loader(whole.to("cuda"), batch_size=32)
    for _ in range(40):
        batch, expected = next(lazy), next(whole)
        assert batch[0].device == expected[0].device and equal(batch, expected)
        torch.rand(512, 512, device="cuda") @ torch.rand(
            512, 512, device="cuda"
        )  # memory that a batch returned too soon would lose
    assert equal(data.to("cuda").images.resident("cuda").cpu(), data.images[:])
    assert sum(len(images) for images, _ in data.to("cuda").chunks(33)) == 200
