"""Every test: one thread, the CPU's defaults, and no warning that goes unread."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

torch.set_num_threads(1)
if "PYTEST_XDIST_WORKER" in os.environ and "KIT_PARAMETERS" in os.environ:
    # notebooks that run at the same time make some of the same runs: each worker has a folder of its own for them
    parameters = json.loads(os.environ["KIT_PARAMETERS"])
    parameters["out"] = f"{parameters['out']}-{os.environ['PYTEST_XDIST_WORKER']}"
    os.environ["KIT_PARAMETERS"] = json.dumps(parameters)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).resolve().parent
    for item in items:
        if here in item.path.parents:  # the notebooks, collected beside, run other people's code
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)


@pytest.fixture(autouse=True)
def _plain_defaults(monkeypatch):
    monkeypatch.delenv("KIT_PARAMETERS", raising=False)  # the test command sets it for the notebooks
    yield
    # a test that changes these would change its neighbours' numbers
    assert torch.get_default_dtype() == torch.float32 and torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def micro() -> str:
    """The name of a data set of 12 × 10 training digits (8×8): a real one, small enough for whole runs in a test."""
    from tests_micro import register_micro

    return register_micro()


@pytest.fixture(scope="session")
def finished(micro: str, tmp_path_factory: pytest.TempPathFactory):
    """A whole run of the micro configuration; not to be changed."""
    from tests_micro import micro_config

    import kit
    from kit.search.progress import Silent

    return kit.search(micro_config(), out=tmp_path_factory.mktemp("finished"), progress=Silent())


@pytest.fixture
def interrupted(micro: str, tmp_path: Path):
    """The same run, stopped after its first epoch, in a directory of its own."""
    from tests_micro import Stop, StopAfterEachEpoch, micro_config

    import kit

    with pytest.raises(Stop):
        kit.search(micro_config(), out=tmp_path, progress=StopAfterEachEpoch())
    return kit.Run.load(tmp_path / micro_config().name)
