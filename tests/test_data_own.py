"""One's own images: registered, in folders, in a CSV file; files that cannot be read; the cache of decoded images."""

import errno
import json
import os
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_data import parts, same, save_images, sizes

import kit
from kit.data import DATASETS, ImageSet, Source, Streamed, fit, image, load_dataset, normalization, read_csv, register
from kit.errors import KitError


@pytest.fixture(autouse=True)
def root(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("root") / "data"
    monkeypatch.setenv("KIT_DATA", str(root))
    before = dict(DATASETS)
    yield root
    DATASETS.clear()
    DATASETS.update(before)


def numbers(part):
    return part.images[:, 0, 0, 0].tolist()


# ---- by name -------------------------------------------------------------------------------------


def test_register_a_data_set():
    seen = []

    def loader(root, image_size):
        seen.append((root, image_size))
        return Source(("a", "b"), (torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.arange(20) % 2))

    register("toy", loader, flip=False, title="a toy")
    sets = load_dataset("toy", root="/somewhere", image_size=2)
    assert seen == [(Path("/somewhere"), 2)] and sets.size == (2, 2) and sets.name == "toy" and not sets.flip
    assert "toy" in kit.datasets() and DATASETS["toy"].title == "a toy"
    register("toy", loader)  # a cell that is run again
    with pytest.raises(KitError, match="already registered"):
        register("toy", lambda root, size: None)
    with pytest.raises(KitError, match="a-z"):
        register("My Set", loader)


def test_register_a_set_of_files(tmp_path):
    save_images(tmp_path / "pets", 12, size=(50, 40))

    def pets(root, image_size=None):
        files = sorted((root / "pets").glob("*.png"))
        return Source(("cat", "dog"), [(file, int(int(file.stem) % 3 > 0)) for file in files])

    register("pets", pets, size=32)
    sets = load_dataset("pets", root=tmp_path)
    assert (sets.classes, sets.size, sets.name) == (("cat", "dog"), (32, 32), "pets")
    assert all(part.labels.tolist() == [int(n % 3 > 0) for n in numbers(part)] for part in parts(sets))
    assert load_dataset("pets", root=tmp_path, image_size=8).size == (8, 8), "image_size comes before the set's own"


def test_wrong_names_and_arguments_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in [
        ("digit", "unknown dataset 'digit'. Did you mean 'digits'. Valid: digits, .*folder"),
        ("", "unknown dataset ''"),
        *(
            (path, "photos .from .* cannot be read: .*No such file .*expected FOLDER/CLASS")
            for path in ("./photos", "~/no/photos", "some/photos")
        ),
    ]:
        with pytest.raises(KitError, match=message):
            load_dataset(name)
    for size in (0, -3, 2.5, True, "32"):
        with pytest.raises(KitError, match="image_size=.*give a whole number from 1"):
            load_dataset("digits", image_size=size)
    with pytest.raises(KitError, match="unknown on_bad_image 'ignore'. Valid: error, skip"):
        load_dataset("digits", on_bad_image="ignore")


# ---- folders -------------------------------------------------------------------------------------


def test_a_folder_is_split_70_10_20(tmp_path, monkeypatch):
    for name in ("cat", "ant", "bee"):
        save_images(tmp_path / "pets" / name, 20)
    (tmp_path / "pets" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not an image")
    sets = load_dataset(tmp_path / "pets")
    assert (sets.classes, sets.name, sets.flip, sets.size) == (("ant", "bee", "cat"), "pets", True, (6, 6))
    assert [torch.bincount(part.labels).tolist() for part in parts(sets)] == [[14] * 3, [2] * 3, [4] * 3]
    for label in range(3):  # every file's number is in its pixels
        assert sorted(n for p in parts(sets) for n, of in zip(numbers(p), p.labels) if of == label) == list(range(20))
    monkeypatch.chdir(tmp_path)
    assert same(sets, load_dataset("pets")), "by a bare name"


def test_a_folder_with_splits(tmp_path):
    for name in "ab":
        save_images(tmp_path / "train" / name, 20)
        save_images(tmp_path / "test" / name, 3, start=100)
    sets = load_dataset(tmp_path)
    assert sizes(sets) == [36, 4, 6] and numbers(sets.test) == [100, 101, 102] * 2
    for name in "ab":
        save_images(tmp_path / "val" / name, 1, start=50)
    sets = load_dataset(tmp_path)
    assert sizes(sets) == [40, 2, 6] and numbers(sets.val) == [50, 50]


def test_a_class_may_be_called_train_and_three_images_reach_every_split(tmp_path):
    for name in ("bus", "train", "test"):
        save_images(tmp_path / name, 3)
    sets = load_dataset(tmp_path)
    assert sets.classes == ("bus", "test", "train") and sizes(sets) == [3, 3, 3]


def test_modes_and_sizes(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3, mode="L", size=(9, 6))
    grey = load_dataset(tmp_path)
    assert (grey.channels, grey.size) == (1, (6, 9)) and load_dataset(tmp_path, image_size=4).size == (4, 4)
    Image.new("RGB", (9, 6), (1, 2, 3)).save(tmp_path / "b" / "colour.bmp")
    sets = load_dataset(tmp_path)
    assert sets.channels == 3 and [1, 2, 3] in torch.cat([p.images[:, :, 0, 0] for p in parts(sets)]).tolist()


def test_photographs_that_differ_in_size_are_fitted_to_the_presets_and_it_is_said(tmp_path, capsys):
    for name, mode in (("a", "L"), ("b", "RGB")):
        save_images(tmp_path / "pets" / name, 3, mode=mode, size=(90, 60))
    assert load_dataset(tmp_path / "pets").size == (60, 90) and not capsys.readouterr().out
    Image.new("RGB", (70, 80), (9, 8, 7)).save(tmp_path / "pets" / "b" / "other.webp", lossless=True)
    for preset, size in (("laptop", 32), ("server", 64), ("laptop", 32)):
        sets = kit.Config(dataset=tmp_path / "pets", preset=preset).sets()
        assert (sets.size, sets.channels, sum(sizes(sets))) == ((size, size), 3, 7)
        said = capsys.readouterr().out
        assert (
            said.count("\n") == 1 and f"pets: images differ in size: the shorter side resized to {size} pixels" in said
        )
    found = torch.cat([part.images for part in parts(sets)])
    assert torch.tensor([9, 8, 7]).view(3, 1, 1).expand(3, 32, 32).tolist() in found.tolist()
    assert load_dataset(tmp_path / "pets", image_size=np.int64(4)).size == (4, 4) and not capsys.readouterr().out


@pytest.mark.parametrize(
    "folders, message",
    [
        ({}, "pets has no class folders: expected FOLDER/CLASS/IMAGE"),
        ({"a": 3, "b": 0}, "class 'b' has 0 readable image.* at least 3 are needed"),
        ({"a": 3}, r"a list of at least two names, got \['a'\]"),
        ({"a": 3, "b": 2}, "class 'b' has 2 readable image.* at least 3 are needed"),
        ({"train/a": 3, "val/a": 3}, "has train, val: beside train/ there must be test/"),
        ({"train/a": 3, "test/a": 3, "dev": 0}, "has dev, test, train: .* nothing else but val/"),
        ({"train/a": 3, "Training/a": 3, "test/a": 3}, "has Training, test, train: .* each once"),
        ({"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 3}, "need the same class folders, they differ in 'b'"),
        ({"train/a": 3, "train/b": 3, "test/a": 3}, "they differ in 'b'"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1}, "class 'a' has 1 readable .* at least 2 are needed"),
    ],
)
def test_folder_errors(tmp_path, folders, message):
    (tmp_path / "pets").mkdir()
    for name, n in folders.items():
        save_images(tmp_path / "pets" / name, n)
    with pytest.raises(KitError, match=message):
        load_dataset(tmp_path / "pets")


def test_every_image_below_a_class_is_read_and_what_is_left_out_is_named(tmp_path, capsys):
    pets, away = tmp_path / "pets", tmp_path / "away"
    for place, start in (("cat", 0), ("cat/more/and more", 10), ("dog", 20)):
        save_images(pets / place, 3, start=start)
    save_images(away, 3, start=30)
    (pets / "dog" / "linked").symlink_to(away)
    (pets / "dog" / "again").symlink_to(away)
    (pets / "dog" / "round").symlink_to(pets)
    for i, ending in enumerate((".JPG", ".jfif", ".jpe", ".pgm", ".DIB"), start=40):
        Image.new("RGB", (6, 6), (i, 0, 0)).save(pets / "cat" / f"x{ending}", "PPM")
    for hidden in ("cat/.cache/1.png", "cat/more/__MACOSX/2.png", "dog/._3.png"):
        (pets / hidden).parent.mkdir(exist_ok=True)
        (pets / hidden).write_bytes(b"")
    assert len(load_dataset(pets).classes) == 2 and not capsys.readouterr().out
    for other in ("loose.png", "README.txt", "cat/more/photo.heic", "dog/0001"):
        shutil.copy(pets / "cat" / "000.png", pets / other)
    sets = load_dataset(pets)
    found = [sorted(n for p in parts(sets) for n, of in zip(numbers(p), p.labels) if of == label) for label in (0, 1)]
    assert found == [[0, 1, 2, 10, 11, 12, *range(40, 45)], [20, 21, 22, 30, 31, 32]]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "left out 3 file(s)" in said
    assert all(name in said for name in ("loose.png", "cat/more/photo.heic", "dog/0001"))
    (pets / "cat" / "dogs").symlink_to(pets / "dog")
    with pytest.raises(KitError, match="dog/020.png .*is listed twice: an image belongs to one part and one class"):
        load_dataset(pets)


def test_images_beside_split_folders_are_named_and_a_class_of_other_files_is_refused(tmp_path, capsys):
    for place in ("train/a", "train/b", "test/a", "test/b", "."):
        save_images(tmp_path / "pets" / place, 2)
    load_dataset(tmp_path / "pets")
    assert "left out 2 file(s), which lie in no class" in capsys.readouterr().out
    (tmp_path / "pets" / "train" / "c").mkdir()
    (tmp_path / "pets" / "train" / "c" / "x.heic").write_bytes(b"")
    (tmp_path / "pets" / "test" / "c").mkdir()
    with pytest.raises(KitError, match="class 'c' has 0 readable image"):
        load_dataset(tmp_path / "pets")
    assert "c/x.heic" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names", ["Train Test", "TRAINING Validation testing", "train valid EVAL", "training val Eval"]
)
def test_split_folders_have_the_usual_names_in_any_case(tmp_path, names):
    for i, part in enumerate(names.split()):
        for name in "ab":
            save_images(tmp_path / part / name, 2 + i, start=50 * i)
    sets = load_dataset(tmp_path)
    assert len(sets.test) == 2 * (1 + len(names.split())) and numbers(sets.test)[0] == 50 * (len(names.split()) - 1)


def test_an_accent_in_two_forms_is_one_class(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        for name in ("café", "dog"):
            save_images(tmp_path / "d" / part / unicodedata.normalize(form, name), 4)
    save_images(tmp_path / "d" / "train" / unicodedata.normalize("NFD", "café"), 4, start=10)
    sets = load_dataset(tmp_path / "d")
    assert sets.classes == (unicodedata.normalize("NFC", "café"), "dog") and sizes(sets)[2] == 8
    assert (torch.cat([sets.train.labels, sets.val.labels]) == 0).sum() == 8


def test_a_name_that_is_not_utf8_is_refused_before_training(tmp_path):
    save_images(tmp_path / "dog", 3)
    save_images(tmp_path / os.fsdecode(b"caf\xe9"), 3)
    with pytest.raises(KitError, match="class is called 'caf.udce9'.* must be text that UTF-8 can write"):
        load_dataset(tmp_path)


# ---- what a loader returns -----------------------------------------------------------------------

IMAGES, LABELS = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 4


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda: None, "got builtins.NoneType"),
        (lambda: (IMAGES, LABELS), "got builtins.tuple"),
        (lambda: torch.utils.data.TensorDataset(IMAGES), "got torch.utils.data.dataset.TensorDataset"),
        (lambda: load_dataset("digits"), "got kit.data.sets.ImageSets"),
        (lambda: source(IMAGES.permute(0, 2, 3, 1)), r"\[40, 8, 8, 3\]: 1 or 3 channels are needed; images.permute"),
        (lambda: source(torch.cat([IMAGES, IMAGES[:, :1]], 1)), r"\[40, 4, 8, 8\]: .*images\[:, :3\] is RGB"),
        (lambda: source(IMAGES.float()), "uint8 .*got float32"),
        (lambda: source(IMAGES.numpy()), "images must be a torch tensor"),
        (lambda: source(IMAGES, LABELS.int()), "labels must be int64"),
        (lambda: Source(tuple("abcd"), torch.utils.data.TensorDataset(IMAGES)), "train is neither .*TensorDataset"),
        (lambda: Source(tuple("abcd"), ["x.png", "y.png"]), "train is neither"),
        (lambda: Source(tuple("abcd"), [("x.png", "a")]), "train is neither"),
        (lambda: Source(tuple("abcd"), [("x.png", 4)]), "x.png with label 4, allowed are 0 to 3"),
        (lambda: Source(tuple("abcd"), (IMAGES, LABELS), None, [("x.png", 0)]), "some parts are tensors and some"),
        (lambda: Source("abcd", (IMAGES, LABELS)), "classes must be a list of at least two names, got 'abcd'"),
        (lambda: Source((0, 1, 2, None), (IMAGES, LABELS)), "a class is called None"),
    ],
)  # fmt: skip
def test_a_loader_that_returns_something_else_is_named_with_what_it_must_return(made, message):
    register("odd", lambda root, image_size=None: made())
    with pytest.raises(KitError, match=f"the loader of dataset 'odd': .*{message}.* must return kit.data.Source"):
        load_dataset("odd")


