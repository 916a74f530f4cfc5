"""Progress never ends a run, whatever its readers do; an interruption is told in one line."""

from __future__ import annotations

import io
import itertools
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tests_micro import assert_same_run, micro_config

import kit
from kit import Run
from kit.search.progress import Bar, Lines, Silent, Stopped, interactive, interruptible, say


class Gone(io.StringIO):
    """A window that was closed."""

    def write(self, text: str) -> int:
        raise RuntimeError("the window was closed")

    isatty = write


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def piped() -> io.TextIOWrapper:
    """A pipe whose reader has gone, as after `| head -1`."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


STREAMS = {
    "none": lambda: None,
    "closed": closed,
    "no stream": object,
    "gone": Gone,
    "piped": piped,
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_no_stream_ends_progress(kind: str, monkeypatch):
    stream = STREAMS[kind]()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not interactive()
    for reporter in (Lines(every=0), Bar()):
        reporter.start("画-dha", 2, 0)
        for done in (1, 2):
            reporter.epoch(done, "search", {"loss": 1.0})
        reporter.close()
    say("\udcff ü", stream)
    if kind == "ascii":
        said = stream.buffer.getvalue().decode("ascii")
        assert "\\u753b-dha: epoch 2/2 search loss 1.000\n" in said and "\\xfc" in said
    if kind == "piped":
        stream.close()  # as at the exit of the interpreter: what is left in its buffer goes nowhere


def test_a_run_without_streams_is_the_same_run(micro: str, finished: Run, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", piped())
        patch.setattr(sys, "stderr", None)
        run = kit.search(finished.config, out=tmp_path)
        sys.stdout.close()
    assert_same_run(run, finished)


def test_an_interrupted_search_says_in_one_line_how_to_go_on(micro: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    class Impatient(Silent):
        def epoch(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(Stopped, match="^stopped after epoch 1; run again to go on$") as stopped:
        kit.search(micro_config(), out=tmp_path, progress=Impatient())
    assert stopped.value._render_traceback_() == [str(stopped.value)]  # which IPython shows
    sys.excepthook(stopped.type, stopped.value, stopped.tb)  # a script's
    assert capsys.readouterr().err == "stopped after epoch 1; run again to go on\n"
    sys.excepthook(ValueError, ValueError("another"), None)
    assert "another" in capsys.readouterr().err
    with pytest.raises(Stopped, match="^inner$"), interruptible(lambda: "outer"), interruptible(lambda: "inner"):
        raise KeyboardInterrupt


def test_within_an_epoch_bar_and_lines_say_how_fast_it_goes_and_how_long_it_will(micro, tmp_path, monkeypatch, capsys):
    from kit.search import engine

    told: list[tuple[float, str]] = []

    class Listening(Silent):
        def within(self, done: float, text: str) -> None:
            told.append((done, text))

    monkeypatch.setattr(engine, "TELL", 0.0)
    monkeypatch.setattr(engine, "monotonic", itertools.count(0, 10).__next__)  # a step takes ten seconds
    run = kit.search(micro_config(epochs=2), out=tmp_path, progress=Listening())
    steps = int(run.metrics["steps"])
    assert [done for done, _ in told] == pytest.approx([(i + 1) * 2 / steps for i in range(steps)])
    rate = f"{run.config.batch_size / 10:,.0f} images/s"
    expected = [
        f"epoch {done:.1f}/2, {rate}, {timedelta(seconds=10 * (steps - i - 1))} left"
        for i, (done, _) in enumerate(told)
    ]
    assert [text for _, text in told] == expected
    lines = Lines(every=0)
    lines.start("a run", 2, 0)
    lines.within(*told[0])
    assert f"a run: {told[0][1]}" in capsys.readouterr().out
    bar = Bar()
    bar.start("a run", 2, 0)
    bar.within(0.5, told[0][1])
    bar.epoch(1, "search", {"loss": 1.0})
    bar.close()
    shown = capsys.readouterr().err
    assert told[0][1] in shown and "| 0.5/2" in shown and "| 1.0/2" in shown
