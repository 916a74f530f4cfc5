"""Every named set of photographs, small: the files that its publisher offers, in their real layout, with few tiny
images.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from tests_rar import write_rar
from torchvision import datasets as tv

from kit.data import layouts, photographs


@dataclass
class Published:
    """files: what is offered, name -> content; sizes: images in train + val and in test; label: of an image by its
    number (its grey value).
    """

    name: str
    files: dict[str, bytes]
    classes: tuple[str, ...]
    sizes: tuple[int, int]
    split: str
    folder: str
    label: dict[int, str] = field(default_factory=dict)


class Maker:
    """Numbers images and remembers what each shows. All are PNG inside, whatever they are called: so their pixels come
    back exactly.
    """

    def __init__(self):
        self.label: dict[int, str] = {}

    def image(self, label: str) -> bytes:
        number = len(self.label) + 1
        self.label[number] = label
        file = io.BytesIO()
        Image.new("RGB", (10 + number % 3, 8 + number % 4), (number, number, 255 - number)).save(file, "PNG")
        return file.getvalue()


def make_tar(entries: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as packed:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return file.getvalue()


def make_zip(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    return file.getvalue()


def make_mat(**variables) -> bytes:
    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


def struct_array(rows: list[dict]) -> np.ndarray:
    """As MATLAB's struct arrays: [1, N] with a field of objects for each key."""
    array = np.empty((1, len(rows)), [(key, object) for key in rows[0]])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.values())
    return array


def benchmark_csv(rows: dict[str, list[str]], numbered: bool) -> bytes:
    """A list of NAS-Benchmark: numbered columns, and in the lists of training images of two sets a row number first."""
    width = max(map(len, rows.values())) + numbered
    lines = [",".join(["", *map(str, range(width))])]
    for i, (name, files) in enumerate(rows.items()):
        cells = [*([str(i)] if numbered else []), name, *files]
        lines.append(",".join(cells + [""] * (width + 1 - len(cells))))
    return "\n".join(lines).encode() + b"\n"


def sport8(patch: Callable, tmp: Path, lists: bool = True) -> Published:
    maker, entries, train, test = Maker(), {"event_img": None}, {}, {}
    for sport in layouts.SPORTS:
        entries[f"event_img/{sport}"] = None
        names = [f"Easy_Mid_{sport}_{i}.{'JPG' if i == 1 else 'jpg'}" for i in range(5)]
        entries |= {f"event_img/{sport}/{name}": maker.image(sport) for name in names} | {
            f"event_img/{sport}/Thumbs.db": b"\xd0\xcf"
        }
        train[sport], test[sport] = names[1:], names[:1]
    patch.setitem(layouts.COUNTS, "sport8", {"classes": 8, "all": 40})
    files = {"event_dataset.rar": write_rar(tmp / "made.rar", entries).read_bytes()}
    csvs = {"Sport8_train.csv": benchmark_csv(train, False), "Sport8_test.csv": benchmark_csv(test, False)}
    patch.setattr(photographs, "BENCHMARK_MD5", {name: md5(content).hexdigest() for name, content in csvs.items()})
    if not lists:
        return Published(
            "sport8", files, layouts.SPORTS, (32, 8), "the source has no split: stratified 70%", "sport8", maker.label
        )
    return Published(
        "sport8",
        files | csvs,
        layouts.SPORTS,
        (32, 8),
        "NAS-Benchmark .*; val is a stratified 10%",
        "sport8",
        maker.label,
    )


SCENES = ("airport_inside", "bar", "tv_studio")


def _indoor(patch: Callable) -> tuple[Maker, dict[str, list[str]], dict[str, bytes]]:
    maker, entries, names = Maker(), {"Images/.DS_Store": b"x"}, {}
    for scene in SCENES:
        names[scene] = [f"shopping mall {i}.jpg" for i in range(10)]
        entries |= {f"Images/{scene}/{name}": maker.image(scene) for name in names[scene]}
    patch.setitem(layouts.COUNTS, "mit67", {"classes": 3, "train": 21, "test": 6})
    return maker, names, entries


def mit67(patch: Callable, tmp: Path) -> Published:
    maker, names, entries = _indoor(patch)
    files = {"indoorCVPR_09.tar": make_tar(entries)}
    for file, part in (
        ("TrainImages.txt", slice(0, 7)),
        ("TestImages.txt", slice(7, 9)),
    ):  # one image of each class is in neither, as there
        files[file] = "\r\n".join(f"{scene}/{name}" for scene in SCENES for name in names[scene][part]).encode()
    return Published(
        "mit67", files, SCENES, (21, 6), "TestImages.txt of Quattoni and Torralba .2009.", "mit67", maker.label
    )