def source(images, labels=LABELS):
    return Source(tuple("abcd"), (images, labels))


def test_numpy_numbers_and_paths_are_taken(tmp_path):
    save_images(tmp_path / "pets", 12)
    files = [(np.str_(file), np.int64(i % 2)) for i, file in enumerate(sorted((tmp_path / "pets").iterdir()))]
    register("counted", lambda root, image_size=None: Source(np.arange(2), files), size=np.int16(8))
    sets = load_dataset(np.str_("counted"), root=tmp_path)
    assert (sets.classes, sets.size, sizes(sets)) == (("0", "1"), (8, 8), [8, 2, 2])
    config = kit.Config(
        seed=np.int64(3), lr=np.float32(0.5), epochs=torch.tensor(7), deterministic=np.bool_(True), root=tmp_path
    )
    assert (config.seed, config.lr, config.epochs, config.deterministic) == (3, 0.5, 7, True)
    assert config.name == kit.Config(seed=3, lr=0.5, epochs=7, deterministic=True).name and config.root == str(tmp_path)
    with pytest.raises(KitError, match="seed=2.5"):
        kit.Config(seed=np.float64(2.5))


SAME = [("a", "a"), (1, "1"), ("cat", "cat "), ("cat", "ca\u200bt"), ("Cat", "cat"), ("cat", "ｃａｔ"), ("cat", "саt")]


