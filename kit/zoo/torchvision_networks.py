"""Networks of the papers' tables that torchvision has, fitted to small images, as fixed spaces: ResNets (He et al.
2016), EfficientNet-B0 (Tan & Le 2019) and ShuffleNetV2 (Ma et al. 2018).

ImageNet, top-1 in percent: ResNet-50 76.3, with DA + HPO 79.0, ResNet-200 78.5 and 81.5 (DiffAutoML, Table 2);
ResNet-50 77.20, by AutoHAS 77.83, EfficientNet-B0 77.15 and 77.92 (AutoHAS, Table 2); ShuffleNetV2 1.5× 72.6
(DiffAutoML, Table 1)."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from kit.space import Child, Network, Picks, register

HALVINGS = 5  # of each of these networks
# where each network halves the resolution, in order; its classifier; and what its training in the papers' tables sets
RESNET = {"halves": ("conv1", "maxpool", "layer2.0", "layer3.0", "layer4.0"), "last": "fc"}
SHUFFLE = {"halves": ("conv1", "maxpool", "stage2.0", "stage3.0", "stage4.0"), "last": "fc"}
EFFICIENT = {"halves": tuple(f"features.{i}" for i in ("0", "2.0", "3.0", "4.0", "6.0")), "last": "classifier"}
IMAGENET = {"lr": {"paper": 0.1}, "weight_decay": {"paper": 1e-4}, "batch_size": {"paper": 256}}


def of_torchvision(name: str) -> nn.Module:
    """The network with new weights; takes a second, for torchvision is not imported with kit."""
    from torchvision import models

    if name == "resnet200":  # which torchvision does not name
        return models.ResNet(models.resnet.Bottleneck, [3, 24, 36, 3])
    return getattr(models, name)()


@register("resnet-18", title="ResNet-18", model="resnet18", where=RESNET, brings=IMAGENET)
@register("resnet-50", title="ResNet-50", model="resnet50", where=RESNET, brings=IMAGENET)
@register("resnet-200", title="ResNet-200", model="resnet200", where=RESNET, brings=IMAGENET)
@register("efficientnet-b0", title="EfficientNet-B0", model="efficientnet_b0", where=EFFICIENT)
@register("shufflenet-v2", title="ShuffleNetV2 1.0×", model="shufflenet_v2_x1_0", where=SHUFFLE)
@register("shufflenet-v2-1.5", title="ShuffleNetV2 1.5×", model="shufflenet_v2_x1_5", where=SHUFFLE)
class TorchvisionNetwork(Network):
    """From 128 pixels on the network is torchvision's, but for the images' channels and the classes. On smaller images
    the first halvings of the resolution are left out, so that 4×4 pixels reach the pooling where the image has them:
    at 32 pixels a ResNet begins with a 3×3 convolution of stride 1, without pooling. ResNet-200 has the blocks that
    torchvision's others have, not those of He et al.'s pre-activation form. Dropout is `dropout`, and stochastic depth
    `drop_path`, one for each block of EfficientNet-B0: both by kit's own generator, so that runs resume.

    model: torchvision's name. where: see RESNET."""

    searchable = False

    def __init__(self, classes: int, image: tuple[int, int, int], model: str, where: dict[str, Any]):
        super().__init__(classes, image)
        self.net, halves = of_torchvision(model), where["halves"]
        left_out = sum(min(image[1:]) < 4 * 2**i for i in range(1, HALVINGS + 1))
        for layer in (m for name in halves[:left_out] for m in self.net.get_submodule(name).modules()):
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                layer.stride = (1, 1)
            elif isinstance(layer, nn.MaxPool2d):
                layer.kernel_size, layer.stride, layer.padding = 1, 1, 0  # it passes its input
        self._replace_stem(image[0], small=left_out > 0)
        last = self.net.get_submodule(where["last"])
        features = [m for m in last.modules() if isinstance(m, nn.Linear)][-1].in_features
        setattr(self.net, where["last"], nn.Identity())
        self.classifier = nn.Linear(features, classes)
        drops = [m for m in self.net.modules() if type(m).__name__ == "StochasticDepth"]
        for block, depth in enumerate(drops):
            depth.forward = partial(self.drop_samples, block=block)
        self.own_drop_paths = len(drops)

    def _replace_stem(self, channels: int, small: bool) -> None:
        """The first convolution for so many channels, and of kernel 3 instead of 7 on small images."""
        name, old = next((name, m) for name, m in self.net.named_modules() if isinstance(m, nn.Conv2d))
        kernel = 3 if small else old.kernel_size[0]
        new = nn.Conv2d(channels, old.out_channels, kernel, old.stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        parent, _, own = name.rpartition(".")
        setattr(self.net.get_submodule(parent), own, new)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        return self.classifier(self.drop_features(self.net(x))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self.net, self.classifier]
