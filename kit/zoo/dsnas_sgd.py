"""DiffAutoML's own optimizer of α: momentum SGD at a rate of 1e-6, in place of Adam by its reach."""

import torch
from torch import Tensor

from kit.arch import Dsnas, register


@register("dsnas-sgd", title="DSNAS by momentum SGD (DiffAutoML)", brings={"arch_lr": 1e-6})
class DsnasSgd(Dsnas):
    """`Dsnas` with momentum 0.9 and weight decay 5e-4; arch_lr is the rate. `Config(method="diffautoml",
    arch="dsnas-sgd")` is the paper's setting, at which α stays uniform but in runs of its length."""

    def optimize(self, *variables: Tensor) -> None:
        super().optimize(*variables)
        self.adam = torch.optim.SGD(self.variables(), lr=self.options.arch_lr, momentum=0.9, weight_decay=5e-4)
