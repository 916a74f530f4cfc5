"""The trained model for use elsewhere: safetensors, torch.export or ONNX, with a model card beside it.

What was written is loaded again as its users will, and compared with the run's model before it takes its place.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import torch
from torch import Tensor

from kit import data, errors
from kit.errors import KitError
from kit.run import store
from kit.run.predict import TrainedModel
from kit.space import latency

if TYPE_CHECKING:
    from kit.run.run import Run

CHECKED = 64  # images that an exported file is compared on


# ---- the formats: how each is written, and how its users load it ---------------------------------


def _write_safetensors(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    store.write_tensors(path, model.network.state_dict(), {"kit": json.dumps(found)})


def load(path: str | os.PathLike) -> TrainedModel:
    """The model of a file that `run.export(path, "safetensors")` wrote; it needs neither the run nor its data."""
    path = Path(path).expanduser()
    with store.reading(path, "is not a file of run.export(path, 'safetensors')"):
        found, tensors = json.loads(store.read_metadata(path)["kit"]), store.read_tensors(path)
    return TrainedModel.built(found, tensors, path)


def _program(model: TrainedModel) -> torch.export.ExportedProgram:
    images = torch.zeros((2, *model.network.image), dtype=torch.uint8)  # a batch of one would become a constant
    batch = torch.export.Dim("batch", min=1, max=65536)
    return torch.export.export(model, (images,), dynamic_shapes=({0: batch},))


def _write_torch(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:  # by its path it would insist on the ending .pt2
        torch.export.save(_program(model), file, extra_files={"kit.json": json.dumps(found)})


def _load_torch(path: Path) -> Callable[[Tensor], Tensor]:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _write_onnx(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    names = {"input_names": ["images"], "output_names": ["scores"]}
    program = torch.onnx.export(_program(model), dynamo=True, verbose=False, **names)
    program.model.metadata_props["kit"] = json.dumps(found)
    program.save(str(path), external_data=False)


def _load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


class Format(NamedTuple):
    """tolerance: of a score, relative to the largest one (at least 1). needs: modules to install."""

    ending: str
    write: Callable[[TrainedModel, dict[str, Any], Path], None]
    load: Callable[[Path], Callable[[Tensor], Tensor]]
    tolerance: float
    needs: tuple[str, ...] = ()


FORMATS = {
    "safetensors": Format(".safetensors", _write_safetensors, load, 0.0),
    "torch": Format(".pt2", _write_torch, _load_torch, 1e-5),
    "onnx": Format(".onnx", _write_onnx, _load_onnx, 1e-4, ("onnx", "onnxscript", "onnxruntime")),
}


# ---- export --------------------------------------------------------------------------------------


def export(run: Run, path: Path, format: str | None) -> Path:
    """Write the run's model to `path` and its model card to <path>.md, in place of older files; return `path`.

    safetensors: weights, genotype, classes and preprocessing, read by `kit.run.export.load(path)`. torch: a program,
    read by `torch.export.load(path).module()`. onnx: needs kit[export]. All take uint8 [N, C, H, W] with any N and give
    scores [N, classes]. format: None takes the ending's. Raises KitError for a format that is not the ending's and,
    writing nothing, where the file's scores differ from the run's model's by more than the format's tolerance.
    """
    endings, given = {kind.ending: name for name, kind in FORMATS.items()}, path.suffix.lower()
    if format is not None and format not in FORMATS:
        raise errors.unknown("export format", format, FORMATS)
    of_ending = endings.get(given)
    format = format or of_ending
    if format is None or (given and format != of_ending):
        allowed = ", ".join(f"{ending} for format={name!r}" for ending, name in endings.items())
        raise KitError(f"{path.name!r} ends in {given or 'nothing'}, and the ending says the format: give {allowed}")
    if missing := [name for name in FORMATS[format].needs if importlib.util.find_spec(name) is None]:
        raise KitError(f"format={format!r} needs {', '.join(missing)}: pip install 'kit[export]'")
    model, path = run.model(), path.expanduser()

    def write(temporary: Path) -> None:
        FORMATS[format].write(model, run.found(), temporary)
        check(model, FORMATS[format], temporary)

    store.atomically(path, write)
    store.atomically(path.with_name(f"{path.name}.md"), lambda p: p.write_text(card(run), "utf-8"))
    return path


@torch.no_grad()
def check(model: TrainedModel, format: Format, file: Path) -> None:
    """Raises KitError where the scores of `file` differ from the model's by more than the format's tolerance."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CHECKED, *model.network.image), dtype=torch.uint8, generator=chance)
    scores = format.load(file)
    for batch in (images, images[:1]):  # a program that mixes a batch's images, or its size, is right about one only
        expected = model(batch)
        allowed = format.tolerance * max(1.0, float(expected.abs().max()))
        if not (scores(batch) - expected).abs().max() <= allowed:  # NaN is no match
            raise KitError(f"{format}: the file's scores are not the model's, so none was written. Report this")


def card(run: Run, device: torch.device | str = "cpu") -> str:
    """The model card (Mitchell et al. 2019) in Markdown: what the model is, how good and how fast, and what it was not
    tested for. Its latency is measured now, on `device`. Raises KitError for a run that is not finished.
    """
    from scipy import stats

    if not run.finished:
        raise KitError(f"{run.path} is not finished ({run.status}): kit.search with its configuration goes on with it")
    model, config, metrics = run.model(device), run.config, run.metrics
    where, threads = model.network.mean.device, torch.get_num_threads()
    right = stats.binomtest(round(metrics["test_accuracy"] * metrics["test_images"]), metrics["test_images"])
    templates = jinja2.Environment(loader=jinja2.PackageLoader("kit.run"), trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("card.md.j2").render(
        run=run,
        about=data.describe(config.dataset) if config.dataset in data.datasets() else None,
        interval=right.proportion_ci(0.95, "wilson"),
        latency=latency.time_model(model, model.network.image, where, config.latency_batch),
        hardware=latency.hardware(where) + ("" if where.type == "cuda" else f", {threads} thread(s)"),
        confirmed=latency.recorded(run.path / "latency.json", model.network.picks_of(run.genotype)),
        genotype=",\n".join(f"  {json.dumps(part)}: {json.dumps(value)}" for part, value in run.genotype.items()),
    )
