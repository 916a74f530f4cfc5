"""The cache of decoded images: made once, checked, made anew when anything about it is off, done without where it
cannot be.
"""

import errno
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_data import no_network, same  # noqa: F401

from kit.data import Files, ImageSet, cache, decode, fit, load_dataset, normalization, read_folder
from kit.data import image as image_module
from kit.data.decode import to_source
from kit.errors import KitError


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A folder of 2 x 8 noise images of 12 x 10 pixels; every set is worth a cache here."""
    monkeypatch.setattr(decode, "WORTH_A_CACHE", 0)
    monkeypatch.setenv("KIT_DATA", str(tmp_path / "data"))
    random = np.random.RandomState(0)
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(random.randint(0, 256, (10, 12, 3), np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, in no order."""
    files = []

    def counted(file, image_size=None):
        files.append(Path(file))
        return image_module.decode(file, image_size)

    monkeypatch.setattr(decode, "decode", counted)
    return files


def the(pattern, folder):
    (found,) = folder.glob(f"data/cache/{pattern}")
    return found


def test_images_are_decoded_once(pets, decoded, tmp_path):
    first = load_dataset(pets)
    assert len(decoded) == 17, "each file, and the first once more to learn the shape"
    assert same(first, load_dataset(pets)) and len(decoded) == 17
    small = load_dataset(pets, image_size=6)
    assert len(decoded) == 34 and small.size == (6, 6) and load_dataset(pets, image_size=6).size == (6, 6)
    assert same(small, load_dataset(pets, image_size=6)) and len(decoded) == 34
    assert not list(tmp_path.glob("data/cache/.*.tmp"))


def test_the_cache_holds_what_decoding_one_by_one_gives(pets, tmp_path):
    source = to_source(read_folder(pets), name="pets", root=tmp_path / "data", image_size=7)
    images, labels = source.train
    files = sorted(pets.glob("*/*.png"))
    assert labels.tolist() == [0] * 8 + [1] * 8
    for i, file in enumerate(files):
        whole = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
        assert torch.equal(images[i], fit(whole, 7)[0])
    again = to_source(read_folder(pets), name="pets", root=tmp_path / "data", image_size=7).train[0]
    assert torch.equal(again.pool, images.pool) and torch.equal(again.sums, images.sums)
    about = json.loads(the("*-7-*.json", tmp_path).read_text())
    assert about["shape"] == [16, 3, 7, 7] and about["version"] == cache.VERSION and about["image_size"] == 7


def test_normalization_from_the_cache_is_that_of_the_pixels(pets, tmp_path):
    images, labels = to_source(read_folder(pets), name="pets", root=tmp_path / "data").train
    rows = torch.tensor([3, 0, 9])
    streamed, resident = ImageSet(images.take(rows), labels[rows]), ImageSet(images[rows], labels[rows])
    assert all(torch.equal(a, b) for a, b in zip(normalization(streamed), normalization(resident), strict=True))


def test_what_is_written_into_a_set_stays_out_of_the_cache(pets):
    first, second = load_dataset(pets), load_dataset(pets)
    first.train.images.zero_()  # the cache is mapped read-only: writing there would end the process
    assert same(second, load_dataset(pets))


# ---------------------------------------------------------------- made anew


def _changed_image(pets, tmp_path):
    Image.new("RGB", (12, 10), (9, 9, 9)).save(pets / "ant" / "0.png")


def _new_image(pets, tmp_path):
    Image.new("RGB", (12, 10), (9, 9, 9)).save(pets / "ant" / "00.png")


def _later_image(pets, tmp_path):
    os.utime(pets / "bee" / "1.png")  # written anew with the same length


def _cut(pets, tmp_path):
    os.truncate(the("*.images", tmp_path), 1000)


def _no_bytes(pets, tmp_path):
    the("*.images", tmp_path).write_bytes(b"")


def _no_images(pets, tmp_path):
    the("*.images", tmp_path).unlink()


def _half_a_json(pets, tmp_path):
    os.truncate(the("*.json", tmp_path), 100)


def _other_json(pets, tmp_path):
    the("*.json", tmp_path).write_text("[1, 2]")


def _altered(pets, tmp_path, at=777, keep_time=False):
    file = the("*.images", tmp_path)
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _altered_with_its_time_kept(pets, tmp_path):
    _altered(pets, tmp_path, keep_time=True)


