"""Every named set of photographs from what its publisher offers to images with labels, and what goes wrong on the
way.
"""

import importlib.util
import re
import shutil
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_data import no_network, same, save_images  # noqa: F401
from tests_layouts import (
    CARS,
    FETCHED,
    Maker,
    flowers102,
    make_mat,
    make_tar,
    mit67,
    places365,
    serve,
    sport8,
    stanford_cars,
    struct_array,
    sun397,
)
from tests_server import server  # noqa: F401
from torchvision import datasets as tv

from kit.data import builtin, data_root, datasets, describe, layouts, load_dataset, registry, table
from kit.errors import KitError

SIZE = 8


def put(published, root: Path):
    root.mkdir(exist_ok=True)
    for name, content in published.files.items():
        (root / name).write_bytes(content)


def check(sets, published):
    """Sizes, classes, the split's sentence, and that each image has the label of the class it shows."""
    assert sets.classes == published.classes and sets.name == published.name and sets.size == (SIZE, SIZE)
    assert (len(sets.train) + len(sets.val), len(sets.test)) == published.sizes
    assert re.search(published.split, sets.split), sets.split
    for part in (sets.train, sets.val, sets.test):
        numbers = part.images[:, 0, 0, 0].tolist()
        assert [published.classes[label] for label in part.labels.tolist()] == [
            published.label[number] for number in numbers
        ]
        assert part.images[:, 2, 0, 0].tolist() == [255 - number for number in numbers]


# ---------------------------------------------------------------- what publishers offer


@pytest.mark.parametrize("make", FETCHED)
def test_fetched_unpacked_and_read(tmp_path, server, monkeypatch, make):
    pytest.importorskip("rarfile")
    published, root = make(monkeypatch, tmp_path), tmp_path / "root"
    serve(monkeypatch, server, published)
    largest = max(published.files, key=lambda name: len(published.files[name]))
    server.breaks[largest] = [1000]
    sets = load_dataset(published.name, root=root, image_size=SIZE)
    check(sets, published)
    fetched = {name: [sent.size for sent in server.sent if sent.path == name] for name in published.files}
    assert fetched == {
        name: [1000, len(content) - 1000] if name == largest else [len(content)]
        for name, content in published.files.items()
    }
    assert {item.name for item in root.iterdir()} - {"cache"} == {published.folder}, "archives and helpers are gone"
    server.sent.clear()
    assert same(sets, load_dataset(published.name, root=root, image_size=SIZE)) and not server.sent


@pytest.mark.parametrize("make", [*FETCHED, stanford_cars])
def test_archives_that_lie_in_root_need_no_network_and_stay(tmp_path, monkeypatch, make):
    pytest.importorskip("rarfile")
    published, root = make(monkeypatch, tmp_path), tmp_path / "root"
    put(published, root)
    check(load_dataset(published.name, root=root, image_size=SIZE), published)
    assert {name: (root / name).read_bytes() for name in published.files} == published.files
    for name in published.files:
        (root / name).unlink()
    check(load_dataset(published.name, root=root, image_size=SIZE), published)


@pytest.mark.parametrize("make", [*FETCHED, stanford_cars])
def test_without_network_the_error_says_what_to_bring(tmp_path, monkeypatch, make):
    published = make(monkeypatch, tmp_path)
    with pytest.raises(KitError) as caught:
        load_dataset(published.name, root=tmp_path / "root", image_size=SIZE)
    bring = [name for name in published.files if not name.endswith(".csv")]
    reason = "its authors' addresses are dead" if make is stanford_cars else "no network in tests"
    for words in (
        f"dataset '{published.name}' was not found in {tmp_path / 'root' / published.folder}",
        str(tmp_path / "root"),
        reason,
        *bring,
    ):
        assert words in str(caught.value)


def test_photographs_have_a_size_of_their_own(tmp_path, monkeypatch):
    published = flowers102(monkeypatch, tmp_path)
    put(published, tmp_path / "root")
    assert load_dataset("flowers102", root=tmp_path / "root").size == (224, 224)


