"""Progress: a bar for people, plain lines for logs."""

from __future__ import annotations

import os
import sys
import time

SHOWN = {"loss": ".3f", "train_accuracy": ".3f", "val_accuracy": ".3f", "eta/lr": ".2g", "eta/weight_decay": ".1e"}


class Silent:
    """What `kit.search` calls while it runs: `epoch` after each epoch with its numbers, `close` also after an error.
    This one says nothing; a subclass says what it likes, and may end the search by raising."""

    def start(self, name: str, epochs: int, done: int) -> None: ...
    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class Lines(Silent):
    """At most one line per `every` seconds, and always the first and the last."""

    def __init__(self, every: float = 10.0):
        self.every, self.last = every, 0.0

    def start(self, name: str, epochs: int, done: int) -> None:
        self.name, self.epochs = name, epochs
        print(f"{name}: {f'goes on after epoch {done}' if done else 'starts'}, {epochs} epochs", flush=True)

    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        if done == self.epochs or time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            print(f"{self.name}: epoch {done}/{self.epochs} {_text(stage, numbers)}", flush=True)


class Bar(Silent):
    def start(self, name: str, epochs: int, done: int) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=epochs, initial=done, desc=name, unit="epoch")
        self.close = self.bar.close

    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        self.bar.set_postfix_str(_text(stage, numbers), refresh=False)
        self.bar.update(done - self.bar.n)


def interactive() -> bool:
    """A terminal, or a notebook that a person opened (papermill and nbval start kernels without this variable)."""
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


def _text(stage: str, numbers: dict[str, float]) -> str:
    shown = (f"{name.split('/')[-1]} {numbers[name]:{form}}" for name, form in SHOWN.items() if name in numbers)
    return " ".join([stage, *shown])
