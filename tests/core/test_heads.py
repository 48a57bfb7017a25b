"""How networks end is read from what they do: the layer that runs last, and all that is linear behind it."""

import pytest
import torch
from torch import nn

from tests.models.heads.architectures import RegisteredFirst, TwoHeads, columns
from transfuse.core.heads import read_ending, require_in_front
from transfuse.core.taps import Taps
from transfuse.core.types import Target
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.jobs.parts.networks import BinaryHead, rescaling
from transfuse.models.classes import Rescaled, SelectedOutputs


class Twins(nn.Module):
    """The mean of two last layers, as a distilled transformer's."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, inputs):
        return (self.one(inputs) + self.other(inputs.square())) / 2


class MeanOfTokens(nn.Module):
    def forward(self, inputs):
        return inputs.mean(1)


def mlp(outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, outputs)).eval()


@pytest.mark.parametrize(
    ("name", "path"),
    [("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3"), ("densenet121", "classifier"), ("shufflenet_v2_x0_5", "fc")],
)
def test_the_head_of_known_networks_gives_their_outputs(name, path):
    network = import_torchvision().models.get_model(name, weights=None, num_classes=7).eval()
    sample = torch.randn(1, 3, 64, 64)
    ending = read_ending(network, sample)
    assert ending.path == path
    assert ending.plain
    torch.testing.assert_close(ending.inputs @ ending.weight.T + ending.bias, network(sample).detach(), rtol=1e-4, atol=1e-5)


def test_a_transformers_head_is_given_its_class_token():
    network = import_torchvision().models.vision_transformer.VisionTransformer(32, 16, 1, 2, 12, 24, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight)
    ending = read_ending(network, torch.randn(1, 3, 32, 32))
    assert (ending.path, tuple(ending.weight.shape), ending.plain) == ("heads.head", (5, 12), True)


TARGETS = (Target(["a", "b"], [1.0, 2.0], [3.0, 0.5]), Target(["a", "b"], [0.0, 1.0], [1.5, 2.0]))


@pytest.mark.parametrize(
    ("outputs", "around"),
    [
        (4, lambda inner: SelectedOutputs(inner, [3, 1])),
        (2, lambda inner: BinaryHead(inner, 1)),
        (2, lambda inner: Rescaled(inner, *rescaling(*TARGETS))),
    ],
    ids=["selected", "one logit", "rescaled"],
)
def test_what_follows_the_last_layer_is_folded_into_the_head(outputs, around):
    inner = mlp(outputs)
    network, sample = around(inner).eval(), torch.randn(5, 3)
    ending = read_ending(network, sample[:1])
    assert not ending.plain
    hidden = inner[:2](sample)
    torch.testing.assert_close(hidden @ ending.weight.T + ending.bias, network(sample), rtol=1e-4, atol=1e-5)


def test_a_convolution_that_makes_maps_of_logits_is_a_head():
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    ending = read_ending(network, torch.randn(1, 1, 8, 8))
    assert (ending.path, tuple(ending.weight.shape), ending.plain) == ("2", (4, 6), True)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), "what follows '0'.*is not linear"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Tanh()), "is not linear"),
        (nn.Sequential(nn.ReLU()), "this network has none"),
        (nn.Linear(3, 4), "is a single layer"),
        (Twins(), "made by 2 last layers: one, other"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 4, 3, padding=1), nn.Flatten()),
            "made by 2[\\s\\S]*0 \\(Linear",
        ),
    ],
    ids=["softmax", "body", "nothing", "all of it", "mean of two", "kernels of three positions"],
)
def test_a_network_without_a_head_is_refused(network, words):
    with pytest.raises(ModelError, match=words):
        read_ending(network.eval(), torch.randn(1, 3))


def test_the_last_layer_may_be_registered_first_and_answer_beside_others():
    ending = read_ending(RegisteredFirst().eval(), columns())
    assert (ending.path, ending.plain) == ("classify", True)
    ending = read_ending(TwoHeads().eval(), columns())
    assert (ending.path, tuple(ending.weight.shape), ending.plain) == ("classes", (5, 8), True)


def test_positions_of_a_one_dimensional_head_and_of_tokens_are_averaged():
    convolution = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    shown = torch.randn(2, 2, 9)
    ending = read_ending(convolution, shown)
    torch.testing.assert_close(ending.inputs, convolution[:2](shown).mean(2))
    torch.testing.assert_close(Taps(convolution, "2@input", shown)(shown)[1]["2@input"].mean(1), ending.inputs)
    tokens = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), MeanOfTokens()).eval()
    shown = torch.randn(2, 5, 3)
    ending = read_ending(tokens, shown)
    torch.testing.assert_close(ending.inputs @ ending.weight.T + ending.bias, tokens(shown), rtol=1e-4, atol=1e-5)


def test_modes_and_weights_are_as_they_were():
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ending = read_ending(network, torch.randn(2, 3))
    assert all(module.training for module in network.modules())
    ending.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_feature_in_front_of_the_head_is_told_from_others():
    network, sample = (
        nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval(),
        torch.randn(1, 1, 8, 8),
    )
    ending = read_ending(network, sample, Taps(network, ["0", "2", "3"], sample))
    for path in ("0", "2"):
        require_in_front(ending, path, "student")
    with pytest.raises(ModelError, match=r"student's '3'[\s\S]*student_tap: 3@input"):
        require_in_front(ending, "3", "student")
