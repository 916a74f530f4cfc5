"""The data sets that kit knows by name: how each is read; what else is known about it stands in named.csv.

torchvision fetches and checks what it has, and unpickles CIFAR's files after comparing their checksums; nothing else is
ever unpickled. No archive writes outside its folder, and none whose checksum is not known expands beyond KIT_MAX_GB."""

import csv
import gzip
import importlib.util
import os
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch

from kit import files
from kit.data.image import whole
from kit.data.load import Part, Source, class_folders, folders, register
from kit.data.sets import stratified_split

Read = tuple[Any, dict[str, Part]]  # the names of the classes, and the published parts by name
# rarfile: of the extra `data`
OPENS = {".zip": zipfile.ZipFile, ".rar": lambda path: importlib.import_module("rarfile").RarFile(path)}
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
EVENTS = "http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar"
INDOOR = "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
BENCHMARK = "https://raw.githubusercontent.com/antoyang/NAS-Benchmark/c2758da73192d408aad458768f26d3537dd78c40/data"
TWO = {"train": "train", "test": "test"}


def known(name: str, size: str, val: str, title: str, split: str, bring: str) -> None:
    """Register a set of READERS, by its row of the table. val: the share of the training images to hold out."""

    def load(root: Path, image_size: int | None = None) -> Source:
        classes, parts = READERS[name](root)
        return Source(tuple(classes), **parts, val_fraction=float(Fraction(val)), split=split or None)

    title = "; ".join(filter(None, (title, split)))
    register(name, load, title=title, size=int(size) if size else None, bring=bring)


