"""The yardstick of `search.py`: a one-stage step in plain eager float32 PyTorch, shaped as the public one-stage code
is.

NCHW tensors, one module per operation with a ReLU of its own, gates multiplied onto outputs, `.grad` fields,
torch.optim, and batches from a DataLoader whose workers transform PIL images one by one. It knows nothing of kit but a
genotype's words.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Images(Dataset):
    """uint8 [N, H, W, 3] as a torchvision data set holds CIFAR; flip, crop, normalise, cutout of 16."""

    def __init__(self, images: Tensor, labels: Tensor):
        side = images.shape[1]
        self.images, self.labels = images.numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(side, 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
                self.cutout,
            ]
        )

    @staticmethod
    def cutout(image: Tensor) -> Tensor:
        h, w = image.shape[1:]
        y, x = int(torch.randint(h, ())), int(torch.randint(w, ()))
        image[:, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = 0
        return image

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def conv_norm(c_in: int, c: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(c_in, c, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c, affine=False)
    )


def depthwise(c: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, kernel, stride, dilation * (kernel - 1) // 2, dilation, groups=c, bias=False),
        nn.Conv2d(c, c, 1, bias=False),
        nn.BatchNorm2d(c, affine=False),
    ]


class Reduce(nn.Module):
    def __init__(self, c_in: int, c: int):
        super().__init__()
        self.even, self.odd = (nn.Conv2d(c_in, c // 2, 1, 2, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(c, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


def operation(name: str, c: int, stride: int) -> nn.Module:
    kind, _, size = name.rpartition("_")
    kernel = int(size[0]) if size[0].isdigit() else 0
    if kind == "sep_conv":
        return nn.Sequential(*depthwise(c, kernel, stride), *depthwise(c, kernel, 1))
    if kind == "dil_conv":
        return nn.Sequential(*depthwise(c, kernel, stride, 2))
    if kind in ("max_pool", "avg_pool"):
        pool = nn.MaxPool2d(3, stride, 1) if kind == "max_pool" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(c, affine=False))
    return nn.BatchNorm2d(c, affine=False) if stride == 1 else Reduce(c, c)


class Cell(nn.Module):
    def __init__(self, nodes: list, reduce: bool, halved: bool, c_before: int, c_last: int, c: int):
        super().__init__()
        self.nodes, self.kind = nodes, "reduce" if reduce else "normal"
        self.before = Reduce(c_before, c) if halved else conv_norm(c_before, c)
        self.last = conv_norm(c_last, c)
        self.ops = nn.ModuleList(
            operation(name, c, 2 if reduce and edge < 2 else 1) for node in nodes for name, edge in node
        )

    def forward(self, before: Tensor, last: Tensor, gates: dict[str, Tensor]) -> Tensor:
        states, ops = [self.before(before), self.last(last)], iter(self.ops)
        for i, node in enumerate(self.nodes):
            states.append(sum(gates[self.kind][i, k] * next(ops)(states[edge]) for k, (_, edge) in enumerate(node)))
        return torch.cat(states[2:], 1)


class Net(nn.Module):
    def __init__(self, genotype: dict, c: int, cells: int, classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * c, 3, 1, 1, bias=False), nn.BatchNorm2d(3 * c))
        before = last = 3 * c
        halved, self.cells = False, nn.ModuleList()
        for i in range(cells):
            reduce = i in (cells // 3, 2 * cells // 3)
            c *= 2 if reduce else 1
            self.cells.append(Cell(genotype["reduce" if reduce else "normal"], reduce, halved, before, last, c))
            halved, before, last = reduce, last, 4 * c
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor, gates: dict[str, Tensor]) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last, gates)
        return self.classifier(last.mean((2, 3)))


class Yardstick:
    """`step()` is one step of the one-stage search: θ by SGD, the compressed codes b (through dense matrices) by
    Adam.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        genotype: dict,
        c: int,
        cells: int,
        batch: int,
        workers: int,
        device: torch.device,
    ):
        self.device, self.net = device, Net(genotype, c, cells, 10).to(device).train()
        self.loader = DataLoader(
            Images(images.permute(0, 2, 3, 1).contiguous(), labels),
            batch,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
            pin_memory=device.type == "cuda",
        )
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=0.025, momentum=0.9, weight_decay=3e-4)
        self.codes = {kind: torch.randn(4, 7, device=device, requires_grad=True) for kind in ("normal", "reduce")}
        self.dense = {kind: torch.randn(4, 7, 2, device=device) / 7**0.5 for kind in self.codes}
        self.adam = torch.optim.Adam(self.codes.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        self.batches: Iterator = iter(())

    def step(self) -> None:
        try:
            x, y = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            x, y = next(self.batches)
        x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        gates = {kind: torch.einsum("nm,nmk->nk", b, self.dense[kind]) for kind, b in self.codes.items()}
        loss = nn.functional.cross_entropy(self.net(x, gates), y)
        self.sgd.zero_grad()
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.sgd.step()
        self.adam.step()
        loss.item()  # the running mean that is printed