def mit67_nas(patch: Callable, tmp: Path) -> Published:
    maker, names, entries = _indoor(patch)
    csvs = {f"MIT67_train{i}.csv": benchmark_csv({scene: names[scene][:8]}, True) for i, scene in enumerate(SCENES, 1)}
    csvs["MIT67_train4.csv"] = benchmark_csv({SCENES[0]: names[SCENES[0]][8:9]}, True)
    csvs["MIT67_test.csv"] = benchmark_csv({scene: names[scene][9:] for scene in SCENES}, False)
    patch.setattr(photographs, "BENCHMARK_MD5", {name: md5(content).hexdigest() for name, content in csvs.items()})
    files = {"indoorCVPR_09.tar": make_tar(entries)} | csvs
    return Published("mit67_nas", files, SCENES, (25, 3), "80:20 lists of NAS-Benchmark", "mit67", maker.label)


def _flowers(patch: Callable, archive: str) -> tuple[Maker, list[int], bytes]:
    maker, labels = Maker(), [1 + i % 3 for i in range(30)]
    entries = {
        f"jpg/image_{i:05d}.jpg": maker.image(("rose", "sweet pea", "lily")[label - 1])
        for i, label in enumerate(labels, 1)
    }
    patch.setattr(tv.Flowers102, "classes", ["rose", "sweet pea", "lily"])
    patch.setitem(layouts.COUNTS, "flowers102", {"classes": 3, "train": 6, "val": 6, "test": 18})
    return maker, labels, make_tar(entries, "w:gz")


def flowers102(patch: Callable, tmp: Path) -> Published:
    maker, labels, archive = _flowers(patch, "102flowers.tgz")
    numbers = np.arange(1, 31)
    files = {
        "102flowers.tgz": archive,
        "imagelabels.mat": make_mat(labels=np.array([labels], np.uint8)),
        "setid.mat": make_mat(trnid=numbers[None, :6], valid=numbers[None, 6:12], tstid=numbers[None, 12:]),
    }
    patch.setattr(
        tv.Flowers102,
        "_file_dict",
        {
            key: (file, md5(files[file]).hexdigest())
            for key, file in (("image", "102flowers.tgz"), ("label", "imagelabels.mat"), ("setid", "setid.mat"))
        },
    )
    return Published(
        "flowers102",
        files,
        ("rose", "sweet pea", "lily"),
        (12, 18),
        "setid.mat of Nilsback",
        "flowers-102",
        maker.label,
    )


def flowers102_nas(patch: Callable, tmp: Path) -> Published:
    maker, labels, archive = _flowers(patch, "102flowers.tgz")
    names = {
        f"flower_{c}": [f"image_{i:05d}.jpg" for i, label in enumerate(labels, 1) if label == c] for c in (1, 2, 3)
    }
    csvs = {
        "flowers102_train1.csv": benchmark_csv({"flower_2": names["flower_2"][:8]}, True),
        "flowers102_train2.csv": benchmark_csv({c: names[c][:8] for c in ("flower_3", "flower_1")}, True),
        "flowers102_test.csv": benchmark_csv({c: names[c][8:] for c in ("flower_3", "flower_1", "flower_2")}, False),
    }
    patch.setattr(photographs, "BENCHMARK_MD5", {name: md5(content).hexdigest() for name, content in csvs.items()})
    patch.setattr(
        tv.Flowers102, "_file_dict", tv.Flowers102._file_dict | {"image": ("102flowers.tgz", md5(archive).hexdigest())}
    )
    files = {"102flowers.tgz": archive} | csvs
    return Published(
        "flowers102_nas", files, ("rose", "sweet pea", "lily"), (24, 6), "80:20 lists", "flowers-102", maker.label
    )


CARS = ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012")


def stanford_cars(patch: Callable, tmp: Path) -> Published:
    maker = Maker()
    patch.setitem(layouts.COUNTS, "stanford_cars", {"classes": 2, "train": 12, "test": 4})
    files, notes = {}, {}
    for part, n in (("train", 12), ("test", 4)):
        rows = [{"bbox_x1": 1, "class": 1 + i % 2, "fname": f"{i + 1:05d}.jpg"} for i in range(n)]
        files[f"cars_{part}.tgz"] = make_tar(
            {f"cars_{part}/{row['fname']}": maker.image(CARS[row["class"] - 1]) for row in rows}, "w:gz"
        )
        notes[part] = make_mat(annotations=struct_array(rows))
    meta = make_mat(class_names=np.array([CARS], object))
    unlabelled = make_mat(annotations=struct_array([{"bbox_x1": 1, "fname": "00001.jpg"}]))
    files["car_devkit.tgz"] = make_tar(
        {
            "devkit/cars_meta.mat": meta,
            "devkit/cars_train_annos.mat": notes["train"],
            "devkit/cars_test_annos.mat": unlabelled,
        },
        "w:gz",
    )
    files["cars_test_annos_withlabels.mat"] = notes["test"]
    return Published(
        "stanford_cars",
        files,
        CARS,
        (12, 4),
        "of Krause et al. .2013.; val is a stratified 20%",
        "stanford_cars",
        maker.label,
    )