@pytest.mark.parametrize("make, file", [(sport8, "Sport8_test.csv"), (sun397, "Partitions.zip")])
def test_without_the_lists_kit_splits_and_says_so(tmp_path, server, monkeypatch, capsys, make, file):
    pytest.importorskip("rarfile")
    published, root = make(monkeypatch, tmp_path, lists=False), tmp_path / "root"
    serve(monkeypatch, server, published)
    sets = load_dataset(published.name, root=root, image_size=SIZE)
    check(sets, published)
    assert f"{published.name}: goes on without {file} (HTTP 404" in capsys.readouterr().out
    server.sent.clear()
    assert same(sets, load_dataset(published.name, root=root, image_size=SIZE)) and not server.sent, (
        "the same split, with and without a network"
    )


def test_sport8_unpacked_by_hand(tmp_path, monkeypatch):
    published, maker = sport8(monkeypatch, tmp_path, lists=False), Maker()
    for sport in layouts.SPORTS:
        folder = tmp_path / "root" / "sport8" / sport.lower()
        folder.mkdir(parents=True)
        for i in range(5):
            (folder / f"{i}.jpg").write_bytes(maker.image(sport))
    check(load_dataset("sport8", root=tmp_path / "root", image_size=SIZE), published)
    (tmp_path / "root" / "sport8" / "polo" / "0.jpg").unlink()
    with pytest.raises(
        KitError, match="39 images were found there, 40 are expected.*download failed.*event_dataset.rar"
    ):
        load_dataset("sport8", root=tmp_path / "root", image_size=SIZE)


# ---------------------------------------------------------------- what goes wrong


def test_a_set_that_was_unpacked_in_part_is_mended(tmp_path, server, monkeypatch):
    published, root = mit67(monkeypatch, tmp_path), tmp_path / "root"
    serve(monkeypatch, server, published)
    sets = load_dataset("mit67", root=root, image_size=SIZE)
    (root / "mit67" / "TestImages.txt").unlink()
    server.sent.clear()
    assert same(sets, load_dataset("mit67", root=root, image_size=SIZE))
    assert [sent.path for sent in server.sent] == ["TestImages.txt"], "what is there is not fetched again"
    shutil.rmtree(root / "mit67" / "Images" / "bar")
    assert same(sets, load_dataset("mit67", root=root, image_size=SIZE))
    assert [sent.path for sent in server.sent[1:]] == ["indoorCVPR_09.tar"], (
        "images are missing: their archive is fetched"
    )


def test_an_archive_that_holds_something_else(tmp_path, server, monkeypatch):
    published, root = mit67(monkeypatch, tmp_path), tmp_path / "root"
    published.files["indoorCVPR_09.tar"] = make_tar({"Images/bar/a.jpg": b"1"})
    serve(monkeypatch, server, published)
    with pytest.raises(
        KitError,
        match="was filled from indoorCVPR_09.tar, .*, but 21 of 21 listed images are not in .*, the first airport_inside/",
    ):
        load_dataset("mit67", root=root, image_size=SIZE)
    assert len(server.sent) == 3, "nothing is fetched twice in one start"
    monkeypatch.setitem(layouts.COUNTS, "mit67", {"classes": 67, "train": 5360, "test": 1340})
    with pytest.raises(KitError, match="3 classes were found there, 67 are expected"):
        load_dataset("mit67", root=root, image_size=SIZE)


