"""Exported files give the scores of the run's own model; one that does not is never written. The model card beside them
says what the run's files say."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

import kit
from kit import KitError, Run, space
from kit.run import export, store
from kit.run.export import load
from kit.run.predict import TrainedModel


@pytest.fixture(scope="module")
def test_set(micro: str):
    return kit.load_dataset(micro).test


@pytest.fixture(scope="module")
def scores(finished: Run, test_set) -> torch.Tensor:
    with torch.no_grad():
        return finished.model()(test_set.images)


# ---- the three formats ---------------------------------------------------------------------------


def test_safetensors_alone_are_the_model(finished: Run, test_set, scores, tmp_path: Path):
    path = finished.export(tmp_path / "new folder" / "model.safetensors")
    weights = finished.model().network.state_dict()
    assert {n: t.shape for n, t in load_file(path).items()} == {n: t.shape for n, t in weights.items()}
    model = load(path)
    with torch.no_grad():
        assert torch.equal(model(test_set.images), scores)
    assert not model.training and model.predict(test_set.images).names == finished.predict(test_set.images).names
    assert sorted(path.parent.iterdir()) == [path, Path(f"{path}.md")]


def test_the_file_is_read_where_neither_run_nor_data_are(finished: Run, test_set, tmp_path: Path, monkeypatch):
    path, expected = finished.export(tmp_path / "model.safetensors"), finished.predict(test_set.images)

    def refuse(*_, **__):
        raise AssertionError("not without the run")

    monkeypatch.setattr(Run, "__init__", refuse)
    monkeypatch.setattr(kit.data, "load_dataset", refuse)
    assert torch.equal(load(path).predict(test_set.images).probabilities, expected.probabilities)


@pytest.mark.filterwarnings("default")
def test_a_torch_program_takes_any_batch(finished: Run, test_set, scores, tmp_path: Path):
    path, extra = finished.export(tmp_path / "model.PT2"), {"kit.json": ""}  # the ending decides the format
    program = torch.export.load(path, extra_files=extra).module()
    for n in (1, 2, 37):
        torch.testing.assert_close(program(test_set.images[:n]), scores[:n], rtol=1e-5, atol=1e-5)
    assert json.loads(extra["kit.json"])["classes"] == finished.classes


@pytest.mark.filterwarnings("default")
def test_an_onnx_file_is_as_accurate_as_the_run_on_the_test_set(finished: Run, test_set, scores, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = onnxruntime.InferenceSession(str(finished.export(tmp_path / "model.onnx", format="onnx")))
    batches = test_set.images.split(23)  # of 23, 23 and 14: any number of images
    found = torch.cat([torch.from_numpy(session.run(None, {"images": b.numpy()})[0]) for b in batches])
    torch.testing.assert_close(found, scores, rtol=1e-4, atol=1e-4)
    assert (found.argmax(1) == test_set.labels).double().mean().item() == finished.metrics["test_accuracy"]
    assert session.run(None, {"images": test_set.images[:1].numpy()})[0].shape == (1, 10)
    assert json.loads(session.get_modelmeta().custom_metadata_map["kit"])["genotype"] == finished.genotype


def built(name: str, image: tuple[int, int, int] = (3, 16, 16)) -> TrainedModel:
    """An untrained child of a space, its statistics away from 0 and 1."""
    torch.manual_seed(0)
    kind = space.SPACES[name].make
    genotype = {"genotype": kind.genotypes[kind.usual]} if kind.searchable else {}
    net = space.build(name, 4, image, channels=8, cells=4, reductions=2, **genotype)
    with torch.no_grad():
        net.train()(torch.randint(0, 256, (32, *image), dtype=torch.uint8), net.only_child())
    return TrainedModel(net, ["a", "b", "c", "d"]).eval()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("format", "name"),
    [("safetensors", "cell"), ("safetensors", "wrn-16-2"), ("torch", "cell"), ("torch", "choice"), ("torch", "mobile")],
)
def test_every_space_is_exported(format: str, name: str, tmp_path: Path):
    model = built(name)
    found = {"network": model.network.spec(model.child.picks), "classes": model.classes}
    export.write(model, found, tmp_path / "model", format)  # it compares the file's scores with the model's


# ---- the check -----------------------------------------------------------------------------------


def test_a_file_that_computes_something_else_is_not_written(finished: Run, tmp_path: Path, monkeypatch):
    make, *rest = export.FORMATS["safetensors"]
    for shift in (1e-3, float("nan")):
        wrong = lambda *given, s=shift: lambda x: make(*given)(x) + s
        monkeypatch.setitem(export.FORMATS, "safetensors", (wrong, *rest))
        with pytest.raises(KitError, match="scores are not the model's, so none was written"):
            finished.export(tmp_path / "model.safetensors")
        assert not list(tmp_path.iterdir())


def test_the_first_image_alone_is_checked_too():
    """A program that took the batch for a constant, or that mixes its images, is right about one batch only."""
    model = built("cell", (1, 8, 8))
    with pytest.raises(KitError, match="scores are not the model's"):
        export.check(model, lambda images: model(images) + (len(images) == 1), 1e-5)


# ---- refused -------------------------------------------------------------------------------------


def test_an_unknown_format_is_refused(finished: Run, interrupted: Run, tmp_path: Path, monkeypatch):
    target = tmp_path / "exports"
    with pytest.raises(KitError, match="format='onxx' for 'model': .*give .*.onnx for format='onnx'"):
        finished.export(target / "model", format="onxx")
    with pytest.raises(KitError, match="has no model yet"):
        interrupted.export(target / "model.onnx")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'kit\[export\]'"):
        finished.export(target / "model", format="onnx")
    assert not target.exists()


def test_an_ending_that_is_no_formats_or_anothers_is_refused(finished: Run, tmp_path: Path):
    assert load(finished.export(tmp_path / "model", format="safetensors")).classes == finished.classes
    for name, format in (
        ("model.onnx", "safetensors"),
        ("model.safetensors", "torch"),
        ("model.pth", None),
        ("model.pt", "torch"),
        ("model", None),
    ):
        with pytest.raises(KitError, match=rf"for '{name}': .*give .safetensors for .*, .onnx for format='onnx'"):
            finished.export(tmp_path / "refused" / name, format)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps([1]), b"\x10" * 100])
def test_other_files_are_refused_by_the_reader(content: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(content)
    for name in ("file", "none"):
        with pytest.raises(KitError, match=f"{name} is not a file of run.export"):
            load(tmp_path / name)


def test_tensors_without_their_network_are_refused(finished: Run, tmp_path: Path):
    weights, found = finished.path / "model" / "model.safetensors", finished.found()
    with pytest.raises(KitError, match="is not a file of run.export"):
        load(weights)
    for change in (
        {"network": {"space": "nowhere"}},
        {"network": found["network"] | {"channels": 6}},
        {"classes": None},
        {"network": found["network"] | {"space": "choices"}},
    ):
        save_file(load_file(weights), tmp_path / "file", metadata={"kit": json.dumps(found | change)})
        with pytest.raises(KitError, match="does not hold the weights of the network described beside it"):
            load(tmp_path / "file")


# ---- the model card ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As it lies beside an exported file."""
    path = finished.export(tmp_path_factory.mktemp("card") / "model.safetensors")
    return Path(f"{path}.md").read_text()