@pytest.mark.parametrize("a, b", SAME)
def test_classes_that_a_reader_takes_for_one_are_refused(a, b):
    with pytest.raises(KitError, match="two classes"):
        Source((a, b), (IMAGES, LABELS % 2))


def test_class_names_become_text():
    assert Source((0, 1, np.int64(2), "x"), (IMAGES, LABELS)).classes == ("0", "1", "2", "x")
    letters = tuple("aAсcΟO") + ("hot dog", "hotdog", "cafe", "café")
    assert Source(letters, (IMAGES, LABELS)).classes == letters, "letters are told apart"
    for name in ("", "  ", "\u200b", "a\nb", "\udce9", b"x", 0.5, None):
        with pytest.raises(KitError, match="a class is called"):
            Source(("a", name), (IMAGES, LABELS % 2))


# ---- lists ---------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """20 images of two kinds, 000.png to 019.png, each with its number in its pixels."""
    save_images(tmp_path / "images", 20)
    return tmp_path


def listing(folder, *lines, encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_bytes("\n".join(lines).encode(encoding) + b"\n")
    return folder / "labels.csv"


GOOD = [f"images/{i:03}.png,{'odd' if i % 2 else 'even'}" for i in range(20)]


def test_a_csv_is_split_by_kit_or_by_its_column(images):
    sets = load_dataset(listing(images, "path,label", *GOOD))
    assert (sets.classes, sets.name, sizes(sets)) == (("even", "odd"), "labels", [14, 2, 4])
    assert all([n % 2 for n in numbers(part)] == part.labels.tolist() for part in parts(sets))
    names = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    lines = [f"{name},{i % 2},images/{i:03}.png,x" for i, name in enumerate(names)]
    sets = load_dataset(str(listing(images, "split,label,path,note", *lines)))
    assert numbers(sets.train) == list(range(12)) and numbers(sets.test) == [16, 17, 18, 19]
    assert sets.split == "the column split of labels.csv"
    lines = [f"{line},{name.replace('val', 'train')}" for line, name in zip(GOOD, names, strict=True)]
    sets = load_dataset(listing(images, "path,label,split", *lines))
    assert sets.split.startswith("the column split of labels.csv; val is a stratified 10% of its training images")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_names_in_any_script_and_whole_paths(tmp_path, encoding):
    save_images(tmp_path / "two words" / "фото", 6)
    lines = [f'"{tmp_path}/two words/фото/{i:03}.png","{"写真, gross" if i % 2 else "café"}"' for i in range(6)]
    found = read_csv(listing(tmp_path / "elsewhere", "path,label", *lines, "", encoding=encoding))
    assert (found.classes, len(found.train), found.split) == (("café", "写真, gross"), 6, None)


DIALECTS = {
    "comma": ("path,label,split\n", ",", "utf-8"),
    "semicolon and Excel's line": ("sep=;\nPath;Label;Split\n", ";", "utf-8-sig"),
    "tab": ("path\t label\tsplit\n", "\t", "utf-8-sig"),
    "quoted, empty columns": ('"path";"label";"split";;\n', ";", "cp437"),
    "a column with commas": ("path;label;split;note, long, very\n", ";", "utf-8"),
    "Unicode text": ("path\tlabel\tsplit\n", "\t", "utf-16"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("ending", ["csv", "TSV", "txt"])
def test_lists_from_windows_are_read(images, dialect, ending):
    head, separator, encoding = DIALECTS[dialect]
    rows = [(f"images\\{i:03}.png ", "ab"[i % 2], "Train" if i < 12 else "TESTING") for i in range(20)]
    text = head + "".join(separator.join(row) + "\n" for row in rows) + 2 * separator + "\n\n"
    (images / f"list.{ending}").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    sets = load_dataset(images / f"list.{ending}")
    assert (sets.classes, len(sets.test), sets.name) == (("a", "b"), 8, "list")
    assert all([n % 2 for n in numbers(part)] == part.labels.tolist() for part in parts(sets))
    (images / f"list.{ending}").write_bytes(text.replace("images\\007", "images\\700").encode(encoding))
    with pytest.raises(KitError, match=f"line {10 if 'sep' in head else 9} .images.700.png, b, Train"):
        load_dataset(images / f"list.{ending}")


def test_labels_that_are_numbers_keep_their_order(images):
    for names, classes in ((("0", "5", "10"), ("0", "5", "10")), (("10", "9", "x"), ("10", "9", "x"))):
        lines = [f"images/{i:03}.png,{names[i % 3]}" for i in range(18)]
        assert read_csv(listing(images, "path,label", *lines)).classes == classes


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "cannot be read .EmptyDataError.*expected UTF-8 text: a first line path,label"),
        (["path,label"], "has 0 images"),
        (GOOD[:3], "has 2 images and columns images/000.png, even: expected"),
        (["path,label", *GOOD, "a,b,c"], "Expected 2 fields in line 22, saw 3"),
        (["path,label", GOOD[0], "images/001.png", *GOOD[2:]], "no samples: line 3 .images/001.png, .: each"),
        (["path,class", *GOOD], "columns path, class: expected"),
        (["path,label", GOOD[0], ",odd", *GOOD[2:]], "no samples: line 3 .*an image that is there"),
        (["path,label", *GOOD, "images/020.png,odd"], "no samples: line 22 .images/020.png, odd.: each"),
        (["path,label", *GOOD, "images,odd", f"{'x' * 999},odd"], "2 line.s. .*line 22 .images, odd.; line 23"),
        (["path,label", *GOOD, "images/003.png,even"], "images/003.png is listed twice"),
        (["path,label", *[f"{i:03}.png,odd" for i in range(9)]], "9 line.s. are no samples.*line 6 .004.png, odd"),
        (["path,label", *[f"images/{i:03}.png,a" for i in range(9)]], "at least two names"),
        (["path,label", *GOOD[:12:2], *GOOD[1:4:2]], "class 'odd' has 2 readable image.s. in train, at least 3"),
        (["path,label,split", *(f"{line},dev" for line in GOOD)], "20 line.s. are no samples: .*train, val or test"),
        (["path,label,split", *(f"{line},test" for line in GOOD)], "class 'even' has 0 readable image.s. in train"),
        (["path,label,split", *(f"{line},train" for line in GOOD[:9]), f"{GOOD[9]},val"], "needs a test part too"),
        (["path,label,split", *(f"{line},train" for line in GOOD[:9]), f"{GOOD[9][:14]},c,test"], "'c' has 0 readable"),
        (["path,label", '"images/000.png,odd'], "cannot be read|has 0 images"),
    ],
)  # fmt: skip
def test_csv_errors_name_the_lines(images, lines, message):
    with pytest.raises(KitError, match=message):
        load_dataset(listing(images, *lines))