def sun397(patch: Callable, tmp: Path, lists: bool = True) -> Published:
    maker, scenes = Maker(), ("/a/abbey", "/a/apartment_building/outdoor", "/z/zen_garden")
    names = {scene: [f"{scene}/sun_{letter}.jpg" for letter in "abcdefghijkl"] for scene in scenes}
    entries = {"SUN397/ClassName.txt": "\n".join(scenes).encode()}
    entries |= {f"SUN397{name}": maker.image(scene[3:]) for scene in scenes for name in names[scene]}
    patch.setitem(layouts.COUNTS, "sun397", {"classes": 3, "train": 15, "test": 15})
    files = {"SUN397.tar.gz": make_tar(entries, "w:gz")}
    patch.setattr(tv.SUN397, "_DATASET_MD5", md5(files["SUN397.tar.gz"]).hexdigest())
    classes = tuple(scene[3:] for scene in scenes)
    if not lists:
        return Published("sun397", files, classes, (29, 7), "the source has no split", "SUN397", maker.label)
    files["Partitions.zip"] = make_zip(
        {
            f"{part}_0{k}.txt": "\n".join(name for scene in scenes for name in names[scene][rows]).encode()
            for part, rows in (("Training", slice(0, 5)), ("Testing", slice(5, 10)))
            for k in (1, 2)
        }
    )
    return Published("sun397", files, classes, (15, 15), "first of the ten partitions of Xiao", "SUN397", maker.label)


def places365(patch: Callable, tmp: Path) -> Published:
    maker, scenes = Maker(), ("/a/airfield", "/f/field/wild", "/z/zen_garden")
    train = {f"{scene}/{i:08d}.jpg": label for label, scene in enumerate(scenes) for i in range(1, 11)}
    test = {f"Places365_val_{i:08d}.jpg": i % 3 for i in range(1, 7)}
    patch.setitem(layouts.COUNTS, "places365", {"classes": 3, "train": 30, "test": 6})

    def listing(rows):
        return "\n".join(f"{name} {label}" for name, label in rows.items()).encode()

    files = {
        "filelist_places365-standard.tar": make_tar(
            {
                "categories_places365.txt": listing({scene: i for i, scene in enumerate(scenes)}),
                "places365_train_standard.txt": listing(train),
                "places365_val.txt": listing(test),
                "places365_test.txt": b"Places365_test_00000001.jpg",
            }
        ),
        "train_256_places365standard.tar": make_tar(
            {f"data_256{name}": maker.image(scenes[label][3:]) for name, label in train.items()}
        ),
        "val_256.tar": make_tar({f"val_256/{name}": maker.image(scenes[label][3:]) for name, label in test.items()}),
    }
    sums = {file: (file, md5(content).hexdigest()) for file, content in files.items()}
    patch.setattr(tv.Places365, "_DEVKIT_META", {"standard": sums["filelist_places365-standard.tar"]})
    images = {("train-standard", True): sums["train_256_places365standard.tar"], ("val", True): sums["val_256.tar"]}
    patch.setattr(tv.Places365, "_IMAGES_META", images)
    classes = tuple(scene[3:] for scene in scenes)
    return Published(
        "places365",
        files,
        classes,
        (30, 6),
        "test is the published validation set of Places365",
        "places365",
        maker.label,
    )


FETCHED = (sport8, mit67, mit67_nas, flowers102, flowers102_nas, sun397, places365)  # stanford_cars is brought by hand


def serve(patch: Callable, server, published: Published) -> None:
    """Have the server offer the files, and every address of a publisher lead to it."""
    for name, content in published.files.items():
        server.add(name, content)
    for name, file in (
        ("EVENTS", "event_dataset.rar"),
        ("INDOOR", "indoorCVPR_09.tar"),
        ("SUN_PARTITIONS", "Partitions.zip"),
    ):
        patch.setattr(photographs, name, server.url(file))
    for name in ("INDOOR_LISTS", "BENCHMARK"):
        patch.setattr(photographs, name, server.address)
    patch.setattr(tv.Flowers102, "_download_url_prefix", f"{server.address}/")
    patch.setattr(tv.SUN397, "_DATASET_URL", server.url("SUN397.tar.gz"))
    patch.setattr(tv.Places365, "_BASE_URL", f"{server.address}/")
