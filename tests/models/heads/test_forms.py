"""Forms of heads: what their layers compute, where they stand, on which networks they are refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.taps import Taps
from transfuse.errors import ModelError
from transfuse.models import heads
from transfuse.models.heads.conv import Conv
from transfuse.models.heads.fusion import Fusion
from transfuse.models.heads.mlp import MLP
from transfuse.models.heads.placing import put_head

from .architectures import OWN, TORCHVISION, Segments, columns, picture, plain


def built(name):
    build, example, path = (OWN | TORCHVISION)[name]
    return build().eval(), example(), path


def test_the_forms_are_four():
    assert heads.names() == ["conv", "fusion", "linear", "mlp"]


def test_hidden_layers_stand_in_the_old_layers_place():
    network, inputs = plain(), columns()
    fresh, _ = put_head(network, MLP(widths=[5, 3], dropout=0.2, activation="tanh"), 7, inputs)
    linear = [layer for layer in network[2] if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(8, 5), (5, 3), (3, 7)]
    assert [layer.p for layer in network[2] if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    assert len(fresh) == 6
    hidden = torch.relu(network[0](inputs))
    for layer in linear[:-1]:
        hidden = torch.tanh(layer(hidden))
    torch.testing.assert_close(network.eval()(inputs), linear[-1](hidden))


def test_hidden_layers_of_a_convolution_head_are_convolutions():
    network, inputs, _ = built("squeezenet")
    put_head(network, MLP(widths=[6]), 7, inputs)
    assert network(inputs).shape == (2, 7)
    assert [layer.kernel_size for layer in network.classifier[1] if isinstance(layer, nn.Conv2d)] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("name", "channels", "width"), [("resnet", 20, 20), ("resnet", None, 512), ("densenet", 12, 12), ("vgg", None, 16), ("swin", None, 24)]
)
def test_convolutions_see_the_last_map_before_it_is_pooled(name, channels, width):
    network, inputs, path = built(name)
    stages = [place for place, _ in network.named_modules()]
    fresh, _ = put_head(network, Conv(channels=channels), 7, inputs)
    assert network(inputs).shape == (2, 7)
    assert network.get_submodule(path).in_features == width
    kernels = [parameter for parameter in fresh if parameter.ndim == 4]
    assert len(kernels) == 1
    assert kernels[0].shape[0] == (channels or kernels[0].shape[1])
    if name == "resnet":  # its pool is a module, so no stage moves
        assert set(stages) <= {place for place, _ in network.named_modules()}
    for parameter in fresh:
        parameter.grad = None
    network(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in fresh)


def test_convolutions_of_a_network_on_sequences_are_one_dimensional():
    network, inputs, _ = built("one-dimensional")
    fresh, _ = put_head(network, Conv(layers=2, channels=5), 7, inputs)
    assert network(inputs).shape == (2, 7)
    assert [tuple(parameter.shape) for parameter in fresh if parameter.ndim == 3] == [(5, 8, 3), (5, 5, 3)]


@pytest.mark.parametrize("name", ["vit", "table"])
def test_convolutions_are_refused_where_no_map_is_pooled(name):
    network, inputs, _ = built(name)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ModelError, match="no place for convolutions") as caught:
        put_head(network, Conv(), 7, inputs)
    assert caught.value.where == "head.conv"
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_other_channels_are_refused_where_something_else_takes_them():
    network, inputs, _ = built("vgg")
    with pytest.raises(ModelError, match="takes its 8 channels"):
        put_head(network, Conv(channels=5), 7, inputs)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="even"):
        Conv(kernel=4)


@pytest.mark.parametrize(("name", "taps"), [("resnet", ["layer1", "layer3"]), ("squeezenet", ["features.4"]), ("one-dimensional", ["2"])])
def test_a_head_over_stages_is_the_linear_map_of_their_normalised_means(name, taps):
    network, inputs, path = built(name)
    plain_features = Taps(network, [*taps, f"{path}@input"], inputs)(inputs)[1]
    put_head(network, Fusion(taps=taps), 7, inputs)
    means = [feature.flatten(2).mean(2) if feature.ndim > 2 else feature for feature in plain_features.values()]
    wide = torch.cat(means, 1)
    layers = network.get_submodule(path)
    norm, linear = layers[1], layers[2]
    norm.running_mean.copy_(torch.linspace(-1, 1, wide.shape[1]))
    norm.running_var.copy_(torch.linspace(0.5, 2, wide.shape[1]))
    normalised = (wide - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    wanted = normalised @ linear.weight.T + linear.bias
    with torch.no_grad():
        answers = network(inputs)
    torch.testing.assert_close(answers, F.relu(wanted) if name == "squeezenet" else wanted, rtol=1e-4, atol=1e-4)


def test_a_head_over_stages_of_tokens_averages_the_tokens():
    network, inputs, _ = built("vit")
    put_head(network, Fusion(taps=["encoder.layers.encoder_layer_0"]), 7, inputs)
    assert network(inputs).shape == (2, 7)
    assert network.heads.head[2].in_features == 32  # 16 of a stage's tokens, 16 of the class token


def test_stages_learn_from_a_head_over_them_and_a_copy_has_hooks_of_its_own():
    network, inputs, _ = built("resnet")
    put_head(network, Fusion(), 7, inputs)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    before = network(inputs)
    twin(inputs)
    torch.testing.assert_close(network(inputs), before)
    network.train()(inputs).square().sum().backward()
    assert network.layer1[0].conv1.weight.grad.abs().sum() > 0


def test_a_head_over_stages_is_refused_for_outputs_at_every_position_and_for_features_without_positions():
    with pytest.raises(ModelError, match="no feature with positions"):
        put_head(plain(), Fusion(taps=["0"]), 7, columns())
    per_position = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    with pytest.raises(ModelError, match="each of several positions"):
        put_head(per_position, Fusion(taps=["0"]), 7, torch.rand(2, 5, 6))


def test_outputs_at_every_position_take_the_other_forms():
    network = Segments()
    put_head(network, MLP(widths=[5]), 7, picture(8))
    assert network(picture(8)).shape == (2, 7, 16, 16)


def test_a_network_that_is_nothing_but_its_head_is_refused():
    with pytest.raises(ModelError, match="single layer"):
        put_head(nn.Linear(6, 4), heads.get("linear")(), 7, columns())
