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
import safetensors
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
Scores = Callable[[Tensor], Tensor]


# ---- the formats: how each is written, and how its users load it ---------------------------------


def _write_safetensors(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    store.write_tensors(path, model.network.state_dict(), {"kit": json.dumps(found)})


def load(path: str | os.PathLike) -> TrainedModel:
    """The model of a file that `run.export(path, "safetensors")` wrote; it needs neither the run nor its data."""
    path = Path(path).expanduser()
    with store.reading(path, "is not a file of run.export(path, 'safetensors')"):
        with safetensors.safe_open(path, framework="pt") as file:
            found = json.loads(file.metadata()["kit"])
        tensors = store.read_tensors(path)
    return TrainedModel.built(found, tensors, path)


def _program(model: TrainedModel) -> torch.export.ExportedProgram:
    images = torch.zeros((2, *model.network.image), dtype=torch.uint8)  # a batch of one would become a constant
    batch = torch.export.Dim("batch", min=1, max=65536)
    return torch.export.export(model, (images,), dynamic_shapes=({0: batch},))


def _write_torch(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:  # by its path it would insist on the ending .pt2
        torch.export.save(_program(model), file, extra_files={"kit.json": json.dumps(found)})


def _load_torch(path: Path) -> Scores:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _write_onnx(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    names = {"input_names": ["images"], "output_names": ["scores"]}
    program = torch.onnx.export(_program(model), dynamo=True, verbose=False, **names)
    program.model.metadata_props["kit"] = json.dumps(found)
    program.save(str(path), external_data=False)


def _load_onnx(path: Path) -> Scores:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


class Format(NamedTuple):
    """tolerance: of a score, relative to the largest one (at least 1). needs: modules to install."""

    write: Callable[[TrainedModel, dict[str, Any], Path], None]
    load: Callable[[Path], Scores]
    tolerance: float
    needs: tuple[str, ...] = ()


FORMATS = {
    "safetensors": Format(_write_safetensors, load, 0.0),
    "torch": Format(_write_torch, _load_torch, 1e-5),
    "onnx": Format(_write_onnx, _load_onnx, 1e-4, ("onnx", "onnxscript", "onnxruntime")),
}


# ---- export --------------------------------------------------------------------------------------


def export(run: Run, path: Path, format: str) -> Path:
    """Write the run's model to `path` and its model card to <path>.md, in place of older files; return `path`.

    safetensors: weights, genotype, classes and preprocessing, read by `kit.run.export.load(path)`. torch: a program,
    read by `torch.export.load(path).module()`. onnx: needs kit[export]. All take uint8 [N, C, H, W] with any N and give
    scores [N, classes]. Raises KitError for other formats, and, writing nothing, where the file's scores differ from
    those of the run's model by more than the format's tolerance.
    """
    if format not in FORMATS:
        raise errors.unknown("export format", format, FORMATS)
    if missing := [name for name in FORMATS[format].needs if importlib.util.find_spec(name) is None]:
        raise KitError(f"format={format!r} needs {', '.join(missing)}: pip install 'kit[export]'")
    model, path, said = run.model(), path.expanduser(), []

    def write(temporary: Path) -> None:
        FORMATS[format].write(model, run.found(), temporary)
        said.append(f"{path.name} ({format}): {compare(model, FORMATS[format], temporary)}")

    store.atomically(path, write)
    text = f"{card(run)}\n\n## This file\n\n{said[0]}.\n"
    store.atomically(path.with_name(f"{path.name}.md"), lambda p: p.write_text(text))
    print(said[0], flush=True)
    return path


@torch.no_grad()
def compare(model: TrainedModel, format: Format, file: Path) -> str:
    """How far the scores of `file` are from the model's, in words. Raises KitError where they are too far apart."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CHECKED, *model.network.image), dtype=torch.uint8, generator=chance)
    scores = format.load(file)
    batches = (images, images[:1])  # a program that mixes a batch's images, or its size, is right about one batch only
    difference = max(float((scores(batch) - model(batch)).abs().max()) for batch in batches)
    allowed = format.tolerance * max(1.0, float(model(images).abs().max()))
    said = f"scores differ from the run's model by at most {difference:.2g} on {CHECKED} images of noise"
    if not difference <= allowed:  # NaN is no match
        raise KitError(f"{said} (allowed: {allowed:.2g}): nothing was written. Report this with the genotype")
    return f"{said} (allowed: {allowed:.2g})"


# ---- the model card ------------------------------------------------------------------------------


def card(run: Run, device: torch.device | str = "cpu") -> str:
    """The model card (Mitchell et al. 2019) in Markdown: what the model is, how good and how fast, and what it was not
    tested for. Its latency is measured now, on `device`. Raises KitError for a run that is not finished.
    """
    from scipy import stats

    if not run.finished:
        raise KitError(f"{run.path} is not finished ({run.status}): kit.search with its configuration goes on with it")
    model, c, m = run.model(device), run.config, run.metrics
    where, threads = model.network.mean.device, torch.get_num_threads()
    right = stats.binomtest(round(m["test_accuracy"] * m["test_images"]), m["test_images"])
    templates = jinja2.Environment(loader=jinja2.PackageLoader("kit.run"), undefined=jinja2.StrictUndefined)
    templates.filters["cell"] = lambda value: " ".join(str(value).split()).replace("|", "∣")
    return templates.get_template("card.md.j2").render(
        run=run,
        name=Path(c.dataset).name,
        about=data.describe(c.dataset) if c.dataset in data.datasets() else None,
        interval=right.proportion_ci(0.95, "wilson"),
        latency=latency.time_model(model, model.network.image, where, c.latency_batch, threads),
        hardware=latency.hardware(where) + ("" if where.type == "cuda" else f", {threads} thread(s)"),
        confirmed=latency.recorded(run.path / "latency.json", model.network.picks_of(run.genotype)),
        limits={name: getattr(c, name) for name in ("max_params", "max_macs", "max_latency_ms")},
        genotype=",\n".join(f"  {json.dumps(part)}: {json.dumps(value)}" for part, value in run.genotype.items()),
        torch=torch.__version__,
    )