def test_relative_paths_and_what_is_no_csv(images, monkeypatch):
    with pytest.raises(KitError, match="labels.csv cannot be read .UnicodeDecodeError.*expected UTF-8"):
        load_dataset(listing(images, "path,label", "images/000.png,gr\xfcn", encoding="latin-1"))
    monkeypatch.chdir(images)
    lines = [f"{images}/{line}" if i % 3 else line for i, line in enumerate(GOOD)]
    assert sizes(load_dataset(listing(Path("."), "path,label", *lines))) == [14, 2, 4], "whole and relative paths"
    with pytest.raises(KitError, match="nowhere.csv cannot be read .FileNotFoundError"):
        load_dataset(images / "nowhere.csv")


# ---- files that cannot be read -------------------------------------------------------------------


def test_unreadable_images_are_named_or_left_out_when_asked(tmp_path, root, capsys):
    for name in "ab":
        save_images(tmp_path / "pets" / name, 8)
    whole = (tmp_path / "pets" / "a" / "003.png").read_bytes()
    for name, content in (("a/003.png", whole[:50]), ("b/000.png", b"")):
        (tmp_path / "pets" / name).write_bytes(content)
    for _ in range(2):  # decoded, and from the cache
        with pytest.raises(KitError) as caught:
            load_dataset(tmp_path / "pets")
        for text in (
            "2 of 16 images are unreadable",
            "a/003.png (",
            "b/000.png (not an image",
            "on_bad_image='skip'",
        ):
            assert text in str(caught.value)
        sets = load_dataset(tmp_path / "pets", on_bad_image="skip")
        found = [(label, n) for p in parts(sets) for label, n in zip(p.labels.tolist(), numbers(p), strict=True)]
        assert sorted(found) == [(0, i) for i in range(8) if i != 3] + [(1, i) for i in range(1, 8)]
    said = capsys.readouterr().out
    assert "2 of 16 images are unreadable" in said and "left out; bad.json in" in said
    assert [file for _, file, _ in json.loads(next(root.glob("cache/pets-*/bad.json")).read_text())] == [
        str(tmp_path / "pets" / name) for name in ("a/003.png", "b/000.png")
    ]
    (tmp_path / "pets" / "a" / "003.png").write_bytes(whole)
    assert sum(sizes(load_dataset(tmp_path / "pets", on_bad_image="skip"))) == 15, "one that was mended is noticed"


