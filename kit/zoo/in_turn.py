"""AutoHAS's phases among hyper-parameters: one after the other, each on new weights ("phase" of its Table 4)."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from kit.errors import KitError
from kit.hyper import Controller, read_bases, register
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method


@register("reinforce-in-turn", title="REINFORCE, one hyper-parameter after the other", brings={"hyper_lr": 0.05})
class InTurn(Controller):
    """`hyper_space` names as many hyper-parameters as the method has stages that learn η, in the order of their search.
    In each of them those before are what was found, and those after it as configured."""

    kept = (*Controller.kept, "turn", "found")

    @classmethod
    def check(cls, config: Any) -> None:
        names, turns = list(read_bases(config.hyper_space)), sum(stage.hyper == "learn" for stage in config.stages)
        if len(names) != turns or "drop_path" in names:  # which every block has of its own
            given = f"hyper_space={config.hyper_space!r} with hyper='reinforce-in-turn' and method {config.method!r}"
            raise KitError(f"{given}: name {turns} hyper-parameter(s), one for each stage, without drop_path")

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        self.turn = 0
        self.found: dict[str, float | str] = {}  # by the stages before

    @property
    def active(self) -> str:
        return list(self.bases)[min(self.turn, len(self.bases) - 1)]

    def current(self) -> dict[str, float | str]:
        return self.found | {self.active: self.bases[self.active][self.drawn[self.active]]}

    def best(self) -> dict[str, float | str]:
        return self.found | {self.active: super().best()[self.active]}

    def estimate(self, trace: Any, **signals: Any) -> list[Tensor]:
        self.drawn = {self.active: self.drawn[self.active]}  # what did not run has no part in the reward
        return super().estimate(trace, **signals)

    def move(self, gradient: list[Tensor]) -> None:
        super().move([one if name == self.active else None for name, one in zip(self.bases, gradient)])

    def record_score(self, score: float | None, last: bool) -> bool:
        if last:
            self.found, self.turn, self.baseline = self.best(), self.turn + 1, None
        return last


TURN = Stage("turn-1", step="reward", warm_up=0.3)
register_method(
    "autohas-turns",
    "AutoHAS, one hyper-parameter after the other on MobileNetV2",
    arch="given",
    space="mobile",
    hyper="reinforce-in-turn",
    stages=(TURN, replace(TURN, name="turn-2", restart=True), RETRAIN),
    values={"hyper_space": "weight_decay,mixup"},
)
