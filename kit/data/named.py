"""The data sets that kit knows by name: how each is read, and below in one table what is known about it.

torchvision fetches and checks what it has. It unpickles CIFAR's files, after comparing their checksums (and what an old
torchvision left in FashionMNIST/processed, with weights_only); nothing else is ever unpickled. Archives are unpacked so
that nothing is written outside their folder.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import Tensor
from torchvision import datasets as tv
from torchvision.datasets.utils import extract_archive

from kit.data.own import Entry, class_files, read_folder
from kit.data.sets import SPLIT_SEED, Part, Source, stratified_split

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist; read only
EVENTS = "http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar"
INDOOR = "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"
INDOOR_LISTS = "http://web.mit.edu/torralba/www"
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
# NAS-Benchmark (Yang, Esperança and Carlucci 2020): the commit that holds the 80:20 lists, and the lists' MD5.
BENCHMARK = "https://raw.githubusercontent.com/antoyang/NAS-Benchmark/c2758da73192d408aad458768f26d3537dd78c40/data"
BENCHMARK_LISTS = {
    "Sport8_train.csv": "b877c9076013110bceedd809467e469b", "Sport8_test.csv": "5388c4011880a511e8d72763c618c7d8",
    "MIT67_train1.csv": "99fbe2fbba2a0f36decbe656a48b48f2", "MIT67_train2.csv": "0c053beb2744d8bba95ce6e02a896b1b",
    "MIT67_train3.csv": "654d4aa3feea6fe7f8db1e4114d7ef97", "MIT67_train4.csv": "f243d825dddd33c1f4ed5a520fb7a28f",
    "MIT67_test.csv": "2458ce25423a87bf23ff2c28bf275932", "flowers102_train1.csv": "6baf446cd28aaa7cf5d8c9ef1b320d38",
    "flowers102_train2.csv": "0113e209ad289080b6785dd5282dd548",
    "flowers102_test.csv": "b50825a4aa2588f9a29b5d95f46798b9",
}  # fmt: skip
SPORTS = ("RockClimbing", "badminton", "bocce", "croquet", "polo", "rowing", "sailing", "snowboarding")
# DADA's reduced ImageNet (Li et al. 2020, its search code), which DAAS follows: classes in the order of WordNet ids.
DADA_CLASSES = (
    16, 23, 52, 57, 76, 93, 95, 96, 99, 121, 122, 128, 148, 172, 181, 189, 202, 210, 232, 238, 257, 258, 259, 277,
    283, 289, 295, 304, 307, 318, 322, 331, 337, 338, 345, 350, 361, 375, 376, 381, 388, 399, 401, 408, 424, 431,
    432, 440, 447, 462, 464, 472, 483, 497, 506, 512, 530, 541, 553, 554, 557, 564, 570, 584, 612, 614, 619, 626,
    631, 632, 650, 657, 658, 660, 674, 675, 680, 682, 691, 695, 699, 711, 734, 736, 741, 754, 757, 764, 769, 770,
    780, 781, 787, 797, 799, 811, 822, 829, 830, 835, 837, 842, 843, 845, 873, 883, 897, 900, 902, 905, 913, 920,
    925, 937, 938, 940, 941, 944, 949, 959,
)  # fmt: skip


# ---- small images, or sets that a package brings -------------------------------------------------


def digits(root: Path, image_size: int | None = None) -> Source:
    """From the table in scikit-learn's folder: importing scikit-learn takes longer than a run's whole start."""
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = torch.from_numpy(np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Source(tuple("0123456789"), (images, labels), val_fraction=0.15, test_fraction=0.25)


def fashion_mnist(root: Path, image_size: int | None = None) -> Source:
    """From root, from Debian's package, else downloaded."""

    def packaged(name: str, header: int) -> Tensor:
        content = gzip.decompress((DEBIAN_FASHION_MNIST / name).read_bytes())
        return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)

    if (root / "FashionMNIST").is_dir() or not DEBIAN_FASHION_MNIST.is_dir():
        data = [tv.FashionMNIST(root, train=train, download=True) for train in (True, False)]
        train, test = ((part.data[:, None].contiguous(), part.targets) for part in data)
    else:
        images = [packaged(f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28) for part in ("train", "t10k")]
        labels = [packaged(f"{part}-labels-idx1-ubyte.gz", 8).long() for part in ("train", "t10k")]
        train, test = zip(images, labels, strict=True)
    return Source(tuple(tv.FashionMNIST.classes), train, test=test)


