"""The data sets that kit knows by name. Each is a loader of (root, image_size) and a call of `register`."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import importlib.util
import os
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets as tv
from torchvision.datasets.utils import check_integrity, extract_archive

from kit.data.registry import register
from kit.data.source import Labelled, Source
from kit.errors import KitError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist; read only
TIMEOUT = 10.0  # seconds without an answer after which a download has failed

_DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
_IDX_MAGIC = {1: 0x0801, 3: 0x0803}  # unsigned bytes in 1 or 3 dimensions


def digits(root: Path, image_size: int | None = None) -> Source:
    """1,797 handwritten digits, 1x8x8, that come with scikit-learn (from the UCI Optical Recognition test set)."""
    pixels, target = _digits_of_sklearn()
    images = torch.from_numpy(np.rint(pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(target.astype(np.int64))
    return Source(tuple("0123456789"), (images, labels), val_fraction=0.15, test_fraction=0.25)


def _digits_of_sklearn() -> tuple[np.ndarray, np.ndarray]:
    """Grey values 0..16 [N, 64] and labels [N]. The table is read where the package lies: importing scikit-learn takes longer than a
    run's whole start, and every run of a sweep would pay it."""
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise KitError("dataset 'digits' comes with scikit-learn: pip install scikit-learn")
    table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        values = np.loadtxt(table, delimiter=",")
        return values[:, :-1], values[:, -1]
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def fashion_mnist(root: Path, image_size: int | None = None) -> Source:
    """Fashion-MNIST (Xiao et al. 2017), 60,000 + 10,000 grey 28x28 images: from root, from Debian's package, else
    downloaded by torchvision."""
    raw, failures = root / "FashionMNIST" / "raw", []
    for folder in (raw, DEBIAN_FASHION_MNIST):
        try:
            return _read_fashion_mnist(folder)
        # Unusable files (a foreign download that broke off) count as absent: the next place is tried.
        except (OSError, EOFError, zlib.error, ValueError) as error:
            failures.append(f"{folder} ({_reason(error)})")
    mend = (f"put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
            f"(or their .gz) into {raw}, or set root= or KIT_DATA to a folder that has FashionMNIST/raw/, "
            "or apt install dataset-fashion-mnist")
    _download("fashion_mnist", root, "FashionMNIST", failures, mend,
              lambda staging: tv.FashionMNIST(staging, download=True))
    return _read_fashion_mnist(raw)


def cifar10(root: Path, image_size: int | None = None) -> Source:
    """CIFAR-10 (Krizhevsky 2009), 50,000 + 10,000 RGB 32x32 images, by torchvision."""
    return _cifar("cifar10", tv.CIFAR10, root)


def cifar100(root: Path, image_size: int | None = None) -> Source:
    """CIFAR-100 (Krizhevsky 2009), 50,000 + 10,000 RGB 32x32 images of 100 fine classes, by torchvision."""
    return _cifar("cifar100", tv.CIFAR100, root)


def _cifar(name: str, dataset: type[tv.CIFAR10], root: Path) -> Source:
    try:
        return _read_cifar(dataset, root)
    except (RuntimeError, OSError) as error:  # torchvision compares checksums, so a half-written file is refused too
        failures = [f"{root / dataset.base_folder} ({_reason(error)})"]
    archive = root / dataset.filename
    mend = (f"put {dataset.filename} (or {dataset.base_folder}/ unpacked) into {root}, "
            f"or set root= or KIT_DATA to a folder that has it")

    def fetch(staging: Path) -> None:
        if check_integrity(archive, dataset.tgz_md5):
            extract_archive(archive, staging)
        dataset(staging, download=True)

    _download(name, root, dataset.base_folder, failures, mend, fetch)
    return _read_cifar(dataset, root)


def _read_cifar(dataset: type[tv.CIFAR10], root: Path) -> Source:
    train, test = dataset(root, train=True), dataset(root, train=False)

    def part(data: tv.CIFAR10) -> Labelled:
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)

    return Source(tuple(train.classes), part(train), test=part(test))


def _read_fashion_mnist(folder: Path) -> Source:
    def part(name: str) -> Labelled:
        images = _read_idx(folder / f"{name}-images-idx3-ubyte", 3)[:, None]
        return images, _read_idx(folder / f"{name}-labels-idx1-ubyte", 1).long()

    return Source(tuple(tv.FashionMNIST.classes), part("train"), test=part("t10k"))


def _read_idx(file: Path, dimensions: int) -> Tensor:
    """uint8 tensor from an idx file, or from the .gz beside it. ValueError if it is cut short or something else."""
    if file.is_file():
        content = file.read_bytes()
    else:
        with gzip.open(file.with_name(file.name + ".gz")) as packed:
            content = packed.read()
    header = np.frombuffer(content[:4 * (1 + dimensions)], ">i4")
    body = np.frombuffer(content, np.uint8, offset=min(len(content), 4 * (1 + dimensions)))
    if len(header) != 1 + dimensions or header[0] != _IDX_MAGIC[dimensions] or header[1:].prod() != len(body):
        raise ValueError(f"{file.name} is incomplete or not an idx file")
    return torch.from_numpy(body.reshape(header[1:]).copy())


def _download(name: str, root: Path, folder: str, failures: list[str], mend: str,
              fetch: Callable[[Path], object]) -> None:
    """Let `fetch` fill a staging folder under root, then move its `folder` into root file by file.

    Each file appears whole or not at all, whenever the process is stopped and however many start at once.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging, _short_timeout():
            fetch(Path(staging))
            for file in (Path(staging) / folder).rglob("*"):
                if file.is_file():
                    target = root / file.relative_to(staging)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)
    except _DOWNLOAD_ERRORS as error:
        raise KitError(f"dataset {name!r} was not found in {' or '.join(failures)}, and the download failed "
                       f"({_reason(error)}): {mend}") from error


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    # torchvision opens its connections without a timeout: behind a firewall that drops packets it would hang.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


register("digits", digits, flip=False, description="1,797 handwritten digits, 1x8x8, 10 classes (scikit-learn)")
register("fashion_mnist", fashion_mnist, description="70,000 pieces of clothing, 1x28x28, 10 classes")
register("cifar10", cifar10, description="60,000 photographs, 3x32x32, 10 classes")
register("cifar100", cifar100, description="60,000 photographs, 3x32x32, 100 classes")
