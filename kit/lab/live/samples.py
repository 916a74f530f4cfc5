"""What the policy of a run does to images: a few training images, and what its newest checkpoint draws for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from kit import augment, data
from kit.augment import ALL_OPS, OPERATIONS, Draw
from kit.errors import KitError
from kit.figures.pictures import _short, _source
from kit.figures.style import INK, TEMPLATE
from kit.methods import PRESETS
from kit.run import store
from kit.run.run import Run

COLUMNS, ROWS = 6, 3  # ROWS: of augmented images under each original
LARGEST = 96  # pixels of a side as drawn
WITHOUT_MAGNITUDE = ("AutoContrast", "Equalize", "Identity", "Invert")


@dataclass(frozen=True)
class Few:
    """images: uint8 [n, C, H, W], of different classes as far as there are any; names: their classes; mean: uint8 [C]
    of all.
    """

    images: Tensor
    names: tuple[str, ...]
    mean: Tensor
    flip: bool


@functools.lru_cache(maxsize=4)
def few(dataset: str, root: str | None, image_size: int | None, n: int = COLUMNS) -> Few:
    """The first training images of n classes; the rest of the data set is let go."""
    sets = data.load_dataset(dataset, root, image_size)
    labels = sets.train.labels
    firsts = [int((labels == k).nonzero()[0]) for k in labels.unique().tolist()[:n]]
    rows = torch.tensor((firsts + [i for i in range(len(labels)) if i not in firsts][: n - len(firsts)])[:n])
    mean = (data.normalization(sets.train)[0] * 255).round().to(torch.uint8)
    return Few(sets.train.images[rows].clone(), tuple(sets.classes[k] for k in labels[rows].tolist()), mean, sets.flip)


def augmented(run: Run) -> go.Figure:
    """Images as the policy of the newest checkpoint augments them, with the names of the operations: what the next
    epoch trains on.

    The same checkpoint gives the same draws. Raises KitError where there is no checkpoint, or the data set is not here
    any more.
    """
    config = run.config
    state = newest(run)
    shown = few(config.dataset, config.root, config.image_size)
    columns = len(shown.images)
    images = shown.images.repeat(ROWS, 1, 1, 1)
    policy, draw = draw_from(run, state, shown, len(images))
    changed = policy.apply(images, draw)
    titles = [f"<b>{_short(name)}</b>" for name in shown.names] + [
        describe(draw, i, shown.flip) for i in range(len(images))
    ]
    figure = make_subplots(ROWS + 1, columns, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.1)
    figure.update_annotations(font={"size": 10, "color": INK})
    for k, image in enumerate(torch.cat([shown.images, changed])):
        figure.add_trace(go.Image(source=_source(_small(image)), hoverinfo="skip"), k // columns + 1, k % columns + 1)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(
        template=TEMPLATE,
        height=640,
        margin={"l": 15, "r": 15, "t": 75, "b": 12},
        title_text=f"Augmented by the policy after epoch {state['epoch']}",
    )
    return figure


def newest(run: Run) -> dict:
    """The state in the newest checkpoint that can be read."""
    for path in sorted((run.path / "checkpoints").glob("epoch-*.safetensors"), reverse=True):
        try:
            return store.read_state(path)
        except KitError:  # being replaced this moment, or cut short; the one before it will do
            continue
    raise KitError(f"{run.path.name} has no checkpoint yet, from which to draw augmented images")


def draw_from(run: Run, state: dict, shown: Few, n: int) -> tuple[augment.Policy, Draw]:
    """The policy of the stage that the checkpoint is in, as far as it has learned, and n draws of it, each image its
    own.
    """
    config, stage = run.config, run.config.stages[int(state["stage"])]
    generator = torch.Generator().manual_seed(int(state["epoch"]))
    name = PRESETS[config.preset]["fixed_augment"] if stage.augment == "default" else config.augment
    policy = augment.build(name, generator, tuple(shown.images.shape[2:]), flip=shown.flip, fill=shown.mean, config=config)
    learned = state["parts"]["augment"]
    while "inner" in learned:  # what a stage wraps it in
        learned = learned["inner"]
    policy.load_state_dict({**learned, "generator": generator.get_state()})  # the run's own may be a GPU's
    return policy, policy.derived(n) if stage.augment == "derived" else policy.sample(n)


def describe(draw: Draw, i: int, flip: bool) -> str:
    """Image i's operations in order, with their magnitudes in [0, 10] where they have one."""
    words = []
    for k in range(draw.ops.shape[1]):
        name, magnitude = ALL_OPS[int(draw.ops[i, k])], float(draw.magnitude[i, k])
        sign = "−" if OPERATIONS[name].settings["signed"] and float(draw.sign[i, k]) < 0 else ""
        words.append(name if name in WITHOUT_MAGNITUDE else f"{name} {sign}{magnitude:.1f}")
    basics = ["flip"] if draw.flip is not None and bool(draw.flip[i]) else []
    return "<br>".join(words or [" + ".join([*basics, "crop"] if draw.shift is not None else ["unchanged"])])


def _small(image: Tensor) -> Tensor:
    """At most LARGEST pixels on a side: a panel has no more, and every one goes to the browser."""
    step = -(-max(image.shape[1:]) // LARGEST)
    return image[:, ::step, ::step]
