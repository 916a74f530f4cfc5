"""kit: joint search of augmentation policy (τ), architecture (α) and hyper-parameters (η) while the network trains."""

import importlib
import os
import pkgutil

# OpenMP's threads wait in a busy loop by default: where two searches share two cores, a step takes up to ten times as
# long. Read when torch is loaded, so before it; a setting of the caller's own is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from kit import arch, augment, data, errors, hyper, space
from kit.config import Config
from kit.data import ImageSets, datasets, load_dataset
from kit.errors import KitError
from kit.lab import sweep
from kit.lab.notebook import dashboard
from kit.methods import methods
from kit.run.run import Prediction, Run
from kit.search.engine import search
from kit.studies import landscape

for _file in pkgutil.iter_modules([f"{__path__[0]}/zoo"]):  # baselines: plug-ins, whichever are there
    importlib.import_module(f"kit.zoo.{_file.name}")
