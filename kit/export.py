"""The trained model for use elsewhere: safetensors, torch.export or ONNX. Each file takes uint8 images and normalises by itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping

import torch

from kit import errors, store
from kit.errors import KitError

if TYPE_CHECKING:
    from kit.run import Run, TrainedModel


def _safetensors(model: TrainedModel, run: Run, path: Path) -> None:
    store.write_tensors(path, model.network.state_dict())
    store.write_json(path.with_suffix(".json"), store.read_json(run.path / "model" / "model.json"))


def _example(model: TrainedModel) -> tuple[tuple[torch.Tensor], tuple[dict]]:
    # two images: torch.export would take a batch of one for a constant
    images = torch.zeros((2, *model.network.image), dtype=torch.uint8)
    return (images,), ({0: torch.export.Dim("batch", min=1, max=65536)},)


def _torch(model: TrainedModel, run: Run, path: Path) -> None:
    example, shapes = _example(model)
    store.atomically(path, lambda p: torch.export.save(torch.export.export(model, example, dynamic_shapes=shapes), p))


def _onnx(model: TrainedModel, run: Run, path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(f"format='onnx' needs {' and '.join(missing)}: pip install 'kit[export]'")
    example, shapes = _example(model)
    store.atomically(path, lambda p: torch.onnx.export(model, example, str(p), dynamo=True, dynamic_shapes=shapes, external_data=False,
                                                       input_names=["images"], output_names=["scores"], verbose=False))  # fmt: skip


FORMATS: Mapping[str, Callable[[TrainedModel, Run, Path], None]] = {"safetensors": _safetensors, "torch": _torch, "onnx": _onnx}


def export(run: Run, path: Path, format: str) -> Path:
    """Write the run's model to `path` and return it.

    safetensors: the weights by name, and beside them <path>.json with genotype, classes, policy and η. torch: a program of
    `torch.export`, loaded by `torch.export.load(path).module()`. onnx: needs the extra kit[export]. Raises KitError for other formats.
    """
    if format not in FORMATS:
        raise errors.unknown("export format", format, FORMATS)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[format](run.model(), run, path)
    return path