@pytest.mark.parametrize(
    "size, reason",
    [
        (20_000, "indoorCVPR_09.tar cannot be unpacked .*incomplete or damaged"),
        (20_480, "of 21 listed images are not in"),
    ],
)  # between two images: such an archive reads as a whole one
def test_an_archive_that_is_broken_is_fetched_again_next_time(tmp_path, server, monkeypatch, size, reason):
    published, root = mit67(monkeypatch, tmp_path), tmp_path / "root"
    whole = published.files["indoorCVPR_09.tar"]
    published.files["indoorCVPR_09.tar"] = whole[:size]  # no checksum of it is known
    serve(monkeypatch, server, published)
    with pytest.raises(KitError, match=reason):
        load_dataset("mit67", root=root, image_size=SIZE)
    server.add("indoorCVPR_09.tar", whole)
    check(load_dataset("mit67", root=root, image_size=SIZE), published)


def test_an_archive_that_leads_out_leaves_nothing(tmp_path, server, monkeypatch):
    published, root = mit67(monkeypatch, tmp_path), tmp_path / "root"
    published.files["indoorCVPR_09.tar"] = make_tar({"Images/bar/a.jpg": b"1", "../../evil.jpg": b"2"})
    serve(monkeypatch, server, published)
    with pytest.raises(KitError, match="'../../evil.jpg' leads out"):
        load_dataset("mit67", root=root, image_size=SIZE)
    assert not list(tmp_path.rglob("evil.jpg")) and not (root / "mit67").exists() and not list(root.glob(".unpacking*"))


def test_a_wrong_archive_in_root_is_not_used(tmp_path, server, monkeypatch, capsys):
    published, root = flowers102(monkeypatch, tmp_path), tmp_path / "root"
    serve(monkeypatch, server, published)
    root.mkdir()
    (root / "102flowers.tgz").write_bytes(b"half of it")
    check(load_dataset("flowers102", root=root, image_size=SIZE), published)
    assert (
        "102flowers.tgz is not used: its MD5 is" in capsys.readouterr().out
        and (root / "102flowers.tgz").read_bytes() == b"half of it"
    )


def test_labels_that_cannot_be_read(tmp_path, monkeypatch):
    published, root = flowers102(monkeypatch, tmp_path), tmp_path / "root"
    put(published, root)
    load_dataset("flowers102", root=root, image_size=SIZE)
    (root / "setid.mat").unlink()
    (root / "flowers-102" / "setid.mat").write_bytes(b"MATLAB 5.0 no more")
    with pytest.raises(KitError, match="setid.mat cannot be read"):
        load_dataset("flowers102", root=root, image_size=SIZE)


# ---------------------------------------------------------------- other layouts of the same sets


def test_stanford_cars_as_kaggle_has_them(tmp_path, monkeypatch):
    published, root = stanford_cars(monkeypatch, tmp_path), tmp_path / "root"
    put(published, root)
    sets = load_dataset("stanford_cars", root=root, image_size=SIZE)
    cars = root / "stanford_cars"
    for part in ("cars_train", "cars_test"):  # doubled folders
        (cars / part).rename(cars / "once")
        (cars / part).mkdir()
        (cars / "once").rename(cars / part / part)
    (cars / "car_devkit").mkdir()
    (cars / "devkit").rename(cars / "car_devkit" / "devkit")
    assert same(sets, load_dataset("stanford_cars", root=root, image_size=SIZE))
    by_class = {
        part: {
            name: tmp_path / "other" / "stanford_cars" / "car_data" / "car_data" / part / name.replace("/", "-")
            for name in CARS
        }
        for part in ("train", "test")
    }
    for part, folder in (("train", "cars_train"), ("test", "cars_test")):
        for i, file in enumerate(sorted((cars / folder / folder).iterdir())):
            by_class[part][CARS[i % 2]].mkdir(parents=True, exist_ok=True)
            shutil.copy(file, by_class[part][CARS[i % 2]] / file.name)
    other = load_dataset("stanford_cars", root=tmp_path / "other", image_size=SIZE)
    assert len(other.train) == len(sets.train) and other.classes == tuple(name.replace("/", "-") for name in CARS)


