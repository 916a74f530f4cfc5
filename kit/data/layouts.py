"""How publishers lay out their photographs: from a folder to image files with labels. Each reader raises Absent if the
set is not there.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets as tv

from kit.data.folder import EXTENSIONS
from kit.data.obtain import Absent
from kit.data.source import Files, LabelledFiles

# Images by part and classes, as the publishers count them: a set that was unpacked in part is not taken for the whole
# one.
COUNTS: dict[str, dict[str, int]] = {
    "sport8": {"classes": 8, "all": 1579},
    "mit67": {"classes": 67, "train": 5360, "test": 1340},
    "flowers102": {"classes": 102, "train": 1020, "val": 1020, "test": 6149},
    "stanford_cars": {"classes": 196, "train": 8144, "test": 8041},
    "sun397": {"classes": 397, "train": 19850, "test": 19850},
    "places365": {"classes": 365, "train": 1803460, "test": 36500},
    "imagenet": {"classes": 1000, "train": 1281167, "test": 50000},
    "svhn": {"train": 73257, "test": 26032},
    "elpv": {"all": 2624},
}
# Training images that AutoHAS holds out (its Table 1), as fractions of them.
AUTOHAS_HOLD_OUT = {
    "imagenet": 50_000 / 1_281_167,
    "places365": 112_000 / 1_803_460,
    "stanford_cars": 1650 / 8144,
    "sun397": 3970 / 19850,
}

SPORTS = ("RockClimbing", "badminton", "bocce", "croquet", "polo", "rowing", "sailing", "snowboarding")
# DADA's reduced ImageNet (Li et al. 2020, its search code), which DAAS follows: numbers of classes in the order of
# their WordNet ids.
DADA_CLASSES = (
    16,
    23,
    52,
    57,
    76,
    93,
    95,
    96,
    99,
    121,
    122,
    128,
    148,
    172,
    181,
    189,
    202,
    210,
    232,
    238,
    257,
    258,
    259,
    277,
    283,
    289,
    295,
    304,
    307,
    318,
    322,
    331,
    337,
    338,
    345,
    350,
    361,
    375,
    376,
    381,
    388,
    399,
    401,
    408,
    424,
    431,
    432,
    440,
    447,
    462,
    464,
    472,
    483,
    497,
    506,
    512,
    530,
    541,
    553,
    554,
    557,
    564,
    570,
    584,
    612,
    614,
    619,
    626,
    631,
    632,
    650,
    657,
    658,
    660,
    674,
    675,
    680,
    682,
    691,
    695,
    699,
    711,
    734,
    736,
    741,
    754,
    757,
    764,
    769,
    770,
    780,
    781,
    787,
    797,
    799,
    811,
    822,
    829,
    830,
    835,
    837,
    842,
    843,
    845,
    873,
    883,
    897,
    900,
    902,
    905,
    913,
    920,
    925,
    937,
    938,
    940,
    941,
    944,
    949,
    959,
)
BENCHMARK_SPLIT = "the 80:20 lists of NAS-Benchmark (Yang, Esperança and Carlucci 2020)"


def sport8(folder: Path) -> Files:
    """<class>/ or event_img/<class>/, and the lists of NAS-Benchmark where they lie beside; without them the split is
    kit's own.
    """
    base = _first(
        folder,
        ("event_img", ""),
        lambda place: all(_is_folder(place, name) for name in SPORTS),
        "the eight class folders",
    )
    classes = {name: images_in(base / _is_folder(base, name)) for name in SPORTS}
    expect("sport8", {"classes": len(classes), "all": sum(map(len, classes.values()))})
    lists = [folder / "Sport8_train.csv", folder / "Sport8_test.csv"]
    if not all(file.is_file() for file in lists):
        return Files(SPORTS, [(file, label) for label, name in enumerate(SPORTS) for file in classes[name]])
    train, test = (_benchmark(base, [file], SPORTS) for file in lists)
    return Files(SPORTS, train, test=test, split=BENCHMARK_SPLIT)


def mit67(folder: Path) -> Files:
    """Images/<class>/, TrainImages.txt and TestImages.txt (lines of class/file)."""
    base = _indoor(folder)
    names = [
        _lines(_first(folder, (f"{part}Images.txt", f"indoorCVPR_09/{part}Images.txt"), Path.is_file))
        for part in ("Train", "Test")
    ]
    classes = tuple(sorted({name.split("/")[0] for name in names[0]}))
    expect("mit67", {"classes": len(classes), "train": len(names[0]), "test": len(names[1])})
    train, test = (_labelled(base, ((name, name.split("/")[0]) for name in part), classes) for part in names)
    return Files(
        classes,
        train,
        test=test,
        split="TrainImages.txt and TestImages.txt of Quattoni and Torralba (2009), about 80 and 20 a class",
    )


def mit67_nas(folder: Path) -> Files:
    """Images/<class>/ with the 80:20 lists of NAS-Benchmark."""
    base = _indoor(folder)
    classes = tuple(sorted(item.name for item in base.iterdir() if item.is_dir() and not item.name.startswith(".")))
    expect("mit67", {"classes": len(classes)})
    train = _benchmark(base, [_file(folder, f"MIT67_train{i}.csv") for i in (1, 2, 3, 4)], classes)
    return Files(
        classes, train, test=_benchmark(base, [_file(folder, "MIT67_test.csv")], classes), split=BENCHMARK_SPLIT
    )


def _indoor(folder: Path) -> Path:
    return _first(folder, ("Images", "indoorCVPR_09/Images"), Path.is_dir)


def flowers102(folder: Path) -> Files:
    """jpg/image_NNNNN.jpg, imagelabels.mat (labels from 1) and setid.mat (image numbers of train, val and test)."""
    labels = np.atleast_1d(read_mat(_file(folder, "imagelabels.mat"))["labels"])
    sets = read_mat(_file(folder, "setid.mat"))
    numbers = {"train": sets["trnid"], "val": sets["valid"], "test": sets["tstid"]}
    expect("flowers102", {"classes": len(set(labels.tolist()))} | {name: len(part) for name, part in numbers.items()})
    classes = tuple(tv.Flowers102.classes)
    parts = {
        name: _labelled(
            folder / "jpg", ((f"image_{i:05d}.jpg", classes[labels[i - 1] - 1]) for i in part.tolist()), classes
        )
        for name, part in numbers.items()
    }
    return Files(
        classes,
        **parts,
        split="setid.mat of Nilsback and Zisserman (2008): 10 training and 10 validation images a class, the rest is test",
    )


def flowers102_nas(folder: Path) -> Files:
    """jpg/image_NNNNN.jpg with the 80:20 lists of NAS-Benchmark, whose classes are flower_1 to flower_102."""
    classes = tuple(tv.Flowers102.classes)
    numbered = tuple(f"flower_{i}" for i in range(1, len(classes) + 1))
    train = _benchmark(folder / "jpg", [_file(folder, f"flowers102_train{i}.csv") for i in (1, 2)], numbered, flat=True)
    test = _benchmark(folder / "jpg", [_file(folder, "flowers102_test.csv")], numbered, flat=True)
    expect("flowers102", {"classes": len({label for _, label in train})})
    return Files(classes, train, test=test, split=BENCHMARK_SPLIT)


def stanford_cars(folder: Path) -> Files:
    """cars_train/, cars_test/ and devkit/ as torchvision reads them, also in Kaggle's doubled folders; or
    train/<class>/ and test/<class>/.
    """
    for place in ("", "car_data/car_data"):
        if _is_folder(folder / place, "train"):
            train, test = class_folders(folder / place / "train"), class_folders(folder / place / "test")
            classes, parts = _same_classes(train, test)
            break
    else:
        classes, parts = _cars_of_devkit(folder)
    expect("stanford_cars", {"classes": len(classes), "train": len(parts[0]), "test": len(parts[1])})
    return Files(
        classes,
        parts[0],
        test=parts[1],
        val_fraction=AUTOHAS_HOLD_OUT["stanford_cars"],
        split="training and test images of Krause et al. (2013)",
    )


def _cars_of_devkit(folder: Path) -> tuple[tuple[str, ...], list[LabelledFiles]]:
    meta = _first(folder, ("devkit/cars_meta.mat", "car_devkit/devkit/cars_meta.mat"), Path.is_file)
    classes = tuple(str(name) for name in read_mat(meta)["class_names"])
    name = "cars_test_annos_withlabels.mat"
    test = _first(folder, (name, f"devkit/{name}", f"car_devkit/devkit/{name}"), Path.is_file)
    parts = []
    for part, notes in (("cars_train", meta.parent / "cars_train_annos.mat"), ("cars_test", test)):
        base = _first(folder, (f"{part}/{part}", part), Path.is_dir)
        table = read_mat(_file(notes.parent, notes.name))["annotations"]
        if table.dtype.names is None or not {"fname", "class"} <= set(table.dtype.names):
            raise Absent(f"{notes} has no labels (the file with labels is {name})")
        rows = zip(np.atleast_1d(table["fname"]).tolist(), np.atleast_1d(table["class"]).tolist(), strict=True)
        parts.append(_labelled(base, ((file, classes[label - 1]) for file, label in rows), classes))
    return classes, parts


def sun397(folder: Path) -> Files:
    """a/abbey/sun_*.jpg, ClassName.txt, and Training_01.txt and Testing_01.txt of the Partitions where they lie beside
    or in Partitions/.
    """
    paths = _lines(_file(folder, "ClassName.txt"))  # lines of /a/abbey
    classes = tuple(path[3:] for path in paths)
    expect("sun397", {"classes": len(classes)})
    lists = [
        _maybe(folder, (f"Partitions/{part}_01.txt", f"Partitions/Partitions/{part}_01.txt", f"{part}_01.txt"))
        for part in ("Training", "Testing")
    ]
    if None in lists:
        train = [(file, label) for label, path in enumerate(paths) for file in images_in(folder / path[1:])]
        return Files(classes, train)
    names = [_lines(file) for file in lists]
    expect("sun397", {"train": len(names[0]), "test": len(names[1])})
    train, test = (
        _labelled(folder, ((name[1:], name[3:].rpartition("/")[0]) for name in part), classes) for part in names
    )
    return Files(
        classes,
        train,
        test=test,
        val_fraction=AUTOHAS_HOLD_OUT["sun397"],
        split="first of the ten partitions of Xiao et al. (2010): 50 training and 50 test images a class",
    )


def places365(folder: Path) -> Files:
    """data_256/ (or torchvision's data_256_standard/) and val_256/, with categories_places365.txt and the two lists."""
    categories = [line.split() for line in _lines(_file(folder, "categories_places365.txt"))]  # /a/airfield 0
    classes = tuple(name[3:] for name, _ in sorted(categories, key=lambda row: int(row[1])))
    base = _first(folder, ("data_256", "data_256_standard"), Path.is_dir)
    train = [
        line.split() for line in _lines(_file(folder, "places365_train_standard.txt"))
    ]  # /a/airfield/00000001.jpg 0
    test = [line.split() for line in _lines(_file(folder, "places365_val.txt"))]  # Places365_val_00000001.jpg 165
    expect("places365", {"classes": len(classes), "train": len(train), "test": len(test)})
    parts = [
        _labelled(place, ((name.lstrip("/"), classes[int(label)]) for name, label in part), classes)
        for place, part in ((base, train), (folder / "val_256", test))
    ]
    return Files(
        classes,
        parts[0],
        test=parts[1],
        val_fraction=AUTOHAS_HOLD_OUT["places365"],
        split="test is the published validation set of Places365-Standard (labels of its test set are not published)",
    )


def imagenet(folder: Path) -> Files:
    """train/<WordNet id>/, and val/<WordNet id>/ or a flat val/ with LOC_val_solution.csv or the devkit's ground
    truth.
    """
    base = _first(
        folder,
        ("", "ILSVRC/Data/CLS-LOC"),
        lambda place: _is_folder(place, "train") and _is_folder(place, "val"),
        "train/ and val/",
    )
    train = class_folders(base / "train")
    classes = tuple(train)
    pairs = [(file, label) for label, name in enumerate(classes) for file in train[name]]
    held = class_folders(base / "val") or _flat_validation(folder, base / "val")
    if set(held) != set(classes):
        raise Absent(f"{base / 'val'} and {base / 'train'} differ in classes")
    test = [(file, label) for label, name in enumerate(classes) for file in held[name]]
    expect("imagenet", {"classes": len(classes), "train": len(pairs), "test": len(test)})
    return Files(
        _synset_names(folder, classes),
        pairs,
        test=test,
        val_fraction=AUTOHAS_HOLD_OUT["imagenet"],
        split="test is the published validation set of ILSVRC 2012 (labels of its test set are not published)",
    )


def imagenet120(folder: Path) -> Files:
    """The images of imagenet in DADA's 120 classes."""
    whole = imagenet(folder)
    label = {old: new for new, old in enumerate(DADA_CLASSES)}
    parts = {name: [(file, label[old]) for file, old in part if old in label] for name, part in whole.parts().items()}
    return Files(
        tuple(whole.classes[old] for old in DADA_CLASSES), **parts, val_fraction=whole.val_fraction, split=whole.split
    )


def _flat_validation(folder: Path, val: Path) -> dict[str, list[Path]]:
    """WordNet id -> validation images that lie in one folder."""
    solution = _maybe(folder, ("LOC_val_solution.csv",))
    files = images_in(val)
    if solution is not None:  # ImageId,PredictionString with lines ILSVRC2012_val_00000001,n01751748 111 108 ...
        with open(solution, newline="") as rows:
            ids = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(rows)}
    else:
        truth = _first(
            folder,
            ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",),
            Path.is_file,
            "class folders in val/, LOC_val_solution.csv or the folder ILSVRC2012_devkit_t12",
        )
        synsets = read_mat(truth.with_name("meta.mat"))["synsets"]
        wordnet = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
        ids = {f"ILSVRC2012_val_{i:08d}": wordnet[int(number)] for i, number in enumerate(_lines(truth), 1)}
    held: dict[str, list[Path]] = {}
    for file in files:
        if file.stem not in ids:
            raise Absent(f"{file} has no label in {solution or truth}")
        held.setdefault(ids[file.stem], []).append(file)
    return held


