"""Wide-ResNets (Zagoruyko & Komodakis 2016), the fixed networks on which DHA's Table 4 compares τ and η."""

from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import KitError
from kit.space import Child, Network, Picks, register

BRINGS = {k: {"paper": v} for k, v in (("epochs", 200), ("lr", 0.1), ("weight_decay", 5e-4), ("batch_size", 128))}


class WideBlock(nn.Module):
    """Pre-activation basic block."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(c_in), nn.BatchNorm2d(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if stride != 1 or c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(y))))


@register("wrn-28-10", title="Wide-ResNet-28-10", depth=28, width=10, brings=BRINGS)
@register("wrn-40-2", title="Wide-ResNet-40-2", depth=40, width=2, brings=BRINGS | {"weight_decay": {"paper": 2e-4}})
@register("wrn-16-2", title="Wide-ResNet-16-2", depth=16, width=2, brings=BRINGS)
class WideResNet(Network):
    """WRN-depth-width for 8…64 pixels: three groups of (depth − 4) / 6 blocks with 16, 32, 64 × width channels."""

    searchable = False

    def __init__(self, classes: int, image: tuple[int, int, int], depth: int, width: int):
        super().__init__(classes, image)
        if min(image[1:]) < 8:
            raise KitError(f"WRN-{depth}-{width} needs 8×8 pixels or more, got {image[1]}×{image[2]}: set image_size=8")
        layers: list[nn.Module] = [nn.Conv2d(image[0], 16, 3, 1, 1, bias=False)]
        c, blocks = 16, (depth - 4) // 6
        for group in range(3):
            c_out = 16 * 2**group * width
            layers += [WideBlock(c, c_out, 2 if group else 1), *(WideBlock(c_out, c_out, 1) for _ in range(blocks - 1))]
            c = c_out
        layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes)]
        self.layers = nn.Sequential(*layers)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        return self.layers[-1](self.drop_features(self.layers[:-1](x))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self.layers]
