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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests_bad as bad
import torch
from PIL import Image

import kit
from kit import KitError, Run
from kit.config import Config
from kit.data import Batches, ImageSet, ImageSets, Source, load_dataset, read_folder, register, to_sets
from kit.data.cache import decoded
from kit.search.progress import Silent


class Hang(BaseException):
    """No `except Exception` keeps it from the test."""


@pytest.fixture(autouse=True)
def neither_hangs_nor_runs_code(tmp_path, monkeypatch):
    def hang(*_):
        raise Hang("no answer for 20 s")

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


def pool_of(folder: Path, image_size: int | None = None) -> torch.Tensor:
    """The decoded images of all files, in the order of their names."""
    files = [file for file, _ in read_folder(folder).train]
    return decoded(files, folder.name, folder.parent / "cache", image_size).images


def everything(sets: ImageSets) -> int:
    return len(sets.train) + len(sets.val) + len(sets.test)


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
@pytest.mark.parametrize("suffix", [*bad.SUFFIX.values(), ".JPEG"])
def test_what_a_file_holds_decides_not_its_name(pets, kind, suffix):
    (pets / "a" / f"3{suffix}").write_bytes(bad.encoded(kind))
    (pets / "b" / f"3{bad.SUFFIX[kind]}").write_bytes(bad.encoded(kind))
    images = pool_of(pets)
    assert torch.equal(images[3], images[7])


@pytest.mark.parametrize(("name", "content", "colour"), params(bad.odd()))
def test_an_odd_image_is_shown_as_it_is_meant_or_refused(pets, name, content, colour):
    (pets / "a" / name).write_bytes(content)
    if colour is None:
        assert (
            "save it with 8 bits" in (said := refused(lambda: load_dataset(pets, image_size=8), f"a/{name} ("))
            or "crop it" in said
        )
        return
    images = pool_of(pets, 8)
    mine = images[sorted([*"012", name]).index(name) if name[0] < "0" else 3]
    assert mine.float().flatten(1).sub(torch.tensor(colour)[:, None]).abs().max() <= 2
    assert torch.equal(mine, mine[:, :1, :1].expand_as(mine))


def test_turned_photographs_stand_upright(pets):
    upright = Image.fromarray(bad.pixels(4, 6, 3))
    turns = {
        1: None,
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    shutil.rmtree(pets)
    (pets / "a").mkdir(parents=True), (pets / "b").mkdir()
    for tag, method in turns.items():  # stored as a camera does that was held in this way
        stored = upright if method is None else upright.transpose(Image.Transpose[method])
        exif = Image.Exif()
        exif[0x0112] = tag
        for name in "ab":
            stored.save(pets / name / f"{tag}.png", exif=exif)
    images = pool_of(pets)
    assert torch.equal(images[:], torch.from_numpy(np.array(upright)).permute(2, 0, 1).expand(16, -1, -1, -1))


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
        refused(lambda: load_dataset(pets), "cannot be listed")
    finally:
        (pets / "b").chmod(0o755)


def _pipe(path):
    os.mkfifo(path)


def _link_to_nowhere(path):
    path.symlink_to("nowhere.png")


def _link_to_itself(path):
    path.symlink_to(path.name)


def _link_to_zeros(path):
    path.symlink_to("/dev/zero")


def _directory(path):
    path.mkdir()


def _nothing(path):
    pass


@pytest.mark.parametrize("make", [_pipe, _link_to_nowhere, _link_to_itself, _link_to_zeros, _directory, _nothing])
def test_what_is_listed_but_no_file_is_named(pets, make):
    make(pets / "a" / "x.png")
    listed = [(file, int(file.parent.name == "b")) for file in sorted(pets.glob("*/[012].png"))]
    files = Source(("a", "b"), [*listed, (pets / "a" / "x.png", 0)])
    register("pets_with_x", lambda root, size: files, replace=True)
    refused(lambda: load_dataset("pets_with_x"), "a/x.png (")
    (pets / "list.csv").write_text("path,label\n" + "".join(f"{file},{label}\n" for file, label in files.train))
    refused(lambda: load_dataset(pets / "list.csv"), "x.png")


# ---------------------------------------------------------------- folders, lists, labels


def _one_class(path):
    shutil.rmtree(path / "b")


def _one_image_a_class(path):
    [file.unlink() for file in path.glob("*/[12].png")]


def _one_image_in_one_class(path):
    [file.unlink() for file in path.glob("b/[12].png")]


def _no_image(path):
    [file.unlink() for file in path.glob("b/*.png")]


def _all_cut(path):
    [file.write_bytes(file.read_bytes()[:60]) for file in path.glob("*/*.png")]


def _one_class_cut(path):
    [file.write_bytes(file.read_bytes()[:60]) for file in path.glob("b/*.png")]


def _sizes_differ(path):
    Image.new("RGB", (5, 5)).save(path / "b" / "1.png")


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize(
    "harm",
    [_one_class, _one_image_a_class, _one_image_in_one_class, _no_image, _all_cut, _one_class_cut, _sizes_differ],
)
def test_a_folder_that_is_no_data_set_is_refused(pets, harm, on_bad_image):
    harm(pets)
    refused(lambda: load_dataset(pets, on_bad_image=on_bad_image), "class", "images")


def test_names_in_other_scripts_and_double_names_are_files_like_others(pets):
    for name in (
        "日本 1.png",
        "0.PNG",
        "0.png.png",
        "a b'c\"d.png",
        "-rf.png",
        "x" * 200 + ".png",
        "new\nline.png",
        "%00.png",
    ):
        shutil.copy(pets / "a" / "0.png", pets / "a" / name)
        shutil.copy(pets / "a" / "0.png", pets / "b" / name)  # the same name, and the same image, in two classes
    (pets / "a" / os.fsdecode(b"\xff\xfe.png")).write_bytes((pets / "a" / "0.png").read_bytes())
    assert everything(load_dataset(pets, on_bad_image="skip")) == 23


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path,label\n",
        "path\nx.png\n",
        "path,label\nx.png\n",
        "\0\0\0",
        "a,b\n1,2\n",
        "path,label\n,\n",
        "{}\n",
        'path,label\n"x',
    ],
)
def test_a_list_that_is_none_is_refused(pets, text):
    (pets / "list.csv").write_text(text)
    refused(lambda: load_dataset(pets / "list.csv"), "list.csv")


