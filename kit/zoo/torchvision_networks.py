"""Networks of the papers' tables that torchvision has, fitted to small images, as fixed spaces: ResNets (He et al.
2016), EfficientNet-B0 (Tan & Le 2019) and ShuffleNetV2 (Ma et al. 2018). Top-1 on ImageNet: ResNet-50 76.3 and with
DA + HPO 79.0, ResNet-200 78.5 and 81.5, ShuffleNetV2 1.5× 72.6 (DiffAutoML, Tables 1, 2); ResNet-50 77.20 and by
AutoHAS 77.83, EfficientNet-B0 77.15 and 77.92 (AutoHAS, Table 2)."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from kit.space import Child, Network, Picks, register

# where each network halves the resolution, in order, and its classifier
RESNET = {"halves": ("conv1", "maxpool", "layer2.0", "layer3.0", "layer4.0"), "last": "fc"}
SHUFFLE = {"halves": ("conv1", "maxpool", "stage2.0", "stage3.0", "stage4.0"), "last": "fc"}
EFFICIENT = {"halves": [f"features.{i}" for i in ("0", "2.0", "3.0", "4.0", "6.0")], "last": "classifier"}
FIELDS = ("epochs", "lr", "weight_decay", "batch_size")  # AutoAugment's of a ResNet, Ma et al.'s of theirs
OF_RESNET = {name: {"paper": value} for name, value in zip(FIELDS, (270, 0.1, 1e-4, 256))}
OF_EFFICIENT = {"dropout": {"paper": 0.2}}
OF_SHUFFLE = {name: {"paper": value} for name, value in zip(FIELDS, (240, 0.5, 4e-5, 1024))}


@register("resnet-18", title="ResNet-18", model="resnet18", where=RESNET, brings=OF_RESNET)
@register("resnet-50", title="ResNet-50", model="resnet50", where=RESNET, brings=OF_RESNET)
@register("resnet-200", title="ResNet-200", model="resnet200", where=RESNET, brings=OF_RESNET)
@register("efficientnet-b0", title="EfficientNet-B0", model="efficientnet_b0", where=EFFICIENT, brings=OF_EFFICIENT)
@register("shufflenet-v2", title="ShuffleNetV2 1.0×", model="shufflenet_v2_x1_0", where=SHUFFLE, brings=OF_SHUFFLE)
@register("shufflenet-v2-1.5", title="ShuffleNetV2 1.5×", model="shufflenet_v2_x1_5", where=SHUFFLE, brings=OF_SHUFFLE)
class TorchvisionNetwork(Network):
    """From 128 pixels on the network is torchvision's, but for the images' channels and the classes. On smaller images
    the first of its halvings of the resolution are left out, so that 4×4 pixels are left at the end where the image has
    them: at 32 pixels a ResNet begins with a 3×3 convolution of stride 1. ResNet-200 has torchvision's blocks, not
    those with pre-activation. EfficientNet-B0's stochastic depth is `drop_path`, one for each block."""

    searchable = False

    def __init__(self, classes: int, image: tuple[int, int, int], model: str, where: dict[str, Any]):
        super().__init__(classes, image)
        from torchvision import models  # takes a second

        deep = lambda: models.ResNet(models.resnet.Bottleneck, [3, 24, 36, 3])  # which torchvision does not name
        self.net = deep() if model == "resnet200" else getattr(models, model)()
        left_out = sum(min(image[1:]) < 4 * 2**i for i in range(1, 1 + len(where["halves"])))
        for layer in (m for name in where["halves"][:left_out] for m in self.net.get_submodule(name).modules()):
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                layer.stride = (1, 1)
            elif isinstance(layer, nn.MaxPool2d):
                layer.kernel_size, layer.stride, layer.padding = 1, 1, 0  # it passes its input
        stem, old = next((name, m) for name, m in self.net.named_modules() if isinstance(m, nn.Conv2d))
        kernel = 3 if left_out else old.kernel_size[0]
        new = nn.Conv2d(image[0], old.out_channels, kernel, old.stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        self.net.set_submodule(stem, new)
        last = [m for m in self.net.get_submodule(where["last"]).modules() if isinstance(m, nn.Linear)][-1]
        self.net.set_submodule(where["last"], nn.Identity())
        self.classifier = nn.Linear(last.in_features, classes)
        drops = [m for m in self.net.modules() if type(m).__name__ == "StochasticDepth"]
        for block, depth in enumerate(drops):  # by kit's own generator, so that runs resume
            depth.forward = partial(self.drop_samples, block=block)
        self.own_drop_paths = len(drops)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        return self.classifier(self.drop_features(self.net(x))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self.net, self.classifier]
