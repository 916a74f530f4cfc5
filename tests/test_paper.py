"""The papers' tables as data, and how notebooks/paper.ipynb lays them out beside one's own runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import kit
from kit import KitError

PATH = Path(__file__).resolve().parents[1] / "notebooks" / "paper.py"
# rows of every table that the four papers print results in
ROWS = {"dha-1": 8, "dha-2": 19, "dha-3": 6, "dha-4": 6, "diffautoml-1": 6, "diffautoml-2": 7, "diffautoml-3": 2}
ROWS |= {"daas-2": 18, "daas-3": 15, "daas-4": 4, "daas-5": 9, "daas-6": 2, "daas-7": 3}
ROWS |= {"autohas-2": 4, "autohas-3": 3, "autohas-4": 8}
NOT_BUILT = ("shake-shake-32", "shake-shake-96", "shake-shake-112")


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("table", ROWS)
def test_every_row_is_a_configuration_or_says_what_it_needs(table: str, paper: ModuleType, micro: str):
    lines = paper.cells(table, micro, [0], {})
    assert lines["row"].nunique() == ROWS[table]
    for line in lines[lines["column"].str.startswith(micro)].itertuples():
        if line.column.endswith(NOT_BUILT):
            assert not line.runs and (not line.needs or "unknown space" in line.needs or "built" in line.needs)
        assert not (line.runs and line.needs)
    has = lines.groupby("row").agg(runs=("runs", lambda all: any(map(bool, all))), needs=("needs", "max"))
    assert (has["runs"] | (has["needs"] != "")).all()
    numbers = lines["paper"][lines["paper"] != "–"]
    assert numbers.str.contains(r"\d").all() and lines[lines["paper"] != "–"]["row"].nunique() == ROWS[table]


def test_numbers_stand_where_the_papers_have_them(paper: ModuleType, micro: str):
    at = lambda table: paper.cells(table, micro, [0], {}).set_index(["row", "column"])["paper"]
    assert at("dha-3")["DHA", "cifar10"] == "98.11 ± 0.26 (76.6 h)"
    assert at("dha-4")["PBA", "cifar100/wrn-28-10"] == "83.3" and at("dha-4")["PBA", "cifar10/wrn-40-2"] == "–"
    assert at("daas-5")["DADA", "cifar100/pyramidnet-272"] == "11.2"
    assert at("autohas-4")["MixUp + Arch (phase)", "sun397"] == "48.3"


def test_what_has_been_run_is_filled_in_beside_the_papers_numbers(paper: ModuleType, finished: kit.Run):
    config = finished.config
    values = {k: v for k, v in config.model_dump(exclude_defaults=False).items() if k in ("epochs", "search_epochs")}
    values |= {k: getattr(config, k) for k in ("channels", "search_channels", "cells", "search_cells", "reductions")}
    values |= {
        "batch_size": config.batch_size,
        "precision": "float32",
        "device": "cpu",
        "out": str(finished.path.parent),
    }
    lines = paper.cells("dha-3", config.dataset, [0, 1], values)
    shown, here = paper.layout(lines, "dha-3"), f"{config.dataset}, here"
    assert shown.loc["DHA", here] == f"{100 * finished.metrics['test_accuracy']:.2f} (n=1)"
    assert shown.loc["Sequential DHA", here] == "not run" and shown.loc["DHA", "cifar10"].startswith("98.11")
    assert [c.seed for c in paper.asked(lines, "DHA")] == [0, 1] and paper.asked(lines, "") == []
    assert len(paper.asked(lines, "all")) == 12


def test_what_is_not_there_is_refused_by_name(paper: ModuleType, micro: str):
    with pytest.raises(KitError, match="unknown table 'dha-5'. Did you mean 'dha-"):
        paper.cells("dha-5", micro, [0], {})
    lines = paper.cells("dha-1", micro, [0], {})
    with pytest.raises(KitError, match="unknown row 'DHAA'. Did you mean 'DHA'"):
        paper.asked(lines, "DHAA")
    with pytest.raises(KitError, match="row 'DrNAS' does not run here, it needs: not built"):
        paper.asked(paper.cells("dha-2", micro, [0], {}), "DrNAS")
