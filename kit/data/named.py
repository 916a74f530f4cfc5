"""The data sets that kit knows by name: how each is read, and below in one table what is known about it.

torchvision fetches and checks what it has. It unpickles CIFAR's files, after comparing their checksums; nothing else is
ever unpickled. Archives are unpacked so that nothing is written outside their folder.
"""

import csv
import gzip
import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from torchvision import datasets as tv
from torchvision.datasets.utils import extract_archive

from kit.data.own import Entry, class_folders, folders
from kit.data.sets import SPLIT_SEED, stratified_split
from kit.data.source import Part, Source

Read = tuple[Any, dict[str, Part]]  # the names of the classes, and the published parts by name
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
EVENTS = "http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar"
INDOOR = "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"
INDOOR_LISTS = "http://web.mit.edu/torralba/www"
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
# the commit of NAS-Benchmark (Yang, Esperança and Carlucci 2020) that holds its 80:20 lists
BENCHMARK = "https://raw.githubusercontent.com/antoyang/NAS-Benchmark/c2758da73192d408aad458768f26d3537dd78c40/data"
# DADA's reduced ImageNet (Li et al. 2020, its search code), which DAAS follows: classes in the order of WordNet ids.
DADA_CLASSES = (
    16, 23, 52, 57, 76, 93, 95, 96, 99, 121, 122, 128, 148, 172, 181, 189, 202, 210, 232, 238, 257, 258, 259, 277,
    283, 289, 295, 304, 307, 318, 322, 331, 337, 338, 345, 350, 361, 375, 376, 381, 388, 399, 401, 408, 424, 431,
    432, 440, 447, 462, 464, 472, 483, 497, 506, 512, 530, 541, 553, 554, 557, 564, 570, 584, 612, 614, 619, 626,
    631, 632, 650, 657, 658, 660, 674, 675, 680, 682, 691, 695, 699, 711, 734, 736, 741, 754, 757, 764, 769, 770,
    780, 781, 787, 797, 799, 811, 822, 829, 830, 835, 837, 842, 843, 845, 873, 883, 897, 900, 902, 905, 913, 920,
    925, 937, 938, 940, 941, 944, 949, 959,
)  # fmt: skip


