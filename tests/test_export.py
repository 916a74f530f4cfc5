"""Exported files give the scores of the run's own model on real images, and one that does not is never written."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import kit
from kit import KitError, Run, space
from kit.run import export, store
from kit.run.export import Exported, load
from kit.run.run import TrainedModel

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def test_set(micro: str):
    return kit.load_dataset(micro).test


@pytest.fixture(scope="module")
def scores(finished: Run, test_set) -> torch.Tensor:
    with torch.no_grad():
        return finished.model()(test_set.images)


@pytest.fixture(scope="module")
def onnx_file(finished: Run, tmp_path_factory) -> Exported:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    return finished.export(tmp_path_factory.mktemp("onnx") / "new folder" / "model.onnx", format="onnx")


# ---- the three formats ---------------------------------------------------------------------------


def test_safetensors_alone_are_the_model(finished: Run, test_set, scores, tmp_path: Path, capsys):
    exported = finished.export(tmp_path / "new folder" / "model.safetensors")
    assert (
        exported.difference == 0.0
        and "differ from the run's model by at most 0 on 60 test images (allowed: 0)" in capsys.readouterr().out
    )
    assert {n: t.shape for n, t in load_file(exported).items()} == {
        n: t.shape for n, t in finished.model().network.state_dict().items()
    }
    with safetensors.safe_open(str(exported), framework="pt") as file:
        found = json.loads(file.metadata()["kit"])
    assert (
        found["genotype"] == finished.genotype
        and found["classes"] == finished.classes
        and found["preprocessing"]["image"] == [1, 8, 8]
    )
    model = load(exported)
    with torch.no_grad():
        assert torch.equal(model(test_set.images), scores)
    assert not model.training and model.predict(test_set.images).names == finished.predict(test_set.images).names
    assert sorted(exported.path.parent.iterdir()) == [exported.path, Path(f"{exported}.md")]


def test_the_file_is_read_where_neither_run_nor_data_nor_supernet_are(finished: Run, test_set, tmp_path: Path):
    """In a process of its own, in which a supernet's construction, a search and a data set would raise."""
    path = finished.export(tmp_path / "model.safetensors")
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch
torch.set_num_threads(1)
from kit.run.export import load
import kit, kit.space.cell, kit.compose
def refuse(*a, **k): raise SystemExit("not without the run")
real = kit.space.cell.CellNetwork.__init__
def alone(self, *a, **k):
    real(self, *a, **k)
    if any(len(slot.candidates) != slot.takes for slot in self.slots): refuse()
kit.space.cell.CellNetwork.__init__ = alone
kit.Run.__init__ = kit.data.registry.load_dataset = kit.compose.compose = refuse
p = load({str(path)!r}).predict(torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8))
print(p.names[0], p.probabilities[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = finished.predict(torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8))
    assert done.stdout.split(maxsplit=1) == [expected.names[0], f"{expected.probabilities[0].tolist()}\n"]


@pytest.mark.filterwarnings("default")
def test_a_torch_program_takes_any_batch(finished: Run, test_set, scores, tmp_path: Path):
    exported = finished.export(tmp_path / "model.pt2", format="torch")
    extra = {"kit.json": ""}
    program = torch.export.load(exported, extra_files=extra).module()
    for n in (1, 2, 37):
        torch.testing.assert_close(program(test_set.images[:n]), scores[:n], rtol=1e-5, atol=1e-5)
    assert (
        exported.difference <= exported.allowed <= 1e-3 and json.loads(extra["kit.json"])["classes"] == finished.classes
    )


@pytest.mark.filterwarnings("default")
def test_an_onnx_file_is_as_accurate_as_the_run_on_the_test_set(finished: Run, test_set, scores, onnx_file: Exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file))
    found = []
    for batch in test_set.images.split(23):  # of 23, 23 and 14: any number of images
        (got,) = session.run(None, {"images": batch.numpy()})
        found.append(torch.from_numpy(got))
    torch.testing.assert_close(torch.cat(found), scores, rtol=1e-4, atol=1e-4)
    labels = torch.cat(found).argmax(1)
    assert torch.equal(labels, finished.predict(test_set.images).labels)
    assert (labels == test_set.labels).double().mean().item() == finished.metrics["test_accuracy"]
    assert export.accuracy(onnx_file, finished, batch_size=23) == finished.metrics["test_accuracy"]
    (one,) = session.run(None, {"images": test_set.images[:1].numpy()})
    assert (
        one.shape == (1, 10)
        and json.loads(session.get_modelmeta().custom_metadata_map["kit"])["genotype"] == finished.genotype
    )


