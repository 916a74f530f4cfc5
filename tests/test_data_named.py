"""Every named set from what its publisher offers to images with labels, without a network."""

import gc
import gzip
import hashlib
import importlib.util
import json
import pickle
import stat
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tests_data import parts, same, save_images, sizes
from tests_layouts import FETCHED, Maker, make_mat, make_tar, mit67, sport8, struct_array, sun397
from tests_rar import write_rar
from tests_server import server  # noqa: F401
from torchvision import datasets as tv

import kit
from kit.data import DATASETS, load_dataset, named, normalization
from kit.errors import KitError

# urllib leaves the socket of an answer that failed to the collector, which comes when it likes
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
SIZE = 8


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """… and not in another file's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The checksums that torchvision has are those of the real archives."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *args: True)


def check(sets, published, split=None):
    """Sizes, classes, the split's sentence, and that each image has the label of the class it shows."""
    assert (sets.classes, sets.name, sets.size) == (published.classes, published.name, (SIZE, SIZE))
    assert (len(sets.train) + len(sets.val), len(sets.test)) == published.sizes and published.split in sets.split
    for part in parts(sets):
        numbers = part.images[:, 0, 0, 0].tolist()
        assert [sets.classes[label] for label in part.labels.tolist()] == [published.label[n] for n in numbers]
        assert part.images[:, 2, 0, 0].tolist() == [255 - number for number in numbers]


# ---- photographs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FETCHED)
def test_fetched_unpacked_and_read_once(tmp_path, server, monkeypatch, make):  # noqa: F811
    published, root = make(monkeypatch, tmp_path), tmp_path / "root"
    server.offer(published.files)
    sets = load_dataset(published.name, root, SIZE)
    check(sets, published)
    assert set(server.asked) == set(published.files) and not list(root.rglob("*.new"))
    server.asked.clear()
    assert same(sets, load_dataset(published.name, root, SIZE)) and not server.asked


@pytest.mark.parametrize("make", FETCHED)
def test_archives_that_were_brought_need_no_network_and_without_both_it_says_what_to_bring(
    tmp_path,
    server,  # noqa: F811
    monkeypatch,
    make,
):
    published, root = make(monkeypatch, tmp_path), tmp_path / "root"
    with pytest.raises(KitError) as caught:
        load_dataset(published.name, root, SIZE)
    bring = [name for name in published.files if not name.endswith(("csv", "txt", ".mat"))]
    for text in (f"dataset {published.name!r} is not", str(root), "404", "KIT_DATA", *bring):
        assert text in str(caught.value)
    (root / published.where).mkdir(exist_ok=True)
    for name, content in published.files.items():
        (root / published.where / name).write_bytes(content)
    check(load_dataset(published.name, root, SIZE), published)


def test_photographs_have_a_size_of_their_own_and_what_is_lost_is_noticed(tmp_path, server, monkeypatch):  # noqa: F811
    published, root = mit67(monkeypatch, tmp_path), tmp_path / "root"
    server.offer(published.files)
    assert load_dataset("mit67", root).size == (224, 224)
    (root / "mit67" / "Images" / "bar" / "shopping mall 3.jpg").unlink()
    with pytest.raises(KitError, match="1 of 28 images are unreadable: .*bar.shopping mall 3.jpg .FileNotFoundError"):
        load_dataset("mit67", root, SIZE)


@pytest.mark.parametrize(
    "archive", [make_tar({"Images/bar/a.jpg": b"1", "../../evil.jpg": b"2"}), b"<html>log in", b""]
)
def test_an_archive_that_leads_out_or_is_none_leaves_nothing(tmp_path, server, monkeypatch, archive):  # noqa: F811
    published, root = mit67(monkeypatch, tmp_path), tmp_path / "root"
    server.offer(published.files | {"indoorCVPR_09.tar": archive})
    with pytest.raises(KitError, match="'mit67' is not in .*(OutsideDestinationError|ReadError)"):
        load_dataset("mit67", root, SIZE)
    assert not list(tmp_path.rglob("evil.jpg")) and not list((root / "mit67").glob("*Images*"))


@pytest.mark.parametrize("make", [mit67, sport8, sun397])  # a tar, a rar and a zip file
def test_an_archive_that_expands_beyond_the_limit_is_not_unpacked(tmp_path, server, monkeypatch, make):  # noqa: F811
    published, root = make(monkeypatch, tmp_path), tmp_path / "root"
    server.offer(published.files)
    monkeypatch.setenv("KIT_MAX_GB", "1e-7")
    with pytest.raises(KitError, match=r"it has [\d,]+ bytes, or expands to them: KIT_MAX_GB=… allows more"):
        load_dataset(published.name, root, SIZE)
    there = {path.name for path in root.rglob("*") if path.is_dir()}
    assert not there & {"Images", "event_img", "Partitions"} and not list(root.rglob("*.new"))


