"""Every test: one thread, the CPU's defaults, and no warning that goes unread."""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# networks are thousands of objects: at Python's default of 700 a fifth of the time would go into searches for cycles
gc.set_threshold(50_000, 20, 20)

# what takes longest starts first, so that no worker is left alone with it at the end, and what mostly waits beside what
# mostly computes
SLOW = """
notebooks test_sweep_ray test_browser test_methods test_distributed test_kill test_process test_sweep
test_bad_inputs test_trust_foreign test_gpu_script test_step_two_levels test_docs
test_planted test_recombination test_dashboard test_step test_limits_methods test_figures test_page test_export
""".split()


def scope(nodeid: str) -> str:
    """What one worker runs as a whole: a file of tests, or all notebooks, which share runs."""
    file = nodeid.split("::")[0]
    return "notebooks" if file.startswith("notebooks/") else file.removeprefix("tests/").removesuffix(".py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    from xdist.scheduler import LoadFileScheduling

    class SlowFirst(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False  # the order below, not that of the number of tests
    return SlowFirst(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # here, for of several workers' parent, which only hands out tests, needs none of it

    torch.set_num_threads(1)
    here = Path(__file__).resolve().parent
    rank = {name: i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(scope(item.nodeid), len(rank)))
    for item in items:
        if here in item.path.parents:  # the notebooks, collected beside, run other people's code
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)


@pytest.fixture(autouse=True)
def _plain_defaults(monkeypatch):
    import torch

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


@pytest.fixture(scope="session")
def after_one_epoch(micro: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the same run, stopped after its first epoch; not to be changed."""
    from tests_micro import Stop, StopAfterEachEpoch, micro_config

    import kit

    out = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Stop):
        kit.search(micro_config(), out=out, progress=StopAfterEachEpoch())
    return out / micro_config().name


@pytest.fixture
def interrupted(after_one_epoch: Path, tmp_path: Path):
    """A copy of it in a directory of its own."""
    import kit

    return kit.Run.load(shutil.copytree(after_one_epoch, tmp_path / after_one_epoch.name))
