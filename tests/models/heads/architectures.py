"""Networks of many makes, small, with random weights: what a head has to be found in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfuse.core.vision import import_torchvision


def picture(side: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


class TwoHeads(nn.Module):
    """A tuple of outputs: a class and a side task."""

    def __init__(self):
        super().__init__()
        self.side, self.classes = nn.Linear(8, 3), nn.Linear(8, 5)  # registered in another order than they are given
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(inputs)
        return self.classes(hidden), self.side(hidden)


class NamedOutputs(TwoHeads):
    def forward(self, inputs: Tensor) -> dict[str, Any]:
        hidden = self.body(inputs)
        return {"side": self.side(hidden), "logits": self.classes(hidden), "kind": "dict"}


class TiedEmbedding(nn.Module):
    """Predicts the next word; the last layer's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 11, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.mix(self.embedding(words).mean(1))))


class TiedTwins(nn.Module):
    """Two last layers with one weight, as a distilled network's; answers with their mean."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head, self.twin = nn.Linear(8, 4), nn.Linear(8, 4)
        self.twin.weight = self.head.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.body(inputs))
        return (self.head(hidden) + self.twin(hidden.square())) / 2


class SharedHead(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.body = nn.Linear(6, 6)
        self.last = self.first

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.body(inputs)))


class RegisteredFirst(nn.Module):
    """Its last layer is registered before its body, and a projection that outputs don't need after it."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(8, 4)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.projection = nn.Linear(8, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs)
        self.projection(hidden)
        return self.classify(hidden)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.memory, self.out = nn.Embedding(11, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.memory(self.embedding(words))[0][:, -1])


class Columns(nn.Module):
    """A residual network for tables."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.stem(inputs))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


class Frozen(RegisteredFirst):
    """No parameter takes part in gradients."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class Segments(nn.Module):
    """A class for every position, by a 1x1 convolution."""

    def __init__(self):
        super().__init__()
        self.body, self.classify = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.interpolate(self.classify(F.relu(self.body(inputs))), scale_factor=2.0)


def columns() -> Tensor:
    return torch.rand(2, 6, generator=torch.Generator().manual_seed(0))


def words() -> Tensor:
    return torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def one_dimensional() -> nn.Module:
    body = [nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))


def fully_convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def with_softmax() -> nn.Module:
    return nn.Sequential(plain(), nn.Softmax(1))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4, bias=False))


OWN: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    # name -> network, example, path of its head
    "sequential": (plain, columns, "2"),
    "softmax at the end": (with_softmax, columns, "0.2"),
    "weight norm below": (weight_normed, columns, "2"),
    "one-dimensional": (one_dimensional, lambda: torch.rand(2, 2, 12), "7"),
    "1x1 convolution": (fully_convolutional, lambda: picture(8), "2"),
    "segmentation": (Segments, lambda: picture(8), "classify"),
    "table": (Columns, columns, "head"),
    "tuple of outputs": (TwoHeads, columns, "classes"),
    "named outputs": (NamedOutputs, columns, "classes"),
    "tied to an embedding": (TiedEmbedding, words, "decoder"),
    "twins that share a weight": (TiedTwins, columns, "head"),
    "one layer under two names": (SharedHead, columns, "first"),
    "head registered first": (RegisteredFirst, columns, "classify"),
    "frozen": (Frozen, columns, "classify"),
    "recurrent": (Recurrent, words, "out"),
}


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: import_torchvision().models.get_model(name, weights=None, num_classes=4, **options)


def _filled(network: nn.Module) -> nn.Module:
    """A network that was built without values, with some."""
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator) / 10)
    return network


def _vgg() -> nn.Module:
    vgg = import_torchvision().models.vgg
    with torch.device("meta"):
        network = vgg.VGG(vgg.make_layers([8, "M", 8, "M"]), init_weights=False)
        layers = [nn.Linear(8 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Linear(16, 4)]
        network.classifier = nn.Sequential(*layers)
    return _filled(network)


def _alexnet() -> nn.Module:
    with torch.device("meta"):
        network = import_torchvision().models.AlexNet(num_classes=4)
        network.classifier = nn.Sequential(nn.Dropout(), nn.Linear(256 * 36, 16), nn.ReLU(inplace=True), nn.Linear(16, 4))
    return _filled(network)


def _vit() -> nn.Module:
    return import_torchvision().models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=4)


