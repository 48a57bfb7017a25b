"""The networks that transfuse brings: sizes, published parameter counts, initialisation and refusals."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.types import ModelRequest
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.models import open_model
from transfuse.models.architectures import shufflenetv2, variants
from transfuse.models.architectures._layers import SamePadConv2d

PICTURES = sorted(name for name, variant in variants().items() if variant.smallest)
SMALL = [name for name in PICTURES if variants()[name].smallest <= 8]


def build(name: str, outputs: int = 10, shape: tuple[int, ...] = (3, 32, 32), seed: int = 0, **options):
    return open_model(f"builtin:{name}", ModelRequest(outputs=outputs, input_shape=shape, options=options, seed=seed))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (4, 17, 23)], ids=str)
def test_every_family_takes_any_size_and_channels(name, shape):
    module = build(name, 7, shape).network
    assert not module.training
    assert module(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(set(PICTURES) - set(SMALL)))
def test_the_large_families_take_their_smallest_and_uneven_pictures(name):
    module = build(name, 5, (3, 32, 32), width=0.25).network
    for shape in ((3, 32, 32), (3, 47, 65)):
        assert module(torch.rand(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("shape", [(30,), (1, 8, 8)], ids=str)
def test_the_mlp_takes_columns_and_pictures(shape):
    module = build("mlp", 3, shape, widths=[16, 8], dropout=0.5, activation="gelu", batchnorm=True).network
    assert module(torch.rand(2, *shape)).shape == (2, 3)
    assert [layer.linear.out_features for layer in module.layers] == [16, 8]


def test_an_mlp_without_hidden_layers_is_linear():
    module = build("mlp", 3, (5,), widths=[], bias=False).network
    first, second = torch.rand(4, 5), torch.rand(4, 5)
    torch.testing.assert_close(module(first + second), module(first) + module(second))


# He et al. 2016 table 6 round them (0.27M, 0.46M, 0.66M, 0.85M, 1.7M); exact counts from akamaster/pytorch_resnet_cifar10's README and
# weights, IntelLabs/distiller's weights, and Keras's and torchvision's documentation for the MobileNets
CIFAR10 = [
    ("resnet20", {}, 269_722),
    ("resnet32", {}, 464_154),
    ("resnet44", {}, 658_586),
    ("resnet56", {}, 853_018),
    ("resnet110", {}, 1_727_962),
    ("resnet20", {"shortcut": "B"}, 272_474),
    ("resnet8_tiny", {}, 78_666 - 480),  # 78,666 values in the file, 480 of them running statistics
]
# HobbitLong/RepDistiller's networks for CIFAR-100
CIFAR100 = [
    ("resnet8x4", {}, 1_233_540),
    ("resnet32x4", {}, 7_433_860),
    ("wrn_16_2", {}, 703_284),
    ("wrn_40_1", {}, 569_780),
    ("wrn_40_2", {}, 2_255_156),
    ("vgg8", {}, 3_965_028),
    ("vgg13", {}, 9_462_180),
    ("mobilenetv2", {}, 812_836),
    ("shufflenetv2", {}, 1_355_528),
]
IMAGENET = [("mobilenetv1", {}, 4_231_976), ("mobilenetv1", {"width": 0.25}, 470_072), ("mobilenetv2_tf", {}, 3_504_872)]
PUBLISHED = [(10, *row) for row in CIFAR10] + [(100, *row) for row in CIFAR100] + [(1000, *row) for row in IMAGENET]


@pytest.mark.parametrize(("outputs", "name", "options", "count"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(outputs, name, options, count):
    assert parameters(build(name, outputs, **options).network) == count


@pytest.mark.parametrize("name", sorted(variants()))
def test_the_seed_decides_every_bit_and_leaves_the_generator_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(name, seed=3).network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    second, other = build(name, seed=3).network.state_dict(), build(name, seed=4).network.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_he_initialisation_has_the_variance_of_its_fan():
    module = build("resnet56").network
    kernel = module.layer3[4].conv1.weight
    assert kernel.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    wide = build("wrn_40_2", 100).network.block3.layer[2].conv1.weight
    assert wide.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.03)


def test_shortcut_a_is_subsampling_and_zeros():
    block = build("resnet20").network.layer2[0].eval()
    hidden = torch.rand(2, 16, 8, 8)
    shortcut = block.shortcut(hidden)
    assert torch.equal(shortcut[:, 8:24], hidden[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_widths_scale_every_layer():
    module = build("resnet20", width=0.5).network
    assert module.layer3[0].conv1.weight.shape[0] == 32
    assert build("resnet20", widths=[8, 8, 16, 24]).network.linear.in_features == 24


def test_what_was_built_can_be_built_again_from_its_options():
    for name, options in (("convnet", {"widths": [4, 8], "norm": "group"}), ("resnet8x4", {"width": 0.25}), ("mlp", {"widths": [3]})):
        model = build(name, 6, (2, 16, 16), seed=5, **options)
        json.dumps(model.options)
        again = open_model(model.architecture, ModelRequest(options=model.options, seed=5)).network.state_dict()
        assert all(torch.equal(value, again[key]) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize(("side", "kernel", "stride", "groups"), list(itertools.product((7, 8, 13), (1, 3, 5), (1, 2, 3), (1, 4))))
def test_same_padding_is_tensorflows(side, kernel, stride, groups):
    import_torchvision()
    import timm.layers

    ours = SamePadConv2d(4, 8, kernel, stride, groups=groups)
    reference = timm.layers.Conv2dSame(4, 8, kernel, stride, groups=groups)  # its authors ported TensorFlow's weights
    reference.load_state_dict(ours.state_dict())
    pictures = torch.rand(2, 4, side, side + 1)
    torch.testing.assert_close(ours(pictures), reference(pictures))


def test_mobilenetv2_with_symmetric_padding_is_torchvisions():
    theirs = import_torchvision().models.mobilenet_v2(num_classes=10).eval()
    ours = build("mobilenetv2_tf", padding="symmetric").network
    ours.load_state_dict(theirs.state_dict())
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    pictures = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(pictures), theirs(pictures))


def test_the_shuffle_is_torchs():
    hidden = torch.rand(2, 6, 3, 3)
    assert torch.equal(shufflenetv2._shuffle(hidden), F.channel_shuffle(hidden, 2))


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet21", (3, 32, 32), {}, "did you mean"),
        ("resnet20", (3, 32, 32), {"shortcutt": "A"}, "did you mean 'shortcut'"),
        ("resnet20", (3, 32, 32), {"shortcut": "C"}, "'A' or 'B'"),
        ("resnet20", (3, 32, 32), {"depth": 8}, "already decides 'depth'"),
        ("resnet20", (3, 32, 32), {"widths": [8, 8]}, "widths"),
        ("resnet20", (3, 32, 32), {"width": "2"}, "width"),
        ("resnet20", (3, 32, 32), {"widths": [32, 16, 8, 4]}, "shortcut"),
        ("vgg8", (3, 4, 4), {}, "4x4 pictures are too small for it; it needs 8x8"),
        ("convnet", (1, 8, 8), {"widths": [4] * 5}, "halve 8 pixels to nothing"),
        ("resnet20", (30,), {}, "builtin:mlp"),
        ("mlp", None, {}, "input_shape"),
    ],
)
def test_what_can_not_be_built_is_refused_with_the_reason(name, shape, options, message):
    with pytest.raises(ModelError, match=message):
        build(name, 3, shape, **options)


def test_the_number_of_outputs_has_to_be_said():
    with pytest.raises(ModelError, match="how many outputs"):
        open_model("builtin:resnet20", ModelRequest())


def test_the_mlps_weight_constraint_limits_each_hidden_units_incoming_weights_in_training_only():
    module = build("mlp", 3, (20,), widths=[16, 8], max_norm=0.5).network
    first = module.get_submodule("layers.0.linear").weight
    before = first.detach().clone()
    module.eval()(torch.randn(4, 20))
    assert torch.equal(first, before)
    module.train()(torch.randn(4, 20)).sum().backward()
    norms = before.norm(dim=1, keepdim=True)
    torch.testing.assert_close(first.detach(), before * (0.5 / norms).clamp(max=1))
    assert first.grad is not None


def test_the_mlps_input_dropout_drops_inputs_in_training_only():
    module = build("mlp", 4, (1000,), widths=[], bias=False, dropout=[0.25, 0.0]).network
    torch.nn.init.ones_(module.get_submodule("linear").weight)
    inputs = torch.ones(1, 1000)
    assert module.eval()(inputs)[0, 0].item() == 1000
    kept = module.train()(inputs)[0, 0].item() * 0.75  # dropout scales what is kept by 1 / 0.75
    assert 650 < kept < 850