def test_stanford_cars_without_the_labels_of_its_test_images(tmp_path, monkeypatch):
    published, root = stanford_cars(monkeypatch, tmp_path), tmp_path / "root"
    put(published, root)
    load_dataset("stanford_cars", root=root, image_size=SIZE)
    unlabelled = make_mat(annotations=struct_array([{"bbox_x1": 1, "fname": "00001.jpg"}]))
    (root / "stanford_cars" / "cars_test_annos_withlabels.mat").write_bytes(unlabelled)
    (root / "cars_test_annos_withlabels.mat").write_bytes(unlabelled)
    with pytest.raises(KitError, match="has no labels"):
        load_dataset("stanford_cars", root=root, image_size=SIZE)


def test_places365_as_torchvision_leaves_it(tmp_path, monkeypatch):
    published, root = places365(monkeypatch, tmp_path), tmp_path / "root"
    put(published, root)
    sets = load_dataset("places365", root=root, image_size=SIZE)
    (root / "places365" / "data_256").rename(root / "places365" / "data_256_standard")
    assert same(sets, load_dataset("places365", root=root, image_size=SIZE))


# ---------------------------------------------------------------- ImageNet


def imagenet(folder: Path, classes=130, flat=False) -> dict[str, str]:
    """Images of ImageNet's layout; returns validation image -> WordNet id."""
    maker, truth = Maker(), {}
    content = maker.image("")
    for c in range(classes):
        wordnet = f"n{c:08d}"
        for place, names in (
            (f"train/{wordnet}", [f"{wordnet}_{i}.JPEG" for i in range(2)]),
            ("val" if flat else f"val/{wordnet}", [f"ILSVRC2012_val_{c + 1:08d}.JPEG"]),
        ):
            (folder / place).mkdir(parents=True, exist_ok=True)
            for name in names:
                (folder / place / name).write_bytes(content)
        truth[f"ILSVRC2012_val_{c + 1:08d}"] = wordnet
    return truth


@pytest.fixture
def small_imagenet(monkeypatch):
    monkeypatch.setitem(layouts.COUNTS, "imagenet", {"classes": 130, "train": 260, "test": 130})


def test_imagenet_folder(tmp_path, small_imagenet):
    imagenet(tmp_path / "imagenet")
    sets = load_dataset("imagenet", root=tmp_path, image_size=SIZE)
    assert sets.num_classes == 130 and len(sets.test) == 130 and torch.equal(sets.test.labels, torch.arange(130))
    assert (
        "test is the published validation set of ILSVRC 2012" in sets.split and "val is a stratified 4%" in sets.split
    )
    shutil.rmtree(tmp_path / "imagenet" / "val" / "n00000007")
    with pytest.raises(
        KitError, match="differ in classes.*: fetch it with an account at image-net.org and lay it out as"
    ):
        load_dataset("imagenet", root=tmp_path, image_size=SIZE)
    shutil.rmtree(tmp_path / "imagenet" / "train" / "n00000007")
    with pytest.raises(KitError, match="129 classes were found there, 130 are expected"):
        load_dataset("imagenet", root=tmp_path, image_size=SIZE)


@pytest.mark.parametrize("kind", ["kaggle", "devkit"])
def test_imagenet_with_a_flat_validation_folder(tmp_path, small_imagenet, kind):
    folder = tmp_path / "imagenet"
    truth = imagenet(folder / "ILSVRC/Data/CLS-LOC" if kind == "kaggle" else folder, flat=True)
    order = np.random.RandomState(0).permutation(130)
    truth = {
        image: f"n{order[i]:08d}" for i, image in enumerate(truth)
    }  # validation images are not in the order of classes
    with pytest.raises(KitError, match="no class folders in val/, LOC_val_solution.csv or the folder"):
        load_dataset("imagenet", root=tmp_path, image_size=SIZE)
    if kind == "kaggle":
        rows = [f"{image},{wordnet} 1 2 3 4 {wordnet} 5 6 7 8" for image, wordnet in truth.items()]
        (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows))
        (folder / "LOC_synset_mapping.txt").write_text("\n".join(f"n{c:08d} crane, bird" for c in range(130)))
    else:
        data = folder / "ILSVRC2012_devkit_t12" / "data"
        data.mkdir(parents=True)
        ids = {f"n{c:08d}": 130 - c for c in range(130)}  # the devkit numbers classes in an order of its own
        (data / "ILSVRC2012_validation_ground_truth.txt").write_text(
            "\n".join(str(ids[wordnet]) for wordnet in truth.values())
        )
        (data / "meta.mat").write_bytes(
            make_mat(synsets=struct_array([{"ILSVRC2012_ID": i, "WNID": wordnet} for wordnet, i in ids.items()]).T)
        )
    found = layouts.imagenet(folder)
    assert {file.stem: f"n{label:08d}" for file, label in found.test} == truth
    assert found.classes[5] == ("n00000005 crane" if kind == "kaggle" else "n00000005")