def _altered_sums(pets, tmp_path):
    _altered(pets, tmp_path, at=16 * 360 + 5)


def _edited_json(pets, tmp_path):
    file = the("*.json", tmp_path)
    file.write_text(file.read_text().replace('"bad": {}', '"bad": {"3": "no"}'))


def _older_version(pets, tmp_path):
    about = json.loads(the("*.json", tmp_path).read_text())
    del about["seal"]
    about["version"] = 0
    the("*.json", tmp_path).write_text(json.dumps(about | {"seal": cache._seal(about)}))


@pytest.mark.parametrize(
    "harm, reason",
    [
        (_changed_image, "image files changed"),
        (_new_image, "image files changed"),
        (_later_image, "image files changed"),
        (_cut, "1,000 bytes instead of"),
        (_no_bytes, "0 bytes instead of"),
        (_no_images, "No such file"),
        (_half_a_json, "cannot be read"),
        (_other_json, "cannot be read"),
        (_altered, "image 2 was altered"),
        (_altered_with_its_time_kept, "image 2 was altered"),
        (_altered_sums, "checksums differ"),
        (_edited_json, "JSON file was altered"),
        (_older_version, "another version"),
    ],
)
def test_a_cache_that_does_not_fit_is_made_anew_and_said_so(pets, tmp_path, capsys, decoded, harm, reason):
    load_dataset(pets)
    harm(pets, tmp_path)
    capsys.readouterr(), decoded.clear()
    found = load_dataset(pets)
    said = capsys.readouterr().out
    assert "is made anew" in said and reason in said and len(said.splitlines()) == 1
    n = len(list(pets.glob("*/*.png")))
    assert len(decoded) == n + 1
    assert same(found, load_dataset(pets)) and len(decoded) == n + 1 and capsys.readouterr().out == ""


