"""The mistakes that users make: code that goes wrong, and code that goes right. docs/questions.md is made of them.

`answered()` runs both in a folder of its own and takes the error's words from kit, so that no page says what kit does
not."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import kit
from kit.search.progress import Silent


@dataclass(frozen=True)
class Case:
    """wrong: raises a KitError. why: what stands behind it. right: does not."""

    title: str
    wrong: str
    why: str
    right: str


def config(title: str, wrong: str, why: str, right: str) -> Case:
    """Of two configurations."""
    return Case(title, f"kit.Config({wrong})", why, f"kit.Config({right})")


CASES: dict[str, list[Case]] = {
    "Names and values": [
        config(
            "unknown method",
            'method="dah"',
            "The nearest names come first; `kit.methods()` shows all, with what each one searches.",
            'method="dha"',
        ),
        config(
            "unknown parameter",
            "epoch=10",
            "[All fields](fields.md) lists what a configuration has. A notebook's parameters and `name=value` on the "
            "command line are the same fields and give the same error.",
            "epochs=10",
        ),
        config(
            "a value of the wrong type",
            "epochs=10.5",
            "Values are taken as they are: nothing is rounded, and text is not read as a number (papermill and the "
            "command line read it first).",
            "epochs=10",
        ),
        config("a value out of range", "lr=25", "Every field's range stands in [All fields](fields.md).", "lr=0.025"),
        config(
            "an odd number of channels", "channels=7", "Cells halve and double the width, so it is even.", "channels=8"
        ),
        config(
            "unknown device",
            'device="gpu"',
            "`auto` takes the first GPU where there is one, else the CPU.",
            'device="auto"',
        ),
        Case(
            "a GPU that is not there",
            'kit.search(kit.Config(device="cuda:99"))',
            "The error comes before any compute. On a machine without a GPU everything runs on the CPU.",
            'kit.Config(device="auto")',
        ),
        Case(
            "a search of something else",
            'kit.search("digits")',
            "A search takes a configuration.",
            'kit.Config(dataset="digits")  # kit.search(kit.Config(dataset="digits")) searches it',
        ),
    ],
    "What does not go together": [
        config(
            "a method that searches, with an architecture that is given",
            'method="dha", arch="given"',
            "`dha` searches an architecture. To search augmentation and hyper-parameters on one that is known, there "
            "is a method of its own.",
            'method="da+hpo", arch="given"',
        ),
        config(
            "a fixed network without choices",
            'method="dha", space="wrn-16-2"',
            "A Wide-ResNet has nothing to choose; τ and η can still be searched on it.",
            'method="da+hpo", space="wrn-16-2"',
        ),
        config(
            "sparse coding on choice blocks",
            'method="dha", space="choice"',
            "Sparse coding weighs operations, which cells can take over into their last normalisation and choice "
            "blocks cannot.",
            'method="dha", space="choice", arch="dsnas"',
        ),
        config(
            "a learner whose result is trained anew",
            'method="dha", arch="gdas"',
            "GDAS's weights belong to its relaxed network. A method with a stage of retraining takes it.",
            'method="gdas"',
        ),
        config(
            "whole trials within a joint search",
            'method="dha", hyper="bayesian"',
            "Bayesian optimisation and random search train a network for every setting: a method of their own.",
            'method="bayesian"',
        ),
        config(
            "a warm-up where nothing waits",
            'method="dha", warm_up=0.2',
            "Only DAAS's policy and AutoHAS's controllers rest at first.",
            'method="daas", warm_up=0.2',
        ),
        config(
            "too few epochs for the stages",
            'method="daas", epochs=1',
            "A method of two stages needs an epoch for each.",
            'method="daas", epochs=2',
        ),
        config(
            "steering to a cost",
            'method="dha", target_macs=1_000_000',
            "DSNAS and REINFORCE have a term for the cost. A hard limit works with every search.",
            'method="dha", max_macs=1_000_000',
        ),
        Case(
            "a limit that nothing keeps",
            "kit.search(kit.Config(max_params=100))",
            "The smallest architecture of the space is larger. Fewer channels or cells make all smaller.",
            "kit.Config(max_params=50_000)",
        ),
        Case(
            "fewer images than a batch",
            "kit.search(kit.Config(train_images=50))",
            "The whole batch has so many images, over all GPUs together.",
            "kit.Config(train_images=50, batch_size=25)",
        ),
        Case(
            "images too small for the network",
            "kit.search(kit.Config(reductions=5, cells=8))",
            "Every reduction halves the side, and the digits have 8 pixels.",
            "kit.Config(reductions=2, cells=8)",
        ),
    ],
    "Data": [
        config(
            "unknown data set",
            'dataset="cifar"',
            "[Your own data](data.md) has the names. A folder is given with a slash: `./photos`.",
            'dataset="cifar10"',
        ),
        Case(
            "a folder without class folders",
            'kit.load_dataset("./loose")',
            "The names of the folders are the classes: `photos/cat/1.jpg`, `photos/dog/2.jpg`.",
            'kit.load_dataset("./photos", image_size=8)',
        ),
        Case(
            "train/ without test/",
            'kit.load_dataset("./halves")',
            "Where parts are given, they are kept as they are, and one has to be for the test. Without parts kit "
            "draws them.",
            'kit.load_dataset("./photos", image_size=8)',
        ),
        Case(
            "a file that is no image",
            'kit.load_dataset("./damaged", image_size=8)',
            "All bad files are listed with the reason. Mend or remove them, or leave them out knowingly.",
            'kit.load_dataset("./damaged", image_size=8, on_bad_image="skip")',
        ),
        Case(
            "a class with too few images",
            'kit.load_dataset("./few", image_size=8)',
            "Each class is divided into train, val and test. Add images, or give the parts yourself as folders.",
            'kit.load_dataset("./photos", image_size=8)',
        ),
        Case(
            "a list without a header",
            'kit.load_dataset("./list.csv")',
            "The first line names the columns.",
            'from pathlib import Path\n\nlines = Path("list.csv").read_text()\n'
            'Path("named.csv").write_text("path,label\\n" + lines)\nkit.load_dataset("./named.csv", image_size=8)',
        ),
    ],
    "Runs and models": [
        Case(
            "no run directory",
            'kit.Run.load("photos")',
            "A run is a folder below `runs/` with a config.json. Its whole name is printed when the search starts.",
            "kit.Run.load(trained.path)  # trained = kit.search(...)",
        ),
        Case(
            "an ending that is no format",
            'trained.export("model.pth")',
            "A pickled module would run code when it is opened. Three formats do not: see [export](export.md).",
            'trained.export("model.safetensors")',
        ),
        Case(
            "no images to predict",
            'trained.predict("./empty")',
            "Give a folder with images, one image's path, PIL images or arrays.",
            'trained.predict("./photos/a")',
        ),
        Case(
            "unknown curve",
            'trained.curve("accuracy")',
            "`run.history` holds all of them, as a table.",
            'trained.curve("train_accuracy")',
        ),
    ],
    "Plug-ins and sweeps": [
        config(
            "a plug-in that is not there",
            'plugins="my_space.py"',
            "The path is seen from where Python was started; in JupyterLab by `make lab`, from the project's folder.",
            'plugins="plugin.py"',
        ),
        Case(
            "an axis without values",
            'kit.sweep.grid(method="dha", seed=[])',
            "A sweep runs every combination of its axes, so an empty one makes none.",
            'kit.sweep.grid(method="dha", seed=range(5))',
        ),
        Case(
            "an unknown backend",
            'kit.sweep.run([], backend="slurm")',
            "Under SLURM a sweep is an ordinary local one, inside the job: [servers](servers.md).",
            'kit.sweep.run([], backend="local")',
        ),
    ],
}


def answered() -> dict[str, list[tuple[Case, str]]]:
    """Every case with the message of its error, by topic. Raises RuntimeError where the wrong code goes right."""
    with workplace() as names:
        return {topic: [(case, error_of(case, names)) for case in listed] for topic, listed in CASES.items()}


def error_of(case: Case, names: dict[str, Any]) -> str:
    try:
        exec(case.wrong, dict(names))
    except kit.KitError as error:
        exec(case.right, dict(names))
        return told(str(error))
    raise RuntimeError(f"{case.title}: {case.wrong} is accepted")


def told(message: str) -> str:
    """Without what differs between machines, and with the beginning of a long list alone."""
    message = re.sub(r"has \d+ CUDA", "has 0 CUDA", message.replace(str(Path.cwd()), "…"))
    message = re.sub(r"-[0-9a-f]{8}-[0-9a-f]{6}\b", "-…", message)
    head, listed, names = message.partition("Valid: ")
    few = names.split(", ")[:6]
    return message if len(names) < 150 else f"{head}{listed}{', '.join(few)}, …"


@contextlib.contextmanager
def workplace() -> Iterator[dict[str, Any]]:
    """A working directory with the folders that the cases are about, and a small run: `trained`."""
    before, data = Path.cwd(), os.environ.get("KIT_DATA")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        os.environ["KIT_DATA"] = "data"
        try:
            for name, n in {"photos/a": 12, "photos/b": 12, "damaged/a": 12, "damaged/b": 12, "few/a": 12}.items():
                images(Path(name), n)
            for name, n in {"few/b": 1, "loose": 3, "halves/train/a": 3, "halves/train/b": 3}.items():
                images(Path(name), n)
            Path("damaged/a/notes.png").write_text("no image")
            Path("list.csv").write_text("".join(f"photos/{c}/{i}.png,{c}\n" for c in "ab" for i in range(12)))
            Path("plugin.py").write_text("import kit\n")
            Path("empty").mkdir()
            small = {
                "epochs": 2,
                "search_epochs": 1,
                "channels": 2,
                "cells": 1,
                "reductions": 0,
                "train_images": 60,
                "batch_size": 30,
            }
            yield {"kit": kit, "trained": kit.search(kit.Config(device="cpu", **small), progress=Silent())}
        finally:
            os.chdir(before)
            os.environ.pop("KIT_DATA")
            if data is not None:
                os.environ["KIT_DATA"] = data


def images(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (8, 8), (20 * i, 255 - 20 * i, 90)).save(folder / f"{i}.png")