def row(text: str, name: str) -> str:
    return re.search(rf"^- {re.escape(name)}:? (.*)$", text, re.M).group(1)


def test_the_numbers_of_the_card_are_the_runs(finished: Run, card: str):
    m, p = finished.metrics, finished.provenance
    low, high = stats.binomtest(round(60 * m["test_accuracy"]), 60).proportion_ci(0.95, "wilson")
    said = f"{m['test_accuracy']:.2%}, 95% interval {low:.2%} to {high:.2%} (Wilson, n = 60 images"
    assert row(card, "test accuracy").startswith(said)
    assert row(card, "balanced test accuracy").startswith(f"{m['test_balanced_accuracy']:.2%} ")
    assert row(card, "parameters") == f"{m['params']:,}"
    assert row(card, "multiply-adds per image").startswith(f"{m['macs']:,} ")
    assert re.match(r"[\d.]+ ms for a batch of 1, float32, on .+, 1 thread\(s\), measured", row(card, "latency"))
    assert "`dha`" in row(card, "method") and row(card, "method").endswith(f"seed {finished.config.seed}")
    assert row(card, "training").startswith("2 epochs, 8 steps of 60 images")
    eta = row(card, "hyper-parameters η at the end")
    assert eta == ", ".join(f"{name} = {value:.4g}" for name, value in finished.hyper.items())
    assert row(card, "split") == p["split"] and str(p["commit"]) in row(card, "commit") and p["processor"] in card
    assert "searched under" not in card and "validation accuracy" not in card
    assert row(card, "augmentation policy τ") == "`pair-softmax`, learned"


def test_the_genotype_of_the_card_can_be_taken_back(finished: Run, card: str, tmp_path: Path):
    (block,) = re.findall(r"```json\n(.*?)\n```", card, re.S)
    assert json.loads(block) == finished.genotype
    (tmp_path / "g.json").write_text(block)
    assert kit.Config(method="plain", genotype=str(tmp_path / "g.json")).genotype


def test_what_only_some_runs_have_is_named(finished: Run, tmp_path: Path):
    values = finished.config.model_dump() | {"dataset": "/our/images", "max_params": 12345, "max_latency_ms": 2.5}
    store.write_json(tmp_path / "config.json", values)
    shutil.copytree(finished.path / "model", tmp_path / "model")
    store.write_json(tmp_path / "provenance.json", finished.provenance)
    store.write_json(tmp_path / "metrics.json", finished.metrics | {"val_accuracy": 0.25, "val_images": 48})
    text = Run.load(tmp_path).card()
    assert text.startswith("# images: ") and "licence are its owner's to state" in row(text, "about")
    assert row(text, "validation accuracy") == "25.00% (n = 48)"
    assert "- searched under max_params = 12,345\n- searched under max_latency_ms = 2.5\n" in text


def test_the_card_says_what_was_not_tested(card: str):
    for said in ("no other camera", "calibrated", "adversarial", "names one of them all the same", "one run with one"):
        assert said in card
