"""Data sets that are downloaded, without a network: archives and servers that the tests make."""

import gzip
import pickle
import socket
import tarfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_data import no_network, same  # noqa: F401
from tests_server import server  # noqa: F401
from torchvision import datasets as tv

from kit.data import builtin, download, load_dataset, normalization, obtain
from kit.errors import KitError

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
    for part in (
        str(tmp_path / "FashionMNIST" / "raw"),
        "no-debian",
        "no network in tests",
        "KIT_DATA",
        "root=",
        "train-images-idx3-ubyte",
        "apt install dataset-fashion-mnist",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "a failed download leaves nothing behind"


def test_fashion_mnist_is_downloaded_and_a_broken_download_goes_on(tmp_path, no_debian, server, monkeypatch):
    write_idx(tmp_path / "made")
    files = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    for name, content in files.items():
        server.add(name, content)
    monkeypatch.setattr(tv.FashionMNIST, "mirrors", [f"{server.address}/"])
    monkeypatch.setattr(
        tv.FashionMNIST, "resources", [(name, md5(content).hexdigest()) for name, content in files.items()]
    )
    first, root = next(iter(files)), tmp_path / "root"
    server.breaks[first] = [100, *[0] * 9]
    with pytest.raises(KitError, match=f"download failed .the connection broke off after 100 of .*{first}"):
        load_dataset("fashion_mnist", root=root)
    assert sorted(item.name for item in (root / ".downloads" / "fashion_mnist").iterdir()) == [
        f"{first}.part",
        f"{first}.part.json",
    ]
    server.breaks.clear()
    server.sent.clear()
    assert len(load_dataset("fashion_mnist", root=root).test) == 30
    assert (
        server.sent[0].range == "bytes=100-"
        and sum(sent.size for sent in server.sent) == sum(map(len, files.values())) - 100
    )
    assert [item.name for item in root.iterdir()] == ["FashionMNIST"]
    server.sent.clear()
    assert len(load_dataset("fashion_mnist", root=root).test) == 30 and not server.sent


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


@pytest.mark.parametrize(
    "name, archive", [("cifar10", "cifar-10-python.tar.gz"), ("cifar100", "cifar-100-python.tar.gz")]
)
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


def test_cifar_is_downloaded_checked_and_unpacked(tmp_path, fake_cifar, server, monkeypatch):
    archive = fake_cifar.read_bytes()
    monkeypatch.setattr(tv.CIFAR10, "url", server.add(fake_cifar.name, archive[:-1000] + archive[:1000]))
    root = tmp_path / "root"
    with pytest.raises(
        KitError, match=f"download failed .http.*{fake_cifar.name} has MD5 .*, expected {tv.CIFAR10.tgz_md5}"
    ):
        load_dataset("cifar10", root=root)
    assert list(root.iterdir()) == [], "what was sent is not kept"
    server.add(fake_cifar.name, archive)
    server.breaks[fake_cifar.name] = [len(archive) // 2]
    server.sent.clear()
    assert len(load_dataset("cifar10", root=root).test) == 20
    assert [sent.size for sent in server.sent] == [len(archive) // 2, len(archive) - len(archive) // 2]
    assert [item.name for item in root.iterdir()] == ["cifar-10-batches-py"], (
        "what kit downloaded is removed once it is unpacked"
    )


def test_a_download_that_is_stopped_while_it_is_unpacked_is_repeated_without_the_network(
    tmp_path, fake_cifar, server, monkeypatch
):
    monkeypatch.setattr(tv.CIFAR10, "url", server.add(fake_cifar.name, fake_cifar.read_bytes()))
    with monkeypatch.context() as patched:
        patched.setattr(obtain, "extract", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_dataset("cifar10", root=tmp_path / "root")
    server.sent.clear()
    assert len(load_dataset("cifar10", root=tmp_path / "root").test) == 20 and not server.sent


def test_two_at_once_fetch_once(tmp_path, fake_cifar, server, monkeypatch):
    monkeypatch.setattr(tv.CIFAR10, "url", server.add(fake_cifar.name, fake_cifar.read_bytes()))
    with ThreadPoolExecutor(3) as pool:
        sets = list(pool.map(lambda _: load_dataset("cifar10", root=tmp_path / "root"), range(3)))
    assert len(server.sent) == 1 and all(same(sets[0], other) for other in sets)
    assert [item.name for item in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]


def test_a_server_that_never_answers_fails_soon(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(tv.CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{tv.CIFAR10.filename}")
        with pytest.raises(KitError, match=f"download failed .*timed out; {download.RETRIES + 1} attempts"):
            load_dataset("cifar10", root=tmp_path)


def test_an_unwritable_root_is_a_kit_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cifar10"):
        load_dataset("cifar10", root=tmp_path / "file")
