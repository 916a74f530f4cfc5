"""Event files for TensorBoard hold the history's scalars, once, also after a run was interrupted; nobody gets them
unasked.
"""

from __future__ import annotations

import sys

import pytest
from tests_micro import Stop, StopAfterEachEpoch, micro_config

import kit
from kit.errors import KitError
from kit.search.progress import Silent


def scalars(run: kit.Run) -> dict[str, list[tuple[int, float]]]:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra: pip install 'kit[tensorboard]'",
    )
    events = reading.EventAccumulator(str(run.path / "tensorboard"), size_guidance={reading.SCALARS: 0})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore")  # tensorboard's and protobuf's own
def test_event_files_hold_the_history_once_also_after_an_interruption(micro, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra: pip install 'kit[tensorboard]'")
    config = micro_config(tensorboard=True)
    with pytest.raises(Stop):
        kit.search(config, out=tmp_path, progress=StopAfterEachEpoch())
    run = kit.search(config, out=tmp_path, progress=Silent())
    found, history = scalars(run), run.history
    assert set(found) == set(history["name"])
    for name, rows in history.groupby("name"):
        at = rows["step" if name.startswith("step/") else "epoch"]
        assert [step for step, _ in found[name]] == at.tolist()
        assert [value for _, value in found[name]] == pytest.approx(rows["value"].tolist(), rel=1e-6)


def test_the_name_of_the_run_does_not_depend_on_it_and_nothing_is_written_unasked(finished):
    assert micro_config(tensorboard=True).name == micro_config().name
    assert not (finished.path / "tensorboard").exists()


def test_without_the_package_it_is_refused_before_any_compute(micro, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        KitError, match=r"tensorboard=True needs the package tensorboard: pip install 'kit\[tensorboard\]'"
    ):
        kit.search(micro_config(tensorboard=True), out=tmp_path)
    assert not list(tmp_path.iterdir())
