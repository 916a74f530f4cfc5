"""kit: joint search of augmentation policy (τ), architecture (α) and hyper-parameters (η) while the network trains."""

import os

# OpenMP's threads wait in a busy loop by default: beside other work a step of two threads took up to thirty times as
# long. Read when torch is loaded, so before it; a setting of the caller's own is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from kit import arch, augment, data, errors, hyper, space
from kit.config import Config
from kit.data import ImageSets, datasets, load_dataset
from kit.errors import KitError
from kit.lab import sweep
from kit.lab.dashboard import dashboard
from kit.methods import methods
from kit.run.run import Prediction, Run
from kit.search.engine import search
from kit.studies import landscape