def digits(root: Path, image_size: int | None = None) -> Source:
    """From the table in scikit-learn's folder: importing scikit-learn takes longer than a run's whole start."""
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = torch.from_numpy(np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Source(tuple("0123456789"), (images, labels), val_fraction=0.15, test_fraction=0.25)


def torchvision(make: Callable[[Path, Any], Any], parts: dict[str, Any], root: Path) -> Read:
    """A set of torchvision's; make(root, torchvision's name of a part), with `loader=Path` where it reads files."""
    data = {name: make(root, theirs) for name, theirs in parts.items()}
    classes = getattr(data["train"], "classes", "0123456789")
    if not hasattr(data["train"], "data"):
        return classes, {name: [part[i] for i in range(len(part))] for name, part in data.items()}
    arrays = {}
    for name, part in data.items():
        images = torch.as_tensor(part.data)
        images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
        labels = torch.as_tensor(part.labels if hasattr(part, "labels") else part.targets)
        arrays[name] = images.reshape(len(images), -1, *images.shape[-2:]).contiguous(), labels
    return classes, arrays


def fashion_mnist(root: Path, training: bool) -> tv.FashionMNIST:
    raw = root / "FashionMNIST" / "raw"
    if DEBIAN_FASHION_MNIST.is_dir() and not raw.is_dir():
        raw.mkdir(parents=True)
        for file in DEBIAN_FASHION_MNIST.glob("*.gz"):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return tv.FashionMNIST(root, training, download=True)


def elpv(classes: tuple[str, ...], root: Path) -> Read:
    """Classes by the published defect probabilities: 0 and 1 where the experts were sure, else 1/3 or 2/3.

    The paper's own draw of its test set is not published. Nor is which of the 44 modules a cell is of: cells of one
    module may be in both parts.
    """
    package, folder = importlib.util.find_spec("elpv_dataset"), root / "elpv"
    if package is not None and not folder.is_dir():
        folder = Path(package.origin).parent / "data"
    cells = [line.split() for line in _lines(folder / "labels.csv")]
    thirds = [round(3 * float(probability)) for _, probability, _ in cells]
    files = [(folder / cell[0], level * len(classes) // 4) for cell, level in zip(cells, thirds)]
    strata = torch.tensor([2 * level + (cell[2] == "poly") for cell, level in zip(cells, thirds)])
    parts = zip(("train", "test"), stratified_split(strata, 0.25))
    return classes, {part: [files[i] for i in rows.tolist()] for part, rows in parts}


def places365(root: Path, part: str) -> tv.Places365:
    data = tv.Places365(root / "places365", part, small=True, download=True, loader=Path)
    data.classes = [name[3:] for name in sorted(data.class_to_idx, key=data.class_to_idx.get)]  # /a/airfield
    return data


def imagenet(chosen: tuple[int, ...], root: Path) -> Read:
    """train/<WordNet id>/ and val/<WordNet id>/; the chosen classes of them, by number."""
    (classes, train), (_, val) = (class_folders(root / "imagenet" / part) for part in ("train", "val"))
    label = {old: new for new, old in enumerate(chosen or range(len(classes)))}
    parts = {"train": train, "test": val}
    parts = {name: [(file, label[old]) for file, old in part if old in label] for name, part in parts.items()}
    return [classes[old] for old in label], parts


def sport8(root: Path) -> dict[str, Path]:
    return folders(_unpacked(EVENTS, root / "sport8" / "event_img"))


def indoor(root: Path) -> dict[str, Path]:
    return folders(_unpacked(INDOOR, root / "mit67" / "Images"))


def flowers(root: Path) -> dict[str, Path]:
    classes = tv.Flowers102(root, download=True).classes
    return {f"flower_{i}": root / "flowers-102" / "jpg" for i in range(1, len(classes) + 1)}


def sun397(root: Path) -> Read:
    """Lines of /a/abbey/sun_abc.jpg, of class abbey."""
    tv.SUN397(root, download=True)
    lists = _unpacked(SUN_PARTITIONS, root / "Partitions")
    classes, parts = _listed(root / "SUN397", lists / "Training_01.txt", lists / "Testing_01.txt")
    return [name.partition("/")[2] for name in classes], parts


def mit67(root: Path) -> Read:
    indoor(root)
    lists = (_fetch(f"{INDOOR_LISTS}/{part}Images.txt", root / "mit67") for part in ("Train", "Test"))
    return _listed(root / "mit67" / "Images", *lists)


def _listed(base: Path, train: Path, test: Path) -> Read:
    """By lists of class/file."""
    names = {"train": [line.strip("/") for line in _lines(train)], "test": [line.strip("/") for line in _lines(test)]}
    classes = sorted({os.path.dirname(name) for name in names["train"]})
    label = {name: i for i, name in enumerate(classes)}
    return classes, {part: [(base / name, label[os.path.dirname(name)]) for name in names[part]] for part in names}


def benchmark(home: str, lists: str, of: Callable[[Path], dict[str, Path]], root: Path) -> Read:
    """By NAS-Benchmark's lists; of(root): its name of each class, and where the class's images lie. A list has a row
    for each class: its name (in some lists after a row number) and its files; the first row is a header."""
    found, parts = of(root), {"train": [], "test": []}
    label = {name: i for i, name in enumerate(found)}
    for name in lists.split():
        part = parts["test" if name.endswith("test") else "train"]
        for row in list(csv.reader(_lines(_fetch(f"{BENCHMARK}/{name}.csv", root / home))))[1:]:
            kind, *files = row[1:] if row[0].isdigit() else row
            part += [(found[kind] / file, label[kind]) for file in files if file]
    return (tv.Flowers102.classes if "flower_1" in found else found), parts


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").strip().splitlines()


def _fetch(url: str, folder: Path) -> Path:
    """The file in `folder`, downloaded if it is not there."""
    return Path(pooch.retrieve(url, None, url.rpartition("/")[2], folder, progressbar=True))


def _unpacked(url: str, target: Path) -> Path:
    """`target`: the archive's folder of that name, or all of the archive. It appears whole or not at all."""
    if target.is_dir():
        return target
    archive = _fetch(url, target.parent)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=archive.parent, ignore_cleanup_errors=True) as folder:
        if archive.suffix == ".rar":
            import rarfile  # of the extra `data`

            rarfile.RarFile(archive).extractall(folder)
        else:
            extract_archive(archive, folder)
        found = Path(folder) / target.name
        os.replace(found if found.is_dir() else folder, target)
    return target


def _known(
    title: str, read: Callable[..., Read], *how: Any, split: str | None = None, val: float = 0.1, **about: Any
) -> Entry:
    """An entry of the table: read(*how, root). val: the share of the training images to hold out where no part is
    published."""

    def load(root: Path, image_size: int | None = None) -> Source:
        classes, parts = read(*how, root)
        return Source(tuple(classes), **parts, val_fraction=val, split=split)

    return Entry(load, f"{title}; {split}" if split else title, **about)


NAS = "the 80:20 lists of NAS-Benchmark (Yang, Esperança and Carlucci 2020)"
AS_VAL = "test is the published validation set (labels of its test set are not published)"
OF_ELPV = f"a quarter for test, stratified by defect probability and cell type, drawn by kit (split seed {SPLIT_SEED})"
OPEN, RESEARCH, ELPV = "no licence stated", "non-commercial research by its terms", "300x300 grey, CC BY-NC-SA 4.0"
OBJECTS = "50,000 + 10,000 photographs of objects, 32x32"
TEST, WHETHER = {"train": "train", "test": "test"}, {"train": True, "test": False}  # what torchvision calls the parts
CIFAR, FLOWERS_SITE = f"{OPEN}, cs.toronto.edu/~kriz/cifar.html", "robots.ox.ac.uk/~vgg/data/flowers/102"
SCENES_SITE = "web.mit.edu/torralba/www/indoor.html"
BRING_ELPV = "pip install elpv-dataset (91 MB), or put labels.csv and images/ of its repository into {root}/elpv"
BRING_SCENES = "put indoorCVPR_09.tar (2.4 GB), or its folder Images/, and the lists into {root}/mit67"
BRING_FLOWERS = "put 102flowers.tgz, imagelabels.mat and setid.mat into {root}/flowers-102"
BRING_IMAGENET = "fetch it from image-net.org to {root}/imagenet/train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG"

NAMED = {
    "digits": Entry(digits, "1,797 handwritten digits, 8x8 grey, CC BY 4.0, scikit-learn", flip=False),
    "fashion_mnist": _known("60,000 + 10,000 pieces of clothing, 28x28 grey, MIT, github.com/zalandoresearch/"
        "fashion-mnist", torchvision, fashion_mnist, WHETHER, bring="apt install dataset-fashion-mnist, or put "
        "train-images-idx3-ubyte.gz and its three neighbours into {root}/FashionMNIST/raw"),
    "cifar10": _known(f"{OBJECTS}, 10 classes, {CIFAR}", torchvision, partial(tv.CIFAR10, download=True),
        WHETHER, bring="put cifar-10-python.tar.gz into {root}"),
    "cifar100": _known(f"{OBJECTS}, 100 classes, {CIFAR}", torchvision, partial(tv.CIFAR100, download=True),
        WHETHER, bring="put cifar-100-python.tar.gz into {root}"),
    "svhn": _known(f"73,257 + 26,032 house-number digits, 32x32, {RESEARCH}, ufldl.stanford.edu/housenumbers",
        torchvision, lambda root, part: tv.SVHN(root / "svhn", part, download=True), TEST, flip=False,
        bring="put train_32x32.mat and test_32x32.mat into {root}/svhn"),
    "elpv": _known(f"1,968 + 656 solar cells, 2 classes by defect probability, {ELPV}", elpv, ("functional",
        "defective"), split=OF_ELPV, val=0.1 / 0.75, bring=BRING_ELPV),
    "elpv4": _known(f"1,968 + 656 solar cells, 4 classes by defect probability, {ELPV}", elpv, ("functional",
        "possibly defective", "likely defective", "defective"), split=OF_ELPV, val=0.1 / 0.75, bring=BRING_ELPV),
    "sport8": _known(f"1,579 photographs of sports, 8 classes, {OPEN}, vision.stanford.edu/lijiali/event_dataset",
        benchmark, "sport8", "Sport8_train Sport8_test", sport8, split=NAS, size=224, bring="put event_dataset.rar (it "
        "needs: pip install rarfile, apt install unar or unrar or 7zip), or its folder event_img/, into {root}/sport8, "
        "and beside it NAS-Benchmark's Sport8_train.csv and Sport8_test.csv"),
    "mit67": _known(f"5,360 + 1,340 photographs of indoor scenes, 67 classes, {OPEN}, {SCENES_SITE}", mit67, size=224,
        split="TrainImages.txt and TestImages.txt of Quattoni and Torralba (2009)", bring=BRING_SCENES),
    "mit67_nas": _known(f"12,466 + 3,153 photographs of indoor scenes, 67 classes, {OPEN}, {SCENES_SITE}", benchmark,
        "mit67", "MIT67_train1 MIT67_train2 MIT67_train3 MIT67_train4 MIT67_test", indoor, split=NAS, size=224,
        bring=BRING_SCENES),
    "flowers102": _known(f"1,020 + 1,020 + 6,149 photographs of flowers, 102 classes, {OPEN}, {FLOWERS_SITE}",
        torchvision, partial(tv.Flowers102, download=True, loader=Path), TEST | {"val": "val"}, size=224,
        bring=BRING_FLOWERS, split="setid.mat of Nilsback and Zisserman (2008): 10 images a class in train and in val"),
    "flowers102_nas": _known(f"6,507 + 1,682 photographs of flowers, 102 classes, {OPEN}, {FLOWERS_SITE}", benchmark,
        "flowers-102", "flowers102_train1 flowers102_train2 flowers102_test", flowers, split=NAS, size=224,
        bring=f"{BRING_FLOWERS}, and beside them NAS-Benchmark's flowers102_*.csv"),
    # from here on the shares of training images that AutoHAS holds out (its Table 1)
    "stanford_cars": _known(f"8,144 + 8,041 photographs of cars, 196 makes and models, {OPEN}", torchvision,
        partial(tv.StanfordCars, loader=Path), TEST, split="training and test images of Krause et al. (2013)",
        val=1650 / 8144, size=224, bring="its authors' addresses are dead: get the images elsewhere (such as Kaggle) "
        "and lay them out as {root}/stanford_cars/cars_train/*.jpg, cars_test/*.jpg, devkit/cars_meta.mat, "
        "devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat"),
    "sun397": _known(f"19,850 + 19,850 photographs of 397 scenes, {OPEN}, vision.princeton.edu/projects/2010/SUN",
        sun397, split="first of the ten partitions of Xiao et al. (2010): 50 training and 50 test images a class",
        val=3970 / 19_850, size=224, bring="put SUN397.tar.gz (37 GB) and Partitions.zip into {root}"),
    "places365": _known(f"1,803,460 + 36,500 photographs of scenes, 256x256, {RESEARCH}, places2.csail.mit.edu",
        torchvision, places365, {"train": "train-standard", "test": "val"}, split=AS_VAL, val=112_000 / 1_803_460,
        size=224, bring="put filelist_places365-standard.tar, train_256_places365standard.tar and val_256.tar (26 GB) "
        "into {root}/places365"),
    "imagenet": _known(f"1,281,167 + 50,000 photographs of objects (ILSVRC 2012), 1000 classes, {RESEARCH}", imagenet,
        (), split=AS_VAL, val=50_000 / 1_281_167, size=224, bring=BRING_IMAGENET),
    "imagenet120": _known(f"imagenet's photographs in the 120 classes of DADA's search (Li et al. 2020), {RESEARCH}",
        imagenet, DADA_CLASSES, split=AS_VAL, val=50_000 / 1_281_167, size=224, bring=BRING_IMAGENET),
}  # fmt: skip
