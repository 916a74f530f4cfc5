"""Whatever is given, there is a result or one clear error: no other exception, no hang, no code run. The inputs are
made in tests_bad.py.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests_bad as bad
import torch
from PIL import Image, ImageOps
from tests_micro import micro_config

import kit
from kit import KitError, Run
from kit.config import Config
from kit.data import (
    Batches,
    ImageSet,
    ImageSets,
    Source,
    load_dataset,
    read_csv,
    read_folder,
    register,
    stratified_split,
    to_sets,
)
from kit.data.image import decode, from_pil
from kit.lab import notebook, sweep
from kit.run import export
from kit.search.progress import Silent
from kit.studies import browse, landscape, page, report


class Hang(BaseException):
    """No `except Exception` keeps it from the test."""


@pytest.fixture(autouse=True)
def neither_hangs_nor_runs_code(tmp_path, monkeypatch):
    def hang(*_):
        raise Hang("no answer for 20 s")

    def refuse(*_):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("KIT_DATA", str(tmp_path / "data"))
    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, 20)
    faulthandler.dump_traceback_later(60, exit=True)  # where a thread hangs, the test cannot end by itself
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert not list(tmp_path.rglob(bad.MARK)), "code was run"


def settled(action: Callable[[], Any], *named: str) -> Any:
    """What the action gives, or its KitError, which must name something of this."""
    try:
        return action()
    except KitError as error:
        assert len(str(error)) > 20 and "\n" not in str(error), error
        assert not named or any(name in str(error) for name in named), error
        return error


def refused(action: Callable[[], Any], *named: str) -> str:
    found = settled(action, *named)
    assert isinstance(found, KitError), f"{found!r} was accepted"
    return str(found)


def params(cases):
    return [pytest.param(*case[1:], id=case[0]) for case in ((case[0], *case) for case in cases)]


# ---------------------------------------------------------------- image files


@pytest.fixture
def pets(tmp_path):
    return two_classes(tmp_path / "pets")


def two_classes(folder: Path) -> Path:
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(bad.pixels(10, 12, 3)).save(folder / name / f"{i}.png")
    return folder


def everything(sets: ImageSets) -> int:
    return len(sets.train) + len(sets.val) + len(sets.test)


def pool(path: Path, **options: Any) -> torch.Tensor:
    """All images of a folder, in the order of their paths."""
    sets, labels = load_dataset(path, **options), torch.tensor([label for _, label in read_folder(path).train])
    kept, test = stratified_split(labels, 0.2)
    order = torch.cat([*(kept[rows] for rows in stratified_split(labels[kept], 0.1 / 0.8)), test])
    return torch.cat([part.images for part in (sets.train, sets.val, sets.test)])[order.argsort()]


FILES = [*bad.cuts(), *bad.flips(), *bad.strangers(), *bad.huge()]


@pytest.mark.parametrize(("name", "content"), params(FILES))
def test_a_file_gives_an_image_or_is_named_with_its_reason(pets, name, content, capsys):
    (pets / "a" / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = settled(lambda: load_dataset(pets, image_size=8), f"a/{name} (")
    if isinstance(found, KitError):
        assert "1 of 7 images are unreadable" in str(found) and "on_bad_image='skip'" in str(found)
        assert everything(load_dataset(pets, image_size=8, on_bad_image="skip")) == 6
        assert capsys.readouterr().out.count("\n") == 1
    else:
        assert everything(found) == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024, (
        "memory was taken before the header was judged"
    )
    assert isinstance(found, KitError) or name.startswith(("cut", "flip", "tail")), (
        "this is not an image that kit reads"
    )


@pytest.mark.parametrize("kind", bad.SUFFIX)
def test_what_a_file_holds_decides_not_its_name(pets, kind):
    (pets / "b" / f"3{bad.SUFFIX[kind]}").write_bytes(bad.encoded(kind))
    for suffix in [*bad.SUFFIX.values(), ".JPEG"]:
        named = pets / "a" / f"3{suffix}"
        named.write_bytes(bad.encoded(kind))
        images = pool(pets)
        assert torch.equal(images[3], images[7]), suffix
        named.unlink()


@pytest.mark.parametrize(("name", "content", "colour"), params(bad.odd()))
def test_an_odd_image_is_shown_as_it_is_meant_or_refused(pets, name, content, colour):
    (pets / "a" / name).write_bytes(content)
    if colour is None:
        said = refused(lambda: load_dataset(pets, image_size=8), f"a/{name} (")
        assert "save it with 8 bits" in said or "crop it" in said
        return
    mine = pool(pets, image_size=8)[sorted([*"012", name]).index(name) if name[0] < "0" else 3]
    assert mine.float().flatten(1).sub(torch.tensor(colour)[:, None]).abs().max() <= 2
    assert torch.equal(mine, mine[:, :1, :1].expand_as(mine))


def test_turned_photographs_stand_upright(pets):
    upright = Image.fromarray(bad.pixels(4, 6, 3))
    turns = [
        None,
        "FLIP_LEFT_RIGHT",
        "ROTATE_180",
        "FLIP_TOP_BOTTOM",
        "TRANSPOSE",
        "ROTATE_90",
        "TRANSVERSE",
        "ROTATE_270",
    ]
    shutil.rmtree(pets)
    (pets / "a").mkdir(parents=True), (pets / "b").mkdir()
    for tag, method in enumerate(turns, start=1):  # stored as a camera does that was held in this way
        stored = upright if method is None else upright.transpose(Image.Transpose[method])
        exif = Image.Exif()
        exif[0x0112] = tag
        for name in "ab":
            stored.save(pets / name / f"{tag}.png", exif=exif)
    assert torch.equal(pool(pets), torch.from_numpy(np.array(upright)).permute(2, 0, 1).expand(16, -1, -1, -1))


@pytest.mark.parametrize("how", ["raw", "tiff_lzw", "tiff_deflate", "pages"])
def test_a_turned_tiff_is_turned_once_in_loading_and_in_predict(tmp_path, how):
    options = (
        {"save_all": True, "append_images": [Image.new("RGB", (8, 4))]} if how == "pages" else {"compression": how}
    )
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        for name, more in (("x.png", {}), ("x.tif", options)):
            Image.fromarray(bad.pixels(4, 8, 3)).save(tmp_path / name, exif=exif, **more)
        with Image.open(tmp_path / "x.png") as png, Image.open(tmp_path / "x.tif") as tif:
            right = np.array(ImageOps.exif_transpose(png)).transpose(2, 0, 1)
            for _ in ("opened", "loaded"):
                assert np.array_equal(from_pil(tif), right), turn
        assert np.array_equal(decode(tmp_path / "x.tif"), right), turn


@pytest.fixture
def without_rights(tmp_path):
    """For root, who may read every file: somebody else while the test lasts, in a folder that is theirs."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lies in folders that only root may enter
        os.chown(folder, nobody, -1)
        os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