def digits(root: Path, image_size: int | None = None) -> Source:
    """From the table in scikit-learn's folder: importing scikit-learn takes longer than a run's whole start."""
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = torch.from_numpy(np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Source(tuple("0123456789"), (images, labels), val_fraction=0.15, test_fraction=0.25)


def tv(name: str) -> Any:  # importing torchvision takes two seconds, which runs on other images do without
    return getattr(importlib.import_module("torchvision.datasets"), name)


def torchvision(make: Callable[..., Any] | str, parts: dict[str, Any], root: Path, **options: Any) -> Read:
    """A set of torchvision's, in memory or as files. make: its class or a function; parts: as it calls them."""
    make = tv(make) if isinstance(make, str) else make
    data = {name: make(root, theirs, **options) for name, theirs in parts.items()}
    return data["train"].classes, {name: _part(part) for name, part in data.items()}


def _part(data: Any) -> Part:
    if not hasattr(data, "data"):
        return [data[i] for i in range(len(data))]
    images = torch.as_tensor(data.data)
    images = images.permute(0, 3, 1, 2).contiguous() if images.ndim == 4 else images[:, None]
    return images, torch.as_tensor(data.targets)


def fashion_mnist(root: Path, training: bool) -> Any:
    raw = root / "FashionMNIST" / "raw"
    if DEBIAN_FASHION_MNIST.is_dir() and not raw.is_dir():
        raw.mkdir(parents=True)
        for file in DEBIAN_FASHION_MNIST.glob("*.gz"):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return tv("FashionMNIST")(root, training, download=True)


def places365(root: Path, part: str) -> Any:
    data = tv("Places365")(root / "places365", part, small=True, download=True, loader=Path)
    data.classes = [name[3:] for name in sorted(data.class_to_idx, key=data.class_to_idx.get)]  # /a/airfield
    return data


def elpv(classes: tuple[str, ...], root: Path) -> Read:
    """Classes by the published defect probabilities: 0 and 1 where the experts were sure, else 1/3 or 2/3. The paper's
    own test set is not published, nor a cell's module, of which there are 44: one's cells may be in both parts."""
    package, folder = importlib.util.find_spec("elpv_dataset"), root / "elpv"
    if package is not None and not folder.is_dir():
        folder = Path(package.origin).parent / "data"
    lines = _text(folder / "labels.csv").splitlines()
    cells = [(name, round(3 * float(probability)), kind) for name, probability, kind in map(str.split, lines)]
    files = [(folder / name, third * len(classes) // 4) for name, third, _ in cells]
    strata = torch.tensor([2 * third + (kind == "poly") for _, third, kind in cells])
    parts = zip(("train", "test"), stratified_split(strata, 0.25))
    return classes, {part: [files[i] for i in rows.tolist()] for part, rows in parts}


def imagenet(root: Path) -> Read:
    (classes, train), (_, val) = (class_folders(root / "imagenet" / part) for part in ("train", "val"))
    return classes, {"train": train, "test": val}


def sport8(root: Path) -> dict[str, Path]:
    return folders(_unpacked(EVENTS, root / "sport8" / "event_img"))


def mit67(root: Path) -> dict[str, Path]:
    return folders(_unpacked(INDOOR, root / "mit67" / "Images"))


def flowers(root: Path) -> dict[str, Path]:
    names = (f"flower_{i}" for i, _ in enumerate(tv("Flowers102")(root, download=True).classes, 1))
    return dict.fromkeys(names, root / "flowers-102" / "jpg")


def sun397(root: Path) -> Read:
    """By lists of /a/abbey/sun_abc.jpg, of class abbey."""
    tv("SUN397")(root, download=True)
    lists = _unpacked(SUN_PARTITIONS, root / "Partitions")
    train, test = (_text(lists / f"{part}_01.txt").split() for part in ("Training", "Testing"))
    classes = sorted(set(map(os.path.dirname, train)))
    found = lambda name: (root / "SUN397" / name[1:], classes.index(os.path.dirname(name)))
    return [kind[3:] for kind in classes], {"train": list(map(found, train)), "test": list(map(found, test))}


def benchmark(home: str, lists: str, of: Callable[[Path], dict[str, Path]], root: Path) -> Read:
    """By NAS-Benchmark's lists, which below a header have a row for each class: its name (in some lists after a row
    number) and its files. of(root): where the images of each class lie, by these names."""
    found, parts = of(root), {"train": [], "test": []}
    label = {name: i for i, name in enumerate(found)}
    for name in lists.split():
        part = parts["test" if name.endswith("test") else "train"]
        rows = _text(_fetch(f"{BENCHMARK}/{name}.csv", root / home)).splitlines()[1:]
        for row in filter(None, csv.reader(rows)):
            kind, *files = row[1:] if row[0].isdigit() else row
            part += [(found[kind] / file, label[kind]) for file in files if file]
    return (tv("Flowers102").classes if "flower_1" in found else found), parts


def _fetch(url: str, folder: Path) -> Path:
    return Path(pooch.retrieve(url, None, url.rpartition("/")[2], folder, progressbar=True))


def _text(path: Path) -> str:
    return files.read(path.resolve()).decode()


def _unpacked(url: str, target: Path) -> Path:
    """`target`: the archive's folder of that name, or all of the archive. Raises KitError beyond KIT_MAX_GB."""
    if not target.is_dir():
        archive = _fetch(url, target.parent)
        with OPENS.get(archive.suffix, tarfile.open)(archive) as packed, whole(target) as folder:
            tar = isinstance(packed, tarfile.TarFile)
            files.check_size(sum(m.size for m in packed) if tar else sum(m.file_size for m in packed.infolist()))
            packed.extractall(folder, **({"filter": "data"} if tar else {}))
    return target


IN_TWO = {"train": True, "test": False}
READERS: dict[str, Callable[[Path], Read]] = {
    "fashion_mnist": partial(torchvision, fashion_mnist, IN_TWO),
    "cifar10": partial(torchvision, "CIFAR10", IN_TWO, download=True),
    "cifar100": partial(torchvision, "CIFAR100", IN_TWO, download=True),
    "elpv": partial(elpv, ("functional", "defective")),
    "elpv4": partial(elpv, ("functional", "possibly defective", "likely defective", "defective")),
    "sport8": partial(benchmark, "sport8", "Sport8_train Sport8_test", sport8),
    "mit67": partial(benchmark, "mit67", "MIT67_train1 MIT67_train2 MIT67_train3 MIT67_train4 MIT67_test", mit67),
    "flowers102": partial(torchvision, "Flowers102", TWO | {"val": "val"}, download=True, loader=Path),
    "flowers102_nas": partial(benchmark, "flowers-102", "flowers102_train1 flowers102_train2 flowers102_test", flowers),
    "stanford_cars": partial(torchvision, "StanfordCars", TWO, loader=Path),
    "sun397": sun397,
    "places365": partial(torchvision, places365, {"train": "train-standard", "test": "val"}),
    "imagenet": imagenet,
}

register("digits", digits, title="1,797 handwritten digits, 8x8 grey, CC BY 4.0, scikit-learn", flip=False)
with Path(__file__).with_name("named.csv").open(encoding="utf-8", newline="") as table:
    for row in csv.DictReader(table):
        known(**row)
