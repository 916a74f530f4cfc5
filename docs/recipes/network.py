"""A fixed network of one's own, on which τ and η are searched, or nothing:

.venv/bin/python -m kit plugins=docs/recipes/network.py method=da+hpo space=three-convs
"""

from pydantic import Field
from torch import Tensor, nn

from kit import registry
from kit.space import Child, Network, Picks, register


def block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]


@register("three-convs", title="Three convolutions")
class ThreeConvs(Network):
    class Options(registry.Options):
        net_width: int = Field(16, ge=1, le=1024, description="channels of the first convolution")

    searchable = False

    def __init__(self, classes: int, image: tuple[int, int, int], net_width: int = 16):
        super().__init__(classes, image)
        c = net_width
        self.features = nn.Sequential(
            *block(image[0], c, 1), *block(c, 2 * c, 2), *block(2 * c, 4 * c, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(4 * c, classes)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        return self.classifier(self.drop_features(self.features(x))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self.features, self.classifier]