def test_an_unreadable_file_is_named(without_rights, monkeypatch):
    pets = two_classes(without_rights / "pets")
    monkeypatch.chdir(without_rights)
    monkeypatch.setenv("KIT_DATA", str(without_rights / "data"))
    (pets / "a" / "1.png").chmod(0)
    assert "Permission denied" in refused(lambda: load_dataset(pets), "a/1.png (PermissionError")
    (pets / "b").chmod(0)
    try:
        refused(lambda: load_dataset(pets), "cannot be read")
    finally:
        (pets / "b").chmod(0o755)


NO_FILES = {
    "pipe": os.mkfifo,
    "link to nowhere": lambda path: path.symlink_to("nowhere.png"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to zeros": lambda path: path.symlink_to("/dev/zero"),
    "directory": Path.mkdir,
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_listed_but_no_file_is_named(pets, kind):
    NO_FILES[kind](pets / "a" / "x.png")
    listed = [*sorted(pets.glob("*/[012].png")), pets / "a" / "x.png"]
    (pets / "list.csv").write_text("path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in listed))
    refused(lambda: load_dataset(pets / "list.csv"), "x.png")


# ---------------------------------------------------------------- folders, lists, labels


def _cut(path: Path, pattern: str) -> None:
    for file in path.glob(pattern):
        file.write_bytes(file.read_bytes()[:60])


def _remove(path: Path, pattern: str) -> None:
    for file in path.glob(pattern):
        file.unlink()


NO_SETS = {
    "one class": lambda path: shutil.rmtree(path / "b"),
    "one image a class": lambda path: _remove(path, "*/[12].png"),
    "one image in one class": lambda path: _remove(path, "b/[12].png"),
    "no image": lambda path: _remove(path, "b/*.png"),
    "all cut": lambda path: _cut(path, "*/*.png"),
    "one class cut": lambda path: _cut(path, "b/*.png"),
}


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize("harm", NO_SETS)
def test_a_folder_that_is_no_data_set_is_refused(pets, harm, on_bad_image):
    NO_SETS[harm](pets)
    refused(lambda: load_dataset(pets, on_bad_image=on_bad_image), "class", "images")


def test_names_in_other_scripts_and_double_names_are_files_like_others(pets):
    odd = ("日本 1", "a b'c\"d", "-rf", "x" * 200, "new\nline", "%00", "0.png")
    for name in ("0.PNG", *(f"{name}.png" for name in odd)):
        shutil.copy(pets / "a" / "0.png", pets / "a" / name)
        shutil.copy(pets / "a" / "0.png", pets / "b" / name)  # the same name, and the same image, in two classes
    (pets / "a" / os.fsdecode(b"\xff\xfe.png")).write_bytes((pets / "a" / "0.png").read_bytes())
    assert everything(load_dataset(pets, on_bad_image="skip")) == 23


LISTS = ["", "path,label\n", "path\nx.png\n", "path,label\nx.png\n", "\0\0\0", "a,b\n1,2\n", "path,label\n,\n", "{}\n"]


@pytest.mark.parametrize("content", [*(text.encode() for text in LISTS), b'path,label\n"x', bad.pickled()])
def test_a_list_that_is_none_is_refused(pets, content):
    (pets / "list.csv").write_bytes(content)
    refused(lambda: load_dataset(pets / "list.csv"), "list.csv")


LABELS = {
    "negative": torch.tensor([0, -1] * 20),
    "too large": torch.tensor([0, 2] * 20),
    "float": torch.tensor([0.0, 1.0] * 20),
    "NaN": torch.tensor([0, float("nan")] * 20),
    "too many": torch.tensor([0, 1] * 50),
    "numpy": np.array([0, 1] * 20),
    "a list": [0, 1] * 20,
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_do_not_fit_are_refused(name):
    images = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    refused(lambda: to_sets(Source(("a", "b"), (images, LABELS[name])), "made", flip=True), "label")


DTYPES = ("float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "bool", "complex64")
ARRAYS = {
    **{name: torch.zeros(4, 1, 2, 2).to(getattr(torch, name)) for name in DTYPES},
    "NaN": torch.full((4, 1, 2, 2), float("nan")),
    "none": None,
    "text": "x.png",
    "NaN array": np.full((4, 1, 2, 2), np.nan),
    "array": np.zeros((4, 1, 2, 2), np.uint8),
    "list": [[0]],
    "flat": torch.zeros(4, dtype=torch.uint8),
    "empty": torch.zeros(0, 1, 2, 2, dtype=torch.uint8),
    "no pixels": torch.zeros(4, 1, 0, 2, dtype=torch.uint8),
    "number": 3,
    "path": Path("x"),
    "three axes": torch.zeros(4, 2, 2, dtype=torch.uint8),
    "five axes": torch.zeros(4, 1, 1, 2, 2, dtype=torch.uint8),
    "objects": np.array([None]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_image_set_are_refused(name):
    refused(lambda: ImageSet(ARRAYS[name], torch.zeros(4, dtype=torch.int64)), "images", "image set")
    refused(lambda: Source(("a", "b"), (ARRAYS[name], torch.arange(4) % 2)), "images", "image set")


@pytest.mark.parametrize("name", [*ARRAYS, "dict", "missing file", "folder without images"])
def test_predict_gives_an_answer_or_one_error(finished: Run, tmp_path, name):
    others = {"dict": {"a": 1}, "missing file": tmp_path / "none.png", "folder without images": tmp_path}
    given = others[name] if name in others else ARRAYS[name]
    found = settled(lambda: finished.predict(given))
    assert isinstance(found, KitError) or torch.isfinite(found.probabilities).all()
    assert isinstance(found, KitError) or "NaN" not in name


@pytest.mark.parametrize("name", ["cut.jpg", "pickle.jpg", "huge-60000x60000.png"])
def test_predict_names_a_file_that_it_cannot_read(finished: Run, tmp_path, name):
    content = dict(FILES, **{"cut.jpg": bad.encoded("JPEG")[:500]})[name]
    (tmp_path / name).write_bytes(content)
    refused(lambda: finished.predict([tmp_path / name]), name)


def test_batches_of_a_wrong_size_are_refused():
    data = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    for size in (0, -1, 5):
        refused(lambda size=size: Batches(data, size, torch.Generator()), "batch_size")


# ---------------------------------------------------------------- parameters

WRONG = ("x", [1], {}, -1, float("nan"), float("inf"), 10**30, b"x", True, 0.5, 0, "a\nb")


@pytest.mark.parametrize("field", Config.model_fields)
def test_a_parameter_out_of_its_range_is_named(field):
    about = (field, field.removesuffix("ment"), "policy", "path", "folder")
    found = [settled(lambda value=value: Config(**{field: value}), *about, str(value)) for value in WRONG]
    assert sum(isinstance(answer, KitError) for answer in found) > 3


@pytest.mark.parametrize(
    "name", ["", "lerning_rate", "Seed", "__class__", "learning rate", "日本", "x" * 500, "model_config"]
)
def test_an_unknown_parameter_is_named_with_the_valid_ones(name):
    assert "batch_size" in refused(lambda: Config(**{name: 1}), name[:150])


@pytest.mark.parametrize(
    ("argument", "value"),
    [("image_size", value) for value in (0, -1, 1.5, "32", True, float("nan"), [32])]
    + [("on_bad_image", value) for value in ("", "ignore", None, 1, ["skip"])],
)
def test_load_dataset_names_a_wrong_argument(pets, argument, value):
    refused(lambda: load_dataset(pets, **{argument: value}), argument)


@pytest.mark.parametrize(
    "name", ["", " ", "no_such_set", "/no/such/folder", "a\0b", "~nobody/x", "x" * 5000, "..", "."]
)
def test_load_dataset_refuses_a_name_that_is_none(name):
    refused(lambda: load_dataset(name))


# ---------------------------------------------------------------- altered run files


def reading(run: Run) -> dict[str, Callable[[], Any]]:
    """All that a run directory answers."""
    names = ("metrics", "provenance", "history", "alpha", "tau", "genotype", "policy", "hyper", "classes", "status")
    questions = {name: lambda name=name: getattr(run, name) for name in names}
    return questions | {
        "repr": lambda: repr(run),
        "curve": lambda: run.curve("loss"),
        "predict": lambda: run.predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)),
    }


# the slow questions, and what their answers come from
FROM = {"predict": ("model/",), "history": ("history",), "curve": ("history",), "alpha": ("alpha",), "tau": ("tau",)}


def read_all(path: Path, altered: str) -> None:
    run = settled(lambda: Run.load(path), altered, str(path))
    if not isinstance(run, KitError):
        for name, question in reading(run).items():
            if altered.startswith(FROM.get(name, "")):
                settled(question, altered, str(path), path.name)


RUN_FILES = (
    "config.json",
    "metrics.json",
    "provenance.json",
    "history.parquet",
    "alpha.npz",
    "tau.npz",
    "model/model.json",
    "model/model.safetensors",
    "checkpoints/epoch-00002.safetensors",
)


@pytest.fixture
def copied(finished: Run, tmp_path):
    return Path(shutil.copytree(finished.path, tmp_path / finished.path.name))


@pytest.mark.parametrize("harm", bad.HARMS)
@pytest.mark.parametrize("name", RUN_FILES)
def test_an_altered_run_is_read_or_refused_by_the_files_name(copied, name, harm):
    bad.HARMS[harm](copied / name)
    read_all(copied, name)


@pytest.mark.parametrize("name", [name for name in RUN_FILES if name.endswith("json")])
def test_every_entry_of_a_runs_json_may_be_wrong(copied, name):
    for value in bad.edits(json.loads((copied / name).read_text())):
        (copied / name).write_text(json.dumps(value))
        read_all(copied, name)


@pytest.mark.parametrize("harm", ["pickle", "cut-half", "removed"])
def test_a_run_goes_on_from_what_is_left_of_its_files(copied, finished: Run, harm):
    """Whatever lies where the last checkpoint, the history and α were, the run ends, or says which file is in its
    way.
    """
    (copied / "metrics.json").unlink()
    for file in [*copied.glob("checkpoints/*"), copied / "alpha.npz", copied / "history.parquet"]:
        bad.HARMS[harm](file)
    found = settled(lambda: kit.search(finished.config, out=copied.parent, progress=Silent()), str(copied))
    assert isinstance(found, KitError) or found.finished


@pytest.mark.parametrize("harm", [harm for harm in bad.HARMS if harm not in ("removed", "folder")])
def test_a_given_genotype_that_is_none_is_refused(tmp_path, harm, micro):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(kit.space.DARTS_V2))
    bad.HARMS[harm](path)
    refused(lambda: kit.search(micro_config("plain", genotype=str(path)), out=tmp_path, progress=Silent()), "genotype")


# ---------------------------------------------------------------- what is given to functions

TAKES_A_PATH = {
    "load_dataset": lambda run, given: load_dataset(given),
    "root": lambda run, given: load_dataset("digits", root=given),
    "read_csv": lambda run, given: read_csv(given),
    "read_folder": lambda run, given: read_folder(given),
    "predict": lambda run, given: run.predict([given]),
    "load": lambda run, given: Run.load(given),
    "export": lambda run, given: run.export(given, "safetensors"),
    "exported": lambda run, given: export.load(given),
    "search": lambda run, given: kit.search(run.config, out=given, progress=Silent()),
    "sweep": lambda run, given: sweep.run([run.config], out=given),
    "notebook": lambda run, given: sweep.run([run.config], notebook=given),
    "plugins": lambda run, given: Config(plugins=given),
    "genotype": lambda run, given: micro_config("plain", genotype=given).name,
    "policy": lambda run, given: micro_config(policy=given).name,
    "dataset": lambda run, given: Config(dataset=given),
    "page": lambda run, given: page.write(given),
    "rewrite": lambda run, given: report.rewrite(given),
    "compare": lambda run, given: browse.browse([given]),
    "landscape": lambda run, given: landscape.compare([given]),
}


@pytest.mark.parametrize("given", bad.NO_PATHS)
def test_what_is_no_path_is_refused(finished: Run, given):
    for name, take in TAKES_A_PATH.items():
        said = refused(lambda take=take: take(finished, bad.NO_PATHS[given]))
        assert len(said) < 1000, name
    assert list(Path().iterdir()) == [], "something was written"


def written(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def made(name: str, make: Callable[[Path], Any]) -> str:
    make(Path(name))
    return name


def loaded(loader: Callable[..., Any]) -> Any:
    register("bad_loader", loader)
    return load_dataset("bad_loader")


def numbered(n: int) -> list[str]:
    """So many classes' folders with a path that no system takes."""
    return [(f"a\0{i}.png", i % 2) for i in range(n)]


GREY = torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 2
REFUSED = {
    # images
    "no rows": (lambda run: run.predict(np.zeros((0, 5), np.uint8)), "[0, 5]"),
    "no rows, grey": (lambda run: run.predict(np.zeros((1, 0, 5), np.uint8)), "[1, 0, 5]"),
    "no rows, colour": (lambda run: run.predict(np.zeros((0, 5, 3), np.uint8)), "[0, 5, 3]"),
    "no columns": (lambda run: run.predict([np.zeros((5, 0), np.uint8)]), "[5, 0]"),
    "no pixels, many": (lambda run: run.predict(torch.zeros(3, 1, 0, 5, dtype=torch.uint8)), "image 0"),
    "a PIL image of no rows": (lambda run: run.predict(Image.new("L", (5, 0))), "image 0"),
    "a sliver": (lambda run: run.predict(np.zeros((1, 3_000_000), np.uint8)), "too narrow"),
    "a number": (lambda run: run.predict(np.uint8(3)), "no images"),
    "lists in lists": (lambda run: run.predict(bad.deep()), "list is no image"),
    "a big number": (lambda run: run.predict([bad.BIG]), "int is no image"),
    "an empty path": (lambda run: run.predict(""), "the path is empty"),
    "a pattern of nothing": (lambda run: run.predict("*.png"), "*.png"),
    "a batch of none": (lambda run: run.predict(GREY[0], batch_size=0), "batch_size=0: give a whole number"),
    "a batch of True": (lambda run: run.predict(GREY[0], batch_size=True), "batch_size=True"),
    "a huge batch": (lambda run: run.predict(GREY[0], batch_size=bad.BIG), "batch_size=a int"),
    # devices
    "a device far off": (lambda run: run.model("cuda:" + "9" * 30), "is not auto, cpu, cuda"),
    "a device that is none": (lambda run: run.model(bad.deep()), "is not auto, cpu, cuda"),
    "a device of 5,000 digits": (lambda run: Config(device="cuda:" + "9" * 5000), "device='cuda:999"),
    "a device that is not here": (lambda run: run.model("cuda:99"), "CUDA device(s)"),
    # numbers
    "a seed of 5,000 digits": (lambda run: Config(seed=bad.BIG), "seed=a int"),
    "lr in lists": (lambda run: Config(lr=bad.deep()), "lr=a list"),
    "epochs of a notebook": (lambda run: notebook.config({"epochs": "9" * 5000}), "parameter epochs='999"),
    "lr of a notebook": (lambda run: notebook.config({"lr": bad.deep()}), "parameter lr=a list"),
    "a long word": (lambda run: notebook.assigned(["x" * 5000]), "is not name=value"),
    "a method of 5,000 letters": (lambda run: Config(method="x" * 5000), "unknown method 'xxx"),
    "an image size in text": (lambda run: load_dataset("digits", image_size="8"), "image_size='8'"),
    "an image size of gigabytes": (lambda run: load_dataset("digits", image_size=9000), "digits would take 146 GB"),
    "a photo size of none": (lambda run: load_dataset("digits", photo_size=0), "photo_size=0"),
    "a share in text": (lambda run: stratified_split(GREY[1], "x"), "fraction must be"),
    "a batch size in text": (lambda run: Batches(ImageSet(*GREY), "2", torch.Generator()), "batch_size='2'"),
    # lists and folders
    "many columns": (lambda run: read_csv(written("l.csv", "path,label" + ",x" * 10**5 + "\n")), "a hundred columns"),
    "a line break in a cell": (lambda run: read_csv(written("l.csv", 'path,label\n"x\ny",a\n')), "(x y, a)"),
    "UTF-32": (lambda run: read_csv(written("l.csv", "path,label\nx,a\n".encode("utf-32"))), "expected UTF-8 text"),
    "Latin-1": (lambda run: read_csv(written("l.csv", b"path,label\nx,\xe9\n")), "cannot be read"),
    "a folder as list": (lambda run: load_dataset(made("l.csv", Path.mkdir)), "class folders"),
    "a pipe as list": (lambda run: load_dataset(made("l.csv", os.mkfifo)), "regular file"),
    "a device as list": (lambda run: load_dataset(made("l.csv", lambda p: p.symlink_to("/dev/zero"))), "regular file"),
    "a pipe as data set": (lambda run: load_dataset(made("./pets", os.mkfifo)), "cannot be read"),
    "a pipe in a named set": (lambda run: load_dataset("elpv", piped("elpv/labels.csv")), "regular file"),
    "a pipe as root": (lambda run: load_dataset(two_classes(Path("p")), made("r", os.mkfifo)), "cannot be kept"),
    "a pipe as image": (lambda run: run.predict(made("x.png", os.mkfifo)), "not a regular file"),
    "zero bytes in paths": (lambda run: loaded(lambda *_: Source(("a", "b"), numbered(9))), "none of the 9 images"),
    # sources
    "a class of 5,000 digits": (lambda run: Source((bad.BIG, 1), GREY), "a class is called a int"),
    "classes in lists": (lambda run: Source(bad.deep(), GREY), "at least two names, got a list"),
    "a label of 5,000 digits": (lambda run: Source(("a", "b"), [("x.png", bad.BIG)]), "label a int"),
    "a source of nothing": (lambda run: loaded(lambda *_: None), "must return kit.data.Source"),
    "a source of Nones": (lambda run: loaded(lambda *_: Source(("a", "b"), [None])), "neither"),
    "no name of a set": (lambda run: register(5, print), "dataset 5"),
    # plug-ins
    "a plug-in that ends the program": (lambda run: Config(plugins=written("p.py", "exit()")), "p.py, line 1"),
    "a plug-in that is a pipe": (lambda run: Config(plugins=made("p.py", os.mkfifo)), "not a file"),
    "a plug-in of zero bytes": (lambda run: Config(plugins=written("p.py", b"a\0b")), "p.py"),
    "a plug-in without end": (lambda run: Config(plugins=written("p.py", "def f(): f()\nf()")), "p.py, line 1"),
    # files in depth
    "a deep genotype": (
        lambda run: kit.search(micro_config("plain", genotype=written("g.json", "[" * 10**6)), progress=Silent()),
        "g.json",
    ),
    "a deep summary": (lambda run: report.rewrite(written("r.json", "[" * 10**6)), "r.json"),
    "a summary of lists": (lambda run: report.rewrite(written("r.json", '{"study": [1], "runs": [1]}')), "r.json"),
    "a summary of numbers": (lambda run: report.rewrite(written("r.json", '{"study": "limits", "runs": 5}')), "r.json"),
    "a deep environment": (lambda run: in_environment("KIT_PARAMETERS", "[" * 10**6), "KIT_PARAMETERS='[["),
    "a list in the environment": (lambda run: in_environment("KIT_PARAMETERS", "[1]"), "KIT_PARAMETERS"),
    "a size that is no number": (lambda run: in_environment("KIT_MAX_GB", "nan", run), "KIT_MAX_GB must be a number"),
    "a size below 0": (lambda run: in_environment("KIT_MAX_GB", "-1", run), "KIT_MAX_GB must be a number"),
    # sweeps
    "threads": (lambda run: sweep.run([], threads=10**6), "threads=1000000: give a whole number from 1 to 1,000"),
    "workers": (lambda run: sweep.run([], workers=10**6), "workers=1000000"),
    "retries": (lambda run: sweep.run([], retries=0.5), "retries=0.5"),
    "gpus": (lambda run: sweep.run([], gpus=float("nan")), "gpus=nan"),
    "gpus in text": (lambda run: sweep.run([], gpus="x"), "gpus='x'"),
    "endless gpus": (lambda run: sweep.run([], gpus=float("inf")), "gpus=inf"),
    "a sweep of text": (lambda run: sweep.run(["x"]), "configs=['x']"),
    "a sweep of one": (lambda run: sweep.run(run.config), "configs=Config("),
    "seeds": (lambda run: sweep.seeds_of(10**9), "seeds=1000000000"),
    "seeds of 5,000 digits": (lambda run: sweep.seeds_of(bad.BIG), "seeds=a int"),
    "an axis of a billion": (lambda run: sweep.grid(seed=range(10**9)), "1,000,000,000 runs: give at most 10,000"),
    "axes of millions": (lambda run: sweep.grid(seed=range(3000), lr=[0.1] * 3000), "9,000,000 runs"),
    "a search of text": (lambda run: kit.search("digits"), "kit.search takes a kit.Config"),
    # studies
    "no report": (lambda run: report.write("x", [run]), "unknown report 'x'"),
    "a report of paths": (lambda run: report.write("ablation", ["nowhere"]), "not a run directory"),
    "steps": (lambda run: landscape.axis(steps=float("nan")), "steps=nan"),
    "a radius": (lambda run: landscape.axis(radius=10**400), "radius="),
    "a long curve": (lambda run: run.curve("x" * 5000), "has no curve 'xxx"),
    "a long format": (lambda run: run.export("x.onnx", format="x" * 5000), "format='xxx"),
}


def in_environment(name: str, value: str, run: Run | None = None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        return Run.load(run.path) if run else notebook.config({})


def piped(name: str) -> str:
    Path(name).parent.mkdir()
    os.mkfifo(name)
    return "."


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_clear_error(what, finished: Run):
    action, says = REFUSED[what]
    said = refused(lambda: action(finished))
    assert says in said and len(said) < 1500, said


def test_an_image_to_learn_from_among_the_test_images_is_said(tmp_path, capsys):
    pets = two_classes(tmp_path / "pets" / "train")
    for name in "ab":
        for i in range(3):
            Image.fromarray(np.full((10, 12, 3), 40 * i + ord(name), np.uint8)).save(pets / name / f"{i}.png")
    shutil.copytree(pets, pets.with_name("test"))
    (pets.with_name("test") / "a" / "0.png").write_bytes(bad.encoded("PNG"))
    config = Config(dataset=str(pets.parent), method="plain")
    assert config.name.startswith("pets-plain")
    assert "pets: 5 of 6 test images are among those to learn from, pixel for pixel" in capsys.readouterr().out


def test_labels_of_many_digits_are_sorted_by_number():
    labels = ["10", "9", "1" + "0" * 5000]
    written("x.png", b"")
    lines = "".join(f"x.png,{label}\n" for label in labels)
    assert read_csv(written("list.csv", "path,label\n" + lines)).classes == ("9", "10", labels[2])


# ---------------------------------------------------------------- how many


def test_the_corpus_is_large():
    files = len(FILES) + len(list(bad.odd())) + 7 * 8 + 6
    runs = (len(RUN_FILES) + 2) * len(bad.HARMS)
    assert files + len(ARRAYS) + len(LABELS) + len(WRONG) * len(Config.model_fields) + runs >= 300 and files >= 300
