"""The trained model for use elsewhere: safetensors, torch.export or ONNX. Each file takes uint8 images and normalises
by itself.

What was written is loaded again as its users will, and compared with the run's model on real images before it takes its
place.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kit import data, errors
from kit.errors import KitError
from kit.run import predict as inputs
from kit.run import store
from kit.run.card import card
from kit.run.run import Run, TrainedModel

CHECKED = 64  # images
LARGEST_BATCH = 65536

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported(os.PathLike):
    """A file that was written and checked; stands for its path. difference: the largest |Δ| of a score from the run's
    model on `images`
    images, over all of them at once and over the first alone; allowed: the most it may be."""

    path: Path
    format: str
    difference: float
    allowed: float
    images: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def sentence(self) -> str:
        apart = f"scores differ from the run's model by at most {self.difference:.2g} on {self.images} (allowed: {self.allowed:.2g})"
        return f"{self.path.name} ({self.format}): {apart}"


# ---- the formats: how each is written, and how its users load it ---------------------------------


def _write_safetensors(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    safetensors.torch.save_file(plain, path, metadata={"kit": json.dumps(found)})


def load(path: str | os.PathLike) -> TrainedModel:
    """The model of a file that `run.export(path, "safetensors")` wrote; it needs neither the run's directory nor its
    data.

    The network is built from the genotype in the file, as the found one alone. Nothing is unpickled. Raises KitError
    for other files.
    """
    path = Path(path).expanduser()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {})["kit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except KeyError:
        raise KitError(
            f"{path} holds tensors, but not which network they belong to: give a file of run.export(path, 'safetensors')"
        ) from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        others = "torch.export.load(path).module() reads format='torch', onnxruntime.InferenceSession(path) reads format='onnx'"
        raise KitError(
            f"{path} is not a file of run.export(path, 'safetensors') ({type(error).__name__}: {error}); {others}"
        ) from None
    return TrainedModel.built(found, tensors, path)


def _example(model: TrainedModel) -> tuple[tuple[Tensor], tuple[dict]]:
    # two images: torch.export would take a batch of one for a constant
    images = torch.zeros((2, *model.network.image), dtype=torch.uint8)
    return (images,), ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)


def _write_torch(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    example, shapes = _example(model)
    program = torch.export.export(model, example, dynamic_shapes=shapes)
    with open(path, "wb") as file:  # by path it would insist on the ending .pt2
        torch.export.save(program, file, extra_files={"kit.json": json.dumps(found)})


def _load_torch(path: Path) -> Scores:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _write_onnx(model: TrainedModel, found: dict[str, Any], path: Path) -> None:
    example, shapes = _example(model)
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["images"],
        output_names=["scores"],
        verbose=False,
    )
    program.model.metadata_props["kit"] = json.dumps(found)
    program.save(str(path), external_data=False)


def _load_onnx(path: Path) -> Scores:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@dataclass(frozen=True)
class Format:
    """tolerance: of a score, relative to the largest one (at least 1). needs: modules to install."""

    write: Callable[[TrainedModel, dict[str, Any], Path], None]
    load: Callable[[Path], Scores]
    tolerance: float
    needs: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(_write_safetensors, load, 0.0),
    "torch": Format(_write_torch, _load_torch, 1e-5),
    "onnx": Format(_write_onnx, _load_onnx, 1e-4, ("onnx", "onnxscript", "onnxruntime")),
}


# ---- export --------------------------------------------------------------------------------------


def export(run: Run, path: Path, format: str, images: Tensor | None = None) -> Exported:
    """Write the run's model to `path` and its model card to <path>.md, print how far its scores are from the run's, and
    return the file.

    safetensors: weights, genotype, classes and preprocessing in one file; `kit.export.load(path)` reads it. torch: a
    program of
    `torch.export`; `torch.export.load(path).module()` reads it. onnx: needs the extra kit[export]. All take uint8 [N,
    C, H, W] with any
    N and give scores [N, classes]. images: what the file is checked on, in place of the data set's test images. Raises
    KitError for other
    formats, and, writing nothing, where a score differs by more than the format's tolerance.
    """
    if format not in FORMATS:
        raise errors.unknown("export format", format, FORMATS)
    missing = [name for name in FORMATS[format].needs if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(f"format={format!r} needs {', '.join(missing)}: pip install 'kit[export]'")
    model, path = run.model(), path.expanduser()
    what, images = (
        _real_images(run, model.network.image) if images is None else ("the images given", model_images(images, model))
    )
    found = {**store.read_json(run.path / "model" / "model.json"), "preprocessing": model.preprocessing}
    made: list[Exported] = []

    def write(temporary: Path) -> None:
        FORMATS[format].write(model, found, temporary)
        made.append(check(model, temporary, format, images, what, path))

    store.atomically(path, write)
    (exported,) = made
    text = card(run) + f"\n## This file\n\n{exported.sentence()}.\n"
    store.atomically(path.with_name(f"{path.name}.md"), lambda p: p.write_text(text))
    print(exported.sentence(), flush=True)
    return exported


@torch.no_grad()
def check(
    model: TrainedModel, file: Path, format: str, images: Tensor, what: str, path: Path | None = None
) -> Exported:
    """Load `file` and compare its scores with the model's on uint8 images [n, C, H, W]: all of them in one batch, and
    the first alone.

    path: where the file will be. Raises KitError where they differ by more than the format allows.
    """
    scores = FORMATS[format].load(file)
    expected = [model(batch) for batch in (images, images[:1])]
    got = [scores(batch) for batch in (images, images[:1])]
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, got))
    allowed = FORMATS[format].tolerance * max(1.0, float(expected[0].abs().max()))
    exported = Exported(path or file, format, difference, allowed, f"{len(images)} {what}")
    if not difference <= allowed:  # NaN is no match
        raise KitError(
            f"{exported.sentence()}: nothing was written. Report this with the genotype, and the versions in provenance.json"
        )
    return exported


@torch.no_grad()
def accuracy(exported: Exported, run: Run, batch_size: int = 256) -> float:
    """The share of the run's test images that the file itself names rightly, in [0, 1]; the data set must be on this
    machine.
    """
    test = data.load_dataset(run.config.dataset, run.config.root, run.config.image_size).test
    scores, right = FORMATS[exported.format].load(exported.path), 0
    for start in range(0, len(test), batch_size):
        labels = test.labels[start : start + batch_size]
        right += int((scores(test.images[start : start + batch_size]).argmax(dim=1) == labels).sum())
    return right / len(test)


def model_images(images: Any, model: TrainedModel) -> Tensor:
    """Images of any form (see `predict`) as the model takes them."""
    found = inputs.Inputs(images, model.network.image).all()
    if not len(found):
        raise KitError(
            "export needs at least one image to check the file on; leave images out to take the data set's test images"
        )
    return found


def _real_images(run: Run, image: tuple[int, ...]) -> tuple[str, Tensor]:
    """Test images, evenly over the set; where the data set is not on this machine, random pixels, and the sentence says
    so.
    """
    config = run.config
    try:
        test = data.load_dataset(config.dataset, config.root, config.image_size).test.images
    except (KitError, OSError):
        test = None
    if test is None or tuple(test.shape[1:]) != tuple(image):
        noise = torch.randint(0, 256, (CHECKED, *image), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return "images of random pixels (the data set is not on this machine)", noise
    rows = torch.linspace(0, len(test) - 1, min(CHECKED, len(test))).round().long()
    return "test images", test.index_select(0, rows)
