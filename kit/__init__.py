"""kit: joint search of augmentation policy (τ), architecture (α) and hyper-parameters (η) while the network trains."""

from kit import arch, augment, data, errors, hyper, landscape, space
from kit.config import Config
from kit.data import ImageSets, datasets, load_dataset
from kit.errors import KitError
from kit.live import dashboard
from kit.methods import methods
from kit.run import Prediction, Run
from kit.search import search

__all__ = [
    "Config",
    "ImageSets",
    "KitError",
    "Prediction",
    "Run",
    "arch",
    "augment",
    "dashboard",
    "data",
    "datasets",
    "errors",
    "hyper",
    "landscape",
    "load_dataset",
    "methods",
    "search",
    "space",
]