def test_a_pickle_called_csv_is_refused(pets):
    (pets / "list.csv").write_bytes(bad.pickled())
    refused(lambda: load_dataset(pets / "list.csv"), "list.csv")


LABELS = {
    "negative": [0, -1],
    "too large": [0, 2],
    "one class": [0, 0],
    "float": torch.tensor([0.0, 1.0]),
    "NaN": torch.tensor([0, float("nan")]),
    "too many": [0, 1, 0, 1, 0],
    "numpy": np.array([0, 1]),
    "a list": None,
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_do_not_fit_are_refused(name):
    images, given = torch.zeros(40, 1, 4, 4, dtype=torch.uint8), LABELS[name]
    labels = (
        [0, 1] * 20 if given is None else given.repeat(20) if isinstance(given, torch.Tensor) else np.tile(given, 20)
    )
    labels = torch.from_numpy(labels) if isinstance(labels, np.ndarray) and name != "numpy" else labels
    found = settled(lambda: to_sets(Source(("a", "b"), (images, labels)), "made", flip=True), "label")
    assert isinstance(found, KitError) or name == "one class"


DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
]
ARRAYS = {
    **{str(dtype): torch.zeros(4, 1, 2, 2).to(dtype) for dtype in DTYPES},
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
    refused(
        lambda: to_sets(Source(("a", "b"), (ARRAYS[name], torch.arange(4) % 2)), "made", flip=True),
        "images",
        "image set",
    )


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

WRONG = {
    "text": "x",
    "list": [1],
    "dict": {},
    "minus": -1,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "huge": 10**30,
    "bytes": b"x",
    "true": True,
    "float": 0.5,
    "zero": 0,
    "line": "a\nb",
}


@pytest.mark.parametrize("field", Config.model_fields)
def test_a_parameter_out_of_its_range_is_named(field):
    accepted = 0
    for value in WRONG.values():
        found = settled(
            lambda value=value: Config(**{field: value}),
            field,
            str(value),
            field.removesuffix("ment"),
            "policy",
            "path",
            "folder",
        )
        accepted += not isinstance(found, KitError)
    assert accepted < len(WRONG) - 3


@pytest.mark.parametrize(
    "name", ["", "lerning_rate", "Seed", "__class__", "learning rate", "日本", "x" * 500, "model_config"]
)
def test_an_unknown_parameter_is_named_with_the_valid_ones(name):
    assert "batch_size" in refused(lambda: Config(**{name: 1}), name)


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


@pytest.mark.parametrize("harm", ["pickle", "flip", "cut-half", "removed"])
def test_a_run_goes_on_from_what_is_left_of_its_files(interrupted: Run, harm):
    """Whatever lies where the last checkpoint, the history and α were, the run ends, or says which file is in its
    way.
    """
    for file in [
        *interrupted.path.glob("checkpoints/*"),
        interrupted.path / "alpha.npz",
        interrupted.path / "history.parquet",
    ]:
        bad.HARMS[harm](file)
    found = settled(
        lambda: kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent()), str(interrupted.path)
    )
    assert isinstance(found, KitError) or found.finished


@pytest.mark.parametrize("harm", [harm for harm in bad.HARMS if harm not in ("removed", "folder")])
def test_a_given_genotype_that_is_none_is_refused(tmp_path, harm, micro):
    (tmp_path / "genotype.json").write_text(json.dumps(kit.space.GENOTYPES["darts-v2"]))
    bad.HARMS[harm](tmp_path / "genotype.json")
    net = kit.space.build("cell", 10, (1, 8, 8), channels=2, cells=3, reductions=2)
    refused(lambda: net.picks_of(build.read_genotype(kit.Config(genotype=str(tmp_path / "genotype.json")))), "genotype")


# ---------------------------------------------------------------- how many


def test_the_corpus_is_large():
    files = len(FILES) + len(list(bad.odd())) + 7 * 8 + 6
    runs = (len(RUN_FILES) + 2) * len(bad.HARMS)
    assert files + len(ARRAYS) + len(LABELS) + len(WRONG) * len(Config.model_fields) + runs >= 300 and files >= 300