def _synset_names(folder: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """'n01440764 tench' where LOC_synset_mapping.txt lies beside, else the ids."""
    mapping = _maybe(folder, ("LOC_synset_mapping.txt",))
    if mapping is None:
        return ids
    # With the id: two classes are called crane and two maillot.
    names = {line.split(" ", 1)[0]: line.split(",")[0] for line in _lines(mapping)}
    return tuple(names.get(wordnet, wordnet) for wordnet in ids)


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; none if there is no such folder."""
    try:
        with os.scandir(folder) as items:
            names = sorted(
                item.name for item in items if item.name.lower().endswith(EXTENSIONS) and not item.name.startswith(".")
            )
    except OSError:
        return []
    return [folder / name for name in names]


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Folder name -> its images, sorted; folders without images are left out."""
    names = (
        sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
        if folder.is_dir()
        else []
    )
    return {name: files for name in names if (files := images_in(folder / name))}


def _same_classes(
    train: dict[str, list[Path]], test: dict[str, list[Path]]
) -> tuple[tuple[str, ...], list[LabelledFiles]]:
    if set(train) != set(test):
        raise Absent(f"train/ and test/ differ in classes: {sorted(set(train) ^ set(test))[:3]}")
    classes = tuple(train)
    return classes, [
        [(file, label) for label, name in enumerate(classes) for file in part[name]] for part in (train, test)
    ]


def _labelled(base: Path, rows: Iterable[tuple[str, str]], classes: tuple[str, ...]) -> LabelledFiles:
    """(file, label) for rows of (path under base, class name). Absent if files are missing or a class is unknown."""
    label = {name: i for i, name in enumerate(classes)}
    listing: dict[str, set[str]] = {}
    pairs, missing = [], []
    for path, name in rows:
        folder, _, file = path.rpartition("/")
        if folder not in listing:  # one look at a folder, not one at each of a million files
            listing[folder] = set(os.listdir(base / folder)) if (base / folder).is_dir() else set()
        if file not in listing[folder]:
            missing.append(path)
        elif name not in label:
            raise Absent(f"{path} is of class {name!r}, which is not among the {len(classes)} classes")
        else:
            pairs.append((base / path, label[name]))
    if missing:
        raise Absent(
            f"{len(missing):,} of {len(missing) + len(pairs):,} listed images are not in {base}, the first {missing[0]}"
        )
    return pairs


def _benchmark(base: Path, lists: list[Path], classes: tuple[str, ...], flat: bool = False) -> LabelledFiles:
    """NAS-Benchmark's lists: a row for each class, its name (in some lists after a row number) and then its files; the
    first row numbers columns.
    """
    rows = []
    for file in lists:
        with open(file, newline="", encoding="utf-8") as content:
            for row in list(csv.reader(content))[1:]:
                name, *files = row[1:] if row[0].isdigit() else row
                rows += [(image if flat else f"{name}/{image}", name) for image in files if image]
    return _labelled(base, rows, classes)


def expect(name: str, found: dict[str, int]) -> None:
    """Raise Absent where a count (by the keys of COUNTS) is not the published one."""
    for part, count in found.items():
        expected = COUNTS[name].get(part, count)
        if count != expected:
            what = {"classes": "classes", "all": "images"}.get(part, f"{part} images")
            raise Absent(f"{count:,} {what} were found there, {expected:,} are expected")


def _first(folder: Path, places: tuple[str, ...], fits: Any, what: str = "") -> Path:
    for place in places:
        if fits(folder / place):
            return folder / place
    raise Absent(
        f"{folder} has no {what or ' or '.join(places)}" if folder.is_dir() else f"there is no folder {folder}"
    )


def _maybe(folder: Path, places: tuple[str, ...]) -> Path | None:
    return next((folder / place for place in places if (folder / place).is_file()), None)


def _file(folder: Path, name: str) -> Path:
    return _first(folder, (name,), Path.is_file)


def _is_folder(folder: Path, name: str) -> str:
    """The name of a folder in `folder` that is called so but for case, or ''."""
    if not folder.is_dir():
        return ""
    return next(
        (item.name for item in folder.iterdir() if item.name.casefold() == name.casefold() and item.is_dir()), ""
    )


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_mat(file: Path) -> dict[str, Any]:
    """A MATLAB file's variables. Absent if it cannot be read."""
    from scipy.io import loadmat

    try:
        return loadmat(file, squeeze_me=True)
    except Exception as error:  # scipy raises many kinds on a file that is cut short or none of its own
        raise Absent(f"{file} cannot be read ({type(error).__name__}: {error})") from error