def test_too_few_are_left_when_the_bad_are_left_out(tmp_path):
    for name in "ab":
        save_images(tmp_path / "pets" / name, 3)
    (tmp_path / "pets" / "a" / "001.png").write_bytes(b"")
    with pytest.raises(KitError, match=r"class 'a' has 2 readable image\(s\) in train, at least 3"):
        load_dataset(tmp_path / "pets", on_bad_image="skip")
    for file in tmp_path.glob("pets/?/*.png"):
        file.write_bytes(b"")
    with pytest.raises(KitError, match="none of the 6 images can be read"):
        load_dataset(tmp_path / "pets", on_bad_image="skip")


# ---- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    """A folder of 2 x 8 noise images of 12 x 10 pixels."""
    random = np.random.RandomState(0)
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(random.randint(0, 256, (10, 12, 3), np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


@pytest.fixture
def counted(monkeypatch):
    """The files that were decoded, in no order."""
    seen, decode = [], image.decode
    monkeypatch.setattr(image, "decode", lambda file, image_size=None: seen.append(file) or decode(file, image_size))
    return seen


def test_images_are_decoded_once_to_what_one_by_one_gives(pets, counted, root, monkeypatch):
    first = load_dataset(pets, image_size=7)
    assert len(counted) == 16
    assert same(first, load_dataset(pets, image_size=7)) and len(counted) == 16
    found = {x.numpy().tobytes(): label for part in parts(first) for x, label in zip(part.images, part.labels)}
    for file in pets.glob("*/*.png"):
        image = fit(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None], 7, 7)[0]
        assert found.pop(image.numpy().tobytes()) == (file.parent.name == "bee")
    assert not found
    first.train.images.zero_()
    monkeypatch.setenv("KIT_RESIDENT_GB", "0")
    second = load_dataset(pets, image_size=7)
    assert len(counted) == 16 and isinstance(second.train.images, Streamed) and second.train.images[:].any()
    part, both = second.train, second.train_val()
    assert all(map(torch.equal, normalization(part), normalization(ImageSet(part.images[:], part.labels))))
    assert both.images.pool is part.images.pool and len(both) == len(part) + len(second.val)
    assert [file.suffix for file in root.glob("cache/pets-*")].count("") == 1


def test_a_budget_decides_what_streams(pets, monkeypatch):
    size = 16 * 3 * 12 * 10
    for gigabytes, streams in (("0", True), (str((size - 1) / 1e9), True), (str(size / 1e9), False), ("", False)):
        monkeypatch.setenv("KIT_RESIDENT_GB", gigabytes)
        assert isinstance(load_dataset(pets).val.images, Streamed) == streams
    monkeypatch.setenv("KIT_RESIDENT_GB", "much")
    with pytest.raises(KitError, match="KIT_RESIDENT_GB must be a number of gigabytes .*'much'"):
        load_dataset(pets)


HARMS = {
    "changed": lambda pets, root: Image.new("RGB", (12, 10), (9, 9, 9)).save(pets / "ant" / "0.png"),
    "added": lambda pets, root: Image.new("RGB", (12, 10), (9, 9, 9)).save(pets / "ant" / "00.png"),
    "touched": lambda pets, root: os.utime(pets / "bee" / "1.png"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_cache_that_does_not_fit_is_made_anew(pets, root, counted, harm):
    load_dataset(pets)
    HARMS[harm](pets, root)
    counted.clear()
    found = load_dataset(pets)
    assert len(counted) == len(list(pets.glob("*/*.png")))
    assert same(found, load_dataset(pets)) and len(counted) == len(list(pets.glob("*/*.png")))


def test_a_cache_that_was_cut_is_named(pets, root):
    load_dataset(pets)
    os.truncate(next(root.glob("cache/*/images.npy")), 1000)
    with pytest.raises(KitError, match="the decoded images cannot be kept in .*cache/pets-own.*: remove it"):
        load_dataset(pets)


def test_no_room_and_interrupts_leave_nothing_half_made(pets, root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KitError, match="No space left .* KIT_DATA to a folder with"):
        patched.setattr(os, "posix_fallocate", full)
        load_dataset(pets)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(image, "decode", interrupted)
        load_dataset(pets)
    assert {file.suffix for file in (root / "cache").iterdir()} <= {".lock"}
    shutil.rmtree(root)
    root.write_text("")
    with pytest.raises(KitError, match="Not a directory"):
        load_dataset(pets)


def test_one_decodes_while_others_wait(pets, counted):
    """Threads stand for processes: each call has a lock of its own on the file."""
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: load_dataset(pets), range(3)))
    assert all(same(results[0], other) for other in results[1:]) and len(counted) == 16


def test_a_file_is_listed_once(pets):
    files = [(file, int(file.parent.name == "bee")) for file in sorted(pets.glob("*/*.png"))]
    register("pets", lambda root, size: Source(("ant", "bee"), [*files, (files[3][0], 1)]))
    with pytest.raises(KitError, match="ant/3.png is listed twice"):
        load_dataset("pets")
