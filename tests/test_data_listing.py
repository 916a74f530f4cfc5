"""A CSV file of one's own images, and what is wrong with it."""

import re

import pytest
from tests_data import no_network, save_images  # noqa: F401

from kit.data import Files, load_dataset, read_csv
from kit.errors import KitError


def table(folder, *lines, name="labels.csv", encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes("\n".join(lines).encode(encoding) + b"\n")
    return folder / name


@pytest.fixture
def images(tmp_path):
    """20 images of two kinds, 000.png to 019.png, each with its number in its pixels."""
    save_images(tmp_path / "images", 20)
    return tmp_path


def rows(numbers, label=lambda i: "odd" if i % 2 else "even"):
    return [f"images/{i:03}.png,{label(i)}" for i in numbers]


def test_a_csv_is_split_by_kit(images):
    file = table(images, "path,label", *rows(range(20)))
    sets = load_dataset(file)
    assert sets.classes == ("even", "odd") and sets.name == "labels" and "stratified 70% train" in sets.split
    assert [len(part) for part in (sets.train, sets.val, sets.test)] == [14, 2, 4]
    for part in (sets.train, sets.val, sets.test):
        assert (part.images[:, 0, 0, 0] % 2).tolist() == part.labels.tolist()


def test_a_csv_with_a_split(images):
    names = ["Train"] * 12 + ["validation"] * 4 + ["test"] * 4
    file = table(
        images, "split;label;path;note", *(f"{name};{i % 2};images/{i:03}.png;x" for i, name in enumerate(names))
    )
    sets = load_dataset(str(file))
    assert sets.train.images[:, 0, 0, 0].tolist() == list(range(12)) and sets.test.images[:, 0, 0, 0].tolist() == [
        16,
        17,
        18,
        19,
    ]
    assert len(sets.val) == 4 and sets.split == "the column split of labels.csv"
    names = [name.replace("validation", "train") for name in names]
    file = table(
        images, "path,label,split", *(f"{row},{name}" for row, name in zip(rows(range(20)), names, strict=True))
    )
    assert (
        load_dataset(file).split
        == "the column split of labels.csv; val is a stratified 10% of its training images (split seed 0)"
    )


@pytest.mark.parametrize("encoding, delimiter", [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8", "\t")])
def test_names_in_any_script_and_whole_paths(tmp_path, encoding, delimiter):
    save_images(tmp_path / "two words" / "фото", 6)
    lines = [
        f'"{tmp_path}/two words/фото/{i:03}.png"{delimiter}"{"写真, gross" if i % 2 else "café"}"' for i in range(6)
    ]
    files = read_csv(table(tmp_path / "elsewhere", f" Path {delimiter}LABEL", *lines, "", encoding=encoding))
    assert (
        isinstance(files, Files)
        and files.classes == ("café", "写真, gross")
        and len(files.train) == 6
        and files.split is None
    )


def test_labels_that_are_numbers_keep_their_order(images):
    assert read_csv(table(images, "path,label", *rows(range(18), lambda i: str(i % 3 * 5)))).classes == ("0", "5", "10")
    assert read_csv(table(images, "path,label", *rows(range(18), lambda i: ("10", "9", "x")[i % 3]))).classes == (
        "10",
        "9",
        "x",
    )


GOOD = rows(range(20))


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "labels.csv lists no images: expected a first line path,label"),
        (["path,label"], "lists no images"),
        (rows(range(3)), "line 1: the columns are images/000.png, even, one path and one label is needed"),
        (["path,class", *GOOD], "line 1: the columns are path, class, one label is needed"),
        (["path,label,label", "a,b,c"], "one label is needed"),
        (["path,label,split,split", "a,b,c,d"], "one split is needed"),
        (
            ["path,label", "images/000.png", *GOOD],
            "1 line.s. at fault: line 2 has 1 cells, the first line 2: mend or remove",
        ),
        (
            ["path,label", GOOD[0], "images/001.png,", ",odd", *GOOD[2:]],
            "2 line.s. at fault: line 3 has no label; line 4 has no path",
        ),
        (
            ["path,label", *GOOD, "images/020.png,odd", "/no/where.png,odd", f"{'x' * 9999},odd"],
            "line 22: there is no file images/020.png in .*; line 23: there is no file /no/where.png; line 24: there is no file x",
        ),
        (["path,label", *GOOD, "images,odd"], "line 22: there is no file images in"),
        (
            ["path,label", *GOOD, "images/../images/003.png,even"],
            "line 22 lists images/../images/003.png again, after line 5",
        ),
        (
            ["path,label", *[f"{i}.png,odd" for i in range(9)]],
            "9 line.s. at fault: .*line 6: there is no file 4.png in [^;]*; and 4 more: mend",
        ),
        (["path,label", *rows(range(9), lambda i: "a")], "only one label, 'a'"),
        (
            ["path,label", *GOOD[:12:2], *GOOD[1:4:2]],
            "label 'odd' has 2 image.s. in train .line 8., at least 3 are needed",
        ),
        (["path,label,split", *(f"{row},train" for row in GOOD[:6]), f"{GOOD[6]},"], "line 8 has no split"),
        (
            ["path,label,split", f"{GOOD[0]},dev", *(f"{row},train" for row in GOOD[1:])],
            "line 2 has split 'dev', allowed are train, val, test",
        ),
        (["path,label,split", *(f"{row},test" for row in GOOD)], "no line of split train"),
        (
            ["path,label,split", *(f"{row},{'val' if i > 12 else 'train'}" for i, row in enumerate(GOOD))],
            "split val but no split test: call it test",
        ),
        (
            ["path,label,split", *(f"{row},train" for row in GOOD), "images/more.png,third,test"],
            "line 22: label 'third' is in test but not in train",
        ),
        (
            ["path,label,split", *(f"{row},{'train' if i < 3 else 'test'}" for i, row in enumerate(GOOD))],
            "label 'odd' has 1 image.s. in train .line 3., at least 2",
        ),
        (["path,label", '"images/000.png,odd'], "cannot be read .Error: unexpected end of data"),
        (["path,label", "images/\0.png,odd"], "(cannot be read|there is no file)"),
    ],
)
def test_csv_errors_name_the_lines(images, lines, message):
    save_images(images / "images" / "extra", 1)
    (images / "images" / "extra" / "000.png").rename(images / "images" / "more.png")
    with pytest.raises(KitError) as caught:
        load_dataset(table(images, *lines))
    assert re.search(message, str(caught.value)), caught.value


def test_what_is_no_csv(images):
    with pytest.raises(KitError, match="labels.csv is not UTF-8 text .*save it as CSV UTF-8"):
        load_dataset(table(images, "path,label", "images/000.png,gr\xfcn", encoding="latin-1"))
    with pytest.raises(KitError, match="nowhere.csv was not found .from .*: check the path"):
        load_dataset(images / "nowhere.csv")
    for name in "ab":
        save_images(images / "a folder.csv" / name, 3)
    assert load_dataset(images / "a folder.csv").classes == ("a", "b"), "a folder may be called so"
