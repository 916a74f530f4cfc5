"""Sets of small images, or that a package brings: digits, Fashion-MNIST, CIFAR, SVHN, ELPV. Each loader takes (root,
image_size).
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets as tv

from kit.data.layouts import expect, images_in, read_mat
from kit.data.obtain import Absent, Remote, obtain
from kit.data.source import SPLIT_SEED, Files, Labelled, Source, stratified_split
from kit.errors import KitError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist; read only
DEFECTIVE = 0.5  # ELPV: cells of at least this defect probability; the published ones are 0, 1/3, 2/3 and 1

_IDX_MAGIC = {1: 0x0801, 3: 0x0803}  # unsigned bytes in 1 or 3 dimensions


def digits(root: Path, image_size: int | None = None) -> Source:
    """1,797 handwritten digits, 1x8x8, that come with scikit-learn (from the UCI Optical Recognition test set)."""
    pixels, target = _digits_of_sklearn()
    images = torch.from_numpy(np.rint(pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(target.astype(np.int64))
    return Source(tuple("0123456789"), (images, labels), val_fraction=0.15, test_fraction=0.25)


def _digits_of_sklearn() -> tuple[np.ndarray, np.ndarray]:
    """Grey values 0..16 [N, 64] and labels [N]. The table is read where the package lies: importing scikit-learn takes
    longer than a
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
    downloaded.
    """
    raw = root / "FashionMNIST" / "raw"

    def read() -> Source:
        failures = []
        for folder in (raw, DEBIAN_FASHION_MNIST):
            try:
                return _read_fashion_mnist(folder)
            # Unusable files (a foreign download that broke off) count as absent: the next place is tried.
            except (OSError, EOFError, zlib.error, ValueError) as error:
                failures.append(_reason(error))
        raise Absent("; ".join(failures))

    remotes = [
        Remote(file, tv.FashionMNIST.mirrors[0] + file, md5, unpack=False, into="FashionMNIST/raw")
        for file, md5 in tv.FashionMNIST.resources
    ]
    mend = (
        f"put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
        f"(or their .gz) into {raw}, or set root= or KIT_DATA to a folder that has FashionMNIST/raw/, "
        "or apt install dataset-fashion-mnist"
    )
    return obtain("fashion_mnist", root, read, remotes, [str(raw), str(DEBIAN_FASHION_MNIST)], mend)


def cifar10(root: Path, image_size: int | None = None) -> Source:
    """CIFAR-10 (Krizhevsky 2009), 50,000 + 10,000 RGB 32x32 images."""
    return _cifar("cifar10", tv.CIFAR10, root)


def cifar100(root: Path, image_size: int | None = None) -> Source:
    """CIFAR-100 (Krizhevsky 2009), 50,000 + 10,000 RGB 32x32 images of 100 fine classes."""
    return _cifar("cifar100", tv.CIFAR100, root)


def svhn(root: Path, image_size: int | None = None) -> Source:
    """SVHN (Netzer et al. 2011), 73,257 + 26,032 RGB 32x32 images of cropped house-number digits; the extra images are
    not used.
    """
    files = {part: tv.SVHN.split_list[part] for part in ("train", "test")}
    remotes = [Remote(file, url, md5, unpack=False, into="svhn") for url, file, md5 in files.values()]

    def read() -> Source:
        parts = {}
        for part, (_, file, _) in files.items():
            place = next((folder / file for folder in (root / "svhn", root) if (folder / file).is_file()), None)
            if place is None:
                raise Absent(f"no {file}")
            parts[part] = _read_svhn(place)
        expect("svhn", {part: len(labels) for part, (_, labels) in parts.items()})
        return Source(tuple("0123456789"), parts["train"], test=parts["test"])

    mend = f"put train_32x32.mat and test_32x32.mat into {root / 'svhn'}, or set root= or KIT_DATA to a folder that has svhn/"
    return obtain("svhn", root, read, remotes, [str(root / "svhn"), str(root)], mend)


def elpv(root: Path, image_size: int | None = None) -> Files:
    """ELPV (Deitsch et al. 2019), solar cells in two classes: functional (defect probability 0 or 1/3) and defective
    (2/3 or 1).

    The probabilities come from experts: 0 and 1 where they were sure, 1/3 where they thought a cell functional and 2/3
    where they
    thought it defective without being sure. So the two classes are what the experts thought of each cell.
    """
    return _elpv(root, ("functional", "defective"), lambda probability: int(probability >= DEFECTIVE))


def elpv4(root: Path, image_size: int | None = None) -> Files:
    """ELPV in four classes, one for each published defect probability: 0, 1/3, 2/3, 1."""
    return _elpv(
        root,
        ("functional", "possibly defective", "likely defective", "defective"),
        lambda probability: round(3 * probability),
    )


def _elpv(root: Path, classes: tuple[str, ...], label: Callable[[float], int]) -> Files:
    cells = _elpv_cells(root)
    # Stratified by probability and by module type (mono- or polycrystalline), a quarter for test as in the paper, whose
    # own draw is
    # not published. Which of the 44 modules a cell is of is not published either: cells of one module may be in
    # training and test.
    groups = torch.tensor([2 * round(3 * probability) + (kind == "poly") for _, probability, kind in cells])
    kept, test = stratified_split(groups, 0.25)
    parts = [[(cells[i][0], label(cells[i][1])) for i in part.tolist()] for part in (kept, test)]
    return Files(
        classes,
        parts[0],
        test=parts[1],
        val_fraction=0.1 / 0.75,
        split=f"the source has no split: a quarter for test, stratified by defect probability and cell type (split seed {SPLIT_SEED})",
    )


def _elpv_cells(root: Path) -> list[tuple[Path, float, str]]:
    """(image, defect probability, mono or poly) of every cell: from root/elpv, else from where the package elpv-dataset
    lies.
    """
    package = importlib.util.find_spec("elpv_dataset")
    places = [root / "elpv"] + (
        [Path(package.origin).parent / "data"] if package is not None and package.origin else []
    )
    table = next((place / "labels.csv" for place in places if (place / "labels.csv").is_file()), None)
    if table is None:
        raise KitError(
            f"dataset 'elpv' was not found in {root / 'elpv'} and its package is not installed: pip install elpv-dataset (91 MB), "
            f"or put labels.csv and images/ of its repository into {root / 'elpv'}"
        )
    have = {file.name: file for file in images_in(table.parent / "images")}
    rows = [line.split() for line in table.read_text().splitlines() if line.strip()]
    try:
        cells = [(have[Path(path).name], float(probability), kind) for path, probability, kind in rows]
        expect("elpv", {"all": len(cells)})
    except (KeyError, ValueError, Absent) as error:
        raise KitError(
            f"{table} and {table.parent / 'images'} do not fit ({_reason(error)}): "
            "pip install --force-reinstall elpv-dataset, or fetch the folder again"
        ) from error
    return cells


def _cifar(name: str, dataset: type[tv.CIFAR10], root: Path) -> Source:
    def read() -> Source:
        try:
            return _read_cifar(dataset, root)
        except (
            RuntimeError,
            OSError,
        ) as error:  # torchvision compares checksums, so a half-written file is refused too
            raise Absent(_reason(error)) from error

    remotes = [Remote(dataset.filename, dataset.url, dataset.tgz_md5, there=(dataset.base_folder,))]
    mend = (
        f"put {dataset.filename} (or {dataset.base_folder}/ unpacked) into {root}, "
        f"or set root= or KIT_DATA to a folder that has it"
    )
    return obtain(name, root, read, remotes, [str(root / dataset.base_folder)], mend)


def _read_cifar(dataset: type[tv.CIFAR10], root: Path) -> Source:
    train, test = dataset(root, train=True), dataset(root, train=False)

    def part(data: tv.CIFAR10) -> Labelled:
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)

    return Source(tuple(train.classes), part(train), test=part(test))


def _read_svhn(file: Path) -> Labelled:
    content = read_mat(file)
    if not {"X", "y"} <= set(content) or content["X"].dtype != np.uint8 or content["X"].ndim != 4:
        raise Absent(f"{file} holds no images")
    # [H, W, C, N] to [N, C, H, W]; the digit 0 is labelled 10
    images = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)))
    return images, torch.from_numpy(content["y"].astype(np.int64) % 10)


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
    header = np.frombuffer(content[: 4 * (1 + dimensions)], ">i4")
    body = np.frombuffer(content, np.uint8, offset=min(len(content), 4 * (1 + dimensions)))
    if len(header) != 1 + dimensions or header[0] != _IDX_MAGIC[dimensions] or header[1:].prod() != len(body):
        raise ValueError(f"{file.name} is incomplete or not an idx file")
    return torch.from_numpy(body.reshape(header[1:]).copy())


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