def built(name: str, image: tuple[int, int, int] = (3, 16, 16)) -> TrainedModel:
    """An untrained child of a space, its statistics away from 0 and 1."""
    torch.manual_seed(0)
    genotype = {"genotype": space.GENOTYPES[space.USUAL[name]]} if name in space.USUAL else {}
    net = space.build(name, 4, image, channels=8, cells=4, reductions=2, **genotype)
    net.train()
    with torch.no_grad():
        net(torch.randint(0, 256, (32, *image), dtype=torch.uint8), net.only_child())
    return TrainedModel(net, ["a", "b", "c", "d"]).eval()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["cell", "choice", "mobile", "wrn-16-2"])
@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_every_space_is_exported(format: str, name: str, tmp_path: Path):
    model, path = built(name), tmp_path / "model"
    spec = model.network.spec(model.child.picks)
    export.FORMATS[format].write(model, {"network": spec, "classes": model.classes}, path)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    assert export.check(model, path, format, images, "images").difference <= 1e-5


# ---- the check -----------------------------------------------------------------------------------


def test_a_file_that_computes_something_else_is_not_written(finished: Run, tmp_path: Path, monkeypatch):
    write = export._write_safetensors

    def rounded(model, found, path):
        write(model, found, path)
        tensors = load_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors["classifier.bias"] = tensors["classifier.bias"] + shift
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setitem(export.FORMATS, "safetensors", export.Format(rounded, load, 1e-5))
    for shift in (1e-3, float("nan")):
        with pytest.raises(
            KitError,
            match=r"model.safetensors \(safetensors\): scores differ .* by at most (0.001|nan) on 60 test images.*nothing was",
        ):
            finished.export(tmp_path / "model.safetensors")
        assert not list(tmp_path.iterdir())
    shift = 1e-7
    assert 0 < finished.export(tmp_path / "model.safetensors").difference <= 1e-5


def test_the_first_image_alone_is_checked_too():
    """A program that took the batch for a constant, or that mixes its images, is right about one batch only."""
    model = built("cell", (1, 8, 8))
    mixed = export.Format(None, lambda path: lambda images: model(images) + (len(images) == 1), 1e-5)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(export.FORMATS, "mixed", mixed)
        with pytest.raises(KitError, match="by at most 1 on 5 images"):
            export.check(model, Path("x"), "mixed", images, "images")


def test_images_to_check_on_may_be_given(finished: Run, tmp_path: Path):
    assert (
        finished.export(tmp_path / "a", images=torch.full((3, 20, 20), 7, dtype=torch.uint8)[:, None]).images
        == "3 the images given"
    )
    with pytest.raises(KitError, match="at least one image"):
        finished.export(tmp_path / "b", images=[])


def test_where_the_data_are_not_the_check_says_so(finished: Run, tmp_path: Path, monkeypatch):
    def gone(*_, **__):
        raise KitError("not here")

    monkeypatch.setattr(kit.data, "load_dataset", gone)
    assert finished.export(tmp_path / "a").images == "64 images of random pixels (the data set is not on this machine)"


# ---- refused -------------------------------------------------------------------------------------


def test_an_unknown_format_is_refused(finished: Run, tmp_path: Path, monkeypatch):
    with pytest.raises(KitError, match="unknown export format 'onxx'. Did you mean 'onnx'"):
        finished.export(tmp_path / "model", format="onxx")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        KitError, match=r"format='onnx' needs onnx, onnxscript, onnxruntime: pip install 'kit\[export\]'"
    ):
        finished.export(tmp_path / "model", format="onnx")
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_model_is_refused(interrupted: Run, tmp_path: Path):
    with pytest.raises(KitError, match="has no model yet"):
        interrupted.export(tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps([1]), b"\x10" * 100])
def test_other_files_are_refused_by_the_reader(content: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(KitError, match="is not a file of run.export.*torch.export.load.*InferenceSession"):
        load(tmp_path / "file")
    with pytest.raises(KitError, match="FileNotFoundError"):
        load(tmp_path / "none")


def test_tensors_without_their_network_are_refused(finished: Run, tmp_path: Path):
    with pytest.raises(KitError, match="not which network they belong to"):
        load(finished.path / "model" / "model.safetensors")
    found, tensors = (
        store.read_json(finished.path / "model" / "model.json"),
        load_file(finished.path / "model" / "model.safetensors"),
    )
    for change, why in (
        ({"network": {"space": "nowhere"}}, "describes no network"),
        ({"network": found["network"] | {"channels": 6}}, "does not hold"),
        ({"classes": None}, "describes no network"),
        ({"network": found["network"] | {"space": "choices"}}, "unknown space"),
    ):
        save_file(tensors, tmp_path / "file", metadata={"kit": json.dumps(found | change)})
        with pytest.raises(KitError, match=why):
            load(tmp_path / "file")