@pytest.mark.parametrize("names", [{"../../evil.jpg": b"2"}, {"event_img/way": b"/tmp"}])
def test_a_rar_that_leads_out_writes_nothing_there(tmp_path, server, monkeypatch, names):  # noqa: F811
    root = tmp_path / "root"
    modes = {"event_img/way": stat.S_IFLNK | 0o777}
    rar = write_rar(tmp_path / "made.rar", {"event_img/polo/a.jpg": b"1", **names}, modes)
    server.offer({"event_dataset.rar": rar.read_bytes()})
    with pytest.raises(KitError):
        load_dataset("sport8", root, SIZE)
    assert not [file for file in tmp_path.rglob("evil.jpg") if root / "sport8" / "event_img" not in file.parents]


def cars(root):
    maker, notes, folder = Maker(), {}, root / "stanford_cars"
    names = ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012")
    for part, n in (("train", 12), ("test", 4)):
        rows = [{"bbox_x1": 1, "class": 1 + i % 2, "fname": f"{i + 1:05d}.jpg"} for i in range(n)]
        (folder / f"cars_{part}").mkdir(parents=True)
        for row in rows:
            (folder / f"cars_{part}" / row["fname"]).write_bytes(maker.image(names[row["class"] - 1]))
        notes[part] = make_mat(annotations=struct_array(rows))
    (folder / "devkit").mkdir()
    (folder / "devkit" / "cars_meta.mat").write_bytes(make_mat(class_names=np.array([names], object)))
    (folder / "devkit" / "cars_train_annos.mat").write_bytes(notes["train"])
    (folder / "cars_test_annos_withlabels.mat").write_bytes(notes["test"])
    return names, maker.label


def test_stanford_cars(tmp_path, monkeypatch):
    with pytest.raises(KitError, match="its authors' addresses are dead: get the images elsewhere"):
        load_dataset("stanford_cars", tmp_path, SIZE)
    names, label = cars(tmp_path)
    sets = load_dataset("stanford_cars", tmp_path, SIZE)
    assert sets.classes == names and sizes(sets) == [10, 2, 4] and "of Krause et al. (2013); val is" in sets.split
    shown = [label[number] for number in sets.test.images[:, 0, 0, 0].tolist()]
    assert [names[label] for label in sets.test.labels.tolist()] == shown


