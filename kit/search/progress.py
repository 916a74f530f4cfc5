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


def interactive() -> bool:
    """A terminal, or a notebook that a person opened (papermill and nbval start kernels without this variable)."""
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


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
            print(f"{self.name}: epoch {done}/{self.epochs} {stage} {_text(numbers)}", flush=True)


class Bar(Silent):
    def start(self, name: str, epochs: int, done: int) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=epochs, initial=done, desc=name, unit="epoch")

    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        self.bar.set_postfix_str(f"{stage} {_text(numbers)}", refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


def _text(numbers: dict[str, float]) -> str:
    return " ".join(f"{name.split('/')[-1]} {numbers[name]:{form}}" for name, form in SHOWN.items() if name in numbers)
