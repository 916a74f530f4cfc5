import gzip
import pickle
import socket
import tarfile
import time
import urllib.error
import urllib.request
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv

from kit.data import (Batches, ImageSet, ImageSets, Source, builtin, data_root, datasets, describe, fit, load_dataset,
                      normalization, read_folder, register, registry, stratified_split, to_sets)
from kit.errors import KitError, unknown


URLOPEN = urllib.request.urlopen


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def some_set(n=10, channels=1, size=4, classes=2, start=0):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(n) % classes, torch.arange(start, start + n))


def some_sets(**changes):
    given = {"train": some_set(), "val": some_set(start=10), "test": some_set(start=20),
             "classes": ("a", "b"), "name": "fake", "flip": True, "split": "made up"}
    return ImageSets(**(given | changes))


def save_images(folder: Path, n: int, size=(6, 6), mode="RGB", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        Image.new(mode, size, i if mode == "L" else (i, 2 * i, 3 * i)).save(folder / f"{i:03}.png")


def same(a: ImageSets, b: ImageSets):
    return all(torch.equal(getattr(getattr(a, part), name), getattr(getattr(b, part), name))
               for part in ("train", "val", "test") for name in ("images", "labels", "index"))


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
    for bad, message in [((images.float(), labels), "uint8"), ((images[0], labels), "uint8"),
                         ((images, labels[:3]), "labels must be int64"), ((images, labels.int()), "labels must be"),
                         ((images[:0], labels[:0]), "empty"), ((images, labels - 1), "start at 0"),
                         ((images, labels, labels[:1]), "index must be"), ((images, labels, labels), "twice")]:
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


# ---------------------------------------------------------------- Fashion-MNIST

def write_idx(folder: Path, n_train=200, n_test=30, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", n_train), ("t10k", n_test)):
        images = np.arange(n * 16, dtype=np.int64).astype(np.uint8).reshape(n, 4, 4)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = np.array([0x800 + array.ndim, *array.shape], ">i4").tobytes() + array.tobytes()
            file = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin, "DEBIAN_FASHION_MNIST", tmp_path / "no-debian")


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_root(tmp_path, no_debian, packed):
    write_idx(tmp_path / "FashionMNIST" / "raw", packed=packed)
    sets = load_dataset("fashion_mnist", root=tmp_path)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [180, 20, 30]
    assert torch.bincount(sets.val.labels).tolist() == [2] * 10
    assert sets.test.index[0] == 200 and sets.classes[9] == "Ankle boot" and sets.flip
    row = int(sets.train.index[3])
    assert sets.train.images[3, 0, 0, 0] == row * 16 % 256 and sets.train.labels[3] == row % 10


def test_fashion_mnist_from_the_debian_package_writes_nothing(tmp_path, monkeypatch):
    package, root = tmp_path / "package", tmp_path / "root"
    write_idx(package)
    monkeypatch.setattr(builtin, "DEBIAN_FASHION_MNIST", package)
    before = sorted(package.iterdir())
    assert len(load_dataset("fashion_mnist", root=root).test) == 30
    assert sorted(package.iterdir()) == before and not root.exists()
    # A foreign, broken download under root does not stand in the way of the package.
    write_idx(root / "FashionMNIST" / "raw", packed=False)
    images = root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    for broken in (images.read_bytes()[:-5], b"<html>", b""):
        images.write_bytes(broken)
        assert len(load_dataset("fashion_mnist", root=root).test) == 30


def test_fashion_mnist_offline_says_where_it_looked_and_what_to_do(tmp_path, no_debian):
    with pytest.raises(KitError) as caught:
        load_dataset("fashion_mnist", root=tmp_path)
    for part in (str(tmp_path / "FashionMNIST" / "raw"), "no-debian", "no network in tests", "KIT_DATA", "root=",
                 "train-images-idx3-ubyte", "apt install dataset-fashion-mnist"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "a failed download leaves nothing behind"


def test_fashion_mnist_download_is_staged(tmp_path, no_debian, monkeypatch):
    class Interrupted(tv.FashionMNIST):
        def __init__(self, root, download):
            assert Path(root).parent == tmp_path and socket.getdefaulttimeout() == builtin.TIMEOUT
            write_idx(Path(root) / "FashionMNIST" / "raw", packed=False)
            if broken:
                raise urllib.error.URLError("connection lost")

    monkeypatch.setattr(tv, "FashionMNIST", Interrupted)
    broken, before = True, socket.getdefaulttimeout()
    with pytest.raises(KitError, match="connection lost"):
        load_dataset("fashion_mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == [] and socket.getdefaulttimeout() == before
    broken = False
    assert len(load_dataset("fashion_mnist", root=tmp_path).test) == 30
    assert [item.name for item in tmp_path.iterdir()] == ["FashionMNIST"]


@pytest.mark.skipif(not builtin.DEBIAN_FASHION_MNIST.is_dir(), reason="package dataset-fashion-mnist is not installed")
def test_fashion_mnist_real(tmp_path):
    sets = load_dataset("fashion_mnist", root=tmp_path)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [54000, 6000, 10000]
    assert torch.bincount(sets.val.labels).tolist() == [600] * 10
    mean, std = normalization(sets.train_val())
    assert abs(mean.item() - 0.2860) < 1e-4 and abs(std.item() - 0.3530) < 1e-4  # the values in common use


# ---------------------------------------------------------------- CIFAR

@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """torchvision's CIFAR-10 with an archive of 60 + 20 images; returns the archive."""
    folder = tmp_path / "made" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5((folder / name).read_bytes()).hexdigest()]

    def batch(n):
        return {"data": random.randint(0, 256, (n, 3072)).astype(np.uint8), "labels": [i % 10 for i in range(n)]}

    monkeypatch.setattr(tv.CIFAR10, "train_list", [write("data_batch_1", batch(60)), write("data_batch_2", batch(40))])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [write("test_batch", batch(20))])
    meta = write("batches.meta", {"label_names": [f"class{i}" for i in range(10)]})
    monkeypatch.setattr(tv.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    archive = tmp_path / "made" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    return archive


@pytest.mark.parametrize("name, archive", [("cifar10", "cifar-10-python.tar.gz"),
                                           ("cifar100", "cifar-100-python.tar.gz")])
def test_cifar_offline_says_where_it_looked_and_what_to_do(tmp_path, name, archive):
    with pytest.raises(KitError) as caught:
        load_dataset(name, root=tmp_path / "root")
    for part in (name, str(tmp_path / "root"), archive, "no network in tests", "KIT_DATA", "root="):
        assert part in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


def test_cifar_from_an_archive_in_root_needs_no_network(tmp_path, fake_cifar):
    root = tmp_path / "root"
    root.mkdir()
    (root / fake_cifar.name).write_bytes(fake_cifar.read_bytes())
    sets = load_dataset("cifar10", root=root)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [90, 10, 20]
    assert (sets.channels, sets.size, sets.classes[3], sets.flip) == (3, (32, 32), "class3", True)
    assert torch.bincount(sets.val.labels).tolist() == [1] * 10 and sets.test.index[0] == 100
    original = pickle.loads((fake_cifar.parent / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert np.array_equal(sets.test.images.numpy().reshape(20, -1), original["data"])
    (root / fake_cifar.name).unlink()
    assert same(sets, load_dataset("cifar10", root=root)), "the unpacked files are used the next time"


def test_cifar_half_an_archive_or_a_broken_file_does_not_poison_the_next_start(tmp_path, fake_cifar):
    root = tmp_path / "root"
    root.mkdir()
    (root / fake_cifar.name).write_bytes(fake_cifar.read_bytes()[:1000])
    with pytest.raises(KitError, match="no network in tests"):
        load_dataset("cifar10", root=root)
    (root / fake_cifar.name).write_bytes(fake_cifar.read_bytes())
    load_dataset("cifar10", root=root)
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(b"broken")
    assert len(load_dataset("cifar10", root=root).test) == 20


def test_a_server_that_never_answers_fails_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", URLOPEN)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(builtin, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(tv.CIFAR10, "url", f"http://127.0.0.1:{server.getsockname()[1]}/{tv.CIFAR10.filename}")
        start = time.monotonic()
        with pytest.raises(KitError, match="download failed .*timed out"):
            load_dataset("cifar10", root=tmp_path)
        assert time.monotonic() - start < 5


def test_an_unwritable_root_is_a_kit_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cifar10"):
        load_dataset("cifar10", root=tmp_path / "file")


# ---------------------------------------------------------------- folders

def test_folder_is_split_70_10_20(tmp_path):
    for name in ("cat", "ant", "bee"):
        save_images(tmp_path / "pets" / name, 20)
    (tmp_path / "pets" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not an image")
    sets = load_dataset(tmp_path / "pets")
    assert sets.classes == ("ant", "bee", "cat") and sets.name == "pets" and sets.flip
    for part, count in ((sets.train, 14), (sets.val, 2), (sets.test, 4)):
        assert torch.bincount(part.labels).tolist() == [count] * 3
    assert (sets.channels, sets.size) == (3, (6, 6)) and "70% train, 10% val, 20% test" in sets.split
    # Every file's number is in its pixels: images, labels and index belong together.
    assert torch.equal(sets.train.images[:, 0, 0, 0].long(), sets.train.index % 20)
    assert torch.equal(sets.train.images[:, 2, 5, 5].long(), sets.train.index % 20 * 3)
    assert torch.equal(sets.train.labels, sets.train.index // 20)
    assert same(sets, load_dataset(str(tmp_path / "pets")))


def test_folder_of_three_images_a_class_reaches_every_split(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3)
    sets = load_dataset(tmp_path)
    assert all(torch.bincount(p.labels).tolist() == [1, 1] for p in (sets.train, sets.val, sets.test))


def test_folder_by_a_bare_name(tmp_path, monkeypatch):
    for name in "ab":
        save_images(tmp_path / "pets" / name, 3)
    monkeypatch.chdir(tmp_path)
    assert load_dataset("pets").name == "pets" and load_dataset("./pets").name == "pets"


def test_folder_with_split_folders(tmp_path):
    for name in "ab":
        save_images(tmp_path / "train" / name, 20)
        save_images(tmp_path / "test" / name, 3, start=100)
    sets = load_dataset(tmp_path)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [36, 4, 6]
    assert sets.test.images[:, 0, 0, 0].tolist() == [100, 101, 102] * 2
    for name in "ab":
        save_images(tmp_path / "valid" / name, 1, start=50)
    sets = load_dataset(tmp_path)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [40, 2, 6]
    assert sets.val.images[:, 0, 0, 0].tolist() == [50, 50]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "test"):
        save_images(tmp_path / name, 3)
    assert load_dataset(tmp_path).classes == ("bus", "test", "train")


def test_folder_modes_and_sizes(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3, mode="L", size=(9, 6))
    assert load_dataset(tmp_path).channels == 1
    assert load_dataset(tmp_path).size == (6, 9)
    assert load_dataset(tmp_path, image_size=4).size == (4, 4)
    Image.new("RGB", (9, 6), (1, 2, 3)).save(tmp_path / "a" / "colour.bmp")
    Image.new("L", (9, 6), 77).convert("1").save(tmp_path / "b" / "line.GIF")
    images = read_folder(tmp_path).train[0]
    assert images.shape == (8, 3, 6, 9)
    assert images[3, :, 0, 0].tolist() == [1, 2, 3] and images[1, :, 0, 0].tolist() == [1, 1, 1]
    Image.new("RGB", (12, 12)).save(tmp_path / "b" / "other.webp")
    with pytest.raises(KitError, match=r"a.000.png is 9x6, .*b.other.webp is 12x12: pass image_size="):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, image_size=4).size == (4, 4)


def test_folder_turns_photographs_as_their_exif_says(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3, size=(4, 6))
    photo = Image.new("RGB", (6, 4))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a" / "photo.jpg", exif=exif)
    assert load_dataset(tmp_path).size == (6, 4)


def _empty(path): path.mkdir()
def _labels(path): path.mkdir(), (path / "labels.csv").write_text("a,b")
def _loose(path): save_images(path, 3)
def _loose_too(path): save_images(path / "a", 3), save_images(path / "b", 3), save_images(path, 1)
def _no_images(path): save_images(path / "a", 3), (path / "b").mkdir()
def _one_class(path): save_images(path / "a", 3)
def _too_few(path): save_images(path / "a", 3), save_images(path / "b", 2)
def _no_test(path): save_images(path / "train" / "a", 3), save_images(path / "val" / "a", 3)
def _stray(path): save_images(path / "train" / "a", 3), save_images(path / "test" / "a", 3), (path / "dev").mkdir()
def _differ(path): [save_images(path / name, 3) for name in ("train/a", "train/b", "test/a", "test/c")]
def _lacks(path): [save_images(path / name, 3) for name in ("train/a", "train/b", "test/a")]
def _few_train(path): [save_images(path / name, 1) for name in ("train/a", "train/b", "test/a", "test/b")]


@pytest.mark.parametrize("make, message", [
    (_empty, "pets is empty: expected FOLDER/CLASS/IMAGE"),
    (_labels, "labels without images: .*labels.csv"),
    (_loose, "images without class folders: .*000.png and 2 more .*move each into a folder"),
    (_loose_too, "images without class folders: .*pets.000.png"),
    (_no_images, "class folder .*b has no images .*add some or remove"),
    (_one_class, "only one class, 'a'"),
    (_too_few, "class 'b' has 2 image.*b.000.png: at least 3 are needed"),
    (_no_test, "no test/: add test/"),
    (_stray, "dev: beside train/"),
    (_differ, "'b' is in train/ but not in test/"),
    (_lacks, "'b' is in train/ but not in test/"),
    (_few_train, "class 'a' has 1 image.* at least 2 are needed"),
])
def test_folder_errors(tmp_path, make, message):
    make(tmp_path / "pets")
    with pytest.raises(KitError, match=message):
        load_dataset(tmp_path / "pets")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(KitError, match="pets.zip is a file, not a folder: unpack it"):
        load_dataset(tmp_path / "pets.zip")


def test_unreadable_images_are_named_with_the_reason(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 4)
    whole = (tmp_path / "a" / "001.png").read_bytes()
    (tmp_path / "a" / "001.png").write_bytes(whole[:50])
    (tmp_path / "b" / "broken.jpg").write_text("not an image")
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(tmp_path / "b" / "deep.png")
    with pytest.raises(KitError) as caught:
        load_dataset(tmp_path)
    for part in ("3 unreadable", "a/001.png (", "b/broken.jpg (Unidentified", "b/deep.png (mode I;16", "replace or"):
        assert part in str(caught.value)
    for i in range(5):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"")
    with pytest.raises(KitError, match="8 unreadable .*; and 3 more"):
        load_dataset(tmp_path)


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