def test_a_copied_cache_is_checked_as_a_whole_and_then_known(pets, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(cache, "FULL_CHECK", 0)
    monkeypatch.setattr(cache, "SAMPLE", 2)
    load_dataset(pets)
    _altered_with_its_time_kept(pets, tmp_path)
    load_dataset(pets)
    assert len(decoded) == 17, "of a large cache a sample is checked: the first and the last image here"
    _altered(pets, tmp_path)  # back to what it was, at another time
    _altered(pets, tmp_path, at=5 * 360)
    load_dataset(pets)
    assert len(decoded) == 34, "a large cache with another time is checked image by image"
    os.utime(the("*.images", tmp_path))
    load_dataset(pets)
    about = json.loads(the("*.json", tmp_path).read_text())
    assert len(decoded) == 34 and about["written"] == the("*.images", tmp_path).stat().st_mtime_ns


def test_a_bad_image_that_was_mended_is_noticed(pets, tmp_path, monkeypatch):
    refused = pets / "bee" / "5.png"

    def decode_but_one(file, image_size=None):
        if file == refused and rights == "none":  # as a missing right would; the tests may run as root
            raise image_module.BadImage("PermissionError: Permission denied")
        return image_module.decode(file, image_size)

    monkeypatch.setattr(decode, "decode", decode_but_one)
    rights = "none"
    for _ in range(2):
        with pytest.raises(KitError, match=r"1 of 16 .*bee/5.png \(PermissionError: Permission denied\)"):
            load_dataset(pets)
    left = load_dataset(pets, on_bad_image="skip")
    assert len(left.train) + len(left.val) + len(left.test) == 15
    rights = "given"
    whole = load_dataset(pets)
    assert len(whole.train) + len(whole.val) + len(whole.test) == 16


def test_grey_sets_have_one_channel_and_a_colour_image_anywhere_makes_three(pets, tmp_path):
    for file in pets.glob("*/*.png"):
        Image.open(file).convert("L").save(file)
    grey = load_dataset(pets)
    assert grey.channels == 1
    Image.new("RGB", (12, 10), (1, 2, 3)).save(pets / "bee" / "9.png")
    colour = to_source(read_folder(pets), name="pets", root=tmp_path / "data").train[0]
    assert colour.shape == (17, 3, 10, 12) and colour[-1, :, 0, 0].tolist() == [1, 2, 3]
    assert torch.equal(colour[0, 0], colour[0, 2])
    mean, _ = normalization(ImageSet(colour, torch.arange(17)))
    assert torch.allclose(mean, colour[:].float().mean((0, 2, 3)) / 255, atol=1e-6)


# ---------------------------------------------------------------- where and when


def test_a_few_small_files_leave_no_cache(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "WORTH_A_CACHE", 2**22)
    load_dataset(pets)
    assert not (tmp_path / "data").exists()


def test_no_room_or_no_right_decodes_into_memory_and_says_so(pets, tmp_path, monkeypatch, capsys):
    expected = load_dataset(pets)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    capsys.readouterr()
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert same(load_dataset(pets, root=tmp_path / "full"), expected)
    assert "No space left on device): the images are decoded into memory" in capsys.readouterr().out
    assert [file.suffix for file in (tmp_path / "full" / "cache").iterdir()] == [".lock"], "nothing half-written stays"
    monkeypatch.undo()
    monkeypatch.setattr(decode, "WORTH_A_CACHE", 0)
    monkeypatch.setattr(os, "pwrite", full)  # the disk fills up on the way
    assert same(load_dataset(pets, root=tmp_path / "fills"), expected)
    assert [file.suffix for file in (tmp_path / "fills" / "cache").iterdir()] == [".lock"]
    monkeypatch.undo()
    monkeypatch.setattr(decode, "WORTH_A_CACHE", 0)
    (tmp_path / "file").write_text("")
    assert same(load_dataset(pets, root=tmp_path / "file"), expected)
    assert "Not a directory" in capsys.readouterr().out
    monkeypatch.setattr(cache, "free_memory", lambda device: 1000)
    with pytest.raises(KitError, match="16 images of 12x10 pixels take .*KIT_DATA to a folder with room"):
        load_dataset(pets, root=tmp_path / "file")


def test_a_cache_is_read_where_nothing_can_be_written(pets, tmp_path, monkeypatch, decoded):
    expected = load_dataset(pets)

    def refuse(*_, **__):
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(cache.Place, "building", refuse)
    monkeypatch.setattr(cache.Place, "describe", refuse)
    assert same(load_dataset(pets), expected)


def test_one_builds_while_others_wait(pets, decoded, capsys):
    """Threads stand for processes: the lock is on open files, which each call has of its own."""
    results, gate = [], threading.Barrier(3)

    def load():
        gate.wait()
        results.append(load_dataset(pets))

    threads = [threading.Thread(target=load) for _ in range(3)]
    [t.start() for t in threads], [t.join(30) for t in threads]
    assert len(results) == 3 and all(same(results[0], other) for other in results[1:])
    assert len(decoded) == 17, "decoded by one of them"


def test_what_a_killed_process_left_is_cleared(pets, tmp_path):
    load_dataset(pets)
    left = tmp_path / "data" / "cache" / f".{the('*.images', tmp_path).name}.123456.tmp"
    other = tmp_path / "data" / "cache" / ".other-own-0.images.123456.tmp"
    for file in (left, other):
        file.write_bytes(b"half")
    Image.new("RGB", (12, 10)).save(pets / "ant" / "0.png")
    load_dataset(pets)
    assert not left.exists() and other.exists(), "another set's file may be in the making"


def test_an_interrupt_stops_the_decoding_and_leaves_nothing(pets, tmp_path, monkeypatch):
    seen = []

    def interrupted(file, image_size=None):
        seen.append(file)
        if len(seen) == 6:
            raise KeyboardInterrupt
        time.sleep(0.001)
        return image_module.decode(file, image_size)

    monkeypatch.setattr(decode, "decode", interrupted)
    monkeypatch.setattr(decode, "_BLOCK", 2)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(pets)
    assert not list(tmp_path.glob("data/cache/*pets*.images")) and not list(tmp_path.glob("data/cache/.*.tmp"))


def test_a_file_is_listed_once(pets):
    files = [*read_folder(pets).train]
    with pytest.raises(KitError, match="ant/3.png is listed twice"):
        to_source(Files(("ant", "bee"), files + [(files[3][0], 1)]), name="pets", root=pets)


def test_progress_is_said_now_and_then(pets, monkeypatch, capsys):
    monkeypatch.setattr(decode, "_EVERY", -1.0)
    monkeypatch.setattr(decode, "interactive", lambda: False)
    load_dataset(pets)
    assert "pets: 16 of 16 images decoded, about 0 s left" in capsys.readouterr().out
