"""Filter-normalised directions in weight space (Li et al. 2018; METHOD section 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kit.search.learner import generator


def direction(model: nn.Module, seed: int, which: str = "δ") -> dict[str, Tensor]:
    """A Gaussian direction, each filter (row of a weight) rescaled to the norm of the trained one; zero for biases and
    BatchNorm.

    Drawn per parameter from its name, so that models that share a layer get the same numbers for it. Float tensors by
    name.
    """
    drawn = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            drawn[name] = torch.zeros_like(parameter, requires_grad=False)
            continue
        noise = torch.randn(parameter.shape, generator=generator(seed, f"{which}/{name}"), dtype=parameter.dtype).to(
            parameter.device
        )
        rows = noise.flatten(1).norm(dim=1)
        scale = parameter.detach().flatten(1).norm(dim=1) / rows.clamp(min=torch.finfo(noise.dtype).tiny)
        drawn[name] = noise * scale.view(-1, *[1] * (parameter.ndim - 1))
    return drawn


def axis_name(k: int) -> str:
    """Of the k-th independent direction: the first two span the plane, so that lines and plane show the same
    numbers.
    """
    return ("δ", "η")[k] if k < 2 else f"direction {k + 1}"