def _swin() -> nn.Module:
    return import_torchvision().models.SwinTransformer([4, 4], 12, [1, 1], [1, 2], [2, 2], num_classes=4)


def _convnext() -> nn.Module:
    convnext = import_torchvision().models.convnext
    return convnext.ConvNeXt([convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)], num_classes=4)


def _maxvit() -> nn.Module:
    return import_torchvision().models.MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=4)


def _resnext() -> nn.Module:
    resnet = import_torchvision().models.resnet
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=4, groups=4, width_per_group=4)


def _regnet() -> nn.Module:
    regnet = import_torchvision().models.regnet
    return regnet.RegNet(regnet.BlockParams([1, 1], [8, 16], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25), num_classes=4)


def _efficientnet() -> nn.Module:
    efficientnet = import_torchvision().models.efficientnet
    stages = [efficientnet.MBConvConfig(1, 3, 1, 8, 8, 1), efficientnet.FusedMBConvConfig(2, 3, 2, 8, 16, 1)]
    return efficientnet.EfficientNet(stages, 0.2, num_classes=4)


def _densenet() -> nn.Module:
    return import_torchvision().models.DenseNet(4, (2, 2), 8, num_classes=4)


# one network of each of torchvision's 17 classification families
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "alexnet": (_alexnet, lambda: picture(64), "classifier.3"),
    "convnext": (_convnext, lambda: picture(32), "classifier.2"),
    "densenet": (_densenet, lambda: picture(32), "classifier"),
    "efficientnet": (_efficientnet, lambda: picture(32), "classifier.1"),
    "googlenet": (_torchvision("googlenet", init_weights=False, aux_logits=True), lambda: picture(64), "fc"),
    "inception": (_torchvision("inception_v3", init_weights=False, aux_logits=False), lambda: picture(75), "fc"),
    "maxvit": (_maxvit, lambda: picture(32), "classifier.5"),
    "mnasnet": (_torchvision("mnasnet0_5"), lambda: picture(32), "classifier.1"),
    "mobilenet_v2": (_torchvision("mobilenet_v2", width_mult=0.1), lambda: picture(32), "classifier.1"),
    "mobilenet_v3": (_torchvision("mobilenet_v3_small", width_mult=0.1), lambda: picture(32), "classifier.3"),
    "regnet": (_regnet, lambda: picture(32), "fc"),
    "resnet": (_torchvision("resnet18", width_per_group=64), lambda: picture(32), "fc"),
    "resnext": (_resnext, lambda: picture(32), "fc"),
    "shufflenet": (_torchvision("shufflenet_v2_x0_5"), lambda: picture(32), "fc"),
    "squeezenet": (_torchvision("squeezenet1_1"), lambda: picture(32), "classifier.1"),
    "swin": (_swin, lambda: picture(32), "head"),
    "vgg": (_vgg, lambda: picture(32), "classifier.5"),
    "vit": (_vit, lambda: picture(32), "heads.head"),
}

# timm's own code for these: name, options, side in pixels, path of the head
TIMM: dict[str, tuple[dict[str, Any], int, str]] = {
    "vit_tiny_patch16_224": ({"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}, 32, "head"),
    "deit_tiny_distilled_patch16_224": ({"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}, 32, "head"),
    "mobilenetv3_small_050": ({}, 32, "classifier"),
    "mobilenetv4_conv_small_035": ({}, 32, "classifier"),
    "test_byobnet": ({}, 32, "head.fc"),
    "test_convnext": ({}, 32, "head.fc"),
    "test_efficientnet": ({}, 32, "classifier"),
    "test_mambaout": ({}, 32, "head.fc"),
    "test_nfnet": ({}, 32, "head.fc"),
    "test_resnet": ({}, 32, "fc"),
}