def test_imagenet(tmp_path):
    with pytest.raises(KitError, match="fetch it from image-net.org"):
        load_dataset("imagenet", tmp_path, SIZE)
    folder, content = tmp_path / "imagenet", Maker().image("")
    for c in range(60):
        wordnet = f"n{c:08d}"
        for name in (f"train/{wordnet}/{wordnet}_{i}.JPEG" for i in range(2)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        target = folder / "val" / wordnet / f"ILSVRC2012_val_{c + 1:08d}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    found = DATASETS["imagenet"].make(tmp_path)
    assert (len(found.classes), len(found.train), len(found.test)) == (60, 120, 60)
    assert [(file.parent.name, label) for file, label in found.test] == list(zip(found.classes, range(60)))


# ---- small images --------------------------------------------------------------------------------


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """torchvision's CIFAR-10 with an archive of 100 + 20 images; returns the archive."""
    monkeypatch.undo()  # its checksums are compared
    folder = tmp_path / "made" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(n):
        return {"data": random.randint(0, 256, (n, 3072)).astype(np.uint8), "labels": [i % 10 for i in range(n)]}

    monkeypatch.setattr(tv.CIFAR10, "train_list", [write("data_batch_1", batch(60)), write("data_batch_2", batch(40))])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [write("test_batch", batch(20))])
    meta = write("batches.meta", {"label_names": [f"class{i}" for i in range(10)]})
    monkeypatch.setattr(tv.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    archive = tmp_path / "made" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def test_cifar_is_fetched_checked_and_unpacked_once(tmp_path, fake_cifar, server):  # noqa: F811
    root, archive = tmp_path / "root", fake_cifar.read_bytes()
    with pytest.raises(KitError, match="cifar10.*404.*put cifar-10-python.tar.gz into .*root.*KIT_DATA"):
        load_dataset("cifar10", root)
    server.offer({fake_cifar.name: archive[:-1000] + archive[:1000]})
    with pytest.raises(KitError, match="RuntimeError: File not found or corrupted"):
        load_dataset("cifar10", root)
    server.offer({fake_cifar.name: archive})
    server.asked.clear()
    with ThreadPoolExecutor(3) as pool:
        sets, *others = pool.map(lambda _: load_dataset("cifar10", root), range(3))
    assert set(server.asked) == {fake_cifar.name} and all(same(sets, other) for other in others)
    assert sizes(sets) == [90, 10, 20] and (sets.size, sets.classes[3], sets.flip) == ((32, 32), "class3", True)
    original = pickle.loads((fake_cifar.parent / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert np.array_equal(sets.test.images.numpy().reshape(20, -1), original["data"])
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(b"broken")
    assert same(sets, load_dataset("cifar10", root)), "unpacked again"


def test_fashion_mnist_from_its_publisher_and_from_debian(tmp_path, server, monkeypatch):  # noqa: F811
    files = {}
    for name, n in (("train", 200), ("t10k", 30)):
        images = np.arange(n * 784, dtype=np.int64).astype(np.uint8).reshape(n, 28, 28)
        for kind, array in (("images-idx3", images), ("labels-idx1", (np.arange(n) % 10).astype(np.uint8))):
            content = np.array([0x800 + array.ndim, *array.shape], ">i4").tobytes() + array.tobytes()
            files[f"{name}-{kind}-ubyte.gz"] = gzip.compress(content)
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "published")
    server.offer(files)
    packaged = load_dataset("fashion_mnist", tmp_path / "root")
    assert sizes(packaged) == [180, 20, 30] and not server.asked
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    assert same(packaged, load_dataset("fashion_mnist", tmp_path / "other")) and set(server.asked) == set(files)
    assert torch.equal(packaged.test.images[:, 0, 0, 1], (torch.arange(30) * 784 + 1).to(torch.uint8))
    assert packaged.test.labels.tolist() == [row % 10 for row in range(30)]


@pytest.mark.skipif(not named.DEBIAN_FASHION_MNIST.is_dir(), reason="package dataset-fashion-mnist is not installed")
def test_fashion_mnist_real(tmp_path):
    sets = load_dataset("fashion_mnist", tmp_path)
    mean, std = normalization(sets.train_val())
    assert abs(mean.item() - 0.2860) < 1e-4 and abs(std.item() - 0.3530) < 1e-4  # the values in common use
    assert sizes(sets) == [54000, 6000, 10000] and torch.bincount(sets.val.labels).tolist() == [600] * 10
    digests = [hashlib.sha256(part.images.numpy().tobytes()).hexdigest()[:8] for part in parts(sets)]
    assert digests == ["08c5bbfb", "f0edf6d2", "c867c93f"], "results of earlier runs are on this split"


def test_elpv_in_two_and_four_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install elpv-dataset .91 MB."):
        load_dataset("elpv", tmp_path)
    folder = tmp_path / "elpv"
    save_images(folder / "images", 48, mode="L")
    kinds = [(p, kind) for p in ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0") for kind in ("mono", "poly")]
    rows = [f"images/{i:03}.png  {kinds[i % 8][0]}  {kinds[i % 8][1]}\n" for i in range(48)]
    (folder / "labels.csv").write_text("".join(rows))
    two, four = load_dataset("elpv", tmp_path), load_dataset("elpv4", tmp_path)
    assert two.classes == ("functional", "defective") and len(four.classes) == 4 and two.channels == 1
    for sets, of in ((two, lambda number: number % 8 >= 4), (four, lambda number: number % 8 // 2)):
        for part in parts(sets):
            assert part.labels.tolist() == [of(number) for number in part.images[:, 0, 0, 0].tolist()]
        stratum = np.bincount([number % 8 for number in sets.test.images[:, 0, 0, 0].tolist()])
        assert stratum.tolist() == [2, 1] * 4, "of each probability and kind of module a quarter of six"
    assert torch.equal(two.test.images, four.test.images) and "a quarter for test, stratified by" in two.split


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="package elpv-dataset is not installed")
def test_elpv_real(tmp_path):
    two, four = (DATASETS[name].make(tmp_path) for name in ("elpv", "elpv4"))
    assert (len(two.train), len(two.test)) == (1968, 656), "the sizes of the paper's split"
    labels = [[label for part in source.parts.values() for _, label in part] for source in (two, four)]
    assert sum(labels[0]) == 821 and np.bincount(labels[1]).tolist() == [1508, 295, 106, 715]
    assert [file for file, _ in four.test] == [file for file, _ in two.test]
    digest = hashlib.sha256(json.dumps([[file.name, label] for file, label in two.test]).encode()).hexdigest()
    assert digest.startswith("53d5b22d589e8622"), "results of earlier runs are on this split"


# ---- what is known about them --------------------------------------------------------------------


def test_every_set_is_described():
    known = "digits fashion_mnist cifar10 cifar100 elpv elpv4 sport8 mit67 flowers102 flowers102_nas stanford_cars"
    known = [*known.split(), "sun397", "places365", "imagenet"]
    assert set(known) <= set(kit.datasets())
    assert all("{root}" in DATASETS[name].settings["bring"] for name in known[1:])
    assert DATASETS["digits"].title.startswith("1,797 handwritten digits")
    assert "CC BY-NC-SA 4.0" in DATASETS["elpv"].title
