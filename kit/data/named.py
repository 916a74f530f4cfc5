"""The data sets that kit knows by name: how each is read, and below in one table what is known about it.

torchvision fetches and checks what it has, and unpickles CIFAR's files after comparing their checksums; nothing else is
ever unpickled. No archive writes outside its folder, and none whose checksum is not known expands beyond KIT_MAX_GB."""

import csv
import gzip
import importlib.util
import os
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch

from kit import files
from kit.data.image import whole
from kit.data.load import Part, Source, class_folders, folders, register
from kit.data.sets import SPLIT_SEED, stratified_split
from kit.errors import KitError

Read = tuple[Any, dict[str, Part]]  # the names of the classes, and the published parts by name
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
EVENTS = "http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar"
INDOOR = "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
BENCHMARK = "https://raw.githubusercontent.com/antoyang/NAS-Benchmark/c2758da73192d408aad458768f26d3537dd78c40/data"
NAS = "the 80:20 lists of NAS-Benchmark (Yang, Esperança and Carlucci 2020)"
AS_VAL = "test is the published validation set (labels of its test set are not published)"
OPEN, RESEARCH = "no licence stated", "non-commercial research by its terms"
TWO = {"train": "train", "test": "test"}


def known(name: str, title: str, read: Callable[..., Read], *how: Any, split="", val=0.1, **about: Any) -> None:
    """Register a set. read(*how, root); val: the share of the training images to hold out; about: as of `register`."""

    def load(root: Path, image_size: int | None = None) -> Source:
        classes, parts = read(*how, root)
        return Source(tuple(classes), **parts, val_fraction=val, split=split or None)

    register(name, load, title="; ".join(filter(None, (title, split))), **about)


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
        with _opened(archive) as packed, whole(target) as folder:
            tar = isinstance(packed, tarfile.TarFile)
            size = sum(member.size for member in packed) if tar else sum(item.file_size for item in packed.infolist())
            if size > files.gigabytes("KIT_MAX_GB"):
                raise KitError(f"{archive} expands to {size:,} bytes: if you trust it, KIT_MAX_GB=… allows more")
            packed.extractall(folder, **({"filter": "data"} if tar else {}))
    return target


def _opened(archive: Path) -> Any:
    if archive.suffix == ".rar":
        import rarfile  # of the extra `data`

        return rarfile.RarFile(archive)
    return (zipfile.ZipFile if archive.suffix == ".zip" else tarfile.open)(archive)


# fmt: off
register("digits", digits, title="1,797 handwritten digits, 8x8 grey, CC BY 4.0, scikit-learn", flip=False)
known("fashion_mnist", "60,000 + 10,000 pieces of clothing, 28x28 grey, MIT, github.com/zalandoresearch/fashion-mnist",
    torchvision, fashion_mnist, {"train": True, "test": False}, bring="apt install dataset-fashion-mnist, or put "
    "train-images-idx3-ubyte.gz and its three neighbours into {root}/FashionMNIST/raw")
for n in (10, 100):
    known(f"cifar{n}", f"50,000 + 10,000 photographs of objects, 32x32, {n} classes, {OPEN}, cs.toronto.edu/~kriz/"
        "cifar.html", partial(torchvision, download=True), f"CIFAR{n}", {"train": True, "test": False},
        bring=f"put cifar-{n}-python.tar.gz into {{root}}")
for name, classes in (("elpv", "functional, defective"),
                      ("elpv4", "functional, possibly defective, likely defective, defective")):
    known(name, f"1,968 + 656 solar cells, {classes.count(',') + 1} classes by defect probability, 300x300 grey, "
        "CC BY-NC-SA 4.0", elpv, tuple(classes.split(", ")), split="a quarter for test, stratified by defect "
        f"probability and cell type, drawn by kit (split seed {SPLIT_SEED})", val=0.1 / 0.75, bring="pip install "
        "elpv-dataset (91 MB), or put labels.csv and images/ of its repository into {root}/elpv")
known("sport8", f"1,579 photographs of sports, 8 classes, {OPEN}, vision.stanford.edu/lijiali/event_dataset", benchmark,
    "sport8", "Sport8_train Sport8_test", lambda root: folders(_unpacked(EVENTS, root / "sport8" / "event_img")),
    split=NAS, size=224, bring="put event_dataset.rar (it needs: pip install rarfile, apt install unar or unrar or "
    "7zip), or its folder event_img/, and NAS-Benchmark's Sport8_train.csv and Sport8_test.csv into {root}/sport8")
known("mit67", f"12,466 + 3,153 photographs of indoor scenes, 67 classes, {OPEN}, web.mit.edu/torralba/www/indoor.html",
    benchmark, "mit67", "MIT67_train1 MIT67_train2 MIT67_train3 MIT67_train4 MIT67_test",
    lambda root: folders(_unpacked(INDOOR, root / "mit67" / "Images")), split=NAS, size=224,
    bring="put indoorCVPR_09.tar (2.4 GB), or its folder Images/, and NAS-Benchmark's MIT67_*.csv into {root}/mit67")
FLOWERS = f"photographs of flowers, 102 classes, {OPEN}, robots.ox.ac.uk/~vgg/data/flowers/102"
BRING_FLOWERS = "put 102flowers.tgz, imagelabels.mat and setid.mat into {root}/flowers-102"
known("flowers102", f"1,020 + 1,020 + 6,149 {FLOWERS}", partial(torchvision, download=True, loader=Path), "Flowers102",
    TWO | {"val": "val"}, size=224, bring=BRING_FLOWERS,
    split="setid.mat of Nilsback and Zisserman (2008): 10 images a class in train and in val")
known("flowers102_nas", f"6,507 + 1,682 {FLOWERS}", benchmark, "flowers-102",
    "flowers102_train1 flowers102_train2 flowers102_test", flowers, split=NAS, size=224,
    bring=f"{BRING_FLOWERS}, and beside them NAS-Benchmark's flowers102_*.csv")
# from here on the shares of training images that AutoHAS holds out (its Table 1)
known("stanford_cars", f"8,144 + 8,041 photographs of cars, 196 makes and models, {OPEN}",
    partial(torchvision, loader=Path), "StanfordCars", TWO, split="training and test images of Krause et al. (2013)",
    val=1650 / 8144, size=224, bring="its authors' addresses are dead: get the images elsewhere (such as Kaggle) as "
    "{root}/stanford_cars/cars_train/*.jpg, cars_test/*.jpg, devkit/cars_meta.mat, devkit/cars_train_annos.mat and "
    "cars_test_annos_withlabels.mat")
known("sun397", f"19,850 + 19,850 photographs of 397 scenes, {OPEN}, vision.princeton.edu/projects/2010/SUN", sun397,
    split="first of the ten partitions of Xiao et al. (2010): 50 training and 50 test images a class",
    val=3970 / 19_850, size=224, bring="put SUN397.tar.gz (37 GB) and Partitions.zip into {root}")
known("places365", f"1,803,460 + 36,500 photographs of scenes, 256x256, {RESEARCH}, places2.csail.mit.edu", torchvision,
    places365, {"train": "train-standard", "test": "val"}, split=AS_VAL, val=112_000 / 1_803_460, size=224, bring="put "
    "filelist_places365-standard.tar, train_256_places365standard.tar and val_256.tar (26 GB) into {root}/places365")
known("imagenet", f"1,281,167 + 50,000 photographs of objects (ILSVRC 2012), 1000 classes, {RESEARCH}", imagenet,
    split=AS_VAL, val=50_000 / 1_281_167, size=224, bring="fetch it from image-net.org to "
    "{root}/imagenet/train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG")
# fmt: on
