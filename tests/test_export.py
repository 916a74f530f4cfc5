"""Exported files give the scores of the run's own model on real images."""

import pytest
import torch
from safetensors.torch import load_file
from tests_micro import micro_config

import kit
from kit import KitError, store
from kit.progress import Silent


@pytest.fixture(scope="module")
def run(micro, tmp_path_factory):
    return kit.search(micro_config(), out=tmp_path_factory.mktemp("runs"), progress=Silent())


@pytest.fixture(scope="module")
def images():
    return kit.load_dataset("digits").test.images[:37]


@pytest.fixture(scope="module")
def scores(run, images):
    with torch.no_grad():
        return run.model()(images)


def test_safetensors_hold_the_weights_and_what_they_belong_to(run, tmp_path):
    path = run.export(tmp_path / "new folder" / "model.safetensors")
    assert {n: t.shape for n, t in load_file(path).items()} == {n: t.shape for n, t in run.model().network.state_dict().items()}
    assert store.read_json(path.with_suffix(".json"))["genotype"] == run.genotype


@pytest.mark.filterwarnings("default")
def test_a_torch_program_takes_any_batch(run, images, scores, tmp_path):
    program = torch.export.load(run.export(tmp_path / "model.pt2", format="torch")).module()
    for n in (1, 2, len(images)):
        torch.testing.assert_close(program(images[:n]), scores[:n], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("default")
def test_an_onnx_file_takes_any_batch(run, images, scores, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(run.export(tmp_path / "model.onnx", format="onnx")))
    for n in (1, 2, len(images)):
        (found,) = session.run(None, {"images": images[:n].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), scores[:n], rtol=1e-4, atol=1e-4)


def test_an_unknown_format_is_refused(run, tmp_path):
    with pytest.raises(KitError, match="unknown export format 'onxx'. Did you mean 'onnx'"):
        run.export(tmp_path / "model", format="onxx")