def cifar(kind: type[tv.CIFAR10], root: Path, image_size: int | None = None) -> Source:
    data = [kind(root, train=train, download=True) for train in (True, False)]
    images = [torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()) for part in data]
    train, test = ((x, torch.tensor(part.targets)) for x, part in zip(images, data, strict=True))
    return Source(tuple(data[0].classes), train, test=test)


def svhn(root: Path, image_size: int | None = None) -> Source:
    """The extra images are not used."""
    data = [tv.SVHN(root / "svhn", split=part, download=True) for part in ("train", "test")]
    train, test = ((torch.from_numpy(part.data.copy()), torch.from_numpy(part.labels)) for part in data)
    return Source(tuple("0123456789"), train, test=test)


def elpv(classes: tuple[str, ...], root: Path, image_size: int | None = None) -> Source:
    """Two or four classes, by the published defect probabilities: 0 and 1 where the experts were sure, else 1/3 or 2/3.

    Stratified by probability and by module type (mono- or polycrystalline), a quarter for test as in the paper, whose
    own draw is not published. Nor is which of the 44 modules a cell is of: cells of one module may be in both parts.
    """
    package, folder = importlib.util.find_spec("elpv_dataset"), root / "elpv"
    if package is not None and not folder.is_dir():
        folder = Path(package.origin).parent / "data"
    cells = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
    level = [round(3 * float(probability)) for _, probability, _ in cells]  # 0, 1, 2, 3
    groups = torch.tensor([2 * level[i] + (kind == "poly") for i, (_, _, kind) in enumerate(cells)])
    kept, test = (
        [(folder / cells[i][0], level[i] * len(classes) // 4) for i in part.tolist()]
        for part in stratified_split(groups, 0.25)
    )
    split = "the source has no split: a quarter for test, stratified by defect probability and cell type"
    split = f"{split} (split seed {SPLIT_SEED})"
    return Source(classes, kept, test=test, val_fraction=0.1 / 0.75, split=split)


# ---- photographs ---------------------------------------------------------------------------------


def sport8(root: Path, image_size: int | None = None) -> Source:
    """<class>/ or event_img/<class>/. The lists are fetched with the images; without them kit splits."""
    folder = root / "sport8"
    lists = [folder / name for name in ("Sport8_train.csv", "Sport8_test.csv")]
    base = folder if (folder / SPORTS[0]).is_dir() else folder / "event_img"
    if not base.is_dir():
        _unpack(_fetch(EVENTS, folder), base)
        try:
            _benchmark_lists(folder, "Sport8")
        except (OSError, ValueError) as error:
            print(f"sport8: goes on without {lists[0].name} and {lists[1].name} ({error})", flush=True)
    if all(file.is_file() for file in lists):
        return _benchmark(base, lists, SPORTS)
    found = class_files(base)
    return Source(SPORTS, [(file, label) for label, name in enumerate(SPORTS) for file in found[name]])


def _indoor(root: Path) -> tuple[Path, tuple[str, ...]]:
    base = root / "mit67" / "Images"
    if not base.is_dir():
        _unpack(_fetch(INDOOR, base.parent), base)
    return base, tuple(sorted(item.name for item in base.iterdir() if item.is_dir() and not item.name.startswith(".")))


def mit67(root: Path, image_size: int | None = None) -> Source:
    """Images/<class>/, TrainImages.txt and TestImages.txt (lines of class/file)."""
    base, classes = _indoor(root)
    lists = [_fetch(f"{INDOOR_LISTS}/{part}Images.txt", base.parent) for part in ("Train", "Test")]
    train, test = ([(base / line, classes.index(line.split("/")[0])) for line in _lines(file)] for file in lists)
    split = "TrainImages.txt and TestImages.txt of Quattoni and Torralba (2009), about 80 and 20 a class"
    return Source(classes, train, test=test, split=split)


def mit67_nas(root: Path, image_size: int | None = None) -> Source:
    base, classes = _indoor(root)
    return _benchmark(base, _benchmark_lists(base.parent, "MIT67"), classes)


def flowers102(root: Path, image_size: int | None = None) -> Source:
    parts = {part: _listed(tv.Flowers102(root, part, download=True, loader=Path)) for part in ("train", "val", "test")}
    split = "setid.mat of Nilsback and Zisserman (2008): 10 training and 10 validation images a class, the rest is test"
    return Source(tuple(tv.Flowers102.classes), **parts, split=split)


def flowers102_nas(root: Path, image_size: int | None = None) -> Source:
    data, folder = tv.Flowers102(root, download=True), root / "flowers-102"
    return _benchmark(folder / "jpg", _benchmark_lists(folder, "flowers102"), tuple(data.classes), "flower_{}")


def stanford_cars(root: Path, image_size: int | None = None) -> Source:
    """As torchvision reads it, or train/<class>/ and test/<class>/."""
    folder = root / "stanford_cars"
    if (folder / "train").is_dir():
        source = read_folder(folder)
        classes, parts = source.classes, source.parts
    else:
        read = {part: tv.StanfordCars(root, part, loader=Path) for part in ("train", "test")}
        classes, parts = read["train"].classes, {part: _listed(data) for part, data in read.items()}
    split = "training and test images of Krause et al. (2013)"
    # The training images that AutoHAS holds out (its Table 1), here and in the three sets below.
    return Source(tuple(classes), **parts, val_fraction=1650 / 8144, split=split)


def sun397(root: Path, image_size: int | None = None) -> Source:
    """The first of the authors' partitions, which is fetched with the images; without it kit splits."""
    folder = root / "SUN397"
    lists = [folder / "Partitions" / f"{part}_01.txt" for part in ("Training", "Testing")]
    there = folder.is_dir()
    data = tv.SUN397(root, download=True, loader=Path)
    if not there:
        try:
            _unpack(_fetch(SUN_PARTITIONS, root), folder / "Partitions")
        except OSError as error:
            print(f"sun397: goes on without Partitions.zip ({error})", flush=True)
    if not lists[0].is_file():
        return Source(tuple(data.classes), sorted(_listed(data), key=lambda pair: (pair[1], pair[0])))
    label = data.class_to_idx  # lines of /a/abbey/sun_abc.jpg, of class abbey
    train, test = ([(folder / line[1:], label[line[3:].rpartition("/")[0]]) for line in _lines(file)] for file in lists)
    split = "first of the ten partitions of Xiao et al. (2010): 50 training and 50 test images a class"
    return Source(tuple(data.classes), train, test=test, val_fraction=3970 / 19850, split=split)


def places365(root: Path, image_size: int | None = None) -> Source:
    options = {"root": root / "places365", "small": True, "download": True, "loader": Path}
    train, test = (tv.Places365(split=part, **options) for part in ("train-standard", "val"))
    split = "test is the published validation set of Places365-Standard (labels of its test set are not published)"
    classes = tuple(name[3:] for name in sorted(train.class_to_idx, key=train.class_to_idx.get))  # /a/airfield
    return Source(classes, _listed(train), test=_listed(test), val_fraction=112_000 / 1_803_460, split=split)


def imagenet(root: Path, image_size: int | None = None) -> Source:
    """train/<WordNet id>/ and val/<WordNet id>/, or a flat val/ with Kaggle's LOC_val_solution.csv."""
    folder = root / "imagenet"
    train, solution = class_files(folder / "train"), folder / "LOC_val_solution.csv"
    if solution.is_file():  # ImageId,PredictionString: ILSVRC2012_val_00000001,n01751748 111 108 ...
        with open(solution, newline="") as rows:
            ids = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(rows)}
        val = {name: [] for name in train}
        for file in sorted((folder / "val").glob("*.JPEG")):
            val[ids[file.stem]].append(file)
    else:
        val = class_files(folder / "val")
    parts = [[(file, label) for label, name in enumerate(train) for file in part[name]] for part in (train, val)]
    split = "test is the published validation set of ILSVRC 2012 (labels of its test set are not published)"
    return Source(tuple(train), parts[0], test=parts[1], val_fraction=50_000 / 1_281_167, split=split)


def imagenet120(root: Path, image_size: int | None = None) -> Source:
    """The images of imagenet in DADA's 120 classes."""
    whole, label = imagenet(root), {old: new for new, old in enumerate(DADA_CLASSES)}
    parts = {name: [(file, label[old]) for file, old in part if old in label] for name, part in whole.parts.items()}
    classes = tuple(whole.classes[old] for old in DADA_CLASSES)
    return Source(classes, **parts, val_fraction=whole.val_fraction, split=whole.split)


# ---- what they share -----------------------------------------------------------------------------


def _listed(data) -> Part:
    """The files and labels of a torchvision set whose `loader` is Path."""
    return [(file, int(label)) for file, label in (data[i] for i in range(len(data)))]


def _fetch(url: str, folder: Path, md5: str | None = None) -> Path:
    """The file in `folder`, downloaded if it is not there."""
    name = url.rpartition("/")[2]
    return Path(pooch.retrieve(url, md5 and f"md5:{md5}", name, folder, progressbar=True))


def _unpack(archive: Path, target: Path) -> None:
    """Unpack so that `target`, the archive's folder of that name (or all of it), appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=archive.parent) as folder:
        if archive.suffix == ".rar":
            import rarfile

            with rarfile.RarFile(archive) as packed:
                packed.extractall(folder)
        else:
            extract_archive(archive, folder)
        found = Path(folder) / target.name
        os.replace(found if found.is_dir() else folder, target)
        os.makedirs(folder, exist_ok=True)


def _benchmark_lists(folder: Path, prefix: str) -> list[Path]:
    names = [name for name in BENCHMARK_LISTS if name.startswith(prefix)]
    return [_fetch(f"{BENCHMARK}/{name}", folder, BENCHMARK_LISTS[name]) for name in names]


def _benchmark(base: Path, lists: list[Path], classes: tuple[str, ...], flat: str = "") -> Source:
    """lists: those of the training images, then that of the test images. A row for each class: its name (in some lists
    after a row number) and its files; the first row is a header. flat: what the lists call a class by its number, where
    the images are not in folders of classes."""
    label = {flat.format(i + 1) if flat else name: i for i, name in enumerate(classes)}
    parts = {"train": [], "test": []}
    for file in lists:
        with open(file, newline="", encoding="utf-8") as content:
            for row in list(csv.reader(content))[1:]:
                name, *images = row[1:] if row[0].isdigit() else row
                pairs = [(base / ("" if flat else name) / image, label[name]) for image in images if image]
                parts["test" if file == lists[-1] else "train"] += pairs
    return Source(classes, **parts, split="the 80:20 lists of NAS-Benchmark (Yang, Esperança and Carlucci 2020)")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").strip().splitlines()


# ---- what is known about them --------------------------------------------------------------------

PUBLISHED, AS_VAL = "published train and test", "published train; test is the published validation set"
NAS = "80:20 lists of NAS-Benchmark (Yang et al. 2020)"
UNSTATED, RESEARCH, BROUGHT = "none stated", "non-commercial research, by its terms", "brought by the user"
CIFAR, ELPV = "cs.toronto.edu/~kriz/cifar.html", "pip install elpv-dataset"
SCENES, INDOOR_SITE = "photographs of indoor scenes", "web.mit.edu/torralba/www/indoor.html"
FLOWERS, FLOWERS_SITE = "photographs of flowers (Oxford)", "robots.ox.ac.uk/~vgg/data/flowers/102"
ELPV2, ELPV4 = ("functional", "defective"), ("functional", "possibly defective", "likely defective", "defective")
BRING_ELPV = "pip install elpv-dataset (91 MB), or put labels.csv and images/ of its repository into {root}/elpv"
BRING_FLOWERS = "put 102flowers.tgz, imagelabels.mat and setid.mat into {root}/flowers-102"
BRING_INDOOR = "put indoorCVPR_09.tar (2.4 GB), or its folder Images/, and the lists into {root}/mit67"
BRING_IMAGENET = (
    "fetch it with an account at image-net.org and lay it out as {root}/imagenet/train/<WordNet id>/*.JPEG and "
    "val/<WordNet id>/*.JPEG (or val/*.JPEG, with LOC_val_solution.csv beside it); a link will do"
)

NAMED = {
    "digits": Entry(digits, "handwritten digits", 10, (1797,), "8x8 grey", "stratified 60:15:25 by kit", "CC BY 4.0",
        "with scikit-learn", flip=False),
    "fashion_mnist": Entry(fashion_mnist, "pieces of clothing", 10, (60_000, 10_000), "28x28 grey", PUBLISHED, "MIT",
        "github.com/zalandoresearch/fashion-mnist", bring="apt install dataset-fashion-mnist, or put "
        "train-images-idx3-ubyte.gz and its three neighbours into {root}/FashionMNIST/raw"),
    "cifar10": Entry(partial(cifar, tv.CIFAR10), "photographs of objects", 10, (50_000, 10_000), "32x32", PUBLISHED,
        UNSTATED, CIFAR, bring="put cifar-10-python.tar.gz into {root}"),
    "cifar100": Entry(partial(cifar, tv.CIFAR100), "photographs of objects", 100, (50_000, 10_000), "32x32", PUBLISHED,
        UNSTATED, CIFAR, bring="put cifar-100-python.tar.gz into {root}"),
    "svhn": Entry(svhn, "house-number digits", 10, (73_257, 26_032), "32x32", PUBLISHED + ", without extra", RESEARCH,
        "ufldl.stanford.edu/housenumbers", flip=False, bring="put train_32x32.mat and test_32x32.mat into {root}/svhn"),
    "elpv": Entry(partial(elpv, ELPV2), "solar cells, functional or defective (probability 2/3 or 1)", 2, (2624,),
        "300x300 grey", "a quarter test as in Deitsch et al. 2019, drawn by kit, stratified by probability and cell "
        "type", "CC BY-NC-SA 4.0", ELPV, bring=BRING_ELPV),
    "elpv4": Entry(partial(elpv, ELPV4), "solar cells by defect probability 0, 1/3, 2/3, 1", 4, (2624,), "300x300 grey",
        "as elpv", "CC BY-NC-SA 4.0", ELPV, bring=BRING_ELPV),
    "sport8": Entry(sport8, "photographs of sports events (UIUC)", 8, (1579,), "vary", NAS + "; without them "
        "stratified by kit", UNSTATED, "vision.stanford.edu/lijiali/event_dataset, a RAR", size=224, bring="put "
        "event_dataset.rar, or its class folders, into {root}/sport8 (a RAR needs: pip install rarfile, apt install "
        "unar or unrar or 7zip), and beside it NAS-Benchmark's Sport8_train.csv and Sport8_test.csv for its split"),
    "mit67": Entry(mit67, SCENES, 67, (5360, 1340), "vary", "TrainImages.txt and TestImages.txt of Quattoni and "
        "Torralba 2009", UNSTATED, INDOOR_SITE, size=224, bring=BRING_INDOOR + ": TrainImages.txt and TestImages.txt"),
    "mit67_nas": Entry(mit67_nas, SCENES, 67, (12_466, 3153), "vary", NAS, UNSTATED, INDOOR_SITE, size=224,
        bring=BRING_INDOOR + ": NAS-Benchmark's MIT67_*.csv"),
    "flowers102": Entry(flowers102, FLOWERS, 102, (1020, 1020, 6149), "vary", "setid.mat of Nilsback and Zisserman "
        "2008", UNSTATED, FLOWERS_SITE, size=224, bring=BRING_FLOWERS),
    "flowers102_nas": Entry(flowers102_nas, FLOWERS, 102, (6507, 1682), "vary", NAS, UNSTATED, FLOWERS_SITE, size=224,
        bring=BRING_FLOWERS + ", and NAS-Benchmark's flowers102_*.csv"),
    "stanford_cars": Entry(stanford_cars, "photographs of cars by make and model", 196, (8144, 8041), "vary", PUBLISHED,
        UNSTATED, BROUGHT, size=224, bring="its authors' addresses are dead: get the images elsewhere (such as Kaggle) "
        "and lay them out as {root}/stanford_cars/cars_train/*.jpg, cars_test/*.jpg, devkit/cars_meta.mat, "
        "devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat, or as train/<class>/ and test/<class>/"),
    "sun397": Entry(sun397, "photographs of scenes", 397, (19_850, 19_850), "vary", "first partition of Xiao et al. "
        "2010; without it stratified by kit", UNSTATED, "vision.princeton.edu/projects/2010/SUN", size=224,
        bring="put SUN397.tar.gz (37 GB) and Partitions.zip into {root}"),
    "places365": Entry(places365, "photographs of scenes", 365, (1_803_460, 36_500), "256x256", AS_VAL, RESEARCH,
        "places2.csail.mit.edu", size=224, bring="put filelist_places365-standard.tar, "
        "train_256_places365standard.tar and val_256.tar (26 GB) into {root}/places365"),
    "imagenet": Entry(imagenet, "photographs of objects (ILSVRC 2012)", 1000, (1_281_167, 50_000), "vary", AS_VAL,
        RESEARCH, BROUGHT, size=224, bring=BRING_IMAGENET),
    "imagenet120": Entry(imagenet120, "imagenet's images in the 120 classes of DADA's search (Li et al. 2020)", 120,
        "about 154,000 + 6,000", "vary", "as imagenet", RESEARCH, BROUGHT, size=224, bring=BRING_IMAGENET),
}  # fmt: skip
