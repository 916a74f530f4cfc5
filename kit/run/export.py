"""The trained model for use elsewhere: safetensors, torch.export or ONNX. What was written is loaded again as its users
will, and compared with the run's model, before it takes its place."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit import files
from kit.errors import KitError, shown
from kit.run import store
from kit.run.predict import TrainedModel

CHECKED = 64  # images that an exported file is compared on
Scores = Callable[[Tensor], Tensor]


def load(path: str | os.PathLike) -> TrainedModel:
    """The model of a file that `run.export(path, "safetensors")` wrote; it needs neither the run nor its data."""
    path = files.place(path).resolve()
    tensors, about = store.read_tensors(path, problem := "is not a file of run.export(path, 'safetensors')")
    with files.reading(path, problem):
        found = json.loads(about["kit"])
    return TrainedModel.built(found, tensors, path)


def _safetensors(model: TrainedModel, about: str, path: Path) -> Scores:
    store.write_tensors(path, model.network.state_dict(), {"kit": about})
    return load(path)


def _program(model: TrainedModel) -> torch.export.ExportedProgram:
    images = torch.zeros((2, *model.network.image), dtype=torch.uint8)  # a batch of one would become a constant
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},))
    for node in program.graph.nodes:  # which names this machine's files
        node.meta.pop("stack_trace", None)
    return program


def _torch(model: TrainedModel, about: str, path: Path) -> Scores:
    with open(path, "w+b") as file:  # by its path it would insist on the ending .pt2
        torch.export.save(_program(model), file, extra_files={"kit.json": about})
        file.seek(0)
        return torch.export.load(file).module()


def _onnx(model: TrainedModel, about: str, path: Path) -> Scores:
    import onnxruntime

    names = {"input_names": ["images"], "output_names": ["scores"]}
    program = torch.onnx.export(_program(model), dynamo=True, verbose=False, **names)
    program.model.metadata_props["kit"] = about
    program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


# how each is written and read again; its ending; the tolerance of a score, relative to the largest one (at least 1)
FORMATS = {
    "safetensors": (_safetensors, ".safetensors", 0.0),
    "torch": (_torch, ".pt2", 1e-5),
    "onnx": (_onnx, ".onnx", 1e-4),
}


def write(model: TrainedModel, found: dict[str, Any], path: Path, format: str | None) -> None:
    """Write the model, and `found` (model.json) beside its weights, to `path`; see `Run.export`."""
    endings, given = {ending: name for name, (_, ending, _) in FORMATS.items()}, path.suffix.lower()
    wanted, format = format, format or endings.get(given)
    if format not in FORMATS or given not in ("", FORMATS[format][1]):
        allowed = ", ".join(f"{ending} for format={name!r}" for ending, name in endings.items())
        raise KitError(f"format={shown(wanted)} for {path.name!r}: the file's ending says the format; give {allowed}")
    needed = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise KitError(f"format={format!r} needs {', '.join(missing)}: pip install 'kit[export]'")
    make, _, tolerance = FORMATS[format]
    files.write(path, lambda file: check(model, make(model, json.dumps(found), file), tolerance))


@torch.no_grad()
def check(model: TrainedModel, scores: Scores, tolerance: float) -> None:
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CHECKED, *model.network.image), dtype=torch.uint8, generator=chance)
    for batch in (images, images[:1]):  # a program that mixes a batch's images, or its size, is right about one only
        expected = model(batch)
        allowed = tolerance * max(1.0, float(expected.abs().max()))
        if not (scores(batch) - expected).abs().max() <= allowed:  # NaN is no match
            raise KitError("the exported file's scores are not the model's, so none was written. Report this")
