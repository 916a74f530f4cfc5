"""Any folder of class folders, and what is wrong with it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests_data import no_network, same, save_images  # noqa: F401

from kit.data import load_dataset, read_folder
from kit.data.decode import to_source
from kit.errors import KitError

# ---------------------------------------------------------------- folders


def test_folder_is_split_70_10_20(tmp_path):
    for name in ("cat", "ant", "bee"):
        save_images(tmp_path / "pets" / name, 20)
    (tmp_path / "pets" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not an image")
    sets = load_dataset(tmp_path / "pets")
    assert sets.classes == ("ant", "bee", "cat") and sets.name == "pets" and sets.flip
    for part, count in ((sets.train, 14), (sets.val, 2), (sets.test, 4)):
        assert torch.bincount(part.labels).tolist() == [count] * 3
    assert (sets.channels, sets.size) == (3, (6, 6)) and "70% train, 10% val, 20% test" in sets.split
    # Every file's number is in its pixels: images, labels and index belong together.
    assert torch.equal(sets.train.images[:, 0, 0, 0].long(), sets.train.index % 20)
    assert torch.equal(sets.train.images[:, 2, 5, 5].long(), sets.train.index % 20 * 3)
    assert torch.equal(sets.train.labels, sets.train.index // 20)
    assert same(sets, load_dataset(str(tmp_path / "pets")))


def test_folder_of_three_images_a_class_reaches_every_split(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3)
    sets = load_dataset(tmp_path)
    assert all(torch.bincount(p.labels).tolist() == [1, 1] for p in (sets.train, sets.val, sets.test))


def test_folder_by_a_bare_name(tmp_path, monkeypatch):
    for name in "ab":
        save_images(tmp_path / "pets" / name, 3)
    monkeypatch.chdir(tmp_path)
    assert load_dataset("pets").name == "pets" and load_dataset("./pets").name == "pets"


def test_folder_with_split_folders(tmp_path):
    for name in "ab":
        save_images(tmp_path / "train" / name, 20)
        save_images(tmp_path / "test" / name, 3, start=100)
    sets = load_dataset(tmp_path)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [36, 4, 6]
    assert sets.test.images[:, 0, 0, 0].tolist() == [100, 101, 102] * 2
    for name in "ab":
        save_images(tmp_path / "valid" / name, 1, start=50)
    sets = load_dataset(tmp_path)
    assert [len(p) for p in (sets.train, sets.val, sets.test)] == [40, 2, 6]
    assert sets.val.images[:, 0, 0, 0].tolist() == [50, 50]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "test"):
        save_images(tmp_path / name, 3)
    assert load_dataset(tmp_path).classes == ("bus", "test", "train")


def test_folder_modes_and_sizes(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3, mode="L", size=(9, 6))
    assert load_dataset(tmp_path).channels == 1
    assert load_dataset(tmp_path).size == (6, 9)
    assert load_dataset(tmp_path, image_size=4).size == (4, 4)
    Image.new("RGB", (9, 6), (1, 2, 3)).save(tmp_path / "a" / "colour.bmp")
    Image.new("L", (9, 6), 77).convert("1").save(tmp_path / "b" / "line.GIF")
    images = to_source(read_folder(tmp_path), name="pets", root=tmp_path).train[0]
    assert images.shape == (8, 3, 6, 9)
    assert images[3, :, 0, 0].tolist() == [1, 2, 3] and images[1, :, 0, 0].tolist() == [1, 1, 1]
    Image.new("RGB", (12, 12)).save(tmp_path / "b" / "other.webp")
    with pytest.raises(KitError, match=r"a.000.png is 9x6, .*b.other.webp is 12x12: pass image_size="):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, image_size=4).size == (4, 4)


def test_folder_turns_photographs_as_their_exif_says(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 3, size=(4, 6))
    photo = Image.new("RGB", (6, 4))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a" / "photo.jpg", exif=exif)
    assert load_dataset(tmp_path).size == (6, 4)


def _empty(path):
    path.mkdir()


def _labels(path):
    path.mkdir(), (path / "labels.csv").write_text("a,b")


def _loose(path):
    save_images(path, 3)


def _loose_too(path):
    save_images(path / "a", 3), save_images(path / "b", 3), save_images(path, 1)


def _no_images(path):
    save_images(path / "a", 3), (path / "b").mkdir()


def _one_class(path):
    save_images(path / "a", 3)


def _too_few(path):
    save_images(path / "a", 3), save_images(path / "b", 2)


def _no_test(path):
    save_images(path / "train" / "a", 3), save_images(path / "val" / "a", 3)


def _stray(path):
    save_images(path / "train" / "a", 3), save_images(path / "test" / "a", 3), (path / "dev").mkdir()


def _differ(path):
    [save_images(path / name, 3) for name in ("train/a", "train/b", "test/a", "test/c")]


def _lacks(path):
    [save_images(path / name, 3) for name in ("train/a", "train/b", "test/a")]


def _few_train(path):
    [save_images(path / name, 1) for name in ("train/a", "train/b", "test/a", "test/b")]


@pytest.mark.parametrize(
    "make, message",
    [
        (_empty, "pets is empty: expected FOLDER/CLASS/IMAGE"),
        (_labels, "labels without images: .*labels.csv"),
        (_loose, "images without class folders: .*000.png and 2 more .*move each into a folder"),
        (_loose_too, "images without class folders: .*pets.000.png"),
        (_no_images, "class folder .*b has no images .*add some or remove"),
        (_one_class, "only one class, 'a'"),
        (_too_few, "class 'b' has 2 image.*b.000.png: at least 3 are needed"),
        (_no_test, "no test/: add test/"),
        (_stray, "dev: beside train/"),
        (_differ, "'b' is in train/ but not in test/"),
        (_lacks, "'b' is in train/ but not in test/"),
        (_few_train, "class 'a' has 1 image.* at least 2 are needed"),
    ],
)
def test_folder_errors(tmp_path, make, message):
    make(tmp_path / "pets")
    with pytest.raises(KitError, match=message):
        load_dataset(tmp_path / "pets")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(KitError, match="pets.zip is a file, not a folder: unpack it"):
        load_dataset(tmp_path / "pets.zip")


def test_unreadable_images_are_named_with_the_reason(tmp_path):
    for name in "ab":
        save_images(tmp_path / name, 4)
    whole = (tmp_path / "a" / "001.png").read_bytes()
    (tmp_path / "a" / "001.png").write_bytes(whole[:50])
    (tmp_path / "b" / "broken.jpg").write_text("not an image")
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(tmp_path / "b" / "deep.png")
    with pytest.raises(KitError) as caught:
        load_dataset(tmp_path)
    for part in (
        "3 of 10 images are unreadable",
        "a/001.png (",
        "b/broken.jpg (not an image",
        "b/deep.png (mode I;16",
        "replace or",
        "on_bad_image='skip'",
    ):
        assert part in str(caught.value)
    for i in range(10):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"")
    with pytest.raises(KitError, match="13 of 20 .*empty.*; and 3 more: replace"):
        load_dataset(tmp_path)


def test_unreadable_images_are_left_out_only_when_asked(tmp_path, capsys):
    for name in "ab":
        save_images(tmp_path / "pets" / name, 8)
    for name, content in (("a/003.png", b"cut"), ("b/000.png", b"")):
        (tmp_path / "pets" / name).write_bytes(content)
    sets = load_dataset(tmp_path / "pets", root=tmp_path / "root", on_bad_image="skip")
    values = torch.cat([part.images[:, 0, 0, 0] for part in (sets.train, sets.val, sets.test)])
    labels = torch.cat([part.labels for part in (sets.train, sets.val, sets.test)])
    assert sorted(zip(labels.tolist(), values.tolist())) == [(0, i) for i in range(8) if i != 3] + [
        (1, i) for i in range(1, 8)
    ]
    (said,) = capsys.readouterr().out.splitlines()
    (listed,) = (tmp_path / "root" / "cache").glob("*.bad_images.txt")
    assert "2 of 16 images are unreadable and left out" in said and str(listed) in said
    assert listed.read_text().splitlines()[1] == f"{tmp_path / 'pets' / 'b' / '000.png'}\tthe file is empty (0 bytes)"
    with pytest.raises(KitError, match="Valid: skip, error|Valid: error, skip"):
        load_dataset(tmp_path / "pets", on_bad_image="ignore")


def test_too_few_are_left_when_the_bad_are_left_out(tmp_path):
    for name in "ab":
        save_images(tmp_path / "pets" / name, 3)
    (tmp_path / "pets" / "a" / "001.png").write_bytes(b"")
    with pytest.raises(KitError, match=r"class 'a' has 2 readable image\(s\).*at least 3"):
        load_dataset(tmp_path / "pets", root=tmp_path / "root", on_bad_image="skip")
    for file in tmp_path.glob("pets/?/*.png"):
        file.write_bytes(b"")
    with pytest.raises(KitError, match="none of the 6 images can be read"):
        load_dataset(tmp_path / "pets", root=tmp_path / "root", on_bad_image="skip")
