"""Sets, splits, the registry, digits, normalisation and batches."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_data import digits, no_network, same, save_images, some_set, some_sets  # noqa: F401

import kit.data
from kit.data import (
    Batches,
    Files,
    ImageSet,
    Source,
    data_root,
    datasets,
    describe,
    fit,
    load_dataset,
    normalization,
    register,
    registry,
    stratified_split,
    to_sets,
)
from kit.errors import KitError, unknown

# ---------------------------------------------------------------- errors


def test_unknown_puts_the_nearest_name_first():
    error = unknown("dataset", "digit", ["cifar10", "digits"])
    assert isinstance(error, ValueError)
    assert str(error) == "unknown dataset 'digit'. Did you mean 'digits'? Valid: digits, cifar10"
    assert "Did you mean 'dha'?" in str(unknown("method", "DHA", ["ista", "dha"]))
    assert str(unknown("method", "xyz", ["ista", "dha"])) == "unknown method 'xyz'. Valid: ista, dha"
    assert "(none)" in str(unknown("method", 3, []))


# ---------------------------------------------------------------- ImageSet, ImageSets


def test_image_set_refuses_what_breaks_its_contract():
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    assert len(ImageSet(images, labels)) == 4
    assert ImageSet(images, labels).index.tolist() == [0, 1, 2, 3]
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


def test_image_sets_describe_themselves_and_move():
    sets = some_sets()
    assert (sets.channels, sets.size, sets.num_classes) == (1, (4, 4), 2)
    moved = sets.to("cpu")
    assert same(sets, moved) and moved.classes == sets.classes and moved.flip
    both = sets.train_val()
    assert len(both) == 20 and torch.equal(both.images[10:], sets.val.images)
    assert both.index.tolist() == list(range(20))


def test_image_sets_refuse_overlap_shapes_and_labels():
    with pytest.raises(KitError, match=r"1 samples are in both train and val \(index \[9\]\)"):
        some_sets(val=some_set(1, start=9))
    with pytest.raises(KitError, match="both train and test"):
        some_sets(test=some_set(start=5))
    with pytest.raises(KitError, match="both val and test"):
        some_sets(test=some_set(start=15))
    with pytest.raises(KitError, match="agree"):
        some_sets(test=some_set(size=5, start=20))
    with pytest.raises(KitError, match="test has label 2, allowed are 0 to 1"):
        some_sets(test=some_set(classes=3, start=20))
    with pytest.raises(KitError, match="two classes"):
        some_sets(classes=("a",))


# ---------------------------------------------------------------- splits


def test_stratified_split_is_even_and_complete():
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate([1, 2, 3, 37, 400])])
    kept, held = stratified_split(labels, 0.1)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    counts = torch.bincount(labels[held], minlength=5).tolist()
    assert counts[0] == 0 and counts[1:3] == [1, 1] and counts[3] in (3, 4) and counts[4] == 40
    small = torch.arange(30).repeat_interleave(8)
    assert len(stratified_split(small, 0.3)[1]) == 72, "remainders carry over from class to class"
    assert set(torch.bincount(small[stratified_split(small, 0.3)[1]]).tolist()) == {2, 3}


def test_stratified_split_is_the_same_everywhere():
    labels = torch.arange(40) % 4
    # Literal numbers: a change of library or machine that moves a split must fail here.
    assert stratified_split(labels, 0.2, seed=0)[1].tolist() == [7, 8, 10, 13, 14, 21, 27, 32]
    assert not torch.equal(stratified_split(labels, 0.2, seed=1)[1], stratified_split(labels, 0.2, seed=0)[1])
    with pytest.raises(KitError, match="between 0 and 1"):
        stratified_split(labels, 1.0)


def test_source_parts_are_used_as_given():
    def part(n):
        return torch.zeros(n, 1, 4, 4, dtype=torch.uint8), torch.arange(n) % 2

    sets = to_sets(Source(("a", "b"), part(20), part(4), part(6)), "fake", flip=False)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [20, 4, 6]
    assert sets.val.index.tolist() == [20, 21, 22, 23] and sets.test.index[0] == 24
    sets = to_sets(Source(("a", "b"), part(20), test=part(6)), "fake", flip=False)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [18, 2, 6] and "10%" in sets.split
    with pytest.raises(KitError, match="val as test"):
        Source(("a", "b"), part(20), val=part(4))


# ---------------------------------------------------------------- registry


def test_names_and_descriptions():
    assert {"digits", "fashion_mnist", "cifar10", "cifar100"} <= set(datasets())
    assert all(describe(name) for name in datasets())
    with pytest.raises(KitError, match="Did you mean 'digits'"):
        describe("digit")


def test_register_a_data_set(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    seen = []

    def loader(root, image_size):
        seen.append((root, image_size))
        return Source(("a", "b"), (torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.arange(20) % 2))

    register("toy", loader, flip=False, description="a toy")
    sets = load_dataset("toy", root="/somewhere", image_size=2)
    assert seen == [(Path("/somewhere"), 2)] and sets.size == (2, 2)
    assert sets.name == "toy" and not sets.flip and "toy" in datasets()
    with pytest.raises(KitError, match="registered already"):
        register("toy", loader)
    register("toy", loader, replace=True)
    assert load_dataset("toy").flip
    with pytest.raises(KitError, match="a-z"):
        register("My Set", loader)


def test_the_example_of_register_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    save_images(tmp_path / "made", 12, size=(50, 40))
    (tmp_path / "pets").mkdir()
    for i in range(12):
        (tmp_path / "made" / f"{i:03}.png").rename(tmp_path / "pets" / f"{'dog' if i % 3 else 'cat'}_{i}.png")
    example = textwrap.dedent(register.__doc__.split("cat_17.png:")[1])
    assert len(example.strip().splitlines()) < 30
    names = {"root": tmp_path}
    exec(example, names)
    sets = names["sets"]
    assert (
        sets.classes == ("cat", "dog")
        and sets.size == (32, 32)
        and sets.name == "pets"
        and kit.data.describe("pets") == "our pets"
    )
    for part in (sets.train, sets.val, sets.test):
        assert part.labels.tolist() == [int(number % 3 > 0) for number in part.images[:, 0, 0, 0].tolist()]
    assert load_dataset("pets", root=tmp_path, image_size=8).size == (8, 8), "image_size comes before default_size"


def test_on_bad_image_is_checked_and_passed_on(tmp_path, monkeypatch):
    for word in ("ignore", None, True):
        with pytest.raises(KitError, match="unknown on_bad_image .*Valid: (error, skip|skip, error)"):
            load_dataset("digits", on_bad_image=word)
    for name in "ab":
        save_images(tmp_path / "pets" / name, 8)
    (tmp_path / "pets" / "a" / "003.png").write_bytes(b"broken")
    with pytest.raises(KitError, match="a/003.png"):
        load_dataset(tmp_path / "pets", root=tmp_path)
    sets = load_dataset(tmp_path / "pets", root=tmp_path, on_bad_image="skip")
    assert sum(map(len, (sets.train, sets.val, sets.test))) == 15


def test_whose_split_it_is_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    save_images(tmp_path, 20)
    files = [(file, i % 2) for i, file in enumerate(sorted(tmp_path.glob("*.png")))]
    for given, split in (
        ({"train": files}, "lists of X; the source has no split: stratified 70% train"),
        (
            {"train": files[:12], "test": files[12:]},
            "lists of X; val is a stratified 25% of its training images .split seed 0.$",
        ),
        ({"train": files[:12], "val": files[12:16], "test": files[16:]}, "lists of X$"),
    ):
        fraction = {"val_fraction": 0.25} if len(given) == 2 else {}
        register(
            "mine",
            lambda root, size, given=given, more=fraction: Files(("a", "b"), **given, **more, split="lists of X"),
            replace=True,
        )
        assert re.match(split, load_dataset("mine", root=tmp_path).split)


def test_files_refuse_what_cannot_be_split():
    one, two = Path("1.png"), Path("2.png")
    for given, message in (
        ({"val": [(one, 0)]}, "val part need a test part"),
        ({"classes": ("a",)}, "two classes are needed, got .'a'."),
        ({"classes": ("a", "b", "a")}, "two classes are called 'a'"),
        ({"train": []}, "train has no image files"),
        ({"test": []}, "test has no image files"),
        ({"train": [(one, 0), (two, 2)]}, "2.png has label 2, allowed are 0 to 1"),
    ):
        with pytest.raises(KitError, match=message):
            Files(**{"classes": ("a", "b"), "train": [(one, 0), (two, 1)]} | given)
    assert list(Files(("a", "b"), [(one, 0)], test=[(two, 1)]).parts()) == ["train", "test"]


def test_unknown_names_and_missing_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match="unknown dataset 'digit'. Did you mean 'digits'. Valid: digits, .*folder"):
        load_dataset("digit")
    with pytest.raises(KitError, match="unknown dataset ''"):
        load_dataset("")
    for path in ("./photos", "~/no/such/photos", "some/photos", tmp_path / "photos"):
        with pytest.raises(KitError, match="folder .*photos was not found .*check the path"):
            load_dataset(path)
    for size in (0, -3, 2.5, True, "32"):
        with pytest.raises(KitError, match="image_size must be a positive integer"):
            load_dataset("digits", image_size=size)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("KIT_DATA", raising=False)
    assert data_root() == Path.home() / ".cache/kit/data"
    monkeypatch.setenv("KIT_DATA", str(tmp_path))
    assert data_root() == tmp_path and data_root("/other") == Path("/other")


# ---------------------------------------------------------------- digits


def test_digits(digits):
    assert (digits.channels, digits.size, digits.num_classes) == (1, (8, 8), 10)
    assert not digits.flip and "60% train, 15% val, 25% test" in digits.split
    assert [len(p) for p in (digits.train, digits.val, digits.test)] == [1078, 270, 449]
    assert digits.train.images.max() == 255 and digits.train.images.min() == 0
    index = torch.cat([digits.train.index, digits.val.index, digits.test.index])
    assert torch.equal(index.sort().values, torch.arange(1797))


def test_digits_splits_are_stratified_and_deterministic(digits):
    pool = torch.cat([digits.train.labels, digits.val.labels, digits.test.labels])
    for part, fraction in ((digits.train, 0.6), (digits.val, 0.15), (digits.test, 0.25)):
        share = torch.bincount(part.labels) - fraction * torch.bincount(pool)
        assert share.abs().max() <= 1.5
    assert same(digits, load_dataset("digits"))


def test_digits_match_scikit_learn(digits):
    from sklearn.datasets import load_digits

    data = load_digits()
    row = int(digits.val.index[7])
    assert np.array_equal(digits.val.images[7, 0].numpy(), np.rint(data.images[row] * 255 / 16))
    assert digits.val.labels[7] == data.target[row]


def test_image_size_resizes_registered_sets(digits):
    larger = load_dataset("digits", image_size=12)
    assert larger.size == (12, 12) and larger.train.images.dtype == torch.uint8
    assert torch.equal(larger.test.labels, digits.test.labels)


def test_fit_resizes_the_shorter_side_and_crops_the_centre():
    images = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    images[..., 2:6] = 200
    assert torch.equal(fit(images, 4), torch.full((2, 3, 4, 4), 200, dtype=torch.uint8))
    assert fit(images, 7).shape == (2, 3, 7, 7)
    square = fit(images, 4)
    assert fit(square, 4) is square


# ---------------------------------------------------------------- normalization


def test_normalization_is_exact():
    data = some_set(n=50, channels=3, size=5)
    mean, std = normalization(data)
    pixels = data.images.double() / 255
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == std.shape == (3,)
    assert torch.allclose(mean.double(), pixels.mean((0, 2, 3)), atol=1e-7)
    assert torch.allclose(std.double(), pixels.std((0, 2, 3), correction=0), atol=1e-7)


def test_normalization_of_a_constant_channel_divides_by_no_zero():
    mean, std = normalization(ImageSet(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8), torch.arange(3)))
    assert mean.item() == pytest.approx(0.2) and std.item() == pytest.approx(1 / 255)


# ---------------------------------------------------------------- Batches


def batches(n=23, batch_size=5, seed=0):
    return Batches(some_set(n), batch_size, torch.Generator().manual_seed(seed))


def rows(loader, steps):
    """The rows of the set that make up the next batches (images are random, so each is found by its pixels)."""
    out = []
    for _ in range(steps):
        images, labels = next(loader)
        match = (images[:, None] == loader.data.images[None]).flatten(2).all(2)
        assert (match.sum(1) == 1).all()
        found = match.int().argmax(1)
        assert torch.equal(loader.data.labels[found], labels)
        out.append(found.tolist())
    return out


def test_an_epoch_has_no_repeats_and_the_next_another_order():
    loader = batches()
    assert loader.steps_per_epoch == 4 and iter(loader) is loader
    first, second = rows(loader, 4), rows(loader, 4)
    assert len(set(sum(first, []))) == len(set(sum(second, []))) == 20 and first != second
    images, labels = next(loader)
    assert images.shape == (5, 1, 4, 4) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert sorted(sum(rows(batches(20), 4), [])) == list(range(20)), "covers a set that divides evenly"


def test_batches_depend_on_the_seed_alone():
    assert rows(batches(), 6) == rows(batches(), 6) != rows(batches(seed=1), 6)
    generator = torch.Generator().manual_seed(0)
    train, val = Batches(some_set(23), 5, generator), Batches(some_set(23), 5, generator)
    assert rows(train, 4) != rows(val, 4), "two loaders of one generator have orders of their own"


@pytest.mark.parametrize("steps", [0, 2, 4, 5, 11])
def test_batches_resume_bit_identically(steps):
    loader = batches()
    rows(loader, steps)
    state = loader.state_dict()
    assert state["generator"].dtype == torch.uint8
    expected = rows(loader, 9)
    generator = torch.Generator().manual_seed(7)
    resumed = Batches(some_set(23), 5, generator)
    before = generator.get_state()
    resumed.load_state_dict(state)
    assert rows(resumed, 9) == expected
    assert torch.equal(generator.get_state(), before), "a generator that others share is not rewound"


def test_batches_refuse_what_does_not_fit():
    for size in (24, 0, -1):
        with pytest.raises(KitError, match=f"batch_size is {size} but the set has 23 images"):
            batches(batch_size=size)
    with pytest.raises(KitError, match="images=23, this one has images=22"):
        batches(22).load_state_dict(batches().state_dict())
    with pytest.raises(KitError, match="batch_size=5, this one has batch_size=4"):
        batches(batch_size=4).load_state_dict(batches().state_dict())
