"""The networks the tests compile: the CNNs of the literature and small ones, in plain PyTorch."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution and BN where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        total: Tensor = self.bn2(self.conv2(y)) + self.shortcut(x)
        return total.relu()


class PreactBlock(nn.Module):
    """BN and ReLU before each convolution; a projected shortcut starts after the first of them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(y)
        total: Tensor = self.conv2(F.relu(self.bn2(self.conv1(y)))) + shortcut
        return total


class InvertedResidual(nn.Module):
    """1 x 1 expansion, 3 x 3 depthwise, 1 x 1 linear; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [*_conv_bn(inputs, hidden, 1), nn.ReLU6()]
        depthwise = [*_conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *_conv_bn(hidden, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class FunctionalNet(nn.Module):
    """Residual blocks in the functional style: in-place sums and ReLUs, F.avg_pool2d, view."""

    def __init__(self, channels: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv3(3, channels)
        self.convs = nn.ModuleList(_conv3(channels, channels) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.head = nn.Linear(2 * channels * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        for first in (0, 2):
            y = torch.relu_(self.norms[first](self.convs[first](x)))
            y = self.norms[first + 1](self.convs[first + 1](y))
            y += x
            x = F.avg_pool2d(F.relu_(y), 2)
        x = F.max_pool2d(self.widen(x), 2)
        x = F.adaptive_avg_pool2d(x, (2, 2))
        logits: Tensor = self.head(x.view(x.size(0), -1))
        return logits


def resnet_cifar(depth: int, classes: int = 10) -> nn.Module:
    """The ResNets of 6n + 2 layers for 32 x 32 images."""
    blocks = _stages(BasicBlock, depth)
    return _he(nn.Sequential(_conv3(3, 16), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *_head(64, classes)))


def preact_resnet(depth: int = 20, classes: int = 10) -> nn.Module:
    blocks = _stages(PreactBlock, depth)
    return _he(nn.Sequential(_conv3(3, 16), *blocks, nn.BatchNorm2d(64), nn.ReLU(), *_head(64, classes)))


def resnet18(classes: int = 1000) -> nn.Module:
    """ResNet-18 for ImageNet."""
    stem = [*_conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    shapes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    stages = [
        block
        for inputs, outputs, stride in shapes
        for block in (BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
    ]
    return _he(nn.Sequential(*stem, *stages, *_head(512, classes)))


def mobilenet_v2(classes: int = 10, dropout: float = 0.0) -> nn.Module:
    """MobileNetV2 for 32 x 32 images: the paper's, but for strides of 1 in the stem and the first stages."""
    narrow = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)]
    wide = [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [*_conv_bn(3, 32, 3), nn.ReLU6()]
    inputs = 32
    for expansion, outputs, repeats, stride in narrow + wide:
        for repeat in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, stride if repeat == 0 else 1, expansion))
            inputs = outputs
    last = [*_conv_bn(320, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    drop = [nn.Dropout(dropout)] if dropout else []
    return _he(nn.Sequential(*layers, *last, *drop, nn.Linear(1280, classes)))


def vgg16_bn(classes: int = 10) -> nn.Module:
    """VGG-16 with BN for 32 x 32 images: convolutions with biases, one linear layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return _he(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes)))


def functional_net(channels: int = 8, classes: int = 10) -> nn.Module:
    """For 3 x 32 x 32 images."""
    return FunctionalNet(channels, classes)


def small_resnet(channels: int = 8, in_channels: int = 1, classes: int = 10) -> nn.Module:
    """For 8 x 8 images: an identity block and a projected one."""
    stem = [_conv3(in_channels, channels), nn.BatchNorm2d(channels), nn.ReLU()]
    blocks = [BasicBlock(channels, channels, 1), BasicBlock(channels, 2 * channels, 2)]
    return _he(nn.Sequential(*stem, *blocks, *_head(2 * channels, classes)))


def _stages(block: type[nn.Module], depth: int) -> Iterator[nn.Module]:
    repeats, rest = divmod(depth - 2, 6)
    if rest:
        raise ValueError(f"depth {depth} is not 6n + 2")
    inputs = 16
    for outputs in (16, 32, 64):
        for _ in range(repeats):
            yield block(inputs, outputs, 1 if inputs == outputs else 2)
            inputs = outputs


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _he(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