def test_imagenet120_has_dadas_classes(tmp_path, monkeypatch):
    assert (
        len(set(layouts.DADA_CLASSES)) == 120
        and list(layouts.DADA_CLASSES) == sorted(layouts.DADA_CLASSES)
        and layouts.DADA_CLASSES[-1] == 959
    )
    monkeypatch.setattr(layouts, "DADA_CLASSES", (16, 23, 52))
    monkeypatch.setitem(layouts.COUNTS, "imagenet", {"classes": 60, "train": 120, "test": 60})
    imagenet(tmp_path / "imagenet", classes=60)
    found = layouts.imagenet120(tmp_path / "imagenet")
    assert found.classes == ("n00000016", "n00000023", "n00000052") and len(found.train) == 6
    assert [(file.parent.name, label) for file, label in found.test] == [
        ("n00000016", 0),
        ("n00000023", 1),
        ("n00000052", 2),
    ]


# ---------------------------------------------------------------- SVHN and ELPV


def test_svhn(tmp_path, server, monkeypatch):
    random, files, labels = np.random.RandomState(0), {}, {}
    for part, n in (("train", 100), ("test", 20)):
        labels[part] = np.arange(n) % 10 + 1
        images = random.randint(0, 256, (32, 32, 3, n)).astype(np.uint8)
        files[part] = (images, make_mat(X=images, y=labels[part][:, None].astype(np.uint8)))
    monkeypatch.setattr(
        tv.SVHN,
        "split_list",
        {
            part: [server.add(f"{part}_32x32.mat", content), f"{part}_32x32.mat", md5(content).hexdigest()]
            for part, (_, content) in files.items()
        },
    )
    monkeypatch.setitem(layouts.COUNTS, "svhn", {"train": 100, "test": 20})
    sets = load_dataset("svhn", root=tmp_path / "root")
    assert (len(sets.train), len(sets.val), len(sets.test)) == (90, 10, 20) and not sets.flip and sets.size == (32, 32)
    assert np.array_equal(sets.test.images[3, 1].numpy(), files["test"][0][:, :, 1, 3])
    assert sets.test.labels.tolist() == [label % 10 for label in labels["test"]], "the digit 0 is published as 10"
    (tmp_path / "root" / "svhn").rename(tmp_path / "flat")
    server.sent.clear()
    assert same(sets, load_dataset("svhn", root=tmp_path / "flat")) and not server.sent, "as torchvision leaves them"
    monkeypatch.setitem(layouts.COUNTS, "svhn", {"train": 73257, "test": 26032})
    with pytest.raises(KitError, match="100 train images were found there, 73,257 are expected"):
        load_dataset("svhn", root=tmp_path / "flat")


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A folder of 48 cells as the repository of ELPV has them, and no package."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(layouts.COUNTS, "elpv", {"all": 48})
    folder = tmp_path / "elpv"
    save_images(folder / "images", 48, mode="L")
    kinds = [(p, kind) for p in ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0") for kind in ("mono", "poly")]
    (folder / "labels.csv").write_text(
        "".join(f"images/{i:03}.png  {kinds[i % 8][0]}  {kinds[i % 8][1]}\n" for i in range(48))
    )
    return folder


def test_elpv_in_two_and_four_classes(tmp_path, cells):
    two, four = load_dataset("elpv", root=tmp_path), load_dataset("elpv4", root=tmp_path)
    assert two.classes == ("functional", "defective") and four.num_classes == 4 and two.channels == 1
    for sets, of in ((two, lambda number: number % 8 >= 4), (four, lambda number: number % 8 // 2)):
        for part in (sets.train, sets.val, sets.test):
            assert part.labels.tolist() == [of(number) for number in part.images[:, 0, 0, 0].tolist()]
        counts = np.bincount([number % 8 for number in sets.test.images[:, 0, 0, 0].tolist()])
        assert counts.tolist() == [2, 1, 2, 1, 2, 1, 2, 1], "of each probability and kind of module a quarter of six"
    assert torch.equal(two.test.images, four.test.images), "both have the same test images"
    assert "a quarter for test, stratified by defect probability and cell type" in two.split


def test_elpv_without_package_or_with_other_files(tmp_path, cells):
    (cells / "images" / "007.png").unlink()
    with pytest.raises(KitError, match="do not fit .KeyError: '007.png'.: pip install --force-reinstall elpv-dataset"):
        load_dataset("elpv", root=tmp_path)
    with pytest.raises(KitError, match="its package is not installed: pip install elpv-dataset .91 MB."):
        load_dataset("elpv", root=tmp_path / "nowhere")


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="package elpv-dataset is not installed")
def test_elpv_real(tmp_path):
    files = builtin.elpv(tmp_path)
    assert len(files.train) == 1968 and len(files.test) == 656, "the sizes of the paper's split"
    labels = [label for part in files.parts().values() for _, label in part]
    assert len(labels) == 2624 and sum(labels) == 821
    four = builtin.elpv4(tmp_path)
    assert np.bincount([label for part in four.parts().values() for _, label in part]).tolist() == [1508, 295, 106, 715]
    assert [file for file, _ in four.test] == [file for file, _ in files.test]


# ---------------------------------------------------------------- descriptions


def test_every_set_is_described():
    known = {
        "cifar10",
        "cifar100",
        "digits",
        "elpv",
        "elpv4",
        "fashion_mnist",
        "flowers102",
        "flowers102_nas",
        "imagenet",
        "imagenet120",
        "mit67",
        "mit67_nas",
        "places365",
        "sport8",
        "stanford_cars",
        "sun397",
        "svhn",
    }
    assert known <= set(datasets())
    for name in known:
        about = registry._REGISTRY[name].about
        assert describe(name).startswith(about.images) and f"licence: {about.licence}" in describe(name)
        for number in re.findall(r"[\d,]{4,}", about.images):  # the table and the checks tell the same numbers
            base = name.removesuffix("_nas") if name.endswith("_nas") else name.rstrip("4")
            if base in layouts.COUNTS and not name.endswith("_nas"):
                assert int(number.replace(",", "")) in layouts.COUNTS[base].values()
        if name in layouts.COUNTS and "classes" in layouts.COUNTS[name]:
            assert about.classes == layouts.COUNTS[name]["classes"]
    rows = table().splitlines()
    assert rows[0].count("|") == rows[1].count("|") == 10 and all(row.count("|") == 10 for row in rows)
    assert sum(row.startswith("| `") for row in rows) >= len(known)
    assert "CC BY-NC-SA 4.0" in describe("elpv") and "read at 224" in describe("sport8")


def test_the_root_of_the_environment_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_DATA", str(tmp_path / "root"))
    published = flowers102(monkeypatch, tmp_path)
    put(published, tmp_path / "root")
    check(load_dataset("flowers102", image_size=SIZE), published)
    assert (data_root() / "flowers-102" / "jpg").is_dir()
