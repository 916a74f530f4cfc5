"""Every named set of photographs, small: the files that its publisher offers, in their layout, with tiny images."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from tests_rar import write_rar
from torchvision import datasets as tv


@dataclass
class Published:
    """files: what is offered, name → content; where: the folder under root in which kit looks for them; sizes: images
    in train + val and in test; split: how its sentence begins or ends; label: of an image by its number (its grey
    value)."""

    name: str
    files: dict[str, bytes]
    where: str
    classes: tuple[str, ...]
    sizes: tuple[int, int]
    split: str
    label: dict[int, str]


class Maker:
    """Numbers images and remembers what each shows. All are PNG inside, whatever they are called: so their pixels come
    back exactly."""

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


def benchmark(lists: dict[str, dict[str, list[str]]], numbered: str = "train") -> dict[str, bytes]:
    """Lists of NAS-Benchmark: numbered columns, and in the lists of training images of two sets a row number first."""
    files = {}
    for file, rows in lists.items():
        first = numbered in file
        lines = [",".join(["", *map(str, range(12))])]
        lines += [",".join([*[str(i)] * first, name, *images, "", ""]) for i, (name, images) in enumerate(rows.items())]
        files[file] = "\n".join(lines).encode() + b"\n"
    return files


SPORTS = ("RockClimbing", "badminton", "bocce", "croquet", "polo", "rowing", "sailing", "snowboarding")


def sport8(patch, tmp: Path) -> Published:
    maker, entries, train, test = Maker(), {"event_img": None}, {}, {}
    for sport in SPORTS:
        names = [f"Easy_Mid_{sport}_{i}.{'JPG' if i == 1 else 'jpg'}" for i in range(5)]
        entries |= {f"event_img/{sport}": None, f"event_img/{sport}/Thumbs.db": b"\xd0\xcf"}
        entries |= {f"event_img/{sport}/{name}": maker.image(sport) for name in names}
        train[sport], test[sport] = names[1:], names[:1]
    lists = benchmark({"Sport8_train.csv": train, "Sport8_test.csv": test}, numbered="none")
    files = {"event_dataset.rar": write_rar(tmp / "made.rar", entries).read_bytes()} | lists
    return Published("sport8", files, "sport8", SPORTS, (32, 8), "80:20", maker.label)


SCENES = ("airport_inside", "bar", "tv_studio")


def _indoor() -> tuple[Maker, dict[str, list[str]], bytes]:
    maker, entries, names = Maker(), {"Images/.DS_Store": b"x"}, {}
    for scene in SCENES:
        names[scene] = [f"shopping mall {i}.jpg" for i in range(10)]
        entries |= {f"Images/{scene}/{name}": maker.image(scene) for name in names[scene]}
    return maker, names, make_tar(entries)


def mit67(patch, tmp: Path) -> Published:
    maker, names, archive = _indoor()
    lists = {f"MIT67_train{i}.csv": {scene: names[scene][:8]} for i, scene in enumerate(SCENES, 1)}
    lists |= {"MIT67_train4.csv": {SCENES[0]: names[SCENES[0]][8:9]}}
    lists |= {"MIT67_test.csv": {scene: names[scene][9:] for scene in SCENES}}
    files = {"indoorCVPR_09.tar": archive} | benchmark(lists)
    return Published("mit67", files, "mit67", SCENES, (25, 3), "80:20 lists", maker.label)


FLOWERS = ("rose", "sweet pea", "lily")


def _flowers(patch) -> tuple[Maker, dict[str, bytes], list[int]]:
    maker, labels, numbers = Maker(), [1 + i % 3 for i in range(30)], np.arange(1, 31)
    entries = {f"jpg/image_{i:05d}.jpg": maker.image(FLOWERS[label - 1]) for i, label in enumerate(labels, 1)}
    patch.setattr(tv.Flowers102, "classes", list(FLOWERS))
    files = {
        "102flowers.tgz": make_tar(entries, "w:gz"),
        "imagelabels.mat": make_mat(labels=np.array([labels], np.uint8)),
        "setid.mat": make_mat(trnid=numbers[None, :6], valid=numbers[None, 6:12], tstid=numbers[None, 12:]),
    }
    return maker, files, labels


def flowers102(patch, tmp: Path) -> Published:
    maker, files, _ = _flowers(patch)
    return Published("flowers102", files, "flowers-102", FLOWERS, (12, 18), "setid.mat of Nilsback", maker.label)


def flowers102_nas(patch, tmp: Path) -> Published:
    maker, files, labels = _flowers(patch)
    names = {f"flower_{c}": [f"image_{i:05d}.jpg" for i, n in enumerate(labels, 1) if n == c] for c in (3, 1, 2)}
    lists = {
        "flowers102_train1.csv": {"flower_2": names["flower_2"][:8]},
        "flowers102_train2.csv": {c: names[c][:8] for c in ("flower_3", "flower_1")},
        "flowers102_test.csv": {c: images[8:] for c, images in names.items()},
    }
    files |= benchmark(lists)
    return Published("flowers102_nas", files, "flowers-102", FLOWERS, (24, 6), "80:20 lists", maker.label)


def sun397(patch, tmp: Path) -> Published:
    maker, scenes = Maker(), ("/a/abbey", "/a/apartment_building/outdoor", "/z/zen_garden")
    names = {scene: [f"{scene}/sun_{letter}.jpg" for letter in "abcdefghijkl"] for scene in scenes}
    entries = {"SUN397/ClassName.txt": "\n".join(scenes).encode()}
    entries |= {f"SUN397{name}": maker.image(scene[3:]) for scene in scenes for name in names[scene]}
    lists = {
        f"{part}_0{k}.txt": "\n".join(name for scene in scenes for name in names[scene][rows]).encode()
        for part, rows in (("Training", slice(0, 5)), ("Testing", slice(5, 10)))
        for k in (1, 2)
    }
    files = {"SUN397.tar.gz": make_tar(entries, "w:gz"), "Partitions.zip": make_zip(lists)}
    classes = tuple(scene[3:] for scene in scenes)
    return Published("sun397", files, ".", classes, (15, 15), "first of the ten", maker.label)


def places365(patch, tmp: Path) -> Published:
    maker, scenes = Maker(), ("/a/airfield", "/f/field/wild", "/z/zen_garden")
    train = {f"{scene}/{i:08d}.jpg": label for label, scene in enumerate(scenes) for i in range(1, 11)}
    test = {f"Places365_val_{i:08d}.jpg": i % 3 for i in range(1, 7)}
    tables = {
        "categories_places365.txt": {scene: i for i, scene in enumerate(scenes)},
        "places365_train_standard.txt": train,
        "places365_val.txt": test,
    }
    lists = {file: "\n".join(f"{a} {b}" for a, b in rows.items()).encode() for file, rows in tables.items()}
    images = {f"data_256{name}": maker.image(scenes[label][3:]) for name, label in train.items()}
    held = {f"val_256/{name}": maker.image(scenes[label][3:]) for name, label in test.items()}
    files = {
        "filelist_places365-standard.tar": make_tar(lists),
        "train_256_places365standard.tar": make_tar(images),
        "val_256.tar": make_tar(held),
    }
    classes = tuple(scene[3:] for scene in scenes)
    return Published("places365", files, "places365", classes, (30, 6), "test is the published", maker.label)


FETCHED = (sport8, mit67, flowers102, flowers102_nas, sun397, places365)
